"""Hosts that are lost, one after another and all at once: each comes back by the command that the docs name for it."""

from __future__ import annotations

import time

import pytest
from conftest import DONE, Heard, Play, Record, container, drill, lose, podman, until

from koren_events import Publisher, ReceiptState

pytestmark = pytest.mark.long

HANDLED_S = 180


def handled(publisher: Publisher, heard: Heard) -> None:
    """A new event passes the centre's broker, the region's, and the function."""
    event = drill("seoul", type=DONE)
    publisher.publish(event)
    until("an event is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), HANDLED_S)


@pytest.mark.parametrize(
    ("host", "playbook", "limit"),
    [
        ("seoul-w1", "site.yml", "seoul,localhost"),
        ("seoul-gw", "site.yml", "seoul,localhost"),
        ("cctv-1", "site.yml", "backbone,localhost"),
        ("sns-1", "playbooks/restore.yml", "backbone,localhost"),
        ("central-cp", "playbooks/restore.yml", "central,localhost"),
        # It has the backups here, which are gone with it.
        ("hpc-1", "site.yml", "central,localhost"),
    ],
    ids=lambda value: value if "-" in value else "",
)
def test_a_lost_host_is_replaced(
    host: str,
    playbook: str,
    limit: str,
    play: Play,
    probe: str,
    publisher: Publisher,
    heard: Heard,
    record_property: Record,
) -> None:
    """One run makes the host anew; then the site is well, an event is handled and an accident is posted."""
    play("site.yml", "--tags", "nfv,backup")
    play("playbooks/backup.yml")
    lose(host)
    began = time.monotonic()
    play(playbook, "--limit", limit)
    record_property("replaced after", f"{time.monotonic() - began:.0f} s")
    play("playbooks/verify.yml")
    handled(publisher, heard)
    play("playbooks/demo.yml")


def test_events_outlive_a_power_cut_of_all_hosts(
    play: Play, probe: str, publisher: Publisher, heard: Heard, record_property: Record
) -> None:
    """All hosts stop at once and start again: what was accepted is handled, and nobody has to do anything."""
    handled(publisher, heard)
    events = [drill("seoul", type=DONE) for _ in range(20)]
    for event in events:
        publisher.publish(event)
    hosts = podman("ps", "--quiet", "--filter", f"name=^{container('')}")
    podman("kill", *hosts)
    began = time.monotonic()
    podman("start", *hosts)
    for event in events:
        until("an event is handled", lambda event=event: heard.of(event, ReceiptState.SUCCEEDED), 900)
    record_property("all handled after", f"{time.monotonic() - began:.0f} s")
    play("playbooks/verify.yml")
