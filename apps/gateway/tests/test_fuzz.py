"""No message ends a process or a function's turn: random ones through the parser and through `judge`."""

import json

import pytest
from fuzzing import JSON, MESSAGES, TEXTS, search
from gateway_lab import REPORTER
from hypothesis import given
from hypothesis import strategies as st
from outcomes import check_binary, check_judged, check_structured

from koren_events.cloudevent import CloudEvent, parse
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import function_of
from koren_gateway.cluster.sources import Source
from koren_gateway.intake.mqtt import Arrival
from koren_gateway.intake.wrap import MESSAGE_TYPE, wrapped
from koren_gateway.queue.queue import event_of
from koren_runtime.contract import to_event

TOPICS = st.one_of(
    st.just("events/seoul/cctv-seoul-01/accident"),
    st.sampled_from(["events/busan/x/y", "events/", "events", "", "/", "events/seoul", "\ud800/\x00"]),
    TEXTS,
)
PROPERTIES = st.dictionaries(
    st.sampled_from(["specversion", "id", "source", "type", "subject", "time", "sequence", "hold", "data", "region"])
    | TEXTS,
    st.sampled_from(["1.0", "true", "false", "1", "seoul", "9" * 5000, "9999-12-31T23:59:59-01:00"]) | TEXTS,
    max_size=8,
)
BINARY = st.builds(
    lambda has, more: {"specversion": "1.0", "id": "1", "source": "s", "type": "t"} | has if more else has,
    PROPERTIES,
    st.booleans(),
)
CONTENT_TYPES = (
    st.none()
    | TEXTS
    | st.sampled_from(
        ["application/json", "application/cloudevents+json", "text/plain; charset=euc-kr", "image/jpeg", "a/b+json;"]
    )
)


@search(150, 20_000)
@given(MESSAGES)
def test_what_the_parser_takes_the_runtime_takes_as_the_same_event(message: bytes) -> None:
    check_structured(message)


@search(100, 20_000)
@given(BINARY, CONTENT_TYPES, st.binary(max_size=60) | MESSAGES)
def test_what_comes_in_binary_mode_is_the_same_event_to_the_runtime(
    attributes: dict[str, str], content_type: str | None, data: bytes
) -> None:
    check_binary(attributes, content_type, data)


@search(150, 20_000)
@given(TOPICS, MESSAGES, BINARY, CONTENT_TYPES)
def test_every_message_is_judged(
    topic: str, message: bytes, attributes: dict[str, str], content_type: str | None
) -> None:
    for has in ({}, attributes):
        check_judged(
            Arrival(mid=1, topic=topic, message=message, received_ms=1000, content_type=content_type, attributes=has),
            function_of(REPORTER),
        )


@search(200, 20_000)
@given(
    TOPICS,
    MESSAGES,
    BINARY,
    CONTENT_TYPES,
    st.sampled_from(["", "topic", "topic.1", "topic.9", "payload.subject", "payload.data.0"]),
    st.sampled_from(["", "payload.id", "payload.data.\ud55c"]),
)
def test_every_message_of_a_source_is_an_event_or_refused(
    topic: str, message: bytes, attributes: dict[str, str], content_type: str | None, subject_from: str, id_from: str
) -> None:
    source = Source(name="any", topic="#", subject_from=subject_from, id_from=id_from)
    for has in ({}, attributes):
        arrival = Arrival(
            mid=1, topic=topic, message=message, received_ms=1000, content_type=content_type, attributes=has
        )
        try:
            event, structured = wrapped(arrival, source, "seoul", "given-id")
        except InvalidEvent as error:
            assert str(error)
            continue
        assert check_structured(structured)
        assert parse(structured)[0] == event
        if event.type == MESSAGE_TYPE and event.source == "mqtt/any":
            assert id_from or event.id == "given-id"
            carried = to_event(json.loads(structured))["data"]
            assert not isinstance(carried, bytes) or carried == message


@pytest.mark.parametrize("number", ["1e999", "-1E400", "1" + "0" * 400 + ".0"])
def test_a_number_that_no_reader_can_hold_is_refused(number: str) -> None:
    message = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":%s}' % number.encode()
    assert not check_structured(message)


def test_nesting_is_refused_where_readers_would_differ() -> None:
    message = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":%s}'
    assert check_structured(message % (b"[" * 199 + b"]" * 199))
    assert not check_structured(message % (b"[" * 200 + b"]" * 200))
    # Many beside each other are no nesting.
    assert check_structured(message % (b"[" + b"[]," * 1000 + b"{}]"))


@search(100, 10_000)
@given(st.one_of(JSON, st.fixed_dictionaries({name: JSON for name in CloudEvent.__slots__})))
def test_attributes_that_redis_keeps_are_an_event_or_none(kept: object) -> None:
    event = event_of(json.dumps(kept).encode())
    if event is not None:
        assert event_of(event.to_meta().encode(errors="surrogatepass")) == event
        assert event.time_ms is None or event.time_ms + 1
