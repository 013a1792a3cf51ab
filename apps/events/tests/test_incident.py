"""Incidents of all kinds: the same life as an accident, and no more than their type allows."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from samples import CAMERA, JPEG

from koren_events import (
    KINDS,
    Event,
    Evidence,
    Image,
    InvalidEvent,
    Kind,
    SeenObject,
    event_topic,
    incident_cleared,
    incident_detected,
    incident_kind,
    incident_schema,
    incident_type,
    incident_updated,
    validate,
)

NO_ACCIDENTS = KINDS[1:]
BEGUN = datetime(2026, 11, 24, 10, 15, tzinfo=UTC)
WALKER = SeenObject(object_class="person", track=1_000_001, box=(10, 20, 30, 80), involved=True)


def detected(kind: Kind, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "kind": kind,
        "region": "seoul",
        "camera": CAMERA,
        "confidence": 0.7,
        "started_at": BEGUN,
        "objects": [WALKER],
        "evidence": [Evidence("people", 0.7)],
        "image": Image(jpeg=JPEG[:999], width=1280, height=720),
    }
    return incident_detected(**(values | changes))


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(incident_schema())


@settings(deadline=None)
@given(
    kind=st.sampled_from(NO_ACCIDENTS),
    updates=st.lists(st.floats(0, 1), max_size=4),
    lasted=st.timedeltas(timedelta(0), timedelta(hours=2)),
)
def test_an_incident_of_any_kind_goes_through_the_wire_unchanged(
    kind: Kind, updates: list[float], lasted: timedelta
) -> None:
    events = [detected(kind, hold=True)]
    for confidence in updates:
        events.append(incident_updated(events[-1], objects=[WALKER], confidence=confidence))
    events.append(incident_cleared(events[-1], cleared_at=BEGUN + lasted))

    for sequence, event in enumerate(events, start=1):
        assert Event.from_json(validate(event)) == event
        assert event.sequence == sequence and event.hold
        assert event.subject == f"cctv-seoul-01-{kind}-20261124T101500Z"
        assert event_topic(event) == f"events/seoul/cctv-seoul-01/{kind}"
        assert event.data["evidence"] == [{"channel": "people", "confidence": 0.7}]
    happened = ["detected", *["updated"] * len(updates), "cleared"]
    assert [event.type for event in events] == [f"kr.koren.traffic.{kind}.{one}" for one in happened]
    assert events[-1].data["confidence"] == (updates or [0.7])[-1]


@pytest.mark.parametrize("kind", NO_ACCIDENTS)
@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"severity": "minor"}, "severity"),
        ({"what": "unknown"}, "what"),
        ({"confidence": 2}, "confidence"),
        ({"cleared_at": "2026-11-24T10:40:00Z"}, "cleared_at"),
        ({"objects": [{"class": "tram"}]}, "objects"),
    ],
)
def test_what_its_type_does_not_allow_is_refused_by_name(kind: Kind, data: dict[str, Any], named: str) -> None:
    event = detected(kind)
    with pytest.raises(InvalidEvent, match=named):
        validate(dataclasses.replace(event, data={**event.data, **data}))


@pytest.mark.parametrize("kind", NO_ACCIDENTS)
def test_each_happening_has_its_own_fields(kind: Kind) -> None:
    event = detected(kind)
    with pytest.raises(InvalidEvent, match="cleared_at"):
        validate(dataclasses.replace(event, type=incident_type(kind, "cleared")))
    with pytest.raises(InvalidEvent, match=r"\$\.type"):
        validate(dataclasses.replace(event, type=f"kr.koren.traffic.{kind}.vanished"))
    bare = {name: value for name, value in event.data.items() if name != "objects"}
    with pytest.raises(InvalidEvent, match="objects"):
        validate(dataclasses.replace(event, data=bare))


def test_the_kind_of_a_type_is_told_for_incidents_alone() -> None:
    for kind in KINDS:
        assert incident_kind(incident_type(kind, "updated")) == kind
    for other in ("kr.koren.traffic.jam.detected", "kr.koren.mqtt.message", "kr.koren.traffic.accidental.x"):
        assert incident_kind(other) is None
