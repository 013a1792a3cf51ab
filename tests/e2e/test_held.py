"""Events that wait for a person: nothing runs until they are released."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from conftest import DONE, REPORT, Cluster, Heard, accident, drill, faas, posts, until

from koren_events import Event, Publisher, ReceiptState, accident_cleared


def test_a_held_event_starts_nothing_until_it_is_released(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher, heard: Heard
) -> None:
    held = replace(drill("seoul", type=DONE), hold=True)
    publisher.publish(held)
    assert publisher.wait(held, 30).state is ReceiptState.HELD
    [shown] = [one for one in _held() if one["event"]["id"] == held.id]
    assert shown["state"] == "held"
    assert not heard.of(held, ReceiptState.STARTED)
    faas("event", "release", shown["id"], "--region", "seoul")
    until("it is handled", lambda: heard.of(held, ReceiptState.SUCCEEDED), 60)
    # What follows of the same incident need not be confirmed again.
    later = replace(held, id=f"{held.id}-2", sequence=2)
    publisher.publish(later)
    until("what follows is handled", lambda: heard.of(later, ReceiptState.SUCCEEDED), 60)


def test_a_dismissed_event_starts_nothing(probe: str, publisher: Publisher, heard: Heard) -> None:
    held = replace(drill("seoul", type=DONE), hold=True)
    publisher.publish(held)
    assert publisher.wait(held, 30).state is ReceiptState.HELD
    [shown] = [one for one in _held() if one["event"]["id"] == held.id]
    faas("event", "dismiss", shown["id"], "--region", "seoul")
    until("it is dismissed", lambda: heard.of(held, ReceiptState.DISMISSED), 30)
    _handle_another(publisher, heard)
    assert not heard.of(held, ReceiptState.STARTED)


def test_an_accident_is_posted_once_when_a_person_has_confirmed_it(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    detected = _held_accident(seoul, publisher)
    _handle_another(publisher, heard)
    assert not heard.of(detected, ReceiptState.STARTED)
    assert not seoul.pods(REPORT)
    assert _posts_of(detected) == []

    faas("incident", "confirm", detected.subject, "--region", "seoul")
    until("it is posted", lambda: heard.of(detected, ReceiptState.SUCCEEDED), 90)
    (posted,) = heard.of(detected, ReceiptState.SUCCEEDED)
    # The camera's later events are to be confirmed as well: the decision was about the incident.
    cleared = accident_cleared(detected, cleared_at=datetime.now(UTC))
    assert cleared.hold
    publisher.publish(cleared)
    assert list(publisher.receipts(cleared, timeout_s=90))[-1].state is ReceiptState.SUCCEEDED
    told = _posts_of(detected)
    (first,) = [post for post in told if "reply" not in post["value"]]
    assert first["uri"] == posted.result["uri"]
    assert len(told) == 2, "the accident, and its end as a reply"
    assert all("Confirmed by an operator" in post["value"]["text"] for post in told)
    until("the pod is gone", lambda: not seoul.pods(REPORT), 90)


def test_an_accident_that_a_person_has_dismissed_is_never_posted(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    detected = _held_accident(seoul, publisher)
    faas("incident", "dismiss", detected.subject, "--region", "seoul")
    until("it is dismissed", lambda: heard.of(detected, ReceiptState.DISMISSED), 30)
    cleared = accident_cleared(detected, cleared_at=datetime.now(UTC))
    publisher.publish(cleared)
    assert list(publisher.receipts(cleared, timeout_s=60))[-1].state is ReceiptState.DISMISSED
    _handle_another(publisher, heard)
    assert not heard.of(detected, ReceiptState.STARTED) + heard.of(cleared, ReceiptState.STARTED)
    assert not seoul.pods(REPORT)
    assert _posts_of(detected) == []


def _held_accident(seoul: Cluster, publisher: Publisher) -> Event:
    """An accident that waits for a person, in a region where nothing runs."""
    until("no pod before the event", lambda: not seoul.pods(REPORT), 90)
    detected = accident("seoul", hold=True)
    publisher.publish(detected)
    assert publisher.wait(detected, 30).state is ReceiptState.HELD
    return detected


def _handle_another(publisher: Publisher, heard: Heard) -> None:
    """Have the region handle a later event that waits for nobody: what was before it would have begun as well."""
    another = drill("seoul", type=DONE)
    publisher.publish(another)
    until("a later event is handled", lambda: heard.of(another, ReceiptState.SUCCEEDED), 60)


def _posts_of(detected: Event) -> list[dict[str, Any]]:
    return posts("seoul", detected.subject)


def _held() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(faas("event", "held", "--region", "seoul", "-o", "json"))
    return found
