"""What functions have handled: what is kept of it, for how long, and how it is replayed."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from gateway_lab import Lab, RedisServer, deployment, event, until
from test_clock import HOURS_S, RAN_MS
from test_queue import FN, OTHER, end, entry, take

from koren_gateway.cluster.functions import Function, Functions, function_of
from koren_gateway.cluster.interface import Change
from koren_gateway.metrics import Metrics
from koren_gateway.queue.attempts import Attempts, Failure
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.dead_letters import DeadLetters
from koren_gateway.queue.history import EVER_MS, History, NoRoom, TooMuch
from koren_gateway.queue.queue import Entry, Nothing, Queue
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio

KEEPER = deployment("keeper", topic="events/#", max_attempts="1", history="1h")
FORGETFUL = deployment("keeper", topic="events/#", max_attempts="1")
PATH = "/v1/functions/keeper"
SPAN: dict[str, Any] = {"from_ms": 0, "to_ms": EVER_MS, "subject": None, "by": "kim"}


class Keeper:
    """A function that keeps a history, and what one does with it."""

    def __init__(self, store: Store, queue: Queue, settings: Settings) -> None:
        self.memory = Memory(store, settings.batch_bytes)
        self.queue = Queue(store, settings, self.memory)
        self.functions = Functions()
        self.functions.apply(Change("listed", [KEEPER]))
        self.attempts = Attempts(settings, self.queue, self.functions, Metrics())
        self.history = History(store, self.queue, self.memory)
        self.letters = DeadLetters(store, self.queue, self.functions, "seoul")

    @property
    def function(self) -> Function:
        function = self.functions.get("keeper")
        assert function is not None
        return function

    async def handle(self, *entries: Entry) -> None:
        """Has events come in and be handled, one after the other."""
        for made in entries:
            await self.queue.enqueue([replace(made, functions=[self.function])])
            await self.handle_next()

    async def handle_next(self) -> tuple[str, str]:
        """Handles what is first; its subject and who replayed it."""
        taken = await take(self.queue, function=self.function)
        assert taken.event is not None
        await self.attempts.succeed(end(taken, self.function), b"1")
        return str(taken.event.subject), taken.replayed_by

    async def kept(self) -> list[str]:
        page, _ = await self.history.page("keeper", from_ms=0, to_ms=EVER_MS, limit=1000)
        return [str(one.event.subject) for one in page]

    async def replay(self, request: str = "r", **more: Any) -> int:
        return (await self.history.replay(self.function, **(SPAN | {"request": request} | more))).events


@pytest.fixture
def keeper(store: Store, queue: Queue, lab_settings: Settings) -> Keeper:
    return Keeper(store, queue, lab_settings)


async def test_a_replay_queues_what_was_handled_in_its_order_and_only_once(keeper: Keeper, store: Store) -> None:
    made = [entry(subject="a", sequence=n, id=f"a-{n}") for n in range(12)]
    await keeper.handle(*made, entry(subject="b"))
    assert await keeper.replay(subject="a", dry_run=True) == 12
    assert isinstance(await keeper.queue.take(keeper.function, "pod-a", None), Nothing)
    assert await keeper.replay(subject="a") == 12
    again = await keeper.history.replay(keeper.function, **SPAN, request="r")
    assert (again.events, again.is_repeat) == (12, True)
    ids = []
    for _ in range(12):
        taken = await take(keeper.queue, function=keeper.function)
        assert taken.event is not None and taken.replayed_by == "kim"
        ids.append(taken.event.id)
        await keeper.attempts.succeed(end(taken, keeper.function), b"1")
    assert ids == [f"a-{n}" for n in range(12)]
    assert isinstance(await keeper.queue.take(keeper.function, "pod-a", None), Nothing)
    # Copies are no history of their own, and the same events may be replayed again.
    assert len(await keeper.kept()) == 13
    assert await keeper.replay("other") == 13


async def test_a_replay_has_only_what_was_handled_in_its_span(keeper: Keeper, store: Store) -> None:
    await keeper.handle(*(entry(subject=name) for name in "abc"))
    ids = [id for id in await store.command("ZRANGE", "koren:fn:keeper:history", 0, -1)]
    for place, id in enumerate(ids):
        await store.command("ZADD", "koren:fn:keeper:history", 1000 * (place + 1), id)
    page, _ = await keeper.history.page("keeper", from_ms=1500, to_ms=2000, limit=10)
    assert [one.event.subject for one in page] == ["b"]
    assert await keeper.replay(from_ms=1500, to_ms=2000) == 1
    assert await keeper.handle_next() == ("b", "kim")


async def test_calls_and_failures_are_no_history_and_others_events_are_not_either(keeper: Keeper) -> None:
    call = replace(entry(subject="call"), key="call-1", repeats_count=False, call=True)
    request = replace(entry(subject="request"), key="request-1", repeats_count=False, call=True, trigger="orders")
    await keeper.handle(call, request)
    await keeper.queue.enqueue([replace(entry(subject="fails"), functions=[keeper.function])])
    taken = await take(keeper.queue, function=keeper.function)
    await keeper.attempts.fail(keeper.function, end(taken, keeper.function), Failure("ValueError", "no"))
    await keeper.queue.enqueue([entry((OTHER,), subject="of another")])
    await keeper.attempts.succeed(end(await take(keeper.queue, function=OTHER), OTHER), b"1")
    assert await keeper.kept() == ["request"]
    # It is handled in the end.
    [letter] = (await keeper.letters.page("keeper", limit=10)).letters
    assert await keeper.letters.redrive(letter.id)
    assert await keeper.handle_next() == ("fails", "")
    assert await keeper.kept() == ["request", "fails"]


async def test_a_replayed_event_that_becomes_a_dead_letter_stays_a_replay(keeper: Keeper) -> None:
    await keeper.handle(entry(subject="a"))
    await keeper.replay()
    taken = await take(keeper.queue, function=keeper.function)
    await keeper.attempts.fail(keeper.function, end(taken, keeper.function), Failure("ValueError", "no"))
    [letter] = (await keeper.letters.page("keeper", limit=10)).letters
    assert await keeper.letters.redrive(letter.id)
    assert await keeper.handle_next() == ("a", "kim")
    assert await keeper.kept() == ["a"]


async def test_a_replay_opens_and_closes_no_incident(keeper: Keeper) -> None:
    of_incidents = {"opens": "kr.koren.traffic.accident.detected", "closes": "kr.koren.traffic.accident.cleared"}
    keeper.functions.apply(Change("changed", [deployment("keeper", topic="events/#", history="1h", **of_incidents)]))
    await keeper.handle(entry(subject="a"), entry(subject="a", happened="cleared", sequence=2))
    await keeper.replay()
    await keeper.handle_next()
    assert (await keeper.queue.backlog(keeper.function)).open_incidents == 0
    await keeper.queue.enqueue([replace(entry(subject="a", sequence=3), functions=[keeper.function])])
    await keeper.handle_next()
    assert (await keeper.queue.backlog(keeper.function)).open_incidents == 1


async def test_a_replay_that_does_not_fit_queues_nothing_and_says_why(keeper: Keeper, store: Store) -> None:
    await keeper.handle(*(entry(subject=name) for name in "abc"))
    keeper.memory.budgets = replace(keeper.memory.budgets, queue_function=3000)
    for dry_run in (True, False):
        with pytest.raises(NoRoom, match=r"3 events of .* at most 3000"):
            await keeper.replay(dry_run=dry_run)
    assert not (await keeper.queue.backlog(keeper.function)).active
    assert await store.command("HGET", "koren:dropped", "queue-full") is None
    # The refused request may be made again.
    keeper.memory.budgets = replace(keeper.memory.budgets, queue_function=100_000)
    assert await keeper.replay() == 3


async def test_a_replay_of_too_much_is_refused(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_gateway.queue.history.REPLAYED_MAX", 2)
    await keeper.handle(*(entry(subject=name) for name in "abc"))
    with pytest.raises(TooMuch, match="3 such events"):
        await keeper.replay()
    assert await keeper.replay(subject="b") == 1


async def test_history_is_kept_as_long_as_the_function_says(keeper: Keeper, store: Store) -> None:
    await keeper.handle(*(entry(subject=name) for name in "abc"))
    oldest = (await store.command("ZRANGE", "koren:fn:keeper:history", 0, 0))[0]
    await store.command("ZADD", "koren:fn:keeper:history", round(time.time() * 1000) - 3_601_000, oldest)
    await keeper.queue.tidy([keeper.function])
    assert await keeper.kept() == ["b", "c"]
    # A Deployment that is not known, or not right, deletes nothing.
    await keeper.queue.tidy([])
    assert await keeper.kept() == ["b", "c"]
    keeper.functions.apply(Change("changed", [FORGETFUL]))
    await keeper.queue.tidy(keeper.functions.all())
    assert await keeper.kept() == []
    left = [key.decode() async for key in store.redis.scan_iter("koren:event:*")]
    assert (left, await store.command("HGETALL", "koren:bytes")) == ([], {})


async def test_the_history_of_a_deleted_function_is_dropped(
    keeper: Keeper, store: Store, lab_settings: Settings
) -> None:
    await keeper.handle(entry(subject="a"))
    queue = Queue(store, lab_settings.model_copy(update={"gone_after_s": 0.0}), keeper.memory)
    await queue.clear_up_after(["keeper"])
    assert await keeper.kept() == ["a"]
    for _ in range(2):
        await queue.clear_up_after([])
    assert await keeper.kept() == []
    assert await store.command("EXISTS", "koren:history", "koren:bytes") == 0


async def test_the_oldest_history_goes_and_makes_room_for_all_else(keeper: Keeper, store: Store) -> None:
    budgets = keeper.memory.budgets
    await keeper.handle(*(entry(subject=name) for name in "abcd"))
    each = int(await store.command("HGET", "koren:bytes", "history")) // 4
    keeper.memory.budgets = replace(budgets, history_function=3 * each + 100)
    await keeper.handle(entry(subject="e"))
    assert await keeper.kept() == ["c", "d", "e"]
    # An event of a large function waits: history makes room for it.
    keeper.memory.budgets = replace(budgets, shared=4 * each)
    await keeper.queue.enqueue([entry((OTHER,), subject="waits")])
    await keeper.queue.tidy([keeper.function])
    assert await keeper.kept() == ["d", "e"]
    assert await store.command("HGET", "koren:dropped", "history") == b"3"


@pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S])
async def test_what_was_handled_keeps_its_age_and_order_when_a_clock_is_set(
    tmp_path: Any, lab_settings: Settings, step_s: int
) -> None:
    server = RedisServer(tmp_path / "redis", own_clock=True)
    server.start()
    redis = connect(lab_settings.model_copy(update={"redis_port": server.port}))
    try:
        store = Store(redis)
        keeper = Keeper(store, Queue(store, lab_settings, Memory(store, 1000)), lab_settings)
        await keeper.queue.follow_clock(None)
        await keeper.handle(*(entry(subject=name) for name in "ab"))
        server.set_clock(step_s)
        await keeper.handle(entry(subject="c"))
        await keeper.queue.follow_clock(RAN_MS)
        await keeper.handle(entry(subject="d"))
        await keeper.queue.tidy([keeper.function])
        assert await keeper.kept() == ["a", "b", "c", "d"]
        seconds, _ = await store.command("TIME")
        for index in ("koren:fn:keeper:history", "koren:history"):
            scores = (await store.command("ZRANGE", index, 0, -1, "WITHSCORES"))[1::2]
            assert all(abs(float(ms) / 1000 - int(seconds)) < 30 for ms in scores), index
    finally:
        await redis.aclose()
        server.stop()


@pytest.mark.parametrize("text", ["8d", "0h", "1w", "24", "-1h", "169h", " 1h"])
async def test_a_history_that_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"history.*at most 7d"):
        function_of(deployment("keeper", history=text))


async def test_people_list_and_replay_what_was_handled(lab: Lab) -> None:
    await lab.cluster.deployment_changes.put(Change("changed", [KEEPER]))
    await lab.known("keeper")
    made = event(subject="incident-9")
    await lab.broker.publish(body=json.dumps(made).encode())
    pod = lab.pod("pod-k", "keeper")
    assert "replayedby" not in await pod.next()
    assert await pod.post("response", {}) == 204
    listed = (await lab.admin("GET", f"{PATH}/history")).json()
    assert [one["event"]["id"] for one in listed["events"]] == [made["id"]]
    assert (listed["history_s"], listed["next"]) == (3600, None)
    body = {"request": "r-1", "since": "2020-01-01T00:00:00Z"}
    asked = await lab.admin("POST", f"{PATH}/replay", json=body | {"dry_run": True})
    assert (asked.status_code, asked.json()["events"]) == (200, 1)
    for repeat in (False, True):
        asked = await lab.admin("POST", f"{PATH}/replay", json=body)
        assert (asked.status_code, asked.json()["events"], asked.json()["repeat"]) == (202, 1, repeat)
    got = await pod.next()
    assert got == made | {"replayedby": "admin"}
    assert await pod.post("response", {}) == 204
    await until(lambda: _idle(lab), "nothing is left to do")


async def _idle(lab: Lab) -> bool:
    function = await lab.function("keeper")
    return function is not None and not function["active"]


async def test_a_replay_that_can_t_be_is_refused_with_the_reason(lab: Lab) -> None:
    await lab.cluster.deployment_changes.put(Change("changed", [KEEPER]))
    await lab.known("keeper")
    body = {"request": "r-1", "since": "2020-01-01T00:00:00Z"}
    for wrong, status, reason in (
        (body | {"since": "yesterday"}, 400, "since: 'yesterday' is not an RFC 3339 time"),
        (body | {"until": "2019-01-01T00:00:00Z"}, 400, "after until"),
        (body | {"request": "a/b"}, 400, "request"),
        (body | {"subject": 5}, 400, "subject"),
        (body | {"all": True}, 400, "'all' is no key"),
        ({"request": "r"}, 400, "since is missing"),
        ([], 400, "object"),
    ):
        answer = await lab.admin("POST", f"{PATH}/replay", json=wrong)
        assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
    assert (await lab.admin("POST", "/v1/functions/nobody/replay", json=body)).status_code == 404
    none = await lab.admin("POST", f"/v1/functions/{FN.name}/replay", json=body)
    assert none.status_code == 409 and "--history" in none.json()["error"]
    lab.cluster.rights = {("kim", "list", "handledevents"), ("kim", "invoke", "functions")}
    assert (await lab.admin("GET", f"{PATH}/history", token="user/kim")).status_code == 200
    refused = await lab.admin("POST", f"{PATH}/replay", token="user/kim", json=body)
    assert refused.status_code == 403 and "may not replay handledevents" in refused.json()["error"]


async def test_nobody_outside_says_that_an_event_is_a_replay(lab: Lab) -> None:
    await lab.broker.publish(subject="forged", replayedby="kim")

    async def refused() -> bool:
        return any("replayedby" in letter["reason"] for letter in await lab.dead_letters())

    await until(refused, "it is a dead letter")
