"""Tells what came."""


def handler(event, context):
    return [event["event-namespace"], repr(event["data"])]
