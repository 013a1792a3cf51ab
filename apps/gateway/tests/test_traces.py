"""Traces: the gateway's spans of an event and of the function's run, at a collector that speaks OTLP."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_lab import Lab, Mosquitto, Pki, TestCluster, environment, started
from structlog.testing import capture_logs

from koren_events import ConfigurationError
from koren_gateway.app import Gateway
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

sys.path.append(str(Path(__file__).parents[2] / "events" / "tests"))
from collector import Collector, Seen

pytestmark = pytest.mark.asyncio

OUTER = f"00-{'a' * 32}-{'b' * 16}-01"
TOPIC = "events/seoul/cctv-seoul-01/accident"
SPANS = (f"receive {TOPIC}", "queue report-incident", "deliver report-incident", "report-incident")


@pytest.fixture
def collector(pki: Pki) -> Iterator[Collector]:
    collector = Collector(pki.issue("collector"))
    yield collector
    collector.close()


@pytest_asyncio.fixture
async def traced(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto, collector: Collector
) -> AsyncIterator[Lab]:
    """A gateway that sends its spans to the collector."""
    values = lab_settings.model_dump() | {
        "otlp_endpoint": collector.endpoint,
        "otlp_ca": pki.ca,
        "otlp_headers": {"authorization": "Bearer of-the-vault"},
        "retry_base_s": 0.05,
        "retry_cap_s": 0.1,
    }
    async with started(Settings(**values), pki) as lab:
        yield lab


async def wait(collector: Collector, *names: str) -> list[Seen]:
    return await asyncio.to_thread(collector.wait, *names)


async def test_one_event_is_one_trace_whose_spans_are_below_each_other(traced: Lab, collector: Collector) -> None:
    await traced.broker.publish(traceparent=OUTER, data={"plate": "12가3456"})
    pod = traced.pod()
    event = await pod.next(**{"Koren-Cold-Start": "1", "Koren-Started-Ms": "0"})
    await pod.post("entered")
    await pod.post("response", {"answer": "sesame"})
    intake, queue, deliver, function = await wait(collector, *SPANS)
    assert len(collector.spans) == 4 and {span.trace_id for span in collector.spans} == {"a" * 32}
    assert intake.parent_id == "b" * 16
    assert queue.parent_id == deliver.parent_id == intake.span_id
    assert function.parent_id == deliver.span_id
    # The function's own spans are to be below its span.
    assert event["traceparent"] == function.context
    assert [intake.kind, queue.kind, deliver.kind, function.kind] == ["CONSUMER", "INTERNAL", "CLIENT", "CONSUMER"]
    assert intake.start_ms <= queue.start_ms <= queue.end_ms <= function.start_ms <= function.end_ms <= deliver.end_ms
    assert not any(span.failed for span in collector.spans)
    assert (intake.resource["service.name"], function.resource["service.name"]) == ("koren-gateway", "report-incident")
    assert function.resource["faas.name"] == "report-incident" and function.resource["faas.instance"] == "pod-a"
    assert function.attributes["faas.trigger"] == "pubsub" and function.attributes["faas.coldstart"] is True
    assert function.attributes["faas.invocation_id"] == pod.key
    for span in (intake, function):
        assert span.attributes["messaging.system"] == "mqtt"
        assert span.attributes["messaging.destination.name"] == TOPIC
        assert span.attributes["messaging.message.id"] == "incident-1-detected-1"
        assert span.attributes["cloudevents.event_subject"] == "incident-1"
    assert collector.headers[0]["authorization"] == "Bearer of-the-vault"
    for told in ("12가3456", "plate", "sesame", "of-the-vault", "only-for-tests", "pod/report-incident"):
        assert told.encode() not in collector.bodies


async def test_a_retry_is_a_second_attempt_and_the_one_that_failed_says_why(traced: Lab, collector: Collector) -> None:
    await traced.broker.publish(traceparent=OUTER)
    pod = traced.pod()
    await pod.next(**{"Koren-Cold-Start": "1"})
    await pod.post("entered")
    await pod.post("error", {"type": "KeyError", "message": "token=sesame", "traceback": "line 1"})
    again = await pod.next()
    await pod.post("entered")
    await pod.post("error", {"type": "Timeout", "message": "no answer within 20 s"})
    await pod.next()
    await pod.post("entered")
    await pod.post("response", {})
    await asyncio.to_thread(_until, lambda: len(collector.spans) == 10, collector)
    first, second, third = collector.named("deliver report-incident")
    assert [span.attributes["koren.outcome"] for span in (first, second, third)] == ["failed", "failed", "succeeded"]
    assert [span.attributes["koren.delivery"] for span in (first, second, third)] == [1, 2, 3]
    assert first.parent_id == second.parent_id and len({first.span_id, second.span_id, third.span_id}) == 3
    assert first.failed and first.attributes["error.type"] == "KeyError"
    # What an exception says may be a secret; what the platform says is none.
    assert b"sesame" not in collector.bodies
    assert second.failed and second.description == "Timeout: no answer within 20 s"
    assert not third.failed
    runs = collector.named("report-incident")
    assert [run.parent_id for run in runs] == [first.span_id, second.span_id, third.span_id]
    assert [run.attributes["faas.coldstart"] for run in runs] == [True, False, False]
    assert again["traceparent"] == runs[1].context
    waits = collector.named("queue report-incident")
    assert [span.attributes["koren.delivery"] for span in waits] == [1, 2, 3]
    assert waits[1].start_ms >= first.end_ms


async def test_an_attempt_that_is_lost_is_a_span_that_failed(traced: Lab, collector: Collector) -> None:
    await traced.broker.publish(traceparent=OUTER)
    pod = traced.pod()
    await pod.next()
    await pod.next()  # as its successor in the same pod does
    [lost] = await wait(collector, "deliver report-incident")
    assert lost.failed and lost.attributes["error.type"] == "Abandoned" and lost.attributes["koren.outcome"] == "lost"
    assert collector.named("report-incident") == []  # it was not entered
    assert await traced.metric("crashes_total", function="report-incident", reason="Abandoned") == 1


async def test_an_event_without_a_trace_begins_one_and_a_repeat_is_in_it(traced: Lab, collector: Collector) -> None:
    for _ in range(2):
        await traced.broker.publish(time="2026-11-28T10:00:00.000Z")
        await traced.broker.receipt("received")
    pod = traced.pod()
    event = await pod.next()
    await pod.post("response", {})
    await traced.broker.receipt("succeeded")
    await asyncio.to_thread(_until, lambda: len(collector.named(SPANS[0])) == 2, collector)
    first, repeat = collector.named(SPANS[0])
    assert [first.attributes["koren.outcome"], repeat.attributes["koren.outcome"]] == ["queued", "duplicate"]
    assert first.trace_id == repeat.trace_id == event["traceparent"].split("-")[1]
    assert first.parent_id == "" and first.span_id != repeat.span_id


async def test_a_call_is_a_trace_too(traced: Lab, collector: Collector) -> None:
    call = asyncio.create_task(traced.admin("POST", "/v1/functions/report-incident/invoke", json={"x": 1}))
    pod = traced.pod()
    await pod.next()
    await pod.post("entered")
    await pod.post("response", {})
    assert (await call).status_code == 200
    called, function = await wait(collector, "receive call", "report-incident")
    assert (called.kind, function.kind, function.attributes["faas.trigger"]) == ("SERVER", "SERVER", "http")
    assert called.trace_id == function.trace_id and "messaging.system" not in function.attributes


async def test_an_event_that_was_held_goes_on_in_its_trace(traced: Lab, collector: Collector) -> None:
    await traced.broker.publish(traceparent=OUTER, hold=True)
    await traced.broker.receipt("held")
    [one] = (await traced.admin("GET", "/v1/held")).json()["held"]
    await traced.admin("POST", f"/v1/held/{one['id']}/release")
    pod = traced.pod()
    event = await pod.next()
    assert event["releasedby"] == "admin" and event["traceparent"].startswith(f"00-{'a' * 32}-")
    await pod.post("entered")
    await pod.post("response", {})
    intake, _, _, function = await wait(collector, *SPANS)
    assert intake.attributes["koren.outcome"] == "held" and function.trace_id == "a" * 32


async def test_a_redriven_dead_letter_goes_on_in_its_trace(traced: Lab, collector: Collector) -> None:
    await traced.broker.publish(traceparent=OUTER)
    pod = traced.pod()
    await pod.next()
    await pod.post("error", {"type": "Bad", "message": "no", "reject": True})
    [letter] = await traced.dead_letters()
    await traced.admin("POST", f"/v1/dead-letters/{letter['id']}/redrive")
    await pod.next()
    await pod.post("entered")
    await pod.post("response", {})
    await wait(collector, "report-incident")
    dead, redriven = collector.named("deliver report-incident")
    assert (dead.attributes["koren.outcome"], redriven.attributes["koren.outcome"]) == ("dead-lettered", "succeeded")
    assert dead.trace_id == redriven.trace_id and dead.span_id != redriven.span_id


async def test_a_trace_that_is_not_recorded_makes_no_span_and_is_handed_on(traced: Lab, collector: Collector) -> None:
    not_recorded = OUTER[:-2] + "00"
    await traced.broker.publish(traceparent=not_recorded)
    pod = traced.pod()
    assert (await pod.next())["traceparent"] == not_recorded
    await pod.post("entered")
    await pod.post("response", {})
    await traced.broker.publish(subject="other", traceparent=OUTER)
    await wait(collector, SPANS[0])
    assert {span.attributes.get("cloudevents.event_subject") for span in collector.named(SPANS[0])} == {"other"}


async def test_a_collector_that_is_gone_costs_an_event_nothing_and_is_counted(
    traced: Lab, collector: Collector
) -> None:
    await asyncio.to_thread(collector.close)
    await traced.broker.publish()
    pod = traced.pod()
    assert await pod.next() is not None
    await pod.post("response", {})
    await traced.broker.receipt("succeeded")
    for _ in range(400):
        if await traced.metric("spans_dropped_total"):
            break
        await asyncio.sleep(0.05)
    assert (await traced.metric("spans_dropped_total") or 0) >= 3


async def test_lines_of_the_log_name_the_trace_also_where_no_spans_are_made(lab: Lab) -> None:
    with capture_logs() as lines:
        await lab.broker.publish(traceparent=OUTER)
        pod = lab.pod()
        event = await pod.next()
        await pod.post("response", {})
        await lab.broker.publish(subject="other")
        await lab.broker.receipt("received", subject="other")
    assert event["traceparent"] == OUTER
    of_event = [line for line in lines if line.get("event_id") == "incident-1-detected-1"]
    assert {line["event"] for line in of_event} == {"event taken in", "invocation handed out", "invocation succeeded"}
    assert {line["trace_id"] for line in of_event} == {"a" * 32}
    assert all("trace_id" not in line for line in lines if line.get("subject") == "other")


async def test_off_is_free_of_opentelemetry(lab_settings: Settings) -> None:
    # The image has it out of the way. Redis' client would load it, wherever it finds it.
    program = (
        "import asyncio, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] != 'opentelemetry': return None\n"
        "        frame = sys._getframe(1)\n"
        "        while 'importlib' in frame.f_code.co_filename: frame = frame.f_back\n"
        "        asked.add(frame.f_globals['__name__'].partition('.')[0])\n"
        "        raise ModuleNotFoundError(name=name)\n"
        "asked = set()\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from gateway_lab import TestCluster\n"
        "from koren_gateway.app import Gateway\n"
        "from koren_gateway.settings import from_environment\n"
        "import koren_gateway.__main__\n"
        "async def make(): Gateway(from_environment(), TestCluster())\n"
        "asyncio.run(make())\n"
        "print(asked - {'redis'}, [name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"} | environment(lab_settings),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.stdout == "set() []\n"


async def test_a_collector_that_can_not_be_used_is_said_at_the_start(lab_settings: Settings) -> None:
    wrong = lab_settings.model_copy(update={"otlp_endpoint": "http://collector.example:4318"})
    with pytest.raises(ConfigurationError, match="use https"):
        Gateway(wrong, TestCluster())


def _until(condition: Callable[[], bool], collector: Collector) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, [(span.name, span.start_ms) for span in collector.spans]
        time.sleep(0.02)
