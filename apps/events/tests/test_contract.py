"""The event's contract: what is refused, and what comes through unchanged."""

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unicodedata import category

import pytest
from jsonschema import Draft202012Validator
from samples import CAMERA, CAR, JPEG, accident

from koren_events import (
    Event,
    Evidence,
    Image,
    InvalidEvent,
    Receipt,
    ReceiptState,
    accident_cleared,
    accident_schema,
    accident_updated,
    event_topic,
    receipt_topic,
    validate,
)
from koren_events.cloudevent import check_text


def changed(event: Event, **data: Any) -> Event:
    return dataclasses.replace(event, data={**event.data, **data})


def test_attributes_have_no_control_characters_and_no_halves_of_pairs() -> None:
    forbidden = {chr(n) for n in range(0x110000) if category(chr(n)) in ("Cc", "Cs", "Zl", "Zp")}
    refused = set()
    for character in map(chr, range(0x110000)):
        try:
            check_text("subject", f"a{character}")
        except InvalidEvent:
            refused.add(character)
    assert refused == forbidden


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(accident_schema())


def test_an_incident_goes_through_the_wire_unchanged() -> None:
    detected = accident(traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    updated = accident_updated(detected, severity="severe", objects=[CAR])
    cleared = accident_cleared(updated, cleared_at=datetime(2026, 11, 24, 10, 40, tzinfo=UTC))
    for place, event in enumerate((detected, updated, cleared), start=1):
        assert Event.from_json(validate(event)) == event
        assert event.sequence == place
        assert event.subject == "cctv-seoul-01-20261124T101500Z"
        assert event.traceparent == detected.traceparent
        assert event_topic(event) == "events/seoul/cctv-seoul-01/accident"
    assert len({detected.id, updated.id, cleared.id}) == 3
    assert updated.data["severity"] == cleared.data["severity"] == "severe"
    assert cleared.data["cleared_at"] == "2026-11-24T10:40:00.000Z"
    assert base64.b64decode(detected.data["image"]["base64"]) == JPEG


def test_the_message_is_a_structured_cloud_event() -> None:
    korea = timezone(timedelta(hours=9))
    message = json.loads(validate(accident(time=datetime(2026, 11, 24, 19, 15, 1, 5999, korea))))
    data = message.pop("data")
    assert message.pop("id")
    assert message == {
        "specversion": "1.0",
        "source": "cctv-seoul-01",
        "type": "kr.koren.traffic.accident.detected",
        "subject": "cctv-seoul-01-20261124T101500Z",
        "time": "2026-11-24T10:15:01.005Z",
        "datacontenttype": "application/json",
        "region": "seoul",
        "sequence": 1,
    }
    assert data["camera"]["name"] == {"ko": "올림픽대로 01", "en": "Olympic-daero 01"}
    assert data["started_at"] == "2026-11-24T10:15:00.250Z"
    assert data["objects"][0]["box"] == [10.5, 20, 110, 80.25]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"region": "Seoul"}, "region"),
        ({"region": "seoul/x"}, "region"),
        ({"region": "-seoul"}, "region"),
        ({"region": "s" * 64}, "region"),
        ({"camera": dataclasses.replace(CAMERA, id="cctv#1")}, "source"),
        ({"camera": dataclasses.replace(CAMERA, id="cctv/")}, "source"),
        ({"traceparent": "00-1-2-3"}, "traceparent"),
        ({"time": datetime(2026, 11, 24, 10, 15)}, "time zone"),
        ({"severity": "grave"}, "$.data.severity"),
        ({"confidence": 1.2}, "$.data.confidence"),
        ({"confidence": float("nan")}, "JSON"),
        ({"what": "meteor"}, "$.data.what"),
        ({"camera": dataclasses.replace(CAMERA, latitude=127.0)}, "$.data.camera.latitude"),
        ({"objects": [dataclasses.replace(CAR, track=-1)]}, "$.data.objects[0].track"),
        ({"image": Image(jpeg=b"GIF89a", width=1, height=1)}, "$.data.image.base64"),
        ({"image": Image(jpeg=JPEG, width=0, height=1)}, "$.data.image.width"),
        ({"image": Image(jpeg=JPEG * 10, width=9, height=9)}, "encode its image smaller"),
    ],
)
def test_what_no_gateway_would_accept_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        validate(accident(**values))
    assert named in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_each_type_has_its_own_fields() -> None:
    detected = accident()
    with pytest.raises(InvalidEvent, match="cleared_at"):
        validate(changed(detected, cleared_at="2026-11-24T10:40:00Z"))
    with pytest.raises(InvalidEvent, match="objects"):
        data = {name: value for name, value in detected.data.items() if name != "objects"}
        validate(dataclasses.replace(detected, data=data))
    with pytest.raises(InvalidEvent, match="cleared_at"):
        validate(dataclasses.replace(detected, type="kr.koren.traffic.accident.cleared"))
    with pytest.raises(InvalidEvent, match=r"\$\.type"):
        validate(dataclasses.replace(detected, type="kr.koren.traffic.accident.vanished"))
    with pytest.raises(InvalidEvent, match="started_at"):
        validate(changed(detected, started_at="2026-02-31T10:00:00Z"))


def test_another_kind_of_event_needs_only_a_sound_envelope() -> None:
    event = Event(
        id="1",
        source="weather/station-4",
        type="kr.koren.weather.rain.started",
        subject="rain-1",
        time=datetime(2026, 11, 24, 10, 15, tzinfo=UTC),
        region="busan",
        sequence=1,
        data={"mm_per_hour": 12},
    )
    assert Event.from_json(validate(event)) == event
    assert event_topic(event) == "events/busan/station-4/rain"


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a CloudEvent"),
        (b"{}", "specversion"),
        (b'{"specversion": "1.0", "id": "1"}', "source, type, subject, time, region, sequence"),
    ],
)
def test_reading_what_is_no_event_says_why(message: bytes, named: str) -> None:
    with pytest.raises(InvalidEvent, match=named):
        Event.from_json(message)


@pytest.mark.parametrize("sequence", [0, -1, 2**31, True, "1", 1.0])
def test_a_sequence_is_a_counting_number(sequence: Any) -> None:
    with pytest.raises(InvalidEvent, match="sequence"):
        dataclasses.replace(accident(), sequence=sequence)


def test_receipts_have_one_topic_an_event_and_region() -> None:
    assert receipt_topic("seoul", "cctv-seoul-01", "42") == "receipts/seoul/ba6d7e67707448faab4368e3e44ea2de"


def test_a_receipt_comes_through_the_wire_unchanged() -> None:
    moment = datetime(2026, 11, 24, 10, 15, 1, 5000, UTC)
    receipt = Receipt(
        id="1",
        source="cctv-seoul-01",
        region="seoul",
        subject="incident",
        state=ReceiptState.SUCCEEDED,
        time=moment,
        function="report-incident",
        attempt=2,
        phases={"received": moment},
        result={"uri": "at://x"},
    )
    assert Receipt.from_json(receipt.to_json()) == receipt
    assert [state for state in ReceiptState if state.final] == [
        ReceiptState.SUCCEEDED,
        ReceiptState.DEAD_LETTERED,
        ReceiptState.NO_FUNCTION,
        ReceiptState.DISMISSED,
    ]
    with pytest.raises(ValueError, match="not a receipt"):
        Receipt.from_json(b'{"id": "1"}')


def test_what_each_channel_saw_goes_on_until_other_is_said() -> None:
    motion, standstill = Evidence("motion", 0.93), Evidence("standstill", 0.6)
    detected = accident(evidence=[motion])
    updated = accident_updated(detected, objects=[CAR], evidence=[motion, standstill])
    cleared = accident_cleared(updated, cleared_at=datetime(2026, 11, 24, 10, 40, tzinfo=UTC))
    for event in (detected, updated, cleared):
        validate(event)
    assert [one["channel"] for one in cleared.data["evidence"]] == ["motion", "standstill"]
    assert "evidence" not in accident().data
    with pytest.raises(InvalidEvent, match=r"\$\.data\.evidence\[0\]\.confidence"):
        validate(accident(evidence=[Evidence("motion", 1.5)]))
