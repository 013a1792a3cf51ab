"""Whether an event keeps the contract of its type."""

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match

from koren_events.errors import InvalidEvent
from koren_events.event import MAX_EVENT_BYTES, Event
from koren_events.times import parse_time

Kind = Literal["accident", "stopped-vehicle", "person-on-road", "wrong-way"]
"""What an incident is, as its events' types and topics name it."""
Happened = Literal["detected", "updated", "cleared"]

KINDS: tuple[Kind, ...] = get_args(Kind)
_PREFIX = "kr.koren.traffic."

_formats = FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    # The pattern beside it says the form; this says that the 31st of February is no day.
    return not isinstance(value, str) or bool(parse_time(value))


def incident_type(kind: Kind, happened: Happened) -> str:
    """The type of an incident's event."""
    return f"{_PREFIX}{kind}.{happened}"


def incident_kind(type: str) -> Kind | None:
    """The kind of incident that events of a type are about, whatever the type says has happened.

    None for types of other events.
    """
    return next((kind for kind in KINDS if type.startswith(f"{_PREFIX}{kind}.")), None)


@cache
def accident_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `kr.koren.traffic.accident.*`, the contract between parts."""
    return _stored("accident.schema.json")


@cache
def incident_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the other kinds of incident, with that of accidents, which it refers to, inside."""
    schema = _stored("incident.schema.json")
    return {**schema, "$defs": {**schema["$defs"], "accident": accident_schema()}}


def _stored(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("koren_events").joinpath(name).read_text(encoding="utf-8"))
    return schema


@cache
def _validator(schema: Callable[[], dict[str, Any]]) -> Draft202012Validator:
    return Draft202012Validator(schema(), format_checker=_formats)


def validate(event: Event) -> bytes:
    """The event's message, once it is known to be acceptable to every part on its way.

    Raises InvalidEvent when `data` breaks the schema of the type, or the message is larger than
    512 KiB. Types that have no schema here are checked by their envelope and size alone.
    """
    message = event.to_json()
    if len(message) > MAX_EVENT_BYTES:
        raise InvalidEvent(
            f"event {event.id} has {len(message)} bytes, more than {MAX_EVENT_BYTES}; encode its image smaller"
        )
    kind = incident_kind(event.type)
    if kind is not None:
        schema = accident_schema if kind == "accident" else incident_schema
        # As it is read, not as it was built: a tuple or a float's odd form shows only in the JSON.
        error = best_match(_validator(schema).iter_errors(json.loads(message)))
        if error is not None:
            # An image's text would drown the message.
            problem = error.message if len(error.message) <= 300 else f"fails {error.validator!r}"
            raise InvalidEvent(f"event {event.id}, {error.json_path}: {problem}")
    return message
