"""A function of the shapes that users bring: a coroutine that starts processes, reads its environment, prints, needs
more memory than it has, or declines an event."""

import asyncio
import concurrent.futures
import multiprocessing
import os


def square(number):
    return number * number


async def handler(event, context):
    data = event["data"] if isinstance(event["data"], dict) else {}
    await asyncio.sleep(0)
    return DO[data.get("do", "environment")](data)


def environment(data):
    """What the variables of the deployment have come to be."""
    return {name: os.environ[name] for name in ("PRICE", "REFERENCE")}


def processes(data):
    """Squares that processes of their own have computed."""
    spawn = multiprocessing.get_context(data["method"])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        return list(pool.map(square, range(5)))


def say(data):
    """Prints what it is told to."""
    print(data["text"])
    return len(data["text"])


def hungry(data):
    """Takes more memory than its pod may."""
    return len(bytearray(os.urandom(1024)) * 2**20)


def decline(data):
    """Declines the event for good."""
    from koren_runtime import Reject

    raise Reject("there is no such camera")


DO = {"environment": environment, "processes": processes, "say": say, "hungry": hungry, "decline": decline}
