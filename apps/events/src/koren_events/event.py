"""An event: one CloudEvents 1.0 message in JSON, structured mode."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from koren_events.cloudevent import check_text, composed, read
from koren_events.errors import InvalidEvent
from koren_events.times import format_time, parse_time, to_milliseconds
from koren_events.topics import check_region, topic_level

CONTENT_TYPE = "application/cloudevents+json"
MAX_EVENT_BYTES = 512 * 1024

_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_SEQUENCE = 2**31 - 1  # CloudEvents integers are 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message about one incident in one region.

    An event is known everywhere by (`source`, `id`). Creating one checks its envelope and raises
    InvalidEvent; whether `data` keeps the contract of its type, `koren_events.validate` says.

    Every text, those in `data` and the names of its fields included, is kept in Unicode's composed
    form (NFC), whichever form it is given in. macOS and some keyboards write Hangul decomposed;
    it looks the same, and it is the same here: ids, sources and subjects that differ in nothing
    but that form are one id, source and subject. Gateways compose what they take in too, so that
    receipts name an event as its publisher does.
    """

    id: str
    source: str
    """Who saw it, e.g. the camera's id `cctv-seoul-01`."""
    type: str
    """`kr.koren.<…>.<kind>.<what happened>`, e.g. `kr.koren.traffic.accident.detected`."""
    subject: str
    """The incident."""
    time: datetime
    """When it happened; kept in UTC, to the millisecond."""
    region: str
    sequence: int
    """Its place within the incident, from 1."""
    data: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str | None = None
    hold: bool = False
    """Whether the event starts nothing until a person releases it in its region."""

    def __post_init__(self) -> None:
        for name in ("id", "source", "type", "subject", "region"):
            value = composed(getattr(self, name))
            if not isinstance(value, str) or not 1 <= len(value) <= 256:
                raise InvalidEvent(f"{name} must be a text of 1 to 256 characters")
            check_text(name, value)
            object.__setattr__(self, name, value)
        if not _TYPE.fullmatch(self.type):
            raise InvalidEvent(
                f"type {self.type[:80]!r} must be words joined by dots, the last but one naming "
                "the kind, e.g. 'kr.koren.traffic.accident.detected'"
            )
        check_region(self.region)
        topic_level("source", self.source)
        # bool is an int to Python, but not to JSON.
        if (
            not isinstance(self.sequence, int)
            or isinstance(self.sequence, bool)
            or not 1 <= self.sequence <= _MAX_SEQUENCE
        ):
            raise InvalidEvent(f"sequence must be an integer from 1 to {_MAX_SEQUENCE}")
        if not isinstance(self.hold, bool):
            raise InvalidEvent("hold must be true or false")
        if not isinstance(self.data, Mapping):
            raise InvalidEvent("data must be an object")
        try:
            object.__setattr__(self, "data", composed(dict(self.data)))
        except RecursionError:
            raise InvalidEvent("data is nested too deep") from None
        if not isinstance(self.time, datetime):
            raise InvalidEvent("time must be a datetime")
        if self.traceparent is not None and not (
            isinstance(self.traceparent, str) and _TRACEPARENT.fullmatch(self.traceparent)
        ):
            raise InvalidEvent(f"traceparent {self.traceparent!r:.80} is not a W3C trace parent")
        try:
            object.__setattr__(self, "time", to_milliseconds(self.time))
        except ValueError as error:
            raise InvalidEvent(f"time: {error}") from None

    @property
    def kind(self) -> str:
        """What the event is about, such as `accident`."""
        return self.type.split(".")[-2]

    def to_dict(self) -> dict[str, Any]:
        """The CloudEvent as JSON's values."""
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": format_time(self.time),
            "datacontenttype": "application/json",
            "region": self.region,
            "sequence": self.sequence,
        }
        if self.traceparent is not None:
            attributes["traceparent"] = self.traceparent
        if self.hold:
            attributes["hold"] = True
        attributes["data"] = dict(self.data)
        return attributes

    def to_json(self) -> bytes:
        """The message's bytes. Raises InvalidEvent when `data` holds what JSON can't."""
        try:
            return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (RecursionError, TypeError, ValueError) as error:
            raise InvalidEvent(f"data is not JSON: {error}") from None

    @classmethod
    def from_json(cls, message: bytes | str) -> Self:
        """The event in `message`, by the rules of `koren_events.parse` and those of this class.

        Extension attributes not known here are left out. Raises InvalidEvent.
        """
        try:
            attributes = read(message.encode() if isinstance(message, str) else message)
        except UnicodeEncodeError as error:
            raise InvalidEvent(f"not JSON: {error}") from None
        return cls.from_dict(attributes)

    @classmethod
    def from_dict(cls, attributes: Mapping[str, Any]) -> Self:
        """The event in a CloudEvent's JSON values. Raises InvalidEvent."""
        if "data_base64" in attributes:
            raise InvalidEvent("data must be an object, not bytes in data_base64")
        if attributes.get("specversion") != "1.0":
            raise InvalidEvent("not a CloudEvent: specversion must be '1.0'")
        missing = [
            name for name in ("id", "source", "type", "subject", "time", "region", "sequence") if name not in attributes
        ]
        if missing:
            raise InvalidEvent(f"attribute missing: {', '.join(missing)}")
        try:
            time = parse_time(attributes["time"])
        except ValueError as error:
            raise InvalidEvent(f"time: {error}") from None
        return cls(
            id=attributes["id"],
            source=attributes["source"],
            type=attributes["type"],
            subject=attributes["subject"],
            time=time,
            region=attributes["region"],
            sequence=attributes["sequence"],
            data=attributes.get("data", {}),
            traceparent=attributes.get("traceparent"),
            hold=False if attributes.get("hold") is None else attributes["hold"],
        )


def event_topic(event: Event) -> str:
    """`events/<region>/<source>/<kind>`, the source being its last path segment."""
    return f"events/{event.region}/{topic_level('source', event.source)}/{event.kind}"
