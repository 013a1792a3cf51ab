"""Whether an event keeps the contract of its type."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match

from koren_events.errors import InvalidEvent
from koren_events.event import MAX_EVENT_BYTES, Event
from koren_events.times import parse_time

ACCIDENT_PREFIX = "kr.koren.traffic.accident."

_formats = FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    # The pattern beside it says the form; this says that the 31st of February is no day.
    return not isinstance(value, str) or bool(parse_time(value))


@cache
def accident_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `kr.koren.traffic.accident.*`, the contract between parts."""
    schema: dict[str, Any] = json.loads(
        files("koren_events").joinpath("accident.schema.json").read_text(encoding="utf-8")
    )
    return schema


@cache
def _accident_validator() -> Draft202012Validator:
    return Draft202012Validator(accident_schema(), format_checker=_formats)


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
    if event.type.startswith(ACCIDENT_PREFIX):
        # As it is read, not as it was built: a tuple or a float's odd form shows only in the JSON.
        error = best_match(_accident_validator().iter_errors(json.loads(message)))
        if error is not None:
            # An image's text would drown the message.
            problem = error.message if len(error.message) <= 300 else f"fails {error.validator!r}"
            raise InvalidEvent(f"event {event.id}, {error.json_path}: {problem}")
    return message
