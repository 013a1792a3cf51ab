"""A receipt: what a region's gateway reports of an event."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from koren_events.times import format_time, parse_time

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ReceiptState(StrEnum):
    """How far an event is. Each state means that the region has it on disk."""

    RECEIVED = "received"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """One attempt failed; another follows, or `dead-lettered`."""
    DEAD_LETTERED = "dead-lettered"
    NO_FUNCTION = "no-function"
    HELD = "held"
    """The event waits for a person; `received` follows its release, or `dismissed`."""
    DISMISSED = "dismissed"

    @property
    def final(self) -> bool:
        """Whether nothing follows for this event and this function."""
        return self in (self.SUCCEEDED, self.DEAD_LETTERED, self.NO_FUNCTION, self.DISMISSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One step of one event, with the times of its phases known so far."""

    id: str
    source: str
    region: str
    subject: str | None
    state: ReceiptState
    time: datetime
    function: str | None = None
    attempt: int | None = None
    phases: Mapping[str, datetime] = field(default_factory=dict)
    result: Any = None
    """The function's answer; only in the last receipt, at most 16 KiB of JSON."""
    error: str | None = None

    def to_json(self) -> bytes:
        """The message's bytes."""
        values: dict[str, Any] = {
            "id": self.id,
            "source": self.source,
            "region": self.region,
            "subject": self.subject,
            "state": self.state.value,
            "function": self.function,
            "attempt": self.attempt,
            "time": format_time(self.time),
            "phases": {name: format_time(moment) for name, moment in self.phases.items()},
        }
        if self.result is not None:
            values["result"] = self.result
        if self.error is not None:
            values["error"] = self.error
        return _encode(values).encode()

    @classmethod
    def from_json(cls, message: bytes | str) -> Self:
        """The receipt in `message`. Raises ValueError when it is none."""
        try:
            values = json.loads(message)
            attempt = values.get("attempt")
            if attempt is not None and type(attempt) is not int:
                raise ValueError(f"attempt {attempt!r:.40} is not an integer")
            return cls(
                id=_text(values, "id"),
                source=_text(values, "source"),
                region=_text(values, "region"),
                subject=_text_or_none(values, "subject"),
                state=ReceiptState(values["state"]),
                time=parse_time(values["time"]),
                function=_text_or_none(values, "function"),
                attempt=attempt,
                phases={
                    name: parse_time(moment)
                    for name, moment in (values.get("phases") or {}).items()
                    if moment is not None
                },
                result=values.get("result"),
                error=_text_or_none(values, "error"),
            )
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not a receipt: {error!r:.200}") from None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} {value!r:.40} is not a text")
    value.encode()  # half a surrogate pair names nothing
    return value


def _text_or_none(values: Mapping[str, Any], name: str) -> str | None:
    return None if values.get(name) is None else _text(values, name)
