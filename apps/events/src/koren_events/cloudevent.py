"""The one parser of CloudEvents 1.0: structured mode in JSON, and binary mode of MQTT 5.

Whoever takes a CloudEvent in uses it, so that an event that one part accepts is an event for the
next part too. It is strict where readers differ: JSON is UTF-8 without a byte order mark, numbers
are numbers, attributes have no control characters.
"""

import base64
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from koren_events.errors import InvalidEvent
from koren_events.times import parse_time
from koren_events.trace_context import TraceContext

STRUCTURED_PREFIX = "application/cloudevents"

_ATTRIBUTE_MAX = 1024
_MAX_SEQUENCE = 2**53 - 1  # what every JSON reader keeps exact
_MAX_DEPTH = 200  # far from what any reader's stack carries, wherever it reads
_BOM = b"\xef\xbb\xbf"
_BY_GATEWAYS = {"releasedby": "releases", "replayedby": "replays"}
# Unicode's categories Cc, Cs, Zl and Zp.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes that a gateway acts on; the message itself is handed on beside them."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time_ms: int | None = None
    """Unix time of the event in milliseconds."""
    region: str | None = None
    sequence: int | None = None
    hold: bool = False
    """Whether the event starts nothing until a person releases it."""
    traceparent: str | None = field(default=None, compare=False)
    """Its trace, if it says one; not kept among the attributes."""
    claims: str = field(default="", compare=False)
    """An attribute of it that a gateway alone may write; not kept among the attributes."""

    def to_meta(self) -> str:
        """The attributes as JSON, the form in which they are kept beside the message."""
        return _encode(
            {
                "id": self.id,
                "source": self.source,
                "type": self.type,
                "subject": self.subject,
                "time_ms": self.time_ms,
                "region": self.region,
                "sequence": self.sequence,
                "hold": self.hold,
            }
        )

    @classmethod
    def from_meta(cls, meta: bytes | str) -> Self:
        """The inverse of `to_meta`. Raises ValueError when `meta` is none."""
        try:
            event = cls(**json.loads(meta))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no attributes of an event: {error}") from None
        for name, kinds in _KINDS.items():
            if type(getattr(event, name)) not in kinds:
                raise ValueError(f"no attributes of an event: {name} is {getattr(event, name)!r}"[:200])
        return event


_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "source", "type"), (str,)),
    **dict.fromkeys(("subject", "region"), (str, type(None))),
    **dict.fromkeys(("time_ms", "sequence"), (int, type(None))),
    "hold": (bool,),
}


def parse(message: bytes) -> tuple[CloudEvent, bytes]:
    """The event in a structured message, and the message to hand on.

    Text that is not in Unicode's composed form (NFC; macOS and some keyboards write Hangul
    decomposed) is composed, and the message is written anew then: the same name is the same bytes
    for everybody who compares it. Otherwise the message is handed on as it came.

    Raises InvalidEvent; its text names the attribute and what it should be.
    """
    values = read(message)
    try:
        if not message.isascii() or b"\\u" in message:
            whole = composed(values)
            if whole != values:
                values, message = whole, _dump(whole)
    except RecursionError:
        raise InvalidEvent("not JSON: nested too deep") from None
    return _event(values), message


def check_unclaimed(event: CloudEvent) -> None:
    """Refuses an event from outside that claims that a person released or replayed it. Raises InvalidEvent."""
    if event.claims:
        done = _BY_GATEWAYS[event.claims]
        raise InvalidEvent(f"{event.claims} is written by the gateway when a person {done} an event; leave it out")


def read(message: bytes) -> dict[str, Any]:
    """The JSON object in a structured message, as it is written. Raises InvalidEvent."""
    values = json_value(message)
    if not isinstance(values, dict):
        raise InvalidEvent("not a CloudEvent: the JSON is not an object")
    return values


def composed(value: Any) -> Any:
    """A value of JSON with every text in it, names included, in Unicode's composed form (NFC).

    Raises RecursionError when it is nested deeper than Python can follow.
    """
    match value:
        case str():
            return value if value.isascii() else unicodedata.normalize("NFC", value)
        case dict():
            return {composed(name): composed(inner) for name, inner in value.items()}
        case list() | tuple():
            return [composed(inner) for inner in value]
    return value


def check_text(name: str, value: str) -> None:
    """Raises InvalidEvent when an attribute's value has a character that CloudEvents forbids."""
    found = _FORBIDDEN.search(value)
    if found is not None:
        raise InvalidEvent(
            f"not a CloudEvent: {name} has the character U+{ord(found[0]):04X}; "
            "control characters and halves of surrogate pairs are not allowed"
        )


def parse_binary(attributes: Mapping[str, str], content_type: str | None, data: bytes) -> tuple[CloudEvent, bytes]:
    """The event of an MQTT 5 message in binary mode, and the structured message to hand on.

    `attributes` are the user properties, `content_type` the property of that name, `data` the
    payload. Raises InvalidEvent.
    """
    values: dict[str, Any] = {
        name: value for name, value in attributes.items() if name not in ("data", "data_base64", "datacontenttype")
    }
    # In binary mode every attribute is a text; these two have other types in JSON.
    if values.get("hold") in ("true", "false"):
        values["hold"] = values["hold"] == "true"
    if "sequence" in values:
        values["sequence"] = _sequence(values)
    if content_type:
        values["datacontenttype"] = content_type
    if data:
        values |= _data(content_type or "application/json", data)
    return build(values)


def build(values: Mapping[str, Any]) -> tuple[CloudEvent, bytes]:
    """The event of these attributes and data, and the structured message to hand on. Raises InvalidEvent."""
    try:
        whole = composed(values)
        return _event(whole), _dump(whole)
    except RecursionError:
        raise InvalidEvent("data is nested too deep") from None


def json_value(message: bytes) -> Any:
    """The value of JSON that a message is. Raises InvalidEvent."""
    if message.startswith(_BOM):
        raise InvalidEvent("not JSON: it begins with a byte order mark; send UTF-8 without one")
    try:
        value = _decode(message.decode())
        if message.count(b"[") + message.count(b"{") > _MAX_DEPTH:
            _check_depth(value)
        return value
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"not JSON: not UTF-8 ({error.reason}, byte {error.start})") from None
    except RecursionError:
        raise InvalidEvent("not JSON: nested too deep") from None
    except ValueError as error:
        raise InvalidEvent(f"not JSON: {error}") from None


def _dump(values: Mapping[str, Any]) -> bytes:
    text = _encode(values)
    # Half a surrogate pair has no UTF-8; Python's escape of it is JSON's, too.
    return text.encode(errors="backslashreplace")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is beyond what a number can be")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        containers = [inner for inner in level if isinstance(inner, list | dict)]
        if not containers:
            return
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise RecursionError


_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode


def _data(content_type: str, data: bytes) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return {"data": json_value(data)}
    if kind.startswith("text/"):
        try:
            return {"data": data.decode()}
        except UnicodeDecodeError:
            pass  # another character set: handed on as bytes
    return {"data_base64": base64.b64encode(data).decode()}


def _event(values: Mapping[str, Any]) -> CloudEvent:
    if values.get("specversion") != "1.0":
        raise InvalidEvent("not a CloudEvent: specversion must be '1.0'")
    if "data_base64" in values:
        _check_base64(values["data_base64"])
    return CloudEvent(
        id=_text(values, "id"),
        source=_text(values, "source"),
        type=_text(values, "type"),
        subject=_text(values, "subject") if values.get("subject") is not None else None,
        time_ms=_time_ms(values),
        region=_text(values, "region") if values.get("region") is not None else None,
        sequence=_sequence(values),
        hold=_hold(values),
        traceparent=_traceparent(values),
        claims=next((name for name in _BY_GATEWAYS if values.get(name) is not None), ""),
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= _ATTRIBUTE_MAX:
        raise InvalidEvent(f"not a CloudEvent: {name} must be a text of 1 to {_ATTRIBUTE_MAX} characters")
    check_text(name, value)
    return value


def _time_ms(values: Mapping[str, Any]) -> int | None:
    value = values.get("time")
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEvent("not a CloudEvent: time must be a text")
    try:
        return round(parse_time(value).timestamp() * 1000)
    except ValueError as error:
        raise InvalidEvent(f"not a CloudEvent: time: {error}") from None


def _sequence(values: Mapping[str, Any]) -> int | None:
    sequence = values.get("sequence")
    if sequence is None:
        return None
    # The sequence extension of CloudEvents is a text; the accident events carry an integer.
    if isinstance(sequence, str) and sequence.isascii() and sequence.isdigit():
        sequence = int(sequence) if len(sequence) <= 16 else -1
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence <= _MAX_SEQUENCE:
        raise InvalidEvent(f"not a CloudEvent: sequence must be an integer from 0 to {_MAX_SEQUENCE}")
    return sequence


def _hold(values: Mapping[str, Any]) -> bool:
    hold = values.get("hold")
    if hold is None or isinstance(hold, bool):
        return bool(hold)
    raise InvalidEvent("not a CloudEvent: hold must be true or false")


def _traceparent(values: Mapping[str, Any]) -> str | None:
    # One that is wrong costs a trace, not an event.
    value = values.get("traceparent")
    return value if TraceContext.parse(value) is not None else None


def _check_base64(value: Any) -> None:
    try:
        if not isinstance(value, str):
            raise ValueError("it is not a text")
        base64.b64decode(value, validate=True)
    except ValueError as error:
        raise InvalidEvent(f"not a CloudEvent: data_base64: {error}") from None
