"""Events that wait for a person: nothing runs until they are released."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conftest import DONE, Cluster, Heard, drill, faas, until

from koren_events import Publisher, ReceiptState


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
    after = drill("seoul", type=DONE)
    publisher.publish(after)
    until("a later event is handled", lambda: heard.of(after, ReceiptState.SUCCEEDED), 60)
    assert not heard.of(held, ReceiptState.STARTED)


def _held() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(faas("event", "held", "--region", "seoul", "-o", "json"))
    return found
