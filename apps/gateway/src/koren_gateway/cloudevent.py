"""Events of any type: the CloudEvents 1.0 envelope in JSON, structured mode, and no more of it."""

import json
from dataclasses import dataclass
from typing import Any

from koren_events.times import parse_time
from koren_gateway.errors import InvalidCloudEvent

_ATTRIBUTE_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes that the gateway acts on; the message itself is handed on as it came."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time_ms: int | None = None
    """Unix time of the event in milliseconds."""
    region: str | None = None
    sequence: int | None = None

    def to_meta(self) -> str:
        """The attributes as JSON, the form in which they are kept beside the message."""
        return json.dumps(
            {
                "id": self.id,
                "source": self.source,
                "type": self.type,
                "subject": self.subject,
                "time_ms": self.time_ms,
                "region": self.region,
                "sequence": self.sequence,
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @classmethod
    def from_meta(cls, meta: bytes | str) -> "CloudEvent":
        """The inverse of `to_meta`."""
        return cls(**json.loads(meta))


def parse(message: bytes) -> CloudEvent:
    """The event in `message`. Raises InvalidCloudEvent."""
    try:
        values = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise InvalidCloudEvent(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidCloudEvent("not a CloudEvent: the JSON is not an object")
    if values.get("specversion") != "1.0":
        raise InvalidCloudEvent("not a CloudEvent: specversion must be '1.0'")
    return CloudEvent(
        id=_text(values, "id"),
        source=_text(values, "source"),
        type=_text(values, "type"),
        subject=_text(values, "subject") if values.get("subject") is not None else None,
        time_ms=_time_ms(values),
        region=_text(values, "region") if values.get("region") is not None else None,
        sequence=_sequence(values),
    )


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= _ATTRIBUTE_MAX:
        raise InvalidCloudEvent(
            f"not a CloudEvent: {name} must be a text of 1 to {_ATTRIBUTE_MAX} characters"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidCloudEvent(f"not a CloudEvent: {name} has half a surrogate pair") from None
    return value


def _time_ms(values: dict[str, Any]) -> int | None:
    if values.get("time") is None:
        return None
    try:
        return round(parse_time(str(values["time"])).timestamp() * 1000)
    except ValueError as error:
        raise InvalidCloudEvent(f"not a CloudEvent: time: {error}") from None


def _sequence(values: dict[str, Any]) -> int | None:
    sequence = values.get("sequence")
    if sequence is None:
        return None
    # The sequence extension of CloudEvents is a text; the accident events carry an integer.
    if isinstance(sequence, str) and sequence.isascii() and sequence.isdigit():
        sequence = int(sequence)
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence < 2**53:
        raise InvalidCloudEvent("not a CloudEvent: sequence must be an integer, 0 or more")
    return sequence
