"""Functions of the shapes that users bring, and what their users are told of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SITE_DIR, Cluster, Heard, drill, faas, until

from koren_events import Event, Publisher, ReceiptState

SHAPES = "e2e-shapes"
DRILLED = "kr.koren.test.shape.drilled"
MEMORY = "64Mi"


@pytest.fixture(scope="module")
def shapes() -> Iterator[str]:
    """A deployed function of odd shapes; taken away in the end, with its dead letters."""
    faas(
        *("function", "deploy", SHAPES, "--region", "seoul", "--handler", "handler.handler"),
        *("--from-file", str(Path(__file__).parent / "shapes"), "--runtime", "python3.11", "--memory", MEMORY),
        *("--env", "PRICE=$$5", "--env", "REFERENCE=$(HOSTNAME)", "--topic", "events/{region}/+/shape"),
    )
    yield SHAPES
    faas("dlq", "purge", "--region", "seoul", "--function", SHAPES)
    faas("function", "delete", SHAPES)


@pytest.fixture
def call(shapes: str) -> Callable[..., Any]:
    """Calls it; what it answered."""

    def called(**data: Any) -> Any:
        return json.loads(faas("function", "call", shapes, "--region", "seoul", "--data", json.dumps(data)))

    return called


def shaped(**data: Any) -> Event:
    """An event for the function of odd shapes."""
    return drill("seoul", type=DRILLED, **data)


def test_a_second_deployment_of_a_function_is_refused_and_said(
    cluster: Callable[[str], Cluster], shapes: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    twin = json.loads(seoul.run("get", "deployment", shapes, "-n", "functions", "-o", "json"))
    twin["metadata"] = {
        "name": f"{shapes}-twin",
        "namespace": "functions",
        "labels": twin["metadata"]["labels"],
        "annotations": twin["metadata"]["annotations"],
    }
    twin["spec"]["replicas"] = 0
    twin.pop("status", None)
    seoul.run("apply", "-f", "-", stdin=json.dumps(twin))
    try:
        event = shaped(do="say", text="once")
        publisher.publish(event)
        until("it is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)
        assert len(heard.of(event, ReceiptState.STARTED)) == 1
        until("it is said", lambda: f"{shapes}-twin" in faas("function", "ls", "--region", "seoul"), 20)
    finally:
        seoul.run("delete", "deployment", f"{shapes}-twin", "-n", "functions", "--wait=false")


def test_variables_arrive_as_they_were_given(call: Callable[..., Any]) -> None:
    assert call(do="environment") == {"PRICE": "$$5", "REFERENCE": "$(HOSTNAME)"}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_handler_may_start_processes(call: Callable[..., Any], method: str) -> None:
    assert call(do="processes", method=method) == [0, 1, 4, 9, 16]


def test_memory_that_ran_out_is_named(shapes: str, publisher: Publisher, heard: Heard) -> None:
    event = shaped(do="hungry")
    publisher.publish(event)
    failed = until("an attempt failed", lambda: heard.of(event, ReceiptState.FAILED), 60)
    assert f"out of memory, limit {MEMORY}" in str(failed[0].error)


def test_a_declined_event_is_a_dead_letter_at_once(shapes: str, publisher: Publisher, heard: Heard) -> None:
    event = shaped(do="decline")
    publisher.publish(event)
    [dead] = until("it is a dead letter", lambda: heard.of(event, ReceiptState.DEAD_LETTERED), 60)
    assert dead.attempt == 1 and "there is no such camera" in str(dead.error)


def test_what_an_ended_pod_wrote_is_in_the_functions_log(
    cluster: Callable[[str], Cluster], shapes: str, call: Callable[..., Any]
) -> None:
    seoul = cluster("seoul")
    call(do="say", text="the last words of a pod")
    until("the pod is gone", lambda: not seoul.pods(shapes), 60)
    assert "the last words of a pod" in faas("function", "logs", shapes, "--region", "seoul")


def test_a_call_whose_caller_has_gone_is_not_made(
    cluster: Callable[[str], Cluster], shapes: str, heard: Heard, publisher: Publisher
) -> None:
    seoul = cluster("seoul")
    until("no pod is there", lambda: not seoul.pods(shapes), 60)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [
                str(Path(sys.executable).parent / "faas"),
                "--site-dir",
                str(SITE_DIR),
                "function",
                "call",
                shapes,
                "--region",
                "seoul",
                "--data",
                '{"do": "say", "text": "nobody waits for this"}',
            ],
            timeout=0.8,
            capture_output=True,
        )
    event = shaped(do="say", text="a real one")
    publisher.publish(event)
    until("a real one is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)
    assert "nobody waits for this" not in faas("function", "logs", shapes, "--region", "seoul")
