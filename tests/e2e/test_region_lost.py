"""A region whose control plane is lost comes back from its backup, by the command of docs/how-to/backup.md."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import DONE, SITE_DIR, Cluster, Heard, Play, Publish, Record, changed, drill, faas, lose, until

from koren_events import Event, Publisher, ReceiptState

REGION, LOST = "seoul", "seoul-cp"

pytestmark = pytest.mark.long


def waits(event: Event) -> bool:
    """Whether an event waits for a person in its region."""
    return event.id in [
        one["event"]["id"] for one in json.loads(faas("event", "held", "--region", REGION, "-o", "json"))
    ]


def test_a_lost_region_comes_back_with_its_functions_queue_and_memory(
    site: dict[str, Any],
    play: Play,
    cluster: Callable[[str], Cluster],
    probe: str,
    publisher: Publisher,
    publish_at: Publish,
    heard: Heard,
    record_property: Record,
) -> None:
    play("site.yml", "--tags", "nfv,backup")
    done = drill(REGION, type=DONE)
    held, lost = (replace(drill(REGION, type=DONE), hold=True) for _ in range(2))
    publisher.publish(done)
    until("an event is handled", lambda: heard.of(done, ReceiptState.SUCCEEDED), 90)
    publisher.publish(held)
    assert publisher.wait(held, 30).state is ReceiptState.HELD
    functions = json.loads(faas("function", "ls", "-o", "json"))
    play("playbooks/backup.yml")
    publisher.publish(lost)
    assert publisher.wait(lost, 30).state is ReceiptState.HELD
    # What tells of it afterwards is at the centre.
    until("the centre has its log", lambda: lost.id in faas("logs", "--event", lost.id), 90)

    lose(LOST)
    began = time.monotonic()
    play("playbooks/restore.yml", "--limit", "seoul,localhost")
    record_property("back after", f"{time.monotonic() - began:.0f} s")

    seoul = cluster(REGION)
    until(
        "all nodes are ready",
        lambda: all(
            {one["type"]: one["status"] for one in node["status"]["conditions"]}["Ready"] == "True"
            for node in seoul.items("nodes")
        ),
        120,
    )
    names = {(one["name"], one["region"]) for one in functions}
    assert {(one["name"], one["region"]) for one in json.loads(faas("function", "ls", "-o", "json"))} == names
    assert waits(held)
    assert not waits(lost)
    told = "".join(path.read_text() for path in (SITE_DIR / "restored").glob("seoul-*.txt"))
    assert lost.id in told
    assert held.id not in told

    # It remembers what it has handled, and goes on.
    again = Heard()
    with_memory = publish_at(site["regions"][REGION]["broker"], again.append)
    with_memory.publish(done)
    until("the repeat is known", lambda: again.of(done), 60)
    assert not [one for one in again.of(done) if one.state is ReceiptState.STARTED]
    new = drill(REGION, type=DONE)
    with_memory.publish(new)
    until("a new event is handled", lambda: again.of(new, ReceiptState.SUCCEEDED), 120)
    assert REGION not in {
        host.partition("-")[0] for host in changed(play("playbooks/restore.yml", "--limit", "seoul,localhost"))
    }
