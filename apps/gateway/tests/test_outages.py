"""Redis, the broker, the API server or the other gateway are away: nothing is lost, nothing done twice."""

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
import pytest
from gateway_lab import (
    Lab,
    Mosquitto,
    Operator,
    Pki,
    Pod,
    Proxy,
    RedisServer,
    TestCluster,
    running,
    scaled,
    settings,
    until,
    world,
)

from koren_gateway.errors import StoreUnavailable
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio


async def missing(made: Settings, what: str) -> bool:
    """Waits until the gateway says that this is what it waits for."""

    async def is_missing() -> bool:
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(verify=False) as client:
                page = await client.get(f"http://127.0.0.1:{made.metrics_port}/readyz")
                return page.status_code == 503 and page.text == what
        return False

    await until(is_missing, what)
    return True


async def closed(lab: Lab) -> None:
    """Waits until the gateway has lost the broker."""

    async def is_closed() -> bool:
        return await lab.metric("intake_connected") == 0

    await until(is_closed, "the intake is closed")


async def test_one_of_two_replicas_takes_in_and_the_other_takes_over(
    store: Store, pki: Pki, shared_redis: RedisServer, clean_broker: Mosquitto
) -> None:
    cluster = TestCluster()
    first = settings(pki, shared_redis, clean_broker.port, pod="gateway-0")
    second = settings(pki, shared_redis, clean_broker.port, pod="gateway-1")
    operator = await Operator.connect(pki, clean_broker.port)
    async with running(second, cluster) as two:
        lab_two = Lab(second, cluster, two, operator, pki)
        async with running(first, cluster) as one:
            lab_one = Lab(first, cluster, one, operator, pki)
            await until(lambda: cluster.lease.holder is not None, "a lease")
            leader, follower = lab_one, lab_two
            if cluster.lease.holder == "gateway-1":
                leader, follower = lab_two, lab_one
            await leader.open()
            assert "intake_connected 0.0" in await follower.metrics()
            # The one takes in, KEDA and the pod are at the other.
            async with follower.keda() as keda:
                stream = keda.StreamIsActive(scaled())
                assert (await stream.read()).result is False
                await operator.publish()
                assert (await stream.read()).result is True
                pod = follower.pod()
                assert await pod.next()
                assert await pod.post("response", {"by": "follower"}) == 204
            last = await operator.receipt("succeeded")
            assert last.result == {"by": "follower"} and "activated" in last.phases
            leader.gateway.stop()
            await follower.open()
            await operator.publish(subject="incident-2")
            await until(lambda: any(r.subject == "incident-2" for r in operator.receipts), "taken over")
    await operator.close()


async def test_it_starts_with_nothing_there_and_goes_on_through_every_outage(pki: Pki, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    broker = Mosquitto(tmp_path / "mosquitto", pki)
    cluster = TestCluster(there=False)
    made = settings(pki, redis, broker.port)
    try:
        async with running(made, cluster) as gateway:
            assert await missing(made, "no connection to redis, functions not known yet, triggers not known yet")
            redis.start()
            broker.start()
            operator = await Operator.connect(pki, broker.port)
            lab = Lab(made, cluster, gateway, operator, pki)
            assert await missing(made, "functions not known yet, triggers not known yet")
            assert operator.health == []
            cluster.there = True
            await lab.open()
            await operator.publish(subject="before")
            await operator.receipt("received")

            redis.kill()
            await operator.publish(subject="while-down")
            await until(lambda: operator.health[-1]["state"] == "down", "paused")
            assert not await lab.ready()
            redis.start()
            await operator.receipt("received", 2)
            assert operator.health[-1]["state"] == "up"

            await operator.close()
            broker.stop()
            await closed(lab)
            broker.start()
            operator = lab.broker = await Operator.connect(pki, broker.port)
            await lab.open()
            cluster.there = False
            await operator.publish(subject="after")
            await operator.receipt("received")
            cluster.there = True
            pod = lab.pod()
            subjects = set()
            for _ in range(3):
                subjects.add((await pod.next())["subject"])
                assert await pod.post("response", {}) == 204
            assert subjects == {"before", "while-down", "after"}
            await operator.close()
    finally:
        broker.stop()
        redis.stop()


async def test_a_full_redis_pauses_the_intake_and_room_resumes_it(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki, maxmemory="12mb", batch_bytes=1) as there:
        lab, count = there.lab, 6

        async def publish(number: int) -> None:
            await lab.broker.publish(subject=f"s{number}", data={"image": "x" * 300_000})

        await publish(0)
        await lab.broker.receipt("received")
        # Budgets keep what the gateway writes from filling it.
        fillers = [f"koren:filler:{number}" for number in range(120)]
        with pytest.raises(StoreUnavailable):
            for filler in fillers:
                await there.store.command("SET", filler, bytes(100_000))
        for number in range(1, count):
            await publish(number)
        await until(lambda: lab.broker.health[-1]["state"] == "down", "paused", 30)

        async def is_paused() -> bool:
            return await lab.metric("intake_paused") == 1

        await until(is_paused, "paused")
        assert 0 < len(lab.broker.receipts) < count
        await there.store.command("DEL", *fillers)
        pod = lab.pod()
        for _ in range(count):
            assert await pod.next()
            assert await pod.post("response", {}) == 204
        await lab.broker.receipt("succeeded", count)
        subjects = {r.subject for r in lab.broker.receipts if r.state == "succeeded"}
        assert len(subjects) == count


async def test_an_event_in_hand_stays_with_its_pod_through_an_outage_of_redis(pki: Pki, tmp_path: Path) -> None:
    lease_s = 1.5
    async with world(tmp_path, pki, lease_s=lease_s) as there:
        lab = there.lab
        await lab.broker.publish(subject="a", sequence=1)
        mine, other = lab.pod("pod-a"), lab.pod("pod-b")
        assert await mine.next()
        assert await mine.post("entered") == 204
        others: list[int] = []

        async def poll() -> None:
            while True:
                with contextlib.suppress(AssertionError, httpx.TransportError):
                    got = await other.next()
                    others.append(got["sequence"])
                    assert await other.post("response", {}) == 204
                await asyncio.sleep(0.05)

        there.redis.kill()
        polling = asyncio.create_task(poll())
        ends_at = time.monotonic() + lease_s + 1
        while time.monotonic() < ends_at:
            for what in ("heartbeat", "entered"):
                answer = await mine.say(what)
                assert (answer.status_code, answer.headers["Koren-Lease"]) == (503, "kept")
        there.redis.start()
        # The gateways look at leases again before the pod has had its say.
        await until(lambda: lab.gateway._leases._looked_at is not None, "leases are looked at")
        assert await mine.post("heartbeat") == 204
        assert await mine.post("response", {}) == 204
        assert mine.attempt == "1" and others == []
        await lab.broker.publish(subject="a", sequence=2, happened="updated")
        await until(lambda: others == [2], "the next event goes to the other pod")
        await lab.broker.receipt("succeeded", 2, subject="a")
        polling.cancel()
        assert "failed" not in lab.broker.states("a")


async def test_a_pod_that_was_lost_with_redis_loses_its_event_a_lease_later(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki, lease_s=0.5) as there:
        lab = there.lab
        await lab.broker.publish(subject="a")
        assert await lab.pod("pod-a").next()
        there.redis.kill()
        await missing(lab.settings, "no connection to redis")
        there.redis.start()
        other = lab.pod("pod-b")

        async def taken() -> bool:
            with contextlib.suppress(AssertionError):
                return await other.next() is not None
            return False

        await until(taken, "another pod has it")
        assert other.attempt == "2"
        assert "no word came" in ((await lab.broker.receipt("failed")).error or "")


async def test_the_gateway_that_lost_redis_lets_the_other_take_in(
    store: Store, pki: Pki, shared_redis: RedisServer, clean_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_gateway.intake.intake._ELSEWHERE_AFTER_S", 0.5)
    monkeypatch.setattr("koren_gateway.cluster.leader.STEP_BACK_S", 0.5)
    proxy = Proxy(shared_redis.port)
    await proxy.start()
    cluster = TestCluster()
    first = settings(pki, shared_redis, clean_broker.port, pod="gateway-0", redis_port=proxy.port)
    second = settings(pki, shared_redis, clean_broker.port, pod="gateway-1")
    operator = await Operator.connect(pki, clean_broker.port)
    async with running(first, cluster) as one:
        await Lab(first, cluster, one, operator, pki).open()
        async with running(second, cluster) as two:
            other = Lab(second, cluster, two, operator, pki)
            await until(other.ready, "the other is ready")
            assert cluster.lease.holder == "gateway-0"
            proxy.cut()
            await operator.publish(subject="a")
            await operator.receipt("received", subject="a")
            assert cluster.lease.holder == "gateway-1"
            pod = other.pod()
            assert (await pod.next())["subject"] == "a"
            assert await pod.post("response", {}) == 204
            await operator.receipt("succeeded", subject="a")
    await operator.close()


async def test_without_an_api_server_the_intake_goes_on(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki) as there:
        lab = there.lab
        pod: Pod = lab.pod()
        await lab.broker.publish(subject="before")
        assert await pod.next()
        assert await pod.post("response", {}) == 204
        lab.cluster.there = False
        holder = lab.cluster.lease.holder
        await lab.broker.publish(subject="while-away")
        assert (await pod.next())["subject"] == "while-away"
        assert await pod.post("response", {}) == 204
        assert (await lab.admin("GET", "/v1/functions")).status_code == 503
        assert lab.cluster.lease.holder == holder
