"""Events that their function gives up on, and incidents that end otherwise than by their last event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from conftest import DONE, REPORT, Cluster, Heard, accident, drill, faas, letters, on_host, posts, until

from koren_events import Event, Publisher, ReceiptState, accident_cleared

ATTEMPTS = 5


@pytest.fixture(autouse=True)
def none_stays(probe: str) -> Iterator[None]:
    """Whatever comes of a test, no dead letter of it is left."""
    yield
    faas("dlq", "purge", "--region", "seoul", "--function", probe)


def dead(event: Event, probe: str) -> dict[str, Any]:
    """The event's dead letter."""
    (letter,) = [one for one in letters("seoul", probe) if one["event"]["id"] == event.id]
    return letter


def test_a_failing_event_is_tried_five_times_and_can_be_redriven(
    probe: str, publisher: Publisher, heard: Heard
) -> None:
    event = drill("seoul", type=DONE, do="fail", times=ATTEMPTS)
    publisher.publish(event)
    last = list(publisher.receipts(event, timeout_s=120))[-1]
    assert last.state is ReceiptState.DEAD_LETTERED and last.attempt == ATTEMPTS

    entered = [r.phases["handler_entered"] for r in heard.of(event, ReceiptState.STARTED)]
    waited = [(later - earlier).total_seconds() for earlier, later in pairwise(entered)]
    assert len(waited) == ATTEMPTS - 1
    # Each time half to all of 1, 2, 4, 8 s, and what the handling itself takes.
    assert all(2**n / 2 <= wait for n, wait in enumerate(waited)), waited
    assert sum(waited) < 15 + 2 * ATTEMPTS, waited

    letter = dead(event, probe)
    assert letter["attempts"] == ATTEMPTS
    assert "RuntimeError: entry 5" in str(letter["reason"])
    shown = json.loads(faas("dlq", "show", str(letter["id"]), "--region", "seoul", "-o", "json"))
    assert shown["message"]["data"] == event.data

    faas("dlq", "redrive", str(letter["id"]), "--region", "seoul")
    until("it is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)
    assert letters("seoul", probe) == []


def test_a_redriven_begin_does_not_undo_the_end(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    opened = drill("seoul", do="fail", times=ATTEMPTS)
    publisher.publish(opened)
    assert list(publisher.receipts(opened, timeout_s=120))[-1].state is ReceiptState.DEAD_LETTERED
    assert seoul.pods(probe), "the incident goes on after the dead letter"
    closed = drill("seoul", closes=opened)
    publisher.publish(closed)
    assert list(publisher.receipts(closed, timeout_s=60))[-1].state is ReceiptState.SUCCEEDED
    until("the incident is over", lambda: not seoul.pods(probe), 30)

    faas("dlq", "redrive", str(dead(opened, probe)["id"]), "--region", "seoul")
    until("the begin is handled", lambda: heard.of(opened, ReceiptState.SUCCEEDED), 60)
    until("the incident is over still", lambda: not seoul.pods(probe), 30)


def test_a_redriven_detection_does_not_undo_the_posts_clearance(publisher: Publisher, heard: Heard) -> None:
    detected = accident("seoul")
    faas("function", "update", REPORT, "--max-attempts", "1")
    on_host("sns-1", "systemctl", "stop", "sns")
    try:
        publisher.publish(detected)
        assert list(publisher.receipts(detected, timeout_s=120))[-1].state is ReceiptState.DEAD_LETTERED
    finally:
        on_host("sns-1", "systemctl", "start", "sns")
        faas("function", "update", REPORT, "--max-attempts", "12")

    cleared = accident_cleared(detected, cleared_at=datetime.now(UTC))
    publisher.publish(cleared)
    closing = list(publisher.receipts(cleared, timeout_s=120))[-1]
    assert closing.state is ReceiptState.SUCCEEDED

    def post() -> dict[str, Any]:
        (found,) = [one for one in posts("seoul") if one["uri"] == closing.result["uri"]]
        return found

    before = post()
    assert "[Cleared]" in str(before["value"])
    faas("dlq", "redrive", str(dead(detected, REPORT)["id"]), "--region", "seoul")
    until("the detection is handled", lambda: heard.of(detected, ReceiptState.SUCCEEDED), 60)
    assert post() == before


def test_an_incident_without_an_end_ends_by_its_limit(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher
) -> None:
    seoul = cluster("seoul")
    limit_s = 20
    faas("function", "update", probe, "--incident-limit", str(limit_s))
    try:
        opened = drill("seoul")
        publisher.publish(opened)
        assert list(publisher.receipts(opened, timeout_s=60))[-1].state is ReceiptState.SUCCEEDED
        until("the incident is over", lambda: not seoul.pods(probe), limit_s + 30)
        assert (datetime.now(UTC) - opened.time).total_seconds() >= limit_s, "over before its limit"
    finally:
        faas("function", "update", probe, "--incident-limit", "3600")
