"""Broken data in Redis: whatever becomes of single keys, nothing is raised that nobody expects, and new
events of every function are handled."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
from fuzzing import search
from gateway_lab import Mosquitto, Pki, RedisServer, deployment, event, settings
from hypothesis import given
from hypothesis import strategies as st

from koren_events.cloudevent import parse
from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import GatewayError, StoreUnavailable
from koren_gateway.intake.receipts import outbox_receipt
from koren_gateway.metrics import Metrics
from koren_gateway.queue.attempts import Attempts, Failure
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.dead_letters import DeadLetters
from koren_gateway.queue.held import HeldEvents
from koren_gateway.queue.history import EVER_MS, History
from koren_gateway.queue.init_errors import InitErrors
from koren_gateway.queue.logs import Logs
from koren_gateway.queue.queue import End, Entry, Kept, Nothing, Queue, Taken, event_key
from koren_gateway.queue.state import State
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings

NAMES = ("a", "b")
TOPIC = "events/seoul/x/accident"
GARBAGE = (b"", b"garbage", b"\xff\xfe\n\x00", b"-1", b"1e300", b"nan", b"{}", b'{"id": 5}', b"[1]", b"a\nb\n1", b"7.5")
SCORES = ("inf", "-inf", "1e300", "0", "-5")


class Region:
    """All of a gateway that keeps something in Redis, and what may be done to it."""

    def __init__(self, made: Settings, seed: int) -> None:
        self.dice = random.Random(seed)
        self.numbers = itertools.count(1)
        self.redis = connect(made)
        self.store = Store(self.redis)
        memory = Memory(self.store, 100_000)
        self.functions = Functions()
        its = {"topic": "events/#", "max_attempts": "2", "history": "1h"}
        self.functions.apply(Change("listed", [deployment(name, **its) for name in NAMES]))
        self.queue = Queue(self.store, made, memory)
        self.attempts = Attempts(made, self.queue, self.functions, Metrics())
        self.dead = DeadLetters(self.store, self.queue, self.functions, "seoul")
        self.history = History(self.store, self.queue, memory)
        self.held = HeldEvents(self.store, self.queue, Triggers(self.functions))
        self.state = State(self.store, memory)
        self.logs = Logs(self.store, memory)
        self.init_errors = InitErrors(self.store)

    def entry(self, subject: str | None, **more: Any) -> Entry:
        made, body = parse(json.dumps(event(subject, "updated", next(self.numbers), **more)).encode())
        return Entry(
            key=event_key(made.source, made.id),
            event=made,
            message=body,
            received_ms=round(time.time() * 1000),
            topic=TOPIC,
            functions=self.functions.wanting(TOPIC),
        )

    async def try_to(self, what: Awaitable[Any]) -> Any:
        """Does it; it may be refused in the words that callers know."""
        try:
            return await what
        except StoreUnavailable:
            raise
        except GatewayError:
            return None

    async def work(self) -> None:
        """A little of everything."""
        dice, queue = self.dice, self.queue
        subjects = [dice.choice(["s", "t", None]) for _ in range(3)]
        await self.try_to(queue.enqueue([self.entry(subject) for subject in subjects]))
        await self.try_to(queue.enqueue([self.entry(dice.choice(["h", "i"]), hold=True) for _ in range(2)]))
        await self.try_to(
            queue.enqueue([Entry(key="rubbish", event=None, message=b"no", received_ms=1, reason="not JSON")])
        )
        for name in NAMES:
            await self.pod(name, f"pod-{name}", dice.choice(["ok", "fail", "reject", "stay", "stay"]))
            for lease in await self.try_to(queue.expired(name)) or ():
                end = End(function=name, key=lease.key, delivery=lease.delivery, only_expired=True)
                function = self.functions.get(name)
                assert function is not None
                await self.try_to(self.attempts.fail(function, end, Failure("LeaseExpired", ""), lost=True))
            await self.try_to(queue.backlog(Function(name=name)))
            await self.try_to(self.state.get(name, "k"))
            await self.try_to(self.state.put(name, "k", b"v", condition="", expires_s=None))
            await self.try_to(self.logs.add(name, "pod", "a line"))
            await self.try_to(self.logs.of(name))
            await self.try_to(self.init_errors.note(name, "pod", Failure("ImportError", "no")))
            await self.try_to(self.init_errors.get(name))
        page = await self.try_to(self.dead.page(None, limit=100))
        for letter in page.letters[:4] if page else ():
            await self.try_to(self.dead.get(letter.id))
            letter.to_dict()
            await self.try_to(self.dead.redrive(letter.id) if dice.random() < 0.5 else self.dead.delete(letter.id))
        await self.try_to(self.dead.page("a", limit=1))
        waiting = await self.try_to(self.held.page(limit=10))
        for one in waiting[0][:2] if waiting else ():
            one.to_dict()
            await self.try_to(self.held.get(one.id))
            await self.try_to(dice.choice([self.held.release, self.held.dismiss])(one.id, "kim"))
        span: dict[str, Any] = {"from_ms": 0, "to_ms": EVER_MS}
        for function in self.functions.all():
            page = await self.try_to(self.history.page(function.name, **span, limit=10))
            for handled in page[0] if page else ():
                handled.to_dict()
            request = f"r-{next(self.numbers)}"
            await self.try_to(self.history.replay(function, **span, subject=None, request=request, by="kim"))
        await self.try_to(queue.tidy(self.functions.all()))
        await self.try_to(queue.clear_up_after(dice.choice([NAMES, NAMES, ("a",)])))
        for _, fields in await self.try_to(self.store.command("XRANGE", "koren:receipts", "-", "+")) or ():
            # The outbox drops such a receipt and says so.
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, RecursionError):
                outbox_receipt("seoul", fields)

    async def pod(self, name: str, pod: str, how: str) -> Taken | None:
        function = self.functions.get(name)
        assert function is not None
        for _ in range(5):
            answer = await self.try_to(self.queue.take(function, pod, None))
            match answer:
                case Kept() as kept:
                    await self.try_to(self.attempts.release(kept, Failure("Abandoned", "")))
                case Taken() as taken:
                    end = End(function=name, key=taken.key, delivery=taken.delivery)
                    await self.try_to(self.queue.extend(name, taken.key, taken.delivery, 1))
                    failure = Failure("E", "", reject=how == "reject")
                    if how == "ok":
                        await self.try_to(self.attempts.succeed(end, b"1"))
                    elif how != "stay":
                        await self.try_to(self.attempts.fail(function, end, failure))
                    return taken
                case _:
                    return None
        raise AssertionError(f"{pod} is held up for ever: {answer}")

    async def break_something(self) -> None:
        dice, redis = self.dice, self.redis
        keys = sorted([key async for key in redis.scan_iter("koren:*") if not key.startswith(b"koren:broken:")])
        if not keys:
            return
        key = dice.choice(keys)
        kind = (await redis.type(key)).decode()
        if dice.random() < 0.4:
            await redis.delete(key)
            await self._make(key, dice.choice(["string", "list", "hash", "zset", "set", "none", "stream"]))
        elif kind == "hash":
            field = dice.choice(sorted(await redis.hkeys(key)))
            if dice.random() < 0.3:
                await redis.hdel(key, field)
            else:
                await redis.hset(key, field, dice.choice(GARBAGE))
        else:
            await self._make(key, kind)

    async def _make(self, key: bytes, kind: str) -> None:
        value = self.dice.choice(GARBAGE)
        match kind:
            case "string":
                await self.redis.set(key, value)
            case "list":
                await self.redis.execute_command("LPUSH", key, value)
            case "hash":
                await self.redis.hset(key, value, value)
            case "zset":
                await self.redis.execute_command("ZADD", key, self.dice.choice(SCORES), value)
            case "set":
                await self.redis.sadd(key, value)
            case "stream":
                await self.redis.execute_command("XADD", key, "*", "state", value)

    async def new_events_are_handled(self) -> None:
        """An event of each function, of a new subject, is handled, be there what may before it."""
        made = self.entry("new")
        [taken_in] = await self.queue.enqueue([made])
        assert taken_in.outcome == "new"
        for name in NAMES:
            until = time.monotonic() + 20
            while True:
                assert time.monotonic() < until
                taken = await self.pod(name, f"another-pod-{name}", "ok")
                if taken is not None and taken.key == made.key:
                    assert taken.message == made.message
                    break
                if taken is None:
                    # What waits is due some time; the new one is due now.
                    function = self.functions.get(name)
                    assert function is not None
                    assert not isinstance(await self.queue.take(function, "third", None), Nothing), name


@pytest.fixture(scope="module")
def made(pki: Pki, shared_redis: RedisServer, shared_broker: Mosquitto) -> Iterator[Settings]:
    yield settings(pki, shared_redis, shared_broker.port, gone_after_s=1000.0, retry_base_s=0.01, retry_cap_s=0.01)


@pytest.mark.fuzz
@search(20, 3000)
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 6))
def test_broken_data_stop_nothing_that_they_do_not_belong_to(made: Settings, seed: int, rounds: int) -> None:
    async def run() -> None:
        region = Region(made, seed)
        try:
            keys = [key async for key in region.redis.scan_iter("koren:*")]
            if keys:
                await region.redis.delete(*keys)
            await region.work()
            for _ in range(rounds):
                for _ in range(region.dice.choice([1, 1, 3])):
                    await region.break_something()
                await region.work()
            await region.new_events_are_handled()
        finally:
            await region.redis.aclose()

    asyncio.run(run())
