"""Reading what others wrote: anything is read, or refused by the one error that callers expect."""

import contextlib
import dataclasses
import json
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import CAMERA, CAR, accident

from koren_events import (
    Event,
    Health,
    InvalidEvent,
    Receipt,
    ReceiptState,
    Text,
    accident_cleared,
    accident_updated,
    event_topic,
    parse,
    receipt_topic,
    validate,
)
from koren_events.times import format_ms, format_time, from_ms, parse_time, to_milliseconds

MOMENT = datetime(2026, 11, 24, 10, 15, tzinfo=UTC)
RECEIPT = Receipt(
    id="1", source="cam", region="seoul", subject=None, state=ReceiptState.FAILED, time=MOMENT, phases={"a": MOMENT}
).to_json()
HEALTH = Health(region="seoul", part="gateway", state="up", since=MOMENT).to_json()
EVENT = validate(accident(image=None))

odd_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(
        ["\ud800", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00", "2026-02-31T00:00:00Z", "a\n"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def variants(message: bytes) -> st.SearchStrategy[bytes]:
    """Bytes of every kind, and `message` with some of its fields changed, gone, or encoded oddly."""
    values = json.loads(message)
    odd = st.sampled_from([b"[" * 10**5, b'{"a":' * 10**5, b"", b"null", b"9" * 5000, b"\xef\xbb\xbf" + message])

    def change(changes: dict[str, Any], gone: list[str], encoding: str) -> bytes:
        changed = {name: value for name, value in (values | changes).items() if name not in gone}
        return json.dumps(changed).encode(encoding)

    changes = st.dictionaries(
        st.sampled_from([*values, "hold", "since", "subject", "data_base64"]), odd_values, max_size=2
    )
    gone = st.lists(st.sampled_from(sorted(values)), max_size=1)
    encodings = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32"])
    return odd | st.binary() | st.builds(change, changes, gone, encodings)


@pytest.mark.parametrize(
    ("read", "message", "error"),
    [
        (Receipt.from_json, RECEIPT, ValueError),
        (Health.from_json, HEALTH, ValueError),
        (Event.from_json, EVENT, InvalidEvent),
    ],
)
def test_whatever_the_bytes_they_are_read_or_refused(
    read: Callable[[bytes], Any], message: bytes, error: type[Exception]
) -> None:
    assert read(message)

    @given(variants(message))
    @settings(max_examples=300, deadline=None)
    def check(odd: bytes) -> None:
        with contextlib.suppress(error):
            made = read(odd)
            # What was read is of the types that it says, and can be told on.
            assert read(made.to_json()) == made
            if isinstance(made, Receipt | Event):
                receipt_topic(made.region, made.source, made.id)

    check()


@given(variants(EVENT))
@settings(max_examples=300, deadline=None)
def test_what_the_parser_hands_on_it_takes_unchanged(odd: bytes) -> None:
    with contextlib.suppress(InvalidEvent):
        event, handed_on = parse(odd)
        assert parse(handed_on) == (event, handed_on)
        assert type(event).from_meta(event.to_meta()) == event


texts = st.text(st.characters(), min_size=1, max_size=300)
names = st.sampled_from(["cam-1", "a/b", "카메라", "카메라", "a\u2028b"]) | texts


@given(names, names, names, st.datetimes(timezones=st.timezones()), st.integers(), st.booleans(), odd_values)
@settings(max_examples=300, deadline=None)
def test_what_a_publisher_takes_every_gateway_takes(
    id: str, source: str, subject: str, time: datetime, sequence: int, hold: bool, value: Any
) -> None:
    with contextlib.suppress(InvalidEvent):
        event = Event(
            id=id, source=source, type="a.b.c", subject=subject, time=time, region="seoul",
            sequence=sequence, hold=hold, data={"value": value},
        )  # fmt: skip
        message = validate(event)
        taken, handed_on = parse(message)
        assert (taken.id, taken.source, taken.subject) == (event.id, event.source, event.subject)
        assert (taken.sequence, taken.hold, taken.region) == (event.sequence, event.hold, "seoul")
        assert handed_on == message
        assert Event.from_json(message) == event


@given(st.text(max_size=40) | st.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)\Z"))
def test_a_text_is_a_moment_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        moment = parse_time(text)
        assert parse_time(format_time(moment)) == moment


@given(st.datetimes(timezones=st.just(UTC)).map(to_milliseconds))
def test_a_moment_in_milliseconds_is_the_same_moment(moment: datetime) -> None:
    unix_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert from_ms(unix_ms) == moment
    assert format_ms(unix_ms) == format_time(moment)


@pytest.mark.parametrize("unix_ms", [10**15, -(10**15), 10**30])
def test_milliseconds_beyond_the_calendar_are_a_value_error(unix_ms: int) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        format_ms(unix_ms)


class Undecided(tzinfo):
    def utcoffset(self, when: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "years 1 to 9999"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=9))), "years 1 to 9999"),
        (datetime(2026, 11, 24, tzinfo=Undecided()), "no time zone"),
        ("2026-11-24T10:15:00Z", "must be a datetime"),
    ],
)
def test_a_time_that_no_message_can_carry_is_refused(time: Any, problem: str) -> None:
    with pytest.raises(InvalidEvent, match=problem):
        accident(time=time)
    if isinstance(time, datetime):
        with pytest.raises(ValueError, match=problem):
            format_time(time)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"time": "9999-12-31T23:59:59-01:00"}, "years 1 to 9999"),
        ({"time": "２０２６-11-24T10:15:00Z"}, "RFC 3339"),
        ({"time": 5}, "type int is not an RFC 3339"),
        ({"hold": "true"}, "hold must be true or false"),
        ({"hold": 1}, "hold must be true or false"),
        ({"id": "a\nb"}, r"id has the character U\+000A"),
        ({"data_base64": "AAAA"}, "data_base64"),
        ({"data": None}, "data must be an object"),
    ],
)
def test_an_attribute_that_the_gateway_would_refuse_is_refused_here(change: dict[str, Any], problem: str) -> None:
    message = json.dumps(json.loads(EVENT) | change).encode()
    with pytest.raises(InvalidEvent, match=problem):
        Event.from_json(message)


@pytest.mark.parametrize("encode", [lambda m: b"\xef\xbb\xbf" + m, lambda m: m.decode().encode("utf-16")])
def test_an_event_is_utf_8_without_a_byte_order_mark(encode: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidEvent, match="not JSON"):
        Event.from_json(encode(EVENT))


def test_decomposed_hangul_is_the_same_text() -> None:
    def decomposed(text: str) -> str:
        return unicodedata.normalize("NFD", text)

    name = "올림픽대로 01"
    camera = dataclasses.replace(CAMERA, id=decomposed("카메라-1"), name=Text(ko=decomposed(name), en="x"))
    event = accident(camera=camera, incident=decomposed("사고-1"))
    composed = dataclasses.replace(event, source="카메라-1", subject="사고-1")
    assert event == composed
    assert event.data["camera"]["name"]["ko"] == name
    assert event_topic(event) == "events/seoul/카메라-1/accident"
    assert parse(validate(event))[0].subject == "사고-1"
    written = decomposed(event.to_json().decode())
    assert Event.from_json(written) == Event.from_json(written.encode()) == event
    assert decomposed(name) not in validate(event).decode()
    # 256 characters, as readers count them, however they were typed
    assert accident(incident=decomposed("각" * 256)).subject == "각" * 256


def test_hold_is_carried_through_an_incident_and_left_out_without_it() -> None:
    held = accident(hold=True)
    updated = accident_updated(held, objects=[CAR])
    cleared = accident_cleared(updated, cleared_at=MOMENT)
    for event in (held, updated, cleared):
        assert json.loads(validate(event))["hold"] is True
        assert Event.from_json(validate(event)).hold
    free = accident_updated(held, objects=[CAR], hold=False)
    for event in (free, accident(), accident_updated(accident(), objects=[CAR])):
        assert "hold" not in json.loads(validate(event))
        assert not Event.from_json(validate(event)).hold
    with pytest.raises(InvalidEvent, match="hold"):
        accident(hold="yes")
