"""Nodes of a running site get newer Debian packages, drained one after the other, while events come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import DONE, Cluster, Heard, Play, changed, drill, on_host, until

from koren_events import Publisher, ReceiptState

pytestmark = pytest.mark.long

PACKAGE = "chrony"
OLDER = f"""
cd $(mktemp -d) && dpkg-deb -R "$(ls /opt/koren/*/{PACKAGE}_*.deb | head -n 1)" tree
sed -i 's/^Version: .*/&~older/' tree/DEBIAN/control
dpkg-deb -b tree older.deb && DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i older.deb
"""


def version(host: str) -> str:
    """The version of the package that a host has."""
    return on_host(host, "dpkg-query", "-W", "-f", "${Version}", PACKAGE)


def test_nodes_are_patched_while_events_come(
    site: dict[str, Any],
    play: Play,
    cluster: Callable[[str], Cluster],
    probe: str,
    publisher: Publisher,
    heard: Heard,
) -> None:
    nodes = ["seoul-cp", "seoul-w1"]
    for node in nodes:
        on_host(node, "sh", "-c", OLDER)
        assert version(node).endswith("~older")
    events = [drill("seoul", type=DONE) for _ in range(20)]
    for event in events[:10]:
        publisher.publish(event)
    printed = play("playbooks/patch.yml", "--limit", "seoul,localhost")
    assert changed(printed) >= set(nodes)
    for event in events[10:]:
        publisher.publish(event)
    for event in events:
        until("an event is handled", lambda event=event: heard.of(event, ReceiptState.SUCCEEDED), 180)
    seoul = cluster("seoul")
    for node in nodes:
        assert not version(node).endswith("~older")
    assert not [one for one in seoul.items("nodes") if one["spec"].get("unschedulable")]
    drained = seoul.items("events", "-n", "default", "--field-selector", "reason=NodeNotSchedulable")
    assert set(nodes) <= {event["involvedObject"]["name"] for event in drained}
    assert "changed=0" in play("playbooks/patch.yml", "--limit", "seoul-w1,localhost")
