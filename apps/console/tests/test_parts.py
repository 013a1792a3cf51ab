# SPDX-License-Identifier: Apache-2.0
"""Decisions that need no server: how a region is judged, who is told of changes, what pods and nodes say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from koren_console import api
from koren_console.model import Health, Node, Part, Topic
from koren_console.simulation import Simulation
from koren_console.sources.changes import Changes
from koren_console.sources.cluster import node_of, placed_of, pod_of, service_of
from koren_console.sources.judge import Reach, judge

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
GOOD = Reach(answers=True, since=NOW, last_answer=NOW)
NODES = [Node("a", Health.OK), Node("b", Health.OK)]


def part(health: Health, kind: str = "redis") -> Part:
    return Part(kind, kind, health)


@pytest.mark.parametrize(
    ("reach", "nodes", "parts", "health", "says"),
    [
        (Reach(), NODES, [], Health.UNKNOWN, "No answer yet"),
        (GOOD, NODES, [part(Health.OK)], Health.OK, ""),
        (GOOD, [NODES[0], Node("b", Health.ACT)], [], Health.ACT, "1 of 2 nodes"),
        (GOOD, NODES, [part(Health.ACT), part(Health.WATCH, "keda")], Health.ACT, "redis"),
        (GOOD, NODES, [part(Health.WATCH, "keda")], Health.WATCH, "keda"),
        (GOOD, [Node("a", Health.WATCH)], [], Health.WATCH, "a"),
        (Reach(False, NOW, NOW), NODES, [part(Health.ACT)], Health.UNKNOWN, "go on by themselves"),
        (Reach(False, NOW, NOW, NOW - timedelta(seconds=1)), NODES, [], Health.UNKNOWN, "go on by themselves"),
        (Reach(False, NOW, NOW, NOW + timedelta(seconds=1)), NODES, [], Health.ACT, "Events still arrive"),
    ],
)
def test_a_region_is_judged_by_what_is_known_of_it(
    reach: Reach, nodes: list[Node], parts: list[Part], health: Health, says: str
) -> None:
    found, words = judge(reach, nodes, parts)
    assert found is health and says in words.en
    assert bool(words.ko) is bool(words.en)


def test_the_last_word_is_the_latest_of_both_ways() -> None:
    assert Reach().last_word is None
    later = NOW + timedelta(seconds=5)
    assert Reach(False, NOW, NOW, later).last_word == later
    assert Reach(False, NOW, later, NOW).last_word == later


def pod(phase: str = "Running", **more: Any) -> dict[str, Any]:
    meta = {"name": "p", "creationTimestamp": "2026-11-28T12:00:00Z", **more.pop("metadata", {})}
    return {"metadata": meta, "spec": more.pop("spec", {}), "status": {"phase": phase, **more}}


READY = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
WAITING = [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]


@pytest.mark.parametrize(
    ("item", "state"),
    [
        (pod("Pending"), "Pending"),
        (
            pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]),
            "Unschedulable",
        ),
        (pod("Pending", conditions=READY[:1]), "Starting"),
        (pod("Pending", conditions=READY[:1], containerStatuses=WAITING), "ImagePullBackOff"),
        (pod("Pending", containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}]), "Pending"),
        (pod(conditions=READY), "Ready"),
        (pod("Failed", reason="Evicted"), "Evicted"),
        (pod("Failed"), "Failed"),
        (pod(conditions=READY, metadata={"deletionTimestamp": "2026-11-28T12:00:00Z"}), "Ending"),
    ],
)
def test_a_pods_state_is_a_word(item: dict[str, Any], state: str) -> None:
    assert pod_of(item).state == state


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 400, "-1", "²", "many"])
def test_a_function_whose_notes_make_no_sense_is_a_function_still(number: str) -> None:
    notes = {f"faas.koren.kr/{name}": number for name in ("max-scale", "timeout-s")}
    placed = placed_of({"metadata": {"name": "f", "annotations": notes}})
    assert (placed.name, placed.maximum, placed.timeout_s) == ("f", None, 60)


def test_a_service_is_as_well_as_its_pod() -> None:
    image = {"containers": [{"image": "bundle.koren.internal/gateway:0.3.0-0123456789ab"}]}
    well = service_of("gateway", pod(conditions=READY, spec=image))
    assert (well.health, well.version, well.detail) == (Health.OK, "0.3.0", "")
    again = service_of("gateway", pod(conditions=READY, containerStatuses=[{"restartCount": 2}]))
    assert (again.health, again.detail) == (Health.OK, "2 restarts")
    assert service_of("keda", pod("Pending", conditions=READY[:1])).health is Health.WATCH
    broken = service_of("keda", pod(containerStatuses=[{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]))
    assert (broken.health, broken.detail) == (Health.ACT, "CrashLoopBackOff")


def test_a_node_says_why_it_is_not_ready() -> None:
    def node(ready: str, **spec: Any) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": ready, "reason": "R", "message": "container runtime is down"}]
        return {"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}

    assert node_of(node("True")).health is Health.OK
    assert node_of(node("True", unschedulable=True)).health is Health.WATCH
    assert (node_of(node("Unknown")).health, node_of(node("False")).reason) == (Health.ACT, "container runtime is down")
    assert node_of({"metadata": {"name": "n"}}).health is Health.ACT


@pytest.mark.asyncio
async def test_changes_come_together_and_readers_that_leave_are_forgotten() -> None:
    changes = Changes()
    reader = changes.follow()
    first = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    changes.say(Topic.REGIONS)
    assert await asyncio.wait_for(first, 1) == {Topic.REGIONS}
    for topic in (Topic.HELD, Topic.ALERTS, Topic.HELD):
        changes.say(topic)
    assert await asyncio.wait_for(anext(reader), 1) == {Topic.HELD, Topic.ALERTS}
    await reader.aclose()  # type: ignore[attr-defined]
    assert len(changes) == 0
    changes.say(Topic.HELD)


@pytest.mark.asyncio
async def test_programs_read_what_rings_and_what_rang() -> None:
    class Anyone(api.Callers):
        async def check(self, request: Request, verb: str, resource: str) -> None:
            assert (verb, resource) == ("list", "alerts")

    board = Simulation(every_s=0)
    transport = httpx.ASGITransport(app=Starlette(routes=api.routes(board, Anyone(None))))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="https://console.test") as caller:

        async def named(path: str) -> list[tuple[str, str | None]]:
            found = (await caller.get(path)).json()["alerts"]
            return [(one["name"], one.get("ended")) for one in found]

        assert {name for name, _ in await named("/v1/alerts?region=busan")} == {"CameraSilent"}
        assert len(await named("/v1/alerts/past")) == 6
        assert await named("/v1/alerts/past?region=central") == [("BackupTooOld", None)]
        for _, ended in await named("/v1/alerts/past?region=seoul"):
            assert ended is not None and datetime.fromisoformat(ended) < datetime.now(UTC)
