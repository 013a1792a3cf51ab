# SPDX-License-Identifier: Apache-2.0
"""An incident's life put together from events and receipts, whatever order and form they come in."""

from __future__ import annotations

import base64
import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koren_console.model import Incident
from koren_console.sources import incidents as module
from koren_console.sources.incidents import Incidents
from koren_console.sources.starts import Starts
from koren_events import (
    KINDS,
    Camera,
    Image,
    Kind,
    SeenObject,
    Text,
    accident_cleared,
    accident_detected,
    accident_updated,
    incident_cleared,
    incident_detected,
)
from koren_events.event import Event
from koren_events.receipt import Receipt, ReceiptState

T0 = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
JPEG = b"\xff\xd8\xff" + b"a picture" * 10
CAMERA = Camera(
    id="cctv-seoul-01",
    name=Text("강남역 사거리", "Gangnam Station junction"),
    latitude=37.4979,
    longitude=127.0276,
    road=Text("강남대로", "Gangnam-daero"),
    direction=Text("북쪽", "northbound"),
)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@dataclass
class Kept:
    """A keeper that remembers."""

    incidents: dict[str, Incident] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def keep_incident(self, incident: Incident) -> None:
        self.incidents[incident.subject] = incident

    def keep_picture(self, name: str, media: str, content: bytes) -> None:
        self.pictures[name] = content

    def drop_picture(self, name: str) -> None:
        self.pictures.pop(name, None)


def detected(**more: Any) -> Event:
    values: dict[str, Any] = {
        "region": "seoul",
        "camera": CAMERA,
        "severity": "moderate",
        "confidence": 0.97,
        "what": "rear_end",
        "started_at": at(0),
        "objects": [
            SeenObject(object_class="car", track=1, box=(0, 0, 1, 1), involved=True),
            SeenObject(object_class="bus", track=2, box=(0, 0, 1, 1), involved=False),
        ],
        "image": Image(jpeg=JPEG, width=64, height=48),
        "time": at(1),
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        **more,
    }
    return accident_detected(**values)


def receipt(event: Event, state: ReceiptState, seconds: float, **more: Any) -> Receipt:
    phases = {name: at(value) for name, value in more.pop("phases", {}).items()}
    values: dict[str, Any] = {
        "id": event.id,
        "source": event.source,
        "region": "seoul",
        "subject": event.subject,
        "state": state,
        "time": at(seconds),
        "phases": {"event_time": event.time, **phases},
        **more,
    }
    return Receipt(**values)


def lanes(incident: Incident | None) -> list[tuple[str, str]]:
    assert incident is not None
    return [(mark.lane, mark.what) for mark in incident.marks]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def incidents(kept: Kept) -> Incidents:
    return Incidents(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_an_incident_of_each_kind_is_known_by_its_kind_and_cleared(incidents: Incidents, kind: Kind) -> None:
    seen: dict[str, Any] = {"severity": "minor", "what": "unknown"} if kind == "accident" else {}
    first = incident_detected(
        kind=kind, region="seoul", camera=CAMERA, confidence=0.7, started_at=at(0), objects=[], time=at(1), hold=True,
        **seen,
    )  # fmt: skip
    incidents.event("seoul", first.to_json(), at(1.2))
    opened = incidents.get(first.subject)
    assert opened is not None
    assert (opened.kind, opened.state, opened.severity) == (kind, "held", seen.get("severity", ""))
    incidents.receipt(receipt(first, ReceiptState.RECEIVED, 5), at(5))
    incidents.event("seoul", incident_cleared(first, cleared_at=at(60), time=at(61)).to_json(), at(61.1))
    ended = incidents.get(first.subject)
    assert ended is not None and (ended.kind, ended.ended) == (kind, at(61))


def test_an_incident_from_detection_to_zero(incidents: Incidents, kept: Kept) -> None:
    first = detected()
    incidents.event("seoul", first.to_json(), at(1.2))
    of = {"function": "report-incident", "attempt": 1}
    phases = {"received": 1.3, "activated": 1.31, "pod_started": 1.6, "handler_entered": 1.7}
    incidents.receipt(receipt(first, ReceiptState.RECEIVED, 1.32, phases={"received": 1.3, "durable": 1.32}), at(1.4))
    incidents.receipt(receipt(first, ReceiptState.STARTED, 1.7, phases=phases, **of), at(1.8))
    incidents.pods("seoul", "report-incident", 1, at(1.8))
    result = {"url": "https://sns.test/post/1", "text": {"ko": "추돌", "en": "collision"}, "created": True}
    incidents.receipt(
        receipt(first, ReceiptState.SUCCEEDED, 2.5, phases={**phases, "handler_done": 2.4}, result=result, **of),
        at(2.6),
    )
    opened = incidents.get(first.subject)
    assert opened is not None
    assert (opened.state, opened.began, opened.pods, opened.events) == ("open", at(0), 1, 1)
    assert (opened.place.ko, opened.road, opened.severity, opened.objects) == (
        "강남역 사거리",
        "강남대로",
        "moderate",
        ("car",),
    )
    assert opened.post == "https://sns.test/post/1" and opened.text is not None and opened.text.ko == "추돌"
    assert opened.trace == "a" * 32
    assert kept.pictures[opened.picture.removeprefix("/pictures/")] == JPEG
    over = accident_cleared(first, cleared_at=at(60), time=at(61))
    incidents.event("seoul", over.to_json(), at(61.1))
    incidents.pods("seoul", "report-incident", 0, at(70))
    ended = incidents.get(first.subject)
    assert ended is not None
    assert (ended.state, ended.ended, ended.pods, ended.events) == ("cleared", at(61), 0, 2)
    assert lanes(ended) == [
        ("camera", "seen"),
        ("broker", "sent"),
        ("queue", "durable"),
        ("kubernetes", "scaled"),
        ("kubernetes", "pod-started"),
        ("function", "entered"),
        ("function", "succeeded"),
        ("post", "posted"),
        ("camera", "cleared"),
        ("broker", "sent"),
        ("kubernetes", "gone"),
    ]
    assert kept.incidents[first.subject] == ended


def test_attempts_are_told_apart_and_counted(incidents: Incidents) -> None:
    event = detected()
    incidents.event("seoul", event.to_json(), at(1.2))
    for attempt in (1, 2, 3):
        of = {"function": "f", "attempt": attempt}
        begin = 2.0 * attempt
        phases = {"handler_entered": begin}
        incidents.receipt(receipt(event, ReceiptState.STARTED, begin, phases=phases, **of), at(begin))
        error = f"RateLimited: try {attempt}"
        phases["handler_done"] = begin + 0.5
        incidents.receipt(receipt(event, ReceiptState.FAILED, begin + 0.5, phases=phases, error=error, **of), at(begin))
    of = {"function": "f", "attempt": 3}
    last = receipt(event, ReceiptState.DEAD_LETTERED, 7, error="RateLimited: try 3", **of)
    incidents.receipt(last, at(7))
    incidents.receipt(last, at(7))
    one = incidents.get(event.subject)
    assert one is not None
    failures = [(mark.attempt, mark.detail) for mark in one.marks if mark.what == "failed"]
    assert failures == [(1, "RateLimited: try 1"), (2, "RateLimited: try 2"), (3, "RateLimited: try 3")]
    assert (one.retried, one.failed) == (2, 1)
    assert [mark.until for mark in one.marks if mark.what == "entered"] == [at(2.5), at(4.5), at(6.5)]


def test_a_held_incident_waits_until_somebody_releases_it(incidents: Incidents) -> None:
    event = detected(hold=True)
    incidents.event("seoul", event.to_json(), at(1.2))
    incidents.receipt(receipt(event, ReceiptState.HELD, 1.3, phases={"received": 1.3}), at(1.4))
    one = incidents.get(event.subject)
    assert one is not None and one.state == "held"
    incidents.receipt(receipt(event, ReceiptState.RECEIVED, 30, phases={"received": 1.3}), at(30))
    one = incidents.get(event.subject)
    assert one is not None and one.state == "open"
    assert [what for _, what in lanes(one)] == ["seen", "sent", "held", "released"]


def test_a_dismissed_incident_is_over(incidents: Incidents) -> None:
    event = detected(hold=True)
    incidents.event("seoul", event.to_json(), at(1.2))
    incidents.receipt(receipt(event, ReceiptState.HELD, 1.3), at(1.4))
    incidents.receipt(receipt(event, ReceiptState.DISMISSED, 9), at(9))
    over = accident_cleared(event, cleared_at=at(60), time=at(61))
    incidents.event("seoul", over.to_json(), at(61.1))
    one = incidents.get(event.subject)
    assert one is not None and (one.state, one.ended) == ("dismissed", at(9))


def test_a_pod_that_ran_before_did_not_start_for_the_event(incidents: Incidents) -> None:
    event = detected()
    incidents.event("seoul", event.to_json(), at(1.2))
    phases = {"received": 1.3, "activated": -5.0, "pod_started": -4.0, "handler_entered": 1.4}
    incidents.receipt(receipt(event, ReceiptState.STARTED, 1.4, function="f", attempt=1, phases=phases), at(1.5))
    assert "pod-started" not in {what for _, what in lanes(incidents.get(event.subject))}


@pytest.mark.parametrize("trace", [None, "", "00-<script>-b-01", f"00-{'0' * 32}-{'b' * 16}-01", 7])
def test_what_is_no_trace_is_none(incidents: Incidents, trace: object) -> None:
    event = {**detected().to_dict(), "traceparent": trace}
    incidents.event("seoul", json.dumps(event).encode(), at(1.2))
    [incident] = incidents.all()
    assert incident.trace == ""


def test_repeats_change_nothing(incidents: Incidents) -> None:
    event = detected()
    incidents.event("seoul", event.to_json(), at(1.2))
    before = incidents.get(event.subject)
    incidents.event("seoul", event.to_json(), at(9))
    assert incidents.get(event.subject) == before


def test_a_newer_picture_takes_the_place_of_the_one_before(incidents: Incidents, kept: Kept) -> None:
    first = detected()
    incidents.event("seoul", first.to_json(), at(1.2))
    image = Image(jpeg=JPEG + b"2", width=1, height=1)
    incidents.event("seoul", accident_updated(first, objects=[], image=image, time=at(5)).to_json(), at(5))
    assert list(kept.pictures.values()) == [JPEG + b"2"]
    incidents.event("seoul", accident_updated(first, objects=[], time=at(6)).to_json(), at(6))
    assert list(kept.pictures.values()) == [JPEG + b"2"], "an event without one keeps it"


def test_one_region_has_no_say_in_anothers_incident(incidents: Incidents) -> None:
    event = detected()
    incidents.event("busan", event.to_json(), at(1.2))
    assert incidents.all() == []
    incidents.event("seoul", event.to_json(), at(1.2))
    forged = receipt(event, ReceiptState.DISMISSED, 2, region="busan")
    assert incidents.receipt(forged, at(2)) is None
    one = incidents.get(event.subject)
    assert one is not None and one.state == "open"


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "//evil.test", 7, "https://" + "x" * 5000]
)
def test_the_link_to_the_post_is_a_web_address_or_none(incidents: Incidents, address: object) -> None:
    event = detected()
    incidents.event("seoul", event.to_json(), at(1.2))
    done = receipt(event, ReceiptState.SUCCEEDED, 2, function="f", attempt=1, result={"url": address})
    incidents.receipt(done, at(2))
    one = incidents.get(event.subject)
    assert one is not None and one.post == ""


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"\x89PNG", b"", b"\xff\xd8\xff" + b"x" * 600_000])
def test_what_is_no_picture_or_too_large_is_not_kept(incidents: Incidents, kept: Kept, content: bytes) -> None:
    values = detected().to_dict()
    values["data"]["image"]["base64"] = base64.b64encode(content).decode()
    incidents.event("seoul", json.dumps(values).encode(), at(1.2))
    assert kept.pictures == {}
    assert len(incidents.all()) == 1


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


# A machine that others use is slow now and then.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["camera", "severity", "confidence", "objects", "image", "started_at"]), JUNK), JUNK
)
def test_whatever_an_event_says_does_no_harm(data: dict[str, Any], camera: Any) -> None:
    kept = Kept()
    incidents = Incidents(kept)
    values = detected().to_dict()
    values["data"] = {**data, "camera": {"name": camera, "latitude": camera, "id": camera}}
    incidents.event("seoul", json.dumps(values).encode(), at(1.2))
    [one] = incidents.all()
    json.dumps([one.place.ko, one.place.en, one.severity, one.road, list(one.objects)], ensure_ascii=False).encode()


def test_any_order_of_receipts_ends_with_the_same_life(kept: Kept) -> None:
    event = detected()
    of = {"function": "f", "attempt": 1}
    phases = {"received": 1.3, "activated": 1.4, "pod_started": 1.6, "handler_entered": 1.7}
    receipts = [
        receipt(event, ReceiptState.RECEIVED, 1.32, phases={"received": 1.3, "durable": 1.32}),
        receipt(event, ReceiptState.STARTED, 1.7, phases=phases, **of),
        receipt(event, ReceiptState.SUCCEEDED, 2.5, phases={**phases, "handler_done": 2.4}, **of),
    ]
    lives = set()
    for _ in range(10):
        random.shuffle(receipts)
        incidents = Incidents(kept)
        incidents.event("seoul", event.to_json(), at(1.2))
        for one in receipts:
            incidents.receipt(one, at(3))
        life = incidents.get(event.subject)
        assert life is not None
        lives.add(life.marks)
    assert len(lives) == 1


def test_memory_is_bounded_and_open_incidents_stay_longest(
    incidents: Incidents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    monkeypatch.setattr(module, "MOST_EVENTS", 50)
    monkeypatch.setattr(module, "MOST_MARKS", 20)
    opened = detected(incident="stays")
    incidents.event("seoul", opened.to_json(), at(0))
    for number in range(100):
        event = detected(incident=f"i-{number}")
        incidents.event("seoul", event.to_json(), at(1))
        incidents.event("seoul", accident_cleared(event, cleared_at=at(2), time=at(2)).to_json(), at(2))
        update = accident_updated(opened, objects=[], time=at(number))
        incidents.event("seoul", update.to_json(), at(number))
    assert len(incidents.all()) == 10
    assert len(incidents._events) == 50
    stays = incidents.get("stays")
    assert stays is not None and len(stays.marks) == 20 and stays.events == 101
    assert stays.marks[0].at <= at(1) and stays.marks[-1].at >= at(99), "how it began, and how it goes on"


def test_history_is_where_it_goes_on(kept: Kept) -> None:
    before = Incidents(kept)
    event = detected()
    before.event("seoul", event.to_json(), at(1.2))
    after = Incidents(kept, kept.incidents.values())
    after.receipt(receipt(event, ReceiptState.SUCCEEDED, 2, function="f", attempt=1), at(2))
    assert ("function", "succeeded") in lanes(after.get(event.subject))


def test_the_last_start_from_zero_has_all_its_phases() -> None:
    starts, event = Starts(), detected()
    of = {"function": "f", "attempt": 1}
    phases = {"received": 1.3, "activated": 1.4, "pod_started": 1.6, "handler_entered": 1.7, "handler_done": 2.4}
    assert not starts.receipt(receipt(event, ReceiptState.RECEIVED, 1.32, phases={"received": 1.3, "durable": 1.32}))
    assert starts.receipt(receipt(event, ReceiptState.SUCCEEDED, 2.5, phases=phases, **of))
    start = starts.get("seoul", "f")
    assert start is not None and start.at == at(1)
    assert [(name, round(seconds, 3)) for name, seconds in start.phases] == [
        ("received", 0.3),
        ("durable", 0.32),
        ("activated", 0.4),
        ("pod_started", 0.6),
        ("handler_entered", 0.7),
        ("handler_done", 1.4),
    ]
    warm = receipt(detected(time=at(100)), ReceiptState.SUCCEEDED, 101, phases={"pod_started": 1.6}, **of)
    assert not starts.receipt(warm)
    assert starts.get("seoul", "f") == start


def test_incidents_with_long_errors_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    kept = Kept()
    board = Incidents(kept)
    for number in range(30):
        event = detected(incident=f"i-{number}")
        board.event("seoul", event.to_json(), at(1))
        for attempt in range(30):
            told = receipt(event, ReceiptState.FAILED, 2, function="f", attempt=attempt, error="한" * 2_000)
            board.receipt(told, at(2))
    known = board.all()
    assert 3 < len(known) < 30 and board.get("i-29") in known and board.get("i-0") is None
    assert len(kept.incidents) == 30, "history has all"
    assert sum(len(mark.detail) for one in known for mark in one.marks) * 2 < 1_000_000
    again = Incidents(Kept(), reversed(kept.incidents.values()))
    assert {one.subject for one in again.all()} == {one.subject for one in known}


def test_what_a_broker_has_kept_for_hours_is_taken_in_seconds() -> None:
    board = Incidents(Kept())
    events = [detected(incident=f"i-{number}") for number in range(module.MOST)]
    for event in events:
        board.event("seoul", event.to_json(), at(1))
    begin = time.monotonic()
    for number in range(3_000):
        told = receipt(events[number % len(events)], ReceiptState.STARTED, 2, function="report-incident", attempt=1)
        incident = board.receipt(told, at(2))
        assert incident is not None
        board.pods_of(incident, "report-incident", number % 3, at(2))
    assert time.monotonic() - begin < 10


def test_an_event_may_say_more_than_is_known_here(incidents: Incidents) -> None:
    event = detected()
    event.data["evidence"] = [{"channel": "sound", "confidence": 0.4, "since": 3}]
    event.data["later"] = {"a": [1]}

    incidents.event("seoul", event.to_json(), at(1.2))

    opened = incidents.get(event.subject)
    assert opened is not None and opened.severity == "moderate"
