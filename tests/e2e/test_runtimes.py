# SPDX-License-Identifier: Apache-2.0
"""Functions that are not in Python: in JavaScript, and programs that users bring as images."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cluster, Heard, drill, faas, until

from koren_events import Event, Publisher, Receipt, ReceiptState

JAVASCRIPT, PROGRAM, SIDE_BY_SIDE = "e2e-javascript", "e2e-program", "e2e-side-by-side"
BATCHES = "e2e-batches"
BATCHES_HANDLER = """\
def handler(event, context):
    if any(one["data"].get("bad") for one in event["data"]):
        raise ValueError("one of them is bad")
    return [one["id"] for one in event["data"]]
"""


@pytest.fixture(scope="module")
def javascript() -> Iterator[str]:
    """A deployed function in JavaScript; taken away in the end."""
    faas(
        *("function", "deploy", JAVASCRIPT, "--region", "seoul", "--runtime", "nodejs22"),
        *("--from-file", str(ROOT / "tests/e2e/javascript"), "--handler", "handler.handler"),
        *("--topic", "events/{region}/+/javascript"),
    )
    yield JAVASCRIPT
    faas("function", "delete", JAVASCRIPT)


@pytest.fixture(scope="module")
def program(site: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A deployed image with a program that speaks the Runtime API by itself; taken away in the end."""
    archive = tmp_path_factory.mktemp("image") / "program.tar"
    base = Path(site["bundle"], "runtime-nodejs22", "image.tar")
    container = _buildah("from", "--quiet", f"oci-archive:{base}")
    try:
        _buildah("add", "--quiet", container, str(ROOT / "apps/runtime/tests/conformance/program.js"), "/program.js")
        _buildah("config", "--entrypoint", '["/usr/bin/node", "/program.js"]', container)
        _buildah("commit", "--quiet", "--format", "oci", container, f"oci-archive:{archive}:e2e-program:1")
    finally:
        _buildah("rm", container)
    faas(
        *("function", "deploy", PROGRAM, "--region", "seoul", "--runtime", "image", "--from-archive", str(archive)),
        *("--topic", "events/{region}/+/program"),
    )
    yield PROGRAM
    faas("function", "delete", PROGRAM)


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return done.stdout.strip()


def _handled(publisher: Publisher, heard: Heard, event: Event) -> Receipt:
    """The receipt of an event's success."""
    publisher.publish(event)
    receipt: Receipt = until("it is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)[0]
    assert len(heard.of(event, ReceiptState.STARTED)) == 1
    return receipt


def test_an_event_starts_a_function_in_javascript_from_zero(
    cluster: Callable[[str], Cluster], javascript: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    until("no pod is there", lambda: not seoul.pods(javascript), 60)
    first = drill("seoul", type="kr.koren.test.javascript.asked", word="사고")
    result = _handled(publisher, heard, first).result
    assert result["data"] == {"word": "사고"} and result["runtime"] == "nodejs22"
    assert result["node"].startswith("v22.")
    second = drill("seoul", type="kr.koren.test.javascript.asked")
    assert _handled(publisher, heard, second).result["before"] == first.id
    until("no pod is left", lambda: not seoul.pods(javascript), 60)
    assert f"[{first.id}] handles {first.id}" in faas("function", "logs", javascript, "--region", "seoul")


def test_a_function_in_javascript_is_called_from_zero(cluster: Callable[[str], Cluster], javascript: str) -> None:
    seoul = cluster("seoul")
    until("no pod is there", lambda: not seoul.pods(javascript), 60)
    answer = json.loads(faas("function", "call", javascript, "--region", "seoul", "--data", '{"who": "you"}'))
    assert answer["data"] == {"who": "you"}


def test_an_event_starts_a_users_own_image_from_zero(
    cluster: Callable[[str], Cluster], program: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    until("no pod is there", lambda: not seoul.pods(program), 60)
    event = drill("seoul", type="kr.koren.test.program.asked", do="answer", value={"done": True})
    assert _handled(publisher, heard, event).result == {"done": True}
    failing = drill("seoul", type="kr.koren.test.program.asked", do="fail", message="as asked")
    publisher.publish(failing)
    [failed, *_] = until("an attempt failed", lambda: heard.of(failing, ReceiptState.FAILED), 60)
    assert failed.error == "Error: as asked"
    until("it is a dead letter", lambda: heard.of(failing, ReceiptState.DEAD_LETTERED), 120)
    faas("dlq", "purge", "--region", "seoul", "--function", program)
    until("no pod is left", lambda: not seoul.pods(program), 60)


def test_both_are_listed_with_their_runtimes(javascript: str, program: str) -> None:
    listed = json.loads(faas("function", "ls", "--region", "seoul", javascript, program, "-o", "json"))
    assert {one["name"]: (one["runtime"], one["handler"]) for one in listed} == {
        javascript: ("nodejs22", "handler.handler"),
        program: ("image", ""),
    }


@pytest.fixture
def side_by_side() -> Iterator[str]:
    """A deployed function one pod of which handles four events at a time; taken away in the end."""
    faas(
        *("function", "deploy", SIDE_BY_SIDE, "--region", "seoul", "--runtime", "python3.11"),
        *("--from-file", str(ROOT / "tests/e2e/probe"), "--handler", "handler.handler"),
        *("--topic", "events/{region}/+/side", "--concurrency", "4"),
    )
    yield SIDE_BY_SIDE
    faas("function", "delete", SIDE_BY_SIDE)


@pytest.mark.long
def test_one_pod_handles_events_side_by_side_and_loses_them_all_at_once(
    cluster: Callable[[str], Cluster], side_by_side: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    until("no pod is there", lambda: not seoul.pods(side_by_side), 60)
    events = [drill("seoul", type="kr.koren.test.side.asked", do="note", work_s=30) for _ in range(4)]
    for event in events:
        publisher.publish(event)
    until("all have begun", lambda: all(heard.of(event, ReceiptState.STARTED) for event in events), 60)
    assert not any(heard.of(event, ReceiptState.SUCCEEDED) for event in events), "side by side"
    [pod] = seoul.pods(side_by_side)
    seoul.signal("KILL", "functions", pod)
    until("each is tried again", lambda: all(len(heard.of(e, ReceiptState.STARTED)) == 2 for e in events), 60)
    until("all are handled", lambda: all(heard.of(event, ReceiptState.SUCCEEDED) for event in events), 120)
    for event in events:
        [receipt] = heard.of(event, ReceiptState.SUCCEEDED)
        assert [entry[0] for entry in receipt.result["entries"]] == [pod, pod]
    [described] = json.loads(faas("function", "describe", side_by_side, "--region", "seoul", "-o", "json"))
    assert described["concurrency"] == 4
    assert seoul.pods_ever(side_by_side) == [pod]
    until("no pod is left", lambda: not seoul.pods(side_by_side), 60)


@pytest.fixture
def batches(tmp_path: Path) -> Iterator[str]:
    """A deployed function that is given five events at once; taken away in the end."""
    (tmp_path / "handler.py").write_text(BATCHES_HANDLER)
    faas(
        *("function", "deploy", BATCHES, "--region", "seoul", "--runtime", "python3.11"),
        *("--from-file", str(tmp_path), "--handler", "handler.handler", "--topic", "events/{region}/+/batch"),
        *("--batch-size", "5", "--batch-window", "5m", "--max-attempts", "2"),
    )
    yield BATCHES
    faas("dlq", "purge", "--region", "seoul", "--function", BATCHES)
    faas("function", "delete", BATCHES)


def test_a_batch_fails_for_the_event_that_is_bad_alone(batches: str, publisher: Publisher, heard: Heard) -> None:
    events = [drill("seoul", type="kr.koren.test.batch.asked", bad=number == 2) for number in range(5)]
    for event in events:
        publisher.publish(event)
    bad = events.pop(2)
    until("it is a dead letter", lambda: heard.of(bad, ReceiptState.DEAD_LETTERED), 90)
    until("the others are handled", lambda: all(heard.of(event, ReceiptState.SUCCEEDED) for event in events), 60)
    for event in events:
        [receipt] = heard.of(event, ReceiptState.SUCCEEDED)
        assert receipt.result == [event.id]
        [failed] = heard.of(event, ReceiptState.FAILED)
        assert failed.error == "ValueError: one of them is bad"
    faas("function", "update", batches, "--batch-window", "10s")
    events = [drill("seoul", type="kr.koren.test.batch.asked") for _ in range(2)]
    for event in events:
        publisher.publish(event)
    until("the window is over", lambda: all(heard.of(event, ReceiptState.SUCCEEDED) for event in events), 60)
    for event in events:
        [receipt] = heard.of(event, ReceiptState.SUCCEEDED)
        assert sorted(receipt.result) == sorted(event.id for event in events)
