"""The clock of Redis' host is set: what waits and is in hand keeps its time."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_lab import RedisServer
from test_queue import FN, end, entry, take

from koren_gateway.cluster.functions import Function, Rate
from koren_gateway.errors import LeaseLost, StoreUnavailable
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import Nothing, Queue, Taken
from koren_gateway.queue.rates import Rates
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio

HOURS_S = 7200
RAN_MS = 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    redis = RedisServer(tmp_path / "redis", own_clock=True)
    redis.start()
    yield redis
    redis.stop()


@pytest_asyncio.fixture
async def store(server: RedisServer, lab_settings: Settings) -> AsyncIterator[Store]:
    redis = connect(lab_settings.model_copy(update={"redis_port": server.port}))
    yield Store(redis)
    await redis.aclose()


@pytest.fixture
def queue(store: Store, lab_settings: Settings) -> Queue:
    return Queue(store, lab_settings, Memory(store, lab_settings.batch_bytes))


async def taken_soon(queue: Queue, function: Function, pod: str = "pod-a") -> Taken:
    """What is handed out within seconds."""
    async with asyncio.timeout(10):
        while not isinstance(taken := await queue.take(function, pod, None), Taken):
            await asyncio.sleep(0.05)
    return taken


async def test_what_waits_is_due_after_a_clock_that_was_ahead_is_set_back(server: RedisServer, queue: Queue) -> None:
    server.set_clock(HOURS_S)
    await queue.follow_clock(None)
    await queue.enqueue([entry(subject="waits"), entry(subject="fails")])
    failed = await take(queue)
    await queue.retry(end(failed), "it fails", 1.0)

    server.set_clock(0)
    assert isinstance(await queue.take(FN, "pod-a", None), Nothing)
    assert abs(await queue.follow_clock(RAN_MS) + HOURS_S * 1000) < 5000
    assert await queue.follow_clock(RAN_MS) == 0

    for _ in range(2):
        await queue.succeed(end(await taken_soon(queue, FN)), b"1")


@pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S, 60, -60])
async def test_what_is_in_hand_stays_so_for_its_time(
    server: RedisServer, queue: Queue, step_s: int
) -> None:
    await queue.follow_clock(None)
    brief = replace(FN, timeout_s=1.0)
    await queue.enqueue([entry((brief,))])
    taken = await take(queue, function=brief)

    server.set_clock(step_s)
    assert abs(await queue.follow_clock(RAN_MS) - step_s * 1000) < 12_000
    assert await queue.expired(FN.name) == []
    await queue.extend(FN.name, taken.key, taken.delivery)
    # Its end comes, too.
    async with asyncio.timeout(30):
        while not await queue.expired(FN.name):
            await asyncio.sleep(0.1)
    with pytest.raises(LeaseLost):
        await queue.extend(FN.name, taken.key, taken.delivery)


@pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S])
async def test_a_person_has_as_long_to_release_a_held_event(
    server: RedisServer, store: Store, queue: Queue, step_s: int
) -> None:
    async def until_ms() -> float:
        _, score = await store.command("ZRANGE", "koren:held", 0, 0, "WITHSCORES")
        return float(score)

    await queue.follow_clock(None)
    assert [one.outcome for one in await queue.enqueue([entry(hold=True)])] == ["held"]
    before = await until_ms()

    server.set_clock(step_s)
    await queue.follow_clock(RAN_MS)
    assert await queue.tidy() == 0
    assert abs(await until_ms() - before - step_s * 1000) < 12_000


@pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S, 60, -60])
async def test_a_delay_is_as_long_whatever_the_clock_is_set_to(server: RedisServer, queue: Queue, step_s: int) -> None:
    delayed = replace(FN, via="later", via_delay_s=4 * HOURS_S)
    await queue.follow_clock(None)
    await queue.enqueue([entry((FN,), subject="s", happened="updated")])
    await queue.enqueue([entry((delayed,), subject=subject, id=subject, happened="updated") for subject in "sr"])
    await queue.succeed(end(await take(queue)), b"1")

    server.set_clock(step_s)
    # One comes before it is known that the clock was set.
    await queue.enqueue([entry((delayed,), subject="new", happened="updated")])
    await queue.follow_clock(RAN_MS)
    assert isinstance(await queue.take(FN, "pod-a", None), Nothing)
    backlog = await queue.backlog(FN)
    assert backlog.waiting == 3 and not backlog.active
    # From here on time passes: of so much the gateway knows.
    server.set_clock(step_s + 4 * HOURS_S - 15)
    assert isinstance(await queue.take(FN, "pod-a", None), Nothing)
    server.set_clock(step_s + 4 * HOURS_S + 15)
    for pod in ("pod-a", "pod-b", "pod-c"):
        await take(queue, pod)


async def test_a_delay_outlives_a_restart_of_redis(server: RedisServer, queue: Queue) -> None:
    delayed = replace(FN, via="later", via_delay_s=HOURS_S)
    await queue.enqueue([entry((delayed,), subject="s")])
    await queue.enqueue([entry((FN,), subject="s", id="behind", happened="updated")])
    server.kill()
    server.start()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StoreUnavailable):
                assert isinstance(await queue.take(FN, "pod-a", None), Nothing)
                break
    assert (await queue.backlog(FN)).waiting == 1
    server.set_clock(HOURS_S)
    await queue.succeed(end(await take(queue)), b"1")
    await take(queue)


@pytest.mark.parametrize("step_s", [20, -20])
async def test_a_small_step_moves_nothing(server: RedisServer, queue: Queue, step_s: int) -> None:
    await queue.follow_clock(None)
    server.set_clock(step_s)
    assert await queue.follow_clock(RAN_MS) == 0


async def test_a_pause_of_the_gateway_is_no_step(server: RedisServer, queue: Queue) -> None:
    await queue.follow_clock(None)
    server.set_clock(HOURS_S)
    # So long it did not look, as its own clock says; or it does not know.
    assert await queue.follow_clock(HOURS_S * 1000) == 0
    server.set_clock(2 * HOURS_S)
    assert await queue.follow_clock(None) == 0


async def test_rates_and_answers_of_http_triggers_keep_their_time(
    server: RedisServer, store: Store, queue: Queue
) -> None:
    server.set_clock(HOURS_S)
    await queue.follow_clock(None)
    rates, rate = Rates(store), Rate(1, 60)
    assert await rates.wait_s("orders", rate) == 0 < await rates.wait_s("orders", rate)
    kept = [replace(entry(subject=subject), answer_kept_ms=600_000, trigger="orders") for subject in "ab"]
    await queue.enqueue(kept)
    await queue.succeed(end(await take(queue)), b"1")
    server.set_clock(0)
    await queue.follow_clock(RAN_MS)
    assert await rates.wait_s("orders", rate) == 0
    seconds, _ = await store.command("TIME")
    _, ended, _, waiting = await store.command("ZRANGE", "koren:answers", 0, -1, "WITHSCORES")
    assert 0 < float(ended) / 1000 - int(seconds) < 660
    assert float(waiting) == math.inf


async def test_a_rate_does_not_hold_back_for_longer_after_a_clock_is_set_back(
    server: RedisServer, queue: Queue
) -> None:
    server.set_clock(HOURS_S)
    await queue.follow_clock(None)
    limited = replace(FN, rate=Rate(1, 1))
    await queue.enqueue([entry((limited,), subject=subject) for subject in "ab"])
    await take(queue, function=limited)
    server.set_clock(0)
    await queue.follow_clock(RAN_MS)
    await taken_soon(queue, limited, "pod-b")
