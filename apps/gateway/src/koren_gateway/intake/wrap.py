"""A message of a source as an event: its attributes by the declaration, its payload as data."""

import base64
from typing import Any

from koren_events import MAX_EVENT_BYTES
from koren_events.cloudevent import STRUCTURED_PREFIX, CloudEvent, build, check_text, json_value, parse, parse_binary
from koren_events.errors import InvalidEvent
from koren_events.times import format_ms
from koren_gateway.cluster.sources import Source
from koren_gateway.intake.mqtt import Arrival

MESSAGE_TYPE = "kr.koren.mqtt.message"

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"


def parsed(arrival: Arrival) -> tuple[CloudEvent, bytes] | None:
    """The CloudEvent that a message is by what it says of itself, and the structured message; None when it
    says of itself nothing of the kind. Raises InvalidEvent."""
    content_type = arrival.content_type or ""
    if content_type.lower().startswith(STRUCTURED_PREFIX):
        return parse(arrival.message)
    if "specversion" in arrival.attributes:
        return _within(*parse_binary(arrival.attributes, content_type or None, arrival.message))
    return None


def wrapped(arrival: Arrival, source: Source, region: str, id: str) -> tuple[CloudEvent, bytes]:
    """The event that a message of `source` becomes, and the structured message to hand on.

    A CloudEvent stays as it is. `id` is the event's where the source takes none from the payload.
    Raises InvalidEvent; its text names the field that is missing.
    """
    event = parsed(arrival)
    if event is not None:
        return event
    kind, payload = _payload(arrival)
    if arrival.content_type is None and isinstance(payload, dict) and "specversion" in payload:
        return parse(arrival.message)
    check_text("the topic", arrival.topic)
    values: dict[str, Any] = {
        "specversion": "1.0",
        "id": _field("id", source.id_from, payload) if source.id_from else id,
        "source": f"mqtt/{source.name}",
        "type": MESSAGE_TYPE,
        "time": format_ms(arrival.received_ms),
        "datacontenttype": kind,
        "region": region,
        "mqtttopic": arrival.topic,
    }
    subject = _subject(source.subject_from, arrival.topic, payload)
    if subject is not None:
        values["subject"] = subject
    if isinstance(payload, bytes):
        values["data_base64"] = base64.b64encode(payload).decode()
    elif arrival.message:
        values["data"] = payload
    return _within(*build(values))


def _within(event: CloudEvent, message: bytes) -> tuple[CloudEvent, bytes]:
    if len(message) > MAX_EVENT_BYTES:
        raise InvalidEvent(f"{len(message)} bytes as structured event, more than {MAX_EVENT_BYTES}")
    return event, message


def _payload(arrival: Arrival) -> tuple[str, Any]:
    """The content type and the value: JSON's, a text, or bytes. What it is called does not make it so."""
    said = arrival.content_type
    kind = (said or _JSON).partition(";")[0].strip().lower()
    if kind == _JSON or kind.endswith("+json"):
        try:
            return said or _JSON, json_value(arrival.message)
        except InvalidEvent:
            said = None
    if said is None or kind.startswith("text/"):
        try:
            return said or _TEXT, arrival.message.decode()
        except UnicodeDecodeError:
            pass
    return said or _BYTES, arrival.message


def _subject(subject_from: str, topic: str, payload: Any) -> str | None:
    if not subject_from:
        return None
    if subject_from == "topic":
        return topic
    place, _, path = subject_from.partition(".")
    if place == "payload":
        return _field("subject", subject_from, payload)
    levels = topic.split("/")
    if int(path) > len(levels):
        raise InvalidEvent(f"subject: topic {topic[:200]} has no level {path}, which the source names")
    return levels[int(path) - 1]


def _field(what: str, path: str, payload: Any) -> str:
    value = payload
    for name in path.split(".")[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidEvent(f"{what}: {path}, which the source names, is not a text or a number of the payload")
    return str(value)
