"""The function's contract, which is Kubeless's: what a handler gets and may return."""

import binascii

from koren_runtime.fast_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from koren_runtime.settings import Settings

_OWN = ("id", "type", "time", "data", "data_base64")


def to_event(cloud_event: "dict[str, Any]") -> "dict[str, Any]":
    """A CloudEvent as a handler's `event`.

    `event-namespace` is who emitted it, the CloudEvent's source; `extensions` holds all its
    attributes that have no place of their own (source, subject, region, sequence, …). Binary data
    are bytes.
    """
    data = cloud_event.get("data")
    if "data_base64" in cloud_event:
        data = binascii.a2b_base64(cloud_event["data_base64"])
    return {
        "data": data,
        "event-id": cloud_event["id"],
        "event-type": cloud_event["type"],
        "event-time": cloud_event.get("time"),
        "event-namespace": cloud_event["source"],
        "extensions": {name: value for name, value in cloud_event.items() if name not in _OWN},
    }


def to_context(settings: "Settings") -> "dict[str, Any]":
    """A handler's `context`."""
    return {
        "function-name": settings.handler,
        "timeout": settings.timeout_s,
        "runtime": settings.runtime,
        "memory-limit": settings.memory_limit,
    }


def to_answer(value: object) -> bytes:
    """What a handler returned, as JSON: str, bytes that are UTF-8 text, or what JSON can say.

    Raises ValueError, whose message tells the function's author what to return.
    """
    if isinstance(value, bytes | bytearray):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(
                "the handler returned bytes that are not UTF-8; return them as base64 text"
            ) from None
    try:
        return dumps(value)
    except RecursionError:
        problem = "it is nested too deep"
    except (TypeError, ValueError) as error:
        problem = str(error)
    raise ValueError(f"the handler's answer can't be JSON: {problem}")


def failure(kind: str, message: str, traceback: str = "") -> bytes:
    """What the gateway is told of an error, as JSON."""
    text = {"type": kind, "message": message, "traceback": traceback}
    # Half a surrogate pair in a message must not hide the error that it tells of.
    return dumps({k: v.encode(errors="replace").decode() for k, v in text.items()})
