"""From a publisher through a broker and the real gateway to a handler, and back as receipts."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pods import Pod

GATEWAY_TESTS = Path(__file__).parents[2] / "gateway" / "tests"
sys.path.append(str(GATEWAY_TESTS))
koren_events: Any = pytest.importorskip("koren_events")
pytest.importorskip("koren_gateway")
pytest.importorskip("opentelemetry.sdk")
sys.path.append(str(Path(__file__).parents[2] / "events" / "tests"))
collector: Any = pytest.importorskip("collector")
lab: Any = pytest.importorskip("gateway_lab")

HANDLER = """\
from koren_runtime import state

def handle(event, context):
    if event["data"]["fail"]:
        raise ValueError("as asked")
    first = state.put("post", b"one", version=state.ABSENT, expires_s=60)
    try:
        state.put("post", b"lost", version=state.ABSENT)
    except state.Conflict:
        state.put("post", b"two", version=first)
    return {"state": state.get("post").value.decode(), "none": state.get("a/b c")}
"""


@pytest.fixture
def traces() -> Iterator[Any]:
    """A collector of traces."""
    made = collector.Collector()
    yield made
    made.close()


@pytest.fixture
def region(tmp_path: Path, traces: Any) -> Iterator[tuple[Any, Any]]:
    """A broker, Redis and gateway; its settings and certificates."""
    pki = lab.Pki(tmp_path)
    redis = lab.RedisServer(tmp_path / "redis")
    broker = lab.Mosquitto(tmp_path / "broker", pki)
    redis.start()
    broker.start()
    settings = lab.settings(pki, redis, broker.port, retry_base_s=0.1, retry_cap_s=0.2)
    gateway = subprocess.Popen(
        [sys.executable, GATEWAY_TESTS / "gateway_process.py"],
        env={
            **os.environ,
            **lab.environment(settings),
            "KOREN_GATEWAY_OTLP_ENDPOINT": traces.endpoint,
        },
    )
    yield settings, pki
    gateway.terminate()
    gateway.wait(15)
    broker.stop()
    redis.stop()


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_an_event_reaches_its_handler_and_its_result_comes_back(
    region: tuple[Any, Any], tmp_path: Path, traces: Any, concurrency: str
) -> None:
    settings, pki = region
    certificate, key = pki.issue("operator")
    pod = Pod(tmp_path, settings.runtime_port)
    pod.token.write_text("pod/report-incident/pod-a")
    pod.write(HANDLER)
    good, bad = (
        koren_events.Event(
            id=name,
            source="cctv-seoul-01",
            type="kr.koren.lab.accident.detected",
            subject=f"incident-{name}",
            time=datetime.now(UTC),
            region="seoul",
            sequence=1,
            data={"fail": name == "bad"},
        )
        for name in ("good", "bad")
    )
    with koren_events.Publisher(
        spool=tmp_path / "spool",
        host="localhost",
        port=settings.broker_port,
        ca=pki.ca,
        cert=certificate,
        key=key,
        client_id="operator",
        telemetry=koren_events.Telemetry(endpoint=traces.endpoint),
    ) as publisher:
        try:
            publisher.publish(good)
            assert publisher.wait(good, timeout_s=15).state == "received"
            pod.start(FUNC_CONCURRENCY=concurrency)
            receipts = list(publisher.receipts(good, timeout_s=15))
            assert [receipt.state for receipt in receipts] == ["received", "started", "succeeded"]
            assert receipts[-1].result == {"state": "two", "none": None}
            phases = receipts[-1].phases
            in_order = ["received", "pod_started", "handler_entered", "handler_done"]
            assert [phases[name] for name in in_order] == sorted(phases[n] for n in in_order)

            publisher.publish(bad)
            receipts = list(publisher.receipts(bad, timeout_s=15))
            attempts = [r.attempt for r in receipts if r.state == "started"]
            assert attempts == [1, 2, 3]
            assert receipts[-1].state == "dead-lettered"
            assert receipts[-1].error == "ValueError: as asked"
        finally:
            pod.terminate()
    assert pod.wait() == 0
    check_trace(traces, "good", attempts=1)
    check_trace(traces, "bad", attempts=3)
    # A pod starts once, for whichever event came first.
    runs = {
        run.attributes["messaging.message.id"]: run
        for run in reversed(traces.named("report-incident"))
    }
    assert {id: run.attributes["faas.coldstart"] for id, run in runs.items()} == {
        "good": True,
        "bad": False,
    }


def check_trace(traces: Any, id: str, attempts: int) -> None:
    """From the publisher to the function's run, each span is below the one that led to it."""
    topic = "events/seoul/cctv-seoul-01/accident"
    traces.wait(f"publish {topic}")

    def spans_of(name: str) -> Any:
        return [span for span in traces.named(name) if span.trace_id == publish.trace_id]

    [publish] = [
        span
        for span in traces.named(f"publish {topic}")
        if span.attributes["messaging.message.id"] == id
    ]
    until = time.monotonic() + 15
    while len(spans_of("report-incident")) < attempts:
        assert time.monotonic() < until, [span.name for span in traces.spans]
        time.sleep(0.02)
    [intake] = spans_of(f"receive {topic}")
    delivered, runs = spans_of("deliver report-incident"), spans_of("report-incident")
    assert publish.parent_id == "" and intake.parent_id == publish.span_id
    assert [span.parent_id for span in spans_of("queue report-incident")] == [
        intake.span_id
    ] * attempts
    assert [span.parent_id for span in delivered] == [intake.span_id] * attempts
    assert [run.parent_id for run in runs] == [span.span_id for span in delivered]
    assert [span.attributes.get("error.type") for span in delivered] == (
        [None] if id == "good" else ["ValueError"] * 3
    )
