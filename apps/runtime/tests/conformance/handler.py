"""A handler that does what the conformance test asks for."""

import os
import time

if os.environ.get("KOREN_CONFORMANCE") == "init-error":
    raise RuntimeError("as asked")


def handle(event, context):
    asked = event["data"]
    if asked["do"] == "fail":
        raise ValueError(asked["message"])
    if asked["do"] == "wait":
        time.sleep(asked["seconds"])
    return asked["value"]
