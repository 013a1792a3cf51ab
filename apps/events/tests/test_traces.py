"""Traces: the publisher's spans at a collector that speaks OTLP, and what they cost when they are off."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, Seen
from lab import Broker, Pki, Region, until
from samples import accident

from koren_events import ConfigurationError, Publisher, ReceiptState, Telemetry, event_topic, parse
from koren_events.telemetry import Telemetry as Settings
from koren_events.trace_context import TraceContext
from koren_events.tracing import QUEUED_MAX, SpanKind, Tracer

OUTER = f"00-{'a' * 32}-{'b' * 16}-01"


class Listener(Region):
    """A region that keeps the messages it gets."""

    def _take(self, payload: bytes) -> None:
        self.messages: list[bytes] = [*getattr(self, "messages", []), payload]
        super()._take(payload)


@pytest.fixture
def collector(pki: Pki) -> Iterator[Collector]:
    files = pki.of("broker")
    collector = Collector((files["cert"], files["key"]))
    yield collector
    collector.close()


@pytest.fixture
def telemetry(collector: Collector, pki: Pki) -> Telemetry:
    return Telemetry(endpoint=collector.endpoint, ca=pki.ca, headers={"authorization": "Bearer of-the-vault"})


@pytest.fixture
def listener(broker: Broker, pki: Pki) -> Iterator[Listener]:
    region = Listener(broker, pki)
    region.start()
    yield region
    region.stop()


def only_span(collector: Collector, topic: str) -> Seen:
    [span] = collector.wait(f"publish {topic}")
    assert len(collector.spans) == 1
    return span


def test_an_events_way_to_its_region_is_a_span_and_the_event_says_so(
    settings: dict[str, Any], listener: Listener, collector: Collector, telemetry: Telemetry
) -> None:
    event = accident()
    with Publisher(**settings, telemetry=telemetry) as publisher:
        publisher.publish(event)
        publisher.wait(event, timeout_s=60)
    span = only_span(collector, event_topic(event))
    assert (span.kind, span.parent_id, span.failed) == ("PRODUCER", "", False)
    assert span.resource["service.name"] == "detector"
    assert span.attributes["messaging.system"] == "mqtt"
    assert span.attributes["messaging.destination.name"] == "events/seoul/cctv-seoul-01/accident"
    assert span.attributes["messaging.message.id"] == span.attributes["cloudevents.event_id"] == event.id
    assert span.attributes["cloudevents.event_subject"] == event.subject
    assert span.attributes["koren.receipt"] == "received" and "acknowledged" in span.events
    [message] = listener.messages
    assert parse(message)[0].traceparent == span.context
    assert collector.headers[0]["authorization"] == "Bearer of-the-vault"
    # What the event is about stays in the event.
    for told in (b"of-the-vault", b"Olympic-daero", event.to_dict()["data"]["image"]["base64"][:40].encode()):
        assert told not in collector.bodies


def test_an_event_that_has_a_trace_stays_in_it(
    settings: dict[str, Any], listener: Listener, collector: Collector, telemetry: Telemetry
) -> None:
    event = accident(traceparent=OUTER)
    with Publisher(**settings, telemetry=telemetry) as publisher:
        publisher.publish(event)
        publisher.wait(event, timeout_s=60)
    span = only_span(collector, event_topic(event))
    assert (span.trace_id, span.parent_id) == ("a" * 32, "b" * 16)
    assert parse(listener.messages[0])[0].traceparent == OUTER


def test_what_an_earlier_process_has_spooled_keeps_its_trace(
    settings: dict[str, Any], stopped_broker: Broker, pki: Pki, collector: Collector, telemetry: Telemetry
) -> None:
    event = accident()
    with Publisher(**settings, telemetry=telemetry) as publisher:
        publisher.publish(event)
    assert collector.spans == []
    stopped_broker.start()
    region = Listener(stopped_broker, pki)
    region.start()
    try:
        with Publisher(**settings, telemetry=telemetry) as publisher:
            assert publisher.flush(timeout_s=60)
    finally:
        region.stop()
    span = only_span(collector, event_topic(event))
    assert parse(region.messages[0])[0].traceparent == span.context
    assert span.attributes["koren.resumed"] is True and span.parent_id == ""


def test_the_same_event_again_changes_nothing_whether_traces_are_on_or_off(
    settings: dict[str, Any], telemetry: Telemetry
) -> None:
    event = accident()
    for telemetry_now in (telemetry, telemetry, None, dataclasses.replace(telemetry, ratio=0.0)):
        with Publisher(**settings, telemetry=telemetry_now) as publisher:
            publisher.publish(event)
            assert publisher.spooled == 1


def test_a_trace_that_is_not_recorded_is_carried_but_makes_no_span(
    settings: dict[str, Any], listener: Listener, collector: Collector, telemetry: Telemetry
) -> None:
    events = [accident(), accident(traceparent=OUTER[:-2] + "00")]
    with Publisher(**settings, telemetry=dataclasses.replace(telemetry, ratio=0.0)) as publisher:
        for event in events:
            publisher.publish(event)
            publisher.wait(event, timeout_s=60)
    carried = [TraceContext.parse(parse(message)[0].traceparent) for message in listener.messages]
    assert len(carried) == 2 and all(context and not context.sampled for context in carried)
    assert collector.spans == []


def test_a_region_that_refuses_an_event_makes_its_span_fail(
    settings: dict[str, Any], broker: Broker, pki: Pki, collector: Collector, telemetry: Telemetry
) -> None:
    region = Region(broker, pki, states=(ReceiptState.DEAD_LETTERED,))
    region.start()
    event = accident()
    try:
        with Publisher(**settings, telemetry=telemetry) as publisher:
            publisher.publish(event)
            publisher.wait(event, timeout_s=60)
    finally:
        region.stop()
    span = only_span(collector, event_topic(event))
    assert span.failed and span.attributes["error.type"] == "dead-lettered"


def test_a_collector_that_is_not_there_costs_an_event_nothing_and_is_counted(
    settings: dict[str, Any], region: Region, collector: Collector, telemetry: Telemetry, caplog: Any
) -> None:
    dropped: list[int] = []
    collector.close()
    event = accident()
    with Publisher(**settings, telemetry=dataclasses.replace(telemetry, on_drop=dropped.append)) as publisher:
        publisher.publish(event)
        assert publisher.wait(event, timeout_s=60).state == "received"
        assert publisher.flush(timeout_s=60)
        until(lambda: sum(dropped) == 1)
    assert [record.message for record in caplog.records if "takes no spans" in record.message] == [
        f"{collector.endpoint} takes no spans; they are dropped and counted"
    ]


def test_a_slow_collector_holds_no_more_than_the_bound(pki: Pki) -> None:
    dropped: list[int] = []
    slow = Collector(delay_s=3600)
    tracer = Tracer(Settings(endpoint=slow.endpoint, on_drop=dropped.append), {"service.name": "test"})
    now = time.time_ns()
    for number in range(QUEUED_MAX + 500):
        context = TraceContext.of_event("camera", str(number))
        tracer.span("x", SpanKind.INTERNAL, context, None, start_ns=now, end_ns=now, attributes={})
    assert sum(dropped) == 500
    began = time.monotonic()
    tracer.close(0.2)
    assert time.monotonic() - began < 2
    slow.close()


def test_whatever_a_span_is_told_it_is_sent(collector: Collector, telemetry: Telemetry) -> None:
    tracer = Tracer(telemetry, {"service.name": "test"})
    context = TraceContext.of_event("camera", "1")
    told = {"a": "half a pair: \ud83d", "b": "x" * 5000, "c": True}
    tracer.span("n\ud83d", SpanKind.INTERNAL, context, None, start_ns=-5, end_ns=7, attributes=told, error="\ud83d")
    tracer.span("good", SpanKind.INTERNAL, context.child(1), context, start_ns=5, end_ns=7, attributes={})
    tracer.close(10)
    good = collector.wait("good")[0]
    assert (good.trace_id, good.parent_id) == (context.trace_id, context.span_id)
    assert all(len(str(value)) <= 256 for span in collector.spans for value in span.attributes.values())


def test_off_is_free_of_opentelemetry(settings: dict[str, Any]) -> None:
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from koren_events import Publisher\n"
        "settings = json.loads(sys.argv[1])\n"
        "paths = {name: Path(settings[name]) for name in ('spool', 'ca', 'cert', 'key')}\n"
        "with Publisher(**(settings | paths)): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    told = json.dumps(settings, default=str)
    said = subprocess.run([sys.executable, "-c", program, told], check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"endpoint": "collector:4318"}, "https://collector.example:4318"),
        ({"endpoint": "https://me:secret@collector:4318"}, "credentials as headers"),
        ({"endpoint": "http://collector:4318"}, "use https"),
        ({"endpoint": "https://collector:99999"}, "https://collector.example:4318"),
        ({"headers": {"a b": "x"}}, "'a b'"),
        ({"headers": {"token": "x\r\nHost: other"}}, "'token'"),
        ({"ca": Path("/nowhere/ca.crt")}, "/nowhere/ca.crt"),
        ({"ratio": 1.5}, "1.5"),
    ],
)
def test_settings_that_can_not_be_used_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        Telemetry(**({"endpoint": "https://collector:4318"} | wrong))
    assert "secret@" not in str(refused.value) and "Host: other" not in str(refused.value)


def test_headers_are_not_shown() -> None:
    assert "sesame" not in repr(Telemetry(endpoint="https://c", headers={"token": "sesame"}))


@pytest.mark.parametrize(
    "wrong",
    [None, 7, "", "00-1-2-3", OUTER + "-x", OUTER.replace("a" * 32, "0" * 32), "ff" + OUTER[2:], OUTER.upper()],
)
def test_a_traceparent_that_is_none_is_left_alone(wrong: Any) -> None:
    assert TraceContext.parse(wrong) is None
    message = json.dumps({**accident().to_dict(), "traceparent": wrong}).encode()
    assert parse(message)[0].traceparent is None


def test_of_a_thousand_events_the_ratio_is_recorded(pki: Pki) -> None:
    tracer = Tracer(Settings(endpoint="http://localhost:9", ratio=0.2), {"service.name": "test"})
    contexts = [tracer.begun_by("camera", str(number)) for number in range(1000)]
    assert 140 < sum(context.sampled for context in contexts) < 260
    assert contexts == [tracer.begun_by("camera", str(number)) for number in range(1000)]
    assert len({context.trace_id for context in contexts}) == 1000
