"""The function that the end-to-end tests deploy: it says what it got, and in which pod."""

import os


def handler(event, context):
    return {"event": event["event-id"], "pod": os.environ.get("HOSTNAME")}
