# SPDX-License-Identifier: Apache-2.0
"""An older site is upgraded while events come: each has its effect, and once.

One site is a minor release of Kubernetes behind, the one that is pinned in the folder upgrade_from. Another is made by
the older commit of the project that the file upgrade_from/commit names. The tests make these sites and remove them:

    KOREN_SITE_DIR=.state/up pytest -m long tests/e2e/test_upgrade.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import (
    DONE,
    PROBE,
    ROOT,
    SITE_DIR,
    Cluster,
    Play,
    Publish,
    Record,
    changed,
    deploy_probe,
    drill,
    on_host,
    run_playbook,
    until,
)
from test_faults import entries

from koren_events import Event, Publisher, Receipt, ReceiptState

REGION, WORKER = "seoul", "seoul-w1"
NET = os.environ.get("KOREN_UPGRADE_NET", "10.95")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        "KOREN_SITE_DIR" not in os.environ or (SITE_DIR / "site.json").exists(), reason="makes a site of its own"
    ),
]

VARIABLES = {
    "site_name": SITE_DIR.name,
    "site_dir": str(SITE_DIR),
    "bundle_view": str(ROOT / ".state" / "bundle"),
    "site_net": NET,
}


def older(folder: Path) -> Path:
    """The recipes of the bundle, with those pins of Kubernetes that this folder has beside the test."""
    (folder / "bundle").mkdir(parents=True)
    (folder / "apps").symlink_to(ROOT / "apps")
    for recipe in (ROOT / "bundle").iterdir():
        if recipe.name != "kubernetes":
            (folder / "bundle" / recipe.name).symlink_to(recipe)
    pinned = folder / "bundle" / "kubernetes"
    shutil.copytree(Path(__file__).parent / "upgrade_from" / "kubernetes", pinned)
    shutil.copy(ROOT / "bundle" / "kubernetes" / "build.sh", pinned)
    return folder


def small(folder: Path, checkout: Path = ROOT) -> Path:
    """The local inventory of a checkout without Busan: a centre, and a region with a worker."""

    def kept(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {name: kept(value) for name, value in part.items() if not name.startswith("busan")}

    shutil.copytree(checkout / "inventories" / "local", folder)
    hosts = folder / "hosts.yml"
    hosts.write_text(yaml.safe_dump(kept(yaml.safe_load(hosts.read_text())), sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Runs playbooks on this site."""
    inventory = small(tmp_path_factory.mktemp("inventory") / "small")
    return lambda *words, **more: run_playbook("-i", str(inventory), *words, **(VARIABLES | more))


def of_older_kubernetes(folder: Path) -> tuple[Path, dict[str, Any]]:
    """This checkout, and the variables for a bundle with the older Kubernetes."""
    view = str(SITE_DIR.parent / f"{SITE_DIR.name}-older-bundle")
    return ROOT, {"__bundle_repo": str(older(folder)), "bundle_kubernetes_patches": False, "bundle_view": view}


def of_older_commit(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A checkout of the older commit, with its own programs and bundle."""
    commit = (Path(__file__).parent / "upgrade_from" / "commit").read_text().strip()
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(folder)],
        ["git", "-C", str(folder), "checkout", "--quiet", "--detach", commit],
        ["make", "--silent", "-C", str(folder), "venv"],
    ):
        subprocess.run(command, check=True)
    return folder, {"bundle_view": str(folder / ".state" / "bundle")}


@pytest.fixture(scope="module", params=[of_older_kubernetes, of_older_commit])
def site(
    request: pytest.FixtureRequest, play: Play, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A site with a function of the tests, both made by what is older."""
    checkout, variables = request.param(tmp_path_factory.mktemp("older") / "older")
    inventory = small(tmp_path_factory.mktemp("inventory") / "small", checkout)
    try:
        run_playbook("-i", str(inventory), "site.yml", checkout=checkout, **(VARIABLES | variables))
        deploy_probe(checkout)
        yield json.loads((SITE_DIR / "site.json").read_text())
    finally:
        play("playbooks/reset.yml", reset_confirm="yes")


@pytest.fixture(scope="module")
def cluster(site: dict[str, Any]) -> Callable[[str], Cluster]:
    """The cluster of a region, by this checkout's kubectl."""
    return lambda region: Cluster(region, str(ROOT / ".state" / "bundle" / "kubernetes" / "bin" / "kubectl"))


class Traffic:
    """An event a second to a region, and when each was handled."""

    def __init__(self, publish_at: Publish, broker: str) -> None:
        self.events: list[Event] = []
        self.handled: dict[str, list[float]] = {}
        self._publisher: Publisher = publish_at(broker, self._hear)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1):
            event = replace(drill(REGION, type=DONE, do="note"), subject=f"upgrade-{len(self.events)}")
            self.events.append(event)
            self._publisher.publish(event)

    def _hear(self, receipt: Receipt) -> None:
        if receipt.state is ReceiptState.SUCCEEDED:
            self.handled.setdefault(receipt.id, []).append(time.monotonic())

    def all_handled(self) -> bool:
        """Whether each event so far was."""
        return all(event.id in self.handled for event in list(self.events))

    def longest_gap_s(self) -> float:
        """The longest time in which no event was handled."""
        moments = sorted(moment for each in self.handled.values() for moment in each)
        return max(later - earlier for earlier, later in pairwise(moments))


def versions(cluster: Cluster) -> set[str]:
    """The versions of the API server and of all kubelets."""
    kubelets = {node["status"]["nodeInfo"]["kubeletVersion"] for node in cluster.items("nodes")}
    return kubelets | {json.loads(cluster.run("version", "-o", "json"))["serverVersion"]["gitVersion"]}


def test_a_running_site_is_upgraded_while_events_come(
    site: dict[str, Any],
    play: Play,
    cluster: Callable[[str], Cluster],
    publish_at: Publish,
    record_property: Record,
) -> None:
    play("playbooks/bundle.yml")
    seoul = cluster(REGION)
    (before,) = versions(seoul)
    wanted = (ROOT / ".state" / "bundle" / "kubernetes" / "version").read_text().strip()

    if before != wanted:
        refused = play("site.yml", fails=True)
        assert "playbooks/upgrade.yml" in refused
        assert not {host for host in changed(refused) if host.startswith((REGION, "central"))}
        assert versions(seoul) == {before}

    with Traffic(publish_at, site["central_broker"]) as traffic:
        until("events are handled", lambda: len(traffic.handled) > 5, 120)
        began = time.monotonic()
        play("playbooks/upgrade.yml")
        took_s = time.monotonic() - began
        until("events are handled after it", lambda: traffic.events[-1].id in traffic.handled, 120)
    until("every event is handled", traffic.all_handled, 180)

    assert versions(seoul) == versions(cluster("central")) == {wanted}
    if before != wanted:
        cordoned = seoul.items("events", "-n", "default", "--field-selector", "reason=NodeNotSchedulable")
        assert WORKER in {event["involvedObject"]["name"] for event in cordoned}
        assert before in on_host(f"{REGION}-cp", "ls", "/var/lib/koren-upgrade")
    assert not [node for node in seoul.items("nodes") if node["spec"].get("unschedulable")]
    figures = {
        "from": before,
        "to": wanted,
        "events": len(traffic.events),
        "upgrade_s": round(took_s),
        "longest_gap_s": round(traffic.longest_gap_s(), 1),
    }
    for what, figure in figures.items():
        record_property(what, figure)
    entered = entries(PROBE, [event.id for event in traffic.events])
    twice = {event.id: entered[event.id] for event in traffic.events if len(entered[event.id]) != 1}
    assert not twice, f"{figures}: {twice}"

    assert changed(play("playbooks/upgrade.yml")) == set()
