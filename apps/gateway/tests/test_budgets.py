"""What a region keeps has limits, and what they drop is counted; events that wait are never dropped."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_lab import FUNCTION_LABEL, REGION, REPORTER, Lab, Mosquitto, Pki, deployment, started, until, world

from koren_gateway.cluster.interface import Change
from koren_gateway.queue.budgets import SEEN_BYTES
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio

DAY_MS = 24 * 3600 * 1000


@pytest_asyncio.fixture
async def tidy(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    """A gateway that tidies all the time, and gives deleted functions half a second."""
    monkeypatch.setattr("koren_gateway.queue.tidying._EVERY_S", 0.1)
    async with started(lab_settings.model_copy(update={"gone_after_s": 0.5}), pki) as lab:
        yield lab


async def test_fifty_large_dead_letters_stop_no_good_event(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki, maxmemory="48mb") as there:
        lab = there.lab
        health = len(lab.broker.health)
        for number in range(50):
            await lab.broker.publish(
                topic=f"events/{REGION}/cam{number}/x", body=b"rubbish" * 128_000 + str(number).encode()
            )
        await lab.broker.publish(subject="a-real-accident")
        await lab.broker.receipt("received", subject="a-real-accident")
        pod = lab.pod()
        assert (await pod.next())["subject"] == "a-real-accident"
        assert await pod.post("response", {}) == 204
        assert lab.broker.health[health:] == []
        # The newest are there, and what went is known.
        dropped = await lab.metric("dropped", what="dead-letters") or 0
        kept = await lab.dead_letters()
        assert 0 < len(kept) < 50 and dropped == 50 - len(kept)
        used = await lab.metric("used_bytes", account="dead", function="") or 0
        assert used == sum(letter["bytes"] for letter in kept)
        assert used <= (await lab.metric("budget", name="dead") or 0) == 48 * 2**20 // 4


async def test_it_is_told_when_redis_cannot_rewrite_its_file(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki) as there:
        lab, files = there.lab, there.redis.folder / "appendonlydir"

        async def told(write: int, rewrite: int) -> bool:
            steps = ("write", "rewrite")
            return [await lab.metric("redis_aof_ok", step=step) for step in steps] == [write, rewrite]

        await until(lambda: told(1, 1), "both succeed")
        away = files.rename(files.with_name("away"))
        files.touch()
        there.redis.rewrite()
        await until(lambda: told(1, 0), "the rewrite has failed")
        files.unlink()
        away.rename(files)
        there.redis.rewrite()
        await until(lambda: told(1, 1), "the rewrite has succeeded")


async def test_state_has_a_quota_and_other_functions_have_theirs(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki, maxmemory="12mb") as there:
        lab = there.lab
        await lab.cluster.deployment_changes.put(Change("changed", [deployment("other")]))
        await lab.known("other")
        pod = lab.pod()
        statuses = []
        for number in range(12):
            answer = await pod.call("PUT", f"/v1/state/k{number}", content=b"x" * 65_536)
            statuses.append(answer.status_code)
        assert statuses == [204] * 9 + [507] * 3
        assert "let old keys expire" in answer.json()["error"]
        # What is there can be written anew, and made smaller.
        assert (await pod.call("PUT", "/v1/state/k0", content=b"")).status_code == 204
        assert (await pod.call("PUT", "/v1/state/k10", content=b"x" * 60_000)).status_code == 204
        other = lab.pod("pod-b", "other")
        assert (await other.call("PUT", "/v1/state/k0", content=b"x" * 65_536)).status_code == 204
        assert await lab.metric("dropped", what="state-full") == 3
        await lab.broker.publish(subject="a")
        assert (await pod.next())["subject"] == "a"


async def test_a_function_that_is_behind_fills_its_own_queue_and_no_other(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki, maxmemory="12mb") as there:
        lab = there.lab
        slow = deployment("slow", topic=f"events/{REGION}/+/slow")
        await lab.cluster.deployment_changes.put(Change("changed", [slow]))
        await lab.known("slow")
        for number in range(8):
            big = {"subject": f"s{number}", "data": "x" * 450_000}
            await lab.broker.publish(topic=f"events/{REGION}/cctv/slow", **big)
        full = await lab.broker.receipt("dead-lettered", 2)
        assert full.function == "slow" and "QueueFull" in (full.error or "")
        assert {letter["function"] for letter in await lab.dead_letters()} == {"slow"}
        full_call = await lab.admin(
            "POST", "/v1/functions/slow/invoke", content="x" * 450_000, headers={"Content-Type": "text/plain"}
        )
        assert full_call.status_code == 507
        await lab.broker.publish(subject="a")
        assert (await lab.pod().next())["subject"] == "a"
        # What waits is all there, and the figures go down with it.
        pod = lab.pod("pod-s", "slow")
        its = await lab.function("slow")
        assert its is not None
        for _ in range(its["runnable"]):
            assert await pod.next()
            assert await pod.post("response", {}) == 204
        assert its["runnable"] + len(await lab.dead_letters()) == 8
        assert await lab.metric("used_bytes", account="queue", function="slow") is None


async def test_queues_that_are_all_full_leave_redis_and_another_function_room(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki, maxmemory="48mb") as there:
        lab = there.lab
        behind = [f"behind-{number}" for number in range(4)]
        for name in (*behind, "fifth"):
            wanted = deployment(name, topic=f"events/{REGION}/+/{name}")
            await lab.cluster.deployment_changes.put(Change("changed", [wanted]))
            await lab.known(name)
        health = len(lab.broker.health)
        for number in range(30):
            for name in behind:
                # A thirtieth of what one queue may hold.
                big = {"subject": f"{name}-{number}", "data": "x" * 330_000}
                await lab.broker.publish(topic=f"events/{REGION}/cctv/{name}", **big)
        await lab.broker.receipt("received", 120)
        budget = await lab.metric("budget", name="queue") or 0
        held = {name: await lab.metric("used_bytes", account="queue", function=name) or 0 for name in behind}
        assert all(budget / 6 < bytes for bytes in held.values()), held
        assert await lab.metric("used_bytes", account="queue", function="") == sum(held.values()) < budget
        # What was refused went to the dead letters of who is behind.
        assert {letter["function"] for letter in await lab.dead_letters()} <= set(behind)
        full = await lab.broker.receipt("dead-lettered")
        assert "QueueFull" in (full.error or "") and f"of at most {budget:.0f}; mend or scale" in (full.error or "")
        await lab.broker.publish(topic=f"events/{REGION}/cctv/fifth", subject="fifth", data="x" * 200_000)
        assert (await lab.pod("pod-f", "fifth").next())["subject"] == "fifth"
        assert "dead-lettered" not in lab.broker.states("fifth")
        assert lab.broker.health[health:] == [] and not await lab.metric("intake_paused")


async def test_an_account_of_all_queues_that_is_wrong_is_set_right(tidy: Lab, store: Store) -> None:
    await store.command("HSET", "koren:bytes", "queue", 10**12)

    async def right() -> bool:
        return await store.command("HGET", "koren:bytes", "queue") is None

    await until(right, "the account is right")
    await tidy.broker.publish(subject="a")
    assert (await tidy.pod().next())["subject"] == "a"


async def test_the_memory_of_events_seen_is_bounded_by_count(lab: Lab, store: Store) -> None:
    memory = lab.gateway._memory
    memory.budgets = replace(memory.budgets, seen=10)
    for number in range(29):
        await lab.broker.publish(subject=f"s{number}", happened="updated")
    await lab.broker.receipt("received", 29)
    await lab.broker.publish(subject="s29", happened="updated")
    await lab.broker.receipt("received", 30)
    assert await store.command("ZCARD", "koren:seen") == 10
    assert await lab.metric("dropped", what="seen") == 20
    # The last one is known still.
    await lab.broker.publish(subject="s29", happened="updated")
    await lab.broker.receipt("received", 31)
    assert await lab.metric("events_total", outcome="duplicate") == 1


async def test_a_seen_event_takes_no_more_than_its_budget_says(store: Store) -> None:
    await store.command("PING")
    before = (await store.command("INFO", "memory"))["used_memory"]
    count = 50_000
    for start in range(0, count, 5000):
        pairs = [(start + n, hashlib.sha256(b"%d" % (start + n)).digest()[:16]) for n in range(5000)]
        await store.command("ZADD", "koren:seen", *(word for pair in pairs for word in pair))
    after = (await store.command("INFO", "memory"))["used_memory"]
    assert 0.8 * SEEN_BYTES < (after - before) / count <= SEEN_BYTES


async def test_dead_letters_and_seen_events_go_by_age(tidy: Lab, store: Store) -> None:
    for number in range(3):
        await tidy.broker.publish(body=b"rubbish %d" % number)
    await tidy.broker.publish(subject="a")
    await tidy.broker.receipt("received", subject="a")
    old, *young = await tidy.dead_letters()
    await store.command("ZINCRBY", "koren:dead", -14 * DAY_MS, old["id"])
    [seen] = await store.command("ZRANGE", "koren:seen", 0, -1)
    await store.command("ZINCRBY", "koren:seen", -7 * DAY_MS, seen)

    async def gone() -> bool:
        return not await store.command("EXISTS", "koren:seen") and len(await tidy.dead_letters()) == 2

    await until(gone, "they have gone")
    assert await tidy.dead_letters() == young
    assert not await store.command("EXISTS", f"koren:dead:{old['id']}")
    assert await tidy.metric("dropped", what="dead-letters-by-age") == 1


async def test_what_waits_for_a_deleted_function_becomes_dead_letters(tidy: Lab, store: Store) -> None:
    await tidy.broker.publish(subject="a", sequence=1)
    await tidy.broker.publish(subject="a", sequence=2, happened="updated")
    await tidy.broker.publish(subject="b")
    pod = tidy.pod()
    assert await pod.next()
    assert (await pod.call("PUT", "/v1/state/k", content=b"1")).status_code == 204
    await tidy.cluster.deployment_changes.put(Change("removed", [REPORTER]))
    dead = await tidy.broker.receipt("dead-lettered", 3)
    assert "report-incident was deleted" in (dead.error or "") and dead.function == "report-incident"
    letters = await tidy.dead_letters("report-incident")
    assert len(letters) == 3
    assert await tidy.metric("runnable_subjects", function="report-incident") is None
    assert await tidy.metric("used_bytes", account="queue", function="report-incident") is None
    assert not await store.command("EXISTS", "koren:holders")
    left = [key async for key in store.redis.scan_iter("koren:fn:report-incident:invocation:*")]
    assert left == []

    # It comes back: its state is there, and the dead letters can be sent to it.
    await tidy.cluster.deployment_changes.put(Change("changed", [REPORTER]))
    await tidy.known("report-incident")
    assert (await tidy.admin("POST", f"/v1/dead-letters/{letters[0]['id']}/redrive")).status_code == 202
    again = tidy.pod("pod-b")
    assert (await again.next())["subject"] == "a"
    assert (await again.call("GET", "/v1/state/k")).content == b"1"


async def test_a_deployment_with_a_typo_is_no_deleted_function(tidy: Lab, store: Store) -> None:
    await tidy.broker.publish(subject="a")
    await tidy.broker.receipt("received", subject="a")
    # As a gateway sees it that starts anew: it has never known the right one.
    metadata = {"name": "report", "labels": {FUNCTION_LABEL: "report-incident"}}
    wrong = {"metadata": {**metadata, "annotations": {"faas.koren.kr/timeout-s": "a minute"}}}
    gone = deployment("gone", topic=f"events/{REGION}/+/gone")
    await tidy.cluster.deployment_changes.put(Change("listed", [wrong, gone]))
    await tidy.known("report-incident", there=False)
    # Another function that is deleted at the same time shows that the grace has passed.
    await tidy.broker.publish(topic=f"events/{REGION}/cctv/gone", subject="b")
    await tidy.broker.receipt("received", subject="b")
    await tidy.cluster.deployment_changes.put(Change("removed", [gone]))
    await tidy.broker.receipt("dead-lettered", subject="b")
    assert "dead-lettered" not in tidy.broker.states("a")
    await tidy.cluster.deployment_changes.put(
        Change("changed", [{**wrong, "metadata": {**REPORTER["metadata"], "name": "report"}}])
    )
    await tidy.known("report-incident")
    assert (await tidy.pod().next())["subject"] == "a"


async def test_figures_go_with_what_they_are_of(lab: Lab) -> None:
    await lab.broker.publish(subject="a")
    await lab.broker.receipt("received", subject="a")
    queue = {"account": "queue", "function": "report-incident"}
    assert (await lab.metric("used_bytes", **queue) or 0) > 0
    assert await lab.metric("runnable_subjects", function="report-incident") == 1
    pod = lab.pod()
    assert await pod.next()
    assert await pod.post("response", {}) == 204
    assert await lab.metric("used_bytes", **queue) is None
    await lab.cluster.deployment_changes.put(Change("removed", [REPORTER]))
    await lab.known("report-incident", there=False)
    assert await lab.metric("runnable_subjects", function="report-incident") is None
