"""Events of incidents on roads over MQTT that are not lost: contract, spool, receipts."""

from koren_events.accident import accident_cleared, accident_detected, accident_updated
from koren_events.cloudevent import CloudEvent, parse, parse_binary
from koren_events.contract import KINDS, Kind, accident_schema, incident_kind, incident_schema, incident_type, validate
from koren_events.errors import (
    ConfigurationError,
    EventsError,
    InvalidEvent,
    PublishRefused,
    ReceiptTimeout,
    SpoolBroken,
    SpoolFull,
    SpoolInUse,
)
from koren_events.event import CONTENT_TYPE, MAX_EVENT_BYTES, Event, event_topic
from koren_events.health import Health
from koren_events.incident import (
    Camera,
    Channel,
    Evidence,
    Image,
    ObjectClass,
    SeenObject,
    Text,
    incident_cleared,
    incident_detected,
    incident_updated,
)
from koren_events.publisher import Publisher
from koren_events.receipt import Receipt, ReceiptState
from koren_events.telemetry import Telemetry
from koren_events.topics import health_topic, receipt_topic

__all__ = [
    "CONTENT_TYPE",
    "KINDS",
    "MAX_EVENT_BYTES",
    "Camera",
    "Channel",
    "CloudEvent",
    "ConfigurationError",
    "Event",
    "EventsError",
    "Evidence",
    "Health",
    "Image",
    "InvalidEvent",
    "Kind",
    "ObjectClass",
    "PublishRefused",
    "Publisher",
    "Receipt",
    "ReceiptState",
    "ReceiptTimeout",
    "SeenObject",
    "SpoolBroken",
    "SpoolFull",
    "SpoolInUse",
    "Telemetry",
    "Text",
    "accident_cleared",
    "accident_detected",
    "accident_schema",
    "accident_updated",
    "event_topic",
    "health_topic",
    "incident_cleared",
    "incident_detected",
    "incident_kind",
    "incident_schema",
    "incident_type",
    "incident_updated",
    "parse",
    "parse_binary",
    "receipt_topic",
    "validate",
]
