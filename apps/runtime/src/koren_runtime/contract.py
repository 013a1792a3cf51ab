"""The function's contract, which is Kubeless's: what a handler gets and may return."""

from koren_runtime.fast_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from koren_runtime.settings import Settings

ANSWER_MAX_BYTES = 16 * 1024 * 1024
"""The gateway's own limit is lower, and its refusal is reported."""

_TEXT_MAX = 16_000
_ITERABLE_COROUTINE = 0x100
_OWN = ("id", "type", "time", "data", "data_base64")


def to_event(cloud_event: "dict[str, Any]") -> "dict[str, Any]":
    """A CloudEvent as a handler's `event`.

    `event-namespace` is who emitted it, the CloudEvent's source; `extensions` holds all its
    attributes that have no place of their own (source, subject, region, sequence, …). Binary data
    are bytes. Raises ValueError when it is no CloudEvent.
    """
    if not isinstance(cloud_event, dict):
        raise ValueError("no CloudEvent: the JSON is not an object")
    for name in ("id", "type", "source"):
        if not isinstance(cloud_event.get(name), str):
            raise ValueError(f"no CloudEvent: {name} is not a text")
    data = cloud_event.get("data")
    if "data_base64" in cloud_event:
        binary = cloud_event["data_base64"]
        if not isinstance(binary, str):
            raise ValueError("no CloudEvent: data_base64 is not a text")
        import binascii  # a shared library: events without binary data do not pay for it

        data = binascii.a2b_base64(binary)
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
    problem = not_an_answer(value)
    if not problem:
        try:
            answer = dumps(value)
            if len(answer) <= ANSWER_MAX_BYTES:
                return answer
            problem = f"it has {len(answer)} bytes"
        except RecursionError:
            problem = "it is nested too deep"
        except (TypeError, ValueError) as error:
            problem = str(error)
    raise ValueError(f"the handler's answer can't be JSON: {problem}")


def not_an_answer(value: object) -> str:
    """What to do about an answer that is code yet to run; empty when it is not that."""
    if is_awaitable(value):
        return (
            f"it is a {type(value).__name__}, which nothing awaits; await it and return its result"
        )
    if hasattr(value, "__anext__"):
        return "it is an asynchronous generator; collect what it yields in a list and return that"
    if hasattr(value, "gi_code"):
        return "it is a generator; collect what it yields in a list and return that"
    return ""


def is_awaitable(value: object) -> bool:
    """Whether `await` works on it: a coroutine, a task, a future."""
    if hasattr(type(value), "__await__"):
        return True
    # What `types.coroutine` makes of a generator.
    code = getattr(value, "gi_code", None)
    return code is not None and bool(code.co_flags & _ITERABLE_COROUTINE)


def failure(kind: str, message: str, traceback: str = "", **more: object) -> bytes:
    """What the gateway is told of an error, as JSON.

    Of a long message the beginning is told, of a long traceback the end. `more` are further fields.
    """
    text = {
        "type": kind[:_TEXT_MAX],
        "message": message[:_TEXT_MAX],
        "traceback": traceback[-_TEXT_MAX:],
    }
    # Half a surrogate pair in a message must not hide the error that it tells of.
    clean = {k: v.encode(errors="replace").decode() for k, v in text.items()}
    return dumps({**clean, **more})
