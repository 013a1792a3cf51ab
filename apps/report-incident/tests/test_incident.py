from typing import Any
from unicodedata import normalize

import pytest
from conftest import JPEG, make_event
from post_text.incident import Incident

from koren_runtime import Reject


def test_what_an_event_says() -> None:
    incident = Incident(make_event("updated", 7))

    assert (incident.kind, incident.sequence, incident.region) == ("updated", 7, "seoul")
    assert incident.involved == {"car": 2, "bus": 1}, "who only drives by is not counted"
    assert incident.road == {"ko": "강남대로", "en": "Gangnam-daero"}
    assert incident.image is not None
    assert (incident.image.jpeg, incident.image.width, incident.image.height) == (JPEG, 1280, 720)


def test_who_released_a_held_event_has_confirmed_it() -> None:
    assert not Incident(make_event()).confirmed
    assert Incident(make_event(released_by="console:kim")).confirmed


def test_an_event_may_name_no_road() -> None:
    event = make_event()
    del event["data"]["camera"]["road"], event["data"]["camera"]["direction"]
    incident = Incident(event)

    assert incident.road is None and incident.direction is None


def test_a_text_beyond_all_measure_is_refused() -> None:
    event = make_event()
    event["data"]["camera"]["road"]["ko"] = "가" * 2001

    with pytest.raises(Reject, match=r"data\.camera\.road\.ko has 2001 characters; 2000 is the most"):
        Incident(event)


def test_an_end_needs_neither_image_nor_objects() -> None:
    incident = Incident(make_event("cleared", 2, jpeg=None))

    assert incident.image is None and incident.involved == {}
    assert incident.cleared_at is not None


def test_a_time_may_have_nine_digits() -> None:
    incident = Incident(make_event(started_at="2026-11-24T11:16:05.123456789Z"))

    assert incident.started_at.microsecond == 123456


def test_a_name_can_not_break_a_line() -> None:
    event = make_event()
    event["data"]["camera"]["road"]["en"] = "Main\nStreet\t #1"

    assert Incident(event).road["en"] == "Main Street #1"


def test_control_characters_are_left_out_of_a_name() -> None:
    event = make_event()
    event["data"]["camera"]["road"]["en"] = "\ufeffMain\x00 Str\x07eet"

    assert Incident(event).road["en"] == "Main Street"


def test_a_name_in_decomposed_hangul_is_composed() -> None:
    event = make_event()
    event["data"]["camera"]["road"]["ko"] = normalize("NFD", "강남대로")

    assert Incident(event).road["ko"] == "강남대로"


def test_a_whole_number_may_have_a_fraction_of_nothing() -> None:
    sequence = Incident(make_event(sequence=2.0)).sequence

    assert (sequence, type(sequence)) == (2, int)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("extensions.subject", None, "no subject"),
        ("extensions.sequence", "1", "sequence is '1', not a number from 1 to 2147483647"),
        ("extensions.sequence", True, "sequence is True"),
        ("event-type", "org.example.fire", "event-type is 'org.example.fire', not one of kr.koren"),
        ("data", "text", "data is no JSON object"),
        ("data.camera", None, "no data.camera"),
        ("data.camera.road.ko", " ", "data.camera.road.ko is ' ', not a text"),
        ("data.what", "explosion", "data.what is 'explosion', not one of rear_end"),
        ("data.started_at", "yesterday", "data.started_at is 'yesterday', not a time"),
        ("data.started_at", "2026-11-24T11:16:05", "names no time zone"),
        ("data.image.base64", "/9j/!", "data.image.base64 is not base64"),
        ("data.image.base64", "iVBORw0K", "no JPEG"),
        ("data.image.base64", "가", "data.image.base64 is not base64"),
        ("data.image.base64", 7, "data.image.base64 is not base64"),
        ("data.image.width", 0, "data.image.width is 0"),
        ("data.image.width", 1.5, "data.image.width is 1.5"),
        ("data.image", "text", "data.image is no JSON object"),
        ("data.objects", ["car"], "data.objects is no JSON object"),
        ("data.camera.name.en", "a\ud800", "data.camera.name.en is 'a.ud800', not a text"),
        ("data.camera.name.en", "\x00\x07\ufeff", "data.camera.name.en is .*, not a text"),
        ("data.started_at", "0001-01-01T00:00:00Z", "not a time from 1971 to 2199"),
        ("data.started_at", "9999-12-31T23:59:59Z", "not a time from 1971 to 2199"),
        ("extensions.sequence", 10**400, "sequence is too large"),
        ("event-time", None, "no event-time"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, message: str) -> None:
    event: dict[str, Any] = make_event()
    *way, last = path.split(".")
    place = event
    for name in way:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value

    with pytest.raises(Reject, match=message):
        Incident(event)


def test_an_event_may_say_more_than_is_known_here() -> None:
    event = make_event()
    event["data"]["evidence"] = [{"channel": "sound", "confidence": 0.4, "since": 3}]
    event["data"]["later"] = {"a": [1]}

    assert Incident(event).involved == Incident(make_event()).involved
