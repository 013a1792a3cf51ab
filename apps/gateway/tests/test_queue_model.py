"""The queue against a small model of it: random sequences of all that happens to one, in a real Redis.

After each step Redis holds exactly what the model says: each event of each function waits, is in hand,
or is a dead letter, in order within its subject, with one lease a subject and a holder; what the accounts
of `koren:bytes` say is what is there.

`KOREN_FUZZ=long` searches for minutes (see fuzzing.py).
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from fuzzing import search
from gateway_lab import REDIS_PASSWORD, REDIS_USER, RedisServer, deployment, event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from koren_events.cloudevent import parse
from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import LeaseLost, StoreUnavailable
from koren_gateway.metrics import Metrics
from koren_gateway.queue.attempts import Attempts, Failure
from koren_gateway.queue.budgets import Budgets, Memory
from koren_gateway.queue.dead_letters import DeadLetters
from koren_gateway.queue.held import HeldEvents
from koren_gateway.queue.history import EVER_MS, History, NoRoom
from koren_gateway.queue.queue import End, Entry, Kept, Nothing, Queue, Taken, event_key, size_of
from koren_gateway.queue.state import State, StateFull
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings

MAX_DELIVERIES = 5
BUDGETS = Budgets(
    dead=12_000,
    dead_function=7_000,
    history=6_000,
    history_function=4_500,
    shared=24_000,
    state=2_000,
    state_function=1_200,
    held=6_500,
    queue=22_000,
    queue_function=14_000,
    seen=14,
    incidents_function=1_000,
    marks=1_000,
    answers=1_000,
    log_function=1_000,
    batch=100_000,
)
DEPLOYMENTS = {
    "a": deployment(
        "a",
        topic="events/#",
        max_attempts="2",
        history="1h",
        opens="kr.koren.traffic.accident.detected",
        closes="kr.koren.traffic.accident.cleared",
    ),
    "b": deployment("b", topic="events/+/+/accident", max_attempts="1"),
    "c": deployment("c", topic="events/+/+/speed", max_attempts="4", history="7d", batch_size="3"),
}
NAMES = st.sampled_from(sorted(DEPLOYMENTS))
PODS = st.sampled_from(["pod-1", "pod-2", "pod-3"])
SLOTS = st.sampled_from([0, 0, 1, 31])
TOPICS = st.sampled_from(["events/seoul/x/accident", "events/seoul/x/speed", "events/seoul/x/other"])
SIZES = st.sampled_from([0, 0, 0, 700, 2500])
STAYS = {
    *("seen", "marks", "receipts", "functions", "gone", "dropped"),
    *("verdict", "outcome"),
}
T = TypeVar("T")


@dataclass
class Work:
    """An invocation."""

    function: str
    key: str
    subject: str
    event: str
    size: int
    once: bool
    call: bool = False
    replayed: bool = False
    attempts: int = 0
    delivery: int = 0
    entered: bool = False
    holder: tuple[str, int] | None = None
    """A pod and its slot."""
    expired: bool = False
    due: bool = True
    others: list["Work"] = field(default_factory=list)
    """The rest of the batch, of its first event while it is in hand."""
    is_other: bool = False

    @property
    def bytes(self) -> int:
        return self.size + 1000

    @property
    def batch(self) -> list["Work"]:
        """What ends with it, in that order."""
        return [*self.others, self]

    @property
    def is_alone(self) -> bool:
        """Whether no batch has it."""
        return self.attempts > 0 or self.once or self.call

    def hand_out(self, holder: tuple[str, int]) -> None:
        self.holder, self.delivery = holder, self.delivery + 1


@dataclass
class Letter:
    function: str
    event: str | None
    subject: str | None
    size: int
    replayed: bool = False
    time: int = 0

    @property
    def bytes(self) -> int:
        return self.size + 800


@dataclass
class Past:
    """What a function has handled."""

    function: str
    event: str
    subject: str
    size: int

    @property
    def bytes(self) -> int:
        return self.size + 800


@dataclass
class Waiting:
    """A held event, or a dismissed one."""

    subject: str
    topic: str
    size: int
    event: str
    state: str = "held"
    dismissed: int = 0
    """In which step; Redis orders those of one step by key."""

    @property
    def bytes(self) -> int:
        return self.size + 800


@dataclass
class Model:
    queues: dict[str, dict[str, list[Work]]] = field(default_factory=lambda: {name: {} for name in DEPLOYMENTS})
    letters: dict[str, Letter] = field(default_factory=dict)
    history: dict[str, Past] = field(default_factory=dict)
    """By id, oldest first."""
    held: dict[str, Waiting] = field(default_factory=dict)
    holding: dict[str, list[str]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    """Of messages, by event."""
    seen: set[str] = field(default_factory=set)
    state: dict[tuple[str, str], int] = field(default_factory=dict)
    noted_gone: set[str] = field(default_factory=set)
    receipts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    step: int = 0

    def works(self, function: str | None = None) -> Iterator[Work]:
        for name, queue in self.queues.items():
            if function in (None, name):
                for works in queue.values():
                    yield from works

    def in_hand(self, pod: str, slot: int) -> Work | None:
        return next((work for work in self.works() if work.holder == (pod, slot) and not work.is_other), None)

    def chosen(self, choice: int) -> Work:
        """One of what is in hand."""
        works = [work for work in self.works() if work.holder is not None and not work.is_other]
        return works[choice % len(works)]

    def heads(self, function: str) -> list[Work]:
        """What may be taken now."""
        return [works[0] for works in self.queues[function].values() if works[0].holder is None and works[0].due]

    def put(self, function: str, work: Work) -> bool:
        """False when the function's queue is full."""
        queue = self.queues[function]
        if any(other.key == work.key for other in self.works(function)):
            return True
        its = sum(other.bytes for other in self.works(function)) + work.bytes
        free = BUDGETS.queue - sum(other.bytes for other in self.works()) - work.bytes
        if its > BUDGETS.queue_function or its > 4 * free:
            self.dropped["queue-full"] += 1
            return False
        queue.setdefault(work.subject, []).append(work)
        return True

    def spread(self, work: Work, functions: list[str]) -> bool:
        full = False
        for name in functions:
            if self.put(name, replace(work, function=name)):
                continue
            full = True
            if not work.once:
                self.bury(f"{name}.{work.key}", Letter(name, work.event, work.subject, work.size, work.replayed))
                self.receipts["dead-lettered"] += 1
        return full

    def bury(self, id: str, letter: Letter) -> None:
        self.letters.pop(id, None)
        self.letters[id] = letter

    def remove(self, work: Work) -> None:
        works = self.queues[work.function][work.subject]
        works.remove(work)
        if not works:
            del self.queues[work.function][work.subject]

    def finish(self, work: Work, state: str, *, remembers: bool = False) -> None:
        self.receipts[state] += 1
        self.remove(work)
        work.holder = None
        id = f"{work.function}.{work.key}"
        if state == "dead-lettered" and not work.once:
            self.bury(id, Letter(work.function, work.event, work.subject, work.size, work.replayed))
        elif remembers and not work.call and not work.replayed:
            self.history.pop(id, None)
            self.history[id] = Past(work.function, work.event, work.subject, work.size)
            self.trim_history(BUDGETS.history_function, work.function)
            self.trim_history()

    def trim_history(self, limit: int | None = None, function: str | None = None) -> None:
        """The oldest go, as far as the budgets say."""
        if limit is None:
            kept = [*self.letters.values(), *self.held.values(), *self.works()]
            others = sum(one.bytes for one in kept) + sum(self.state.values())
            limit = max(0, min(BUDGETS.history, BUDGETS.shared - others))
        ids = [id for id, past in self.history.items() if function in (None, past.function)]
        while sum(self.history[id].bytes for id in ids) > limit:
            del self.history[ids.pop(0)]
            self.dropped["history"] += 1

    def fail(
        self, work: Work, max_attempts: int, *, lost: bool, reject: bool = False, after_s: float | None = None
    ) -> None:
        if not lost and not work.entered:
            work.attempts += 1
        limit = 1 if work.once else max_attempts
        if reject or work.attempts >= limit or work.delivery >= MAX_DELIVERIES:
            self.finish(work, "dead-lettered")
            return
        self.receipts["failed"] += 1
        work.due = (lost and work.delivery <= 3) or after_s == 0
        work.holder, work.entered, work.expired, work.others, work.is_other = None, False, False, [], False

    def dismiss(self, subject: str) -> None:
        for key in self.holding.pop(subject, []):
            self.held[key].state, self.held[key].dismissed = "dismissed", self.step
            self.receipts["dismissed"] += 1
        self.verdicts[subject] = "dismissed"


def _written(work: Work) -> str | None:
    """A holder as Redis has it."""
    if work.holder is None:
        return None
    pod, slot = work.holder
    return pod + (f"/{slot}" if slot else "") + ("/+" if work.is_other else "")


in_hand = precondition(lambda self: any(work.holder for work in self.model.works()))
CHOICES = st.integers(0, 10**6)


class QueueMachine(RuleBasedStateMachine):
    """What happens to a queue."""

    def __init__(self, server: RedisServer, made: Settings) -> None:
        super().__init__()
        self.server = server
        self.runner = asyncio.Runner()
        self.redis = connect(made)
        self.store = Store(self.redis)
        self.memory = Memory(self.store, 100_000)
        self.memory.budgets = BUDGETS
        self.functions = Functions()
        self.queue = Queue(self.store, made, self.memory)
        self.attempts = Attempts(made, self.queue, self.functions, Metrics())
        self.history = History(self.store, self.queue, self.memory)
        self.dead = DeadLetters(self.store, self.queue, self.functions, "seoul")
        self.held = HeldEvents(self.store, self.queue, Triggers(self.functions))
        self.state = State(self.store, self.memory)
        self.functions.apply(Change("listed", list(DEPLOYMENTS.values())))
        self.model = Model()
        self.numbers = itertools.count(1)
        self.sent: list[tuple[Entry, str]] = []
        self.former: list[End] = []
        self.outages = 0
        self.do(self._empty())

    def next_step(self) -> None:
        """Steps that dismiss are milliseconds apart, by which Redis orders them."""
        self.model.step += 1
        time.sleep(0.002)

    def do(self, what: Awaitable[T]) -> T:
        async def run() -> T:
            return await what

        return self.runner.run(run())

    def command(self, *words: Any) -> Any:
        return self.do(self.store.command(*words))

    async def _empty(self) -> None:
        keys = [key async for key in self.redis.scan_iter("koren:*")]
        if keys:
            await self.redis.delete(*keys)

    def function(self, name: str) -> Function:
        return self.functions.get(name) or Function(name=name)

    # Events come in.

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from(["s", "t", "u", None]), st.booleans(), SIZES, TOPICS, st.booleans()),
            min_size=1,
            max_size=4,
        ),
        kind=st.sampled_from(["detected", "updated", "cleared"]),
    )
    def enqueue(self, batch: list[tuple[str | None, bool, int, str, bool]], kind: str) -> None:
        entries = []
        for subject, hold, size, topic, second in batch:
            number = next(self.numbers)
            parsed, body = parse(
                json.dumps(
                    event(
                        subject, kind, number, **({"hold": True} if hold and second else {}), data={"pad": "x" * size}
                    )
                ).encode()
            )
            entries.append(
                (
                    Entry(
                        key=event_key(parsed.source, parsed.id),
                        event=parsed,
                        message=body,
                        received_ms=round(time.time() * 1000),
                        topic=topic,
                        functions=self.functions.wanting(topic),
                    ),
                    topic,
                )
            )
        self.sent += entries
        self._take_in([entry for entry, _ in entries])

    @precondition(lambda self: self.sent)
    @rule(choices=st.lists(CHOICES, min_size=1, max_size=3))
    def repeat(self, choices: list[int]) -> None:
        entries = []
        for choice in choices:
            entry, topic = self.sent[choice % len(self.sent)]
            entries.append(replace(entry, functions=self.functions.wanting(topic)))
        self._take_in(entries)

    @rule(size=SIZES, number=st.integers(0, 5))
    def rubbish(self, size: int, number: int) -> None:
        body = b"no event " + b"x" * size
        self._take_in(
            [Entry(key=f"rubbish-{number}-{size}", event=None, message=body, received_ms=1, reason="not JSON")]
        )

    @rule(name=NAMES, subject=st.sampled_from(["s", None]), once=st.booleans(), size=SIZES)
    def call(self, name: str, subject: str | None, once: bool, size: int) -> None:
        function = self.functions.get(name)
        if function is None:
            return
        number = next(self.numbers)
        parsed, body = parse(json.dumps(event(subject, "called", number, data="x" * size)).encode())
        key = f"call-{number}"
        self._take_in(
            [
                Entry(
                    key=key,
                    event=parsed,
                    message=body,
                    received_ms=1,
                    functions=[function],
                    repeats_count=False,
                    once=once,
                    call=True,
                )
            ]
        )

    def _take_in(self, entries: list[Entry]) -> None:
        self.next_step()
        expected = [self._model_in(entry) for entry in entries]
        got = [taken.outcome for taken in self.do(self.queue.enqueue(entries))]
        assert got == expected
        self._trimmed()

    def _model_in(self, entry: Entry) -> str:
        model, size = self.model, size_of(entry)
        model.lengths[entry.key] = len(entry.message)
        if entry.event is not None and entry.repeats_count:
            if entry.key in model.seen:
                return "seen"
            model.seen.add(entry.key)
        if entry.reason:
            model.bury(entry.key, Letter("", None, None, size))
            return "new"
        names = [function.name for function in entry.functions]
        if entry.hold and model.verdicts.get(entry.subject) != "released":
            known = model.held.get(entry.key)
            if known is not None:
                return known.state
            waiting = Waiting(entry.subject, entry.topic, size, entry.key)
            needed = sum(one.bytes for one in model.held.values() if one.state == "held") + waiting.bytes
            if needed > BUDGETS.held:
                model.dropped["held-full"] += 1
                model.seen.discard(entry.key)
                model.bury(entry.key, Letter("", None, entry.subject, size))
                for key in [key for key, one in model.held.items() if one.state == "dismissed"]:
                    del model.held[key]
                    model.dropped["dismissed"] += 1
                return "dead-lettered"
            self._make_room(waiting.bytes)
            model.held[entry.key] = waiting
            if entry.subject in model.verdicts:
                waiting.state, waiting.dismissed = "dismissed", model.step
                return "dismissed"
            model.holding.setdefault(entry.subject, []).append(entry.key)
            return "held"
        work = Work("", entry.key, entry.subject, entry.key, size, entry.once, entry.call)
        if model.spread(work, names) and entry.once:
            return "full"
        return "new"

    def _make_room(self, needed: int) -> None:
        held = self.model.held
        while sum(one.bytes for one in held.values()) + needed > BUDGETS.held:
            del held[min((one.dismissed, key) for key, one in held.items() if one.state == "dismissed")[1]]
            self.model.dropped["dismissed"] += 1

    # Pods.

    @rule(name=NAMES, pod=PODS, slot=SLOTS)
    def take(self, name: str, pod: str, slot: int) -> None:
        answer = self.do(self.queue.take(self.function(name), pod, None, slot=slot))
        had = self.model.in_hand(pod, slot)
        if had is not None:
            assert answer == Kept(had.function, had.key, had.delivery)
            return
        heads = {work.key: work for work in self.model.heads(name)}
        if not heads:
            assert isinstance(answer, Nothing)
            return
        assert isinstance(answer, Taken)
        work = heads[answer.key]
        able = 0 if work.is_alone else sum(not head.is_alone for head in heads.values()) - 1
        assert len(answer.others) == min(able, self.function(name).batch_size - 1)
        work.others = [heads[other.key] for other in answer.others]
        for told, its in zip((*answer.others, answer), work.batch, strict=True):
            its.hand_out((pod, slot))
            its.is_other = its is not work
            assert told.delivery == its.delivery and not (its.is_other and its.is_alone)
            assert len(told.message) == self.model.lengths[its.event]
            self.former.append(self.end(its))

    def end(self, work: Work) -> End:
        return End(function=work.function, key=work.key, delivery=work.delivery)

    @in_hand
    @rule(choice=CHOICES, entered=st.booleans())
    def say(self, choice: int, entered: bool) -> None:
        work = self.model.chosen(choice)
        newly = entered and not work.entered
        for its in work.batch:
            its.attempts += newly
            its.entered = its.entered or entered
            its.expired = False
        self.model.receipts["started"] += newly * len(work.batch)
        progress = self.do(self.queue.extend(work.function, work.key, work.delivery, 1 if entered else None))
        assert len(progress.others) == (len(work.others) if newly else 0)
        assert progress.attempt == work.attempts

    @in_hand
    @rule(choice=CHOICES, large=st.booleans())
    def succeed(self, choice: int, large: bool) -> None:
        work = self.model.chosen(choice)
        self.next_step()
        self.do(self.attempts.succeed(self.end(work), b'"%s"' % (b"x" * (20_000 if large else 1))))
        for its in work.batch:
            self.model.finish(its, "succeeded", remembers=self.function(its.function).history_s > 0)

    @in_hand
    @rule(choice=CHOICES, reject=st.booleans(), after_s=st.sampled_from([None, None, 0, 50]))
    def fail(self, choice: int, reject: bool, after_s: float | None) -> None:
        work = self.model.chosen(choice)
        function = self.function(work.function)
        failure = Failure("ValueError", "no", reject=reject, retry_after_s=after_s)
        self.do(self.attempts.fail(function, self.end(work), failure))
        is_batch = len(work.batch) > 1
        for its in work.batch:
            self.model.fail(its, function.max_attempts, lost=False, reject=reject and not is_batch, after_s=after_s)
        self._trimmed()

    @in_hand
    @rule(choice=CHOICES)
    def crash(self, choice: int) -> None:
        """A pod is gone, with all that it has in hand."""
        holder = self.model.chosen(choice).holder
        assert holder is not None
        pod, _ = holder
        lost = {
            work.holder: work
            for work in self.model.works()
            if work.holder and work.holder[0] == pod and not work.is_other
        }
        held = self.do(self.queue.kept_by(pod))
        works = [work for _, work in sorted(lost.items())]
        assert held == [Kept(work.function, work.key, work.delivery) for work in works]
        for kept, work in zip(held, works, strict=True):
            self.do(self.attempts.release(kept, Failure("PodLost", "gone")))
            for its in work.batch:
                self.model.fail(its, self.function(its.function).max_attempts, lost=True)
            self._trimmed()

    @precondition(lambda self: self.former)
    @rule(choice=CHOICES, how=st.sampled_from(["extend", "succeed", "fail", "state"]))
    def come_late(self, choice: int, how: str) -> None:
        end = self.former[choice % len(self.former)]
        now = next((work for work in self.model.works() if self.end(work) == end), None)
        if now is not None and now.holder is not None:
            return
        function = self.function(end.function)
        late: dict[str, Any] = {
            "extend": lambda: self.queue.extend(end.function, end.key, end.delivery, 1),
            "succeed": lambda: self.attempts.succeed(end, b"1"),
            "fail": lambda: self.attempts.fail(function, end, Failure("E", "")),
            "state": lambda: self.state.put(
                end.function, "k", b"late", condition="", expires_s=None, invocation=(end.key, end.delivery)
            ),
        }
        with pytest.raises(LeaseLost):
            self.do(late[how]())

    @in_hand
    @rule(choice=CHOICES)
    def let_lease_run_out(self, choice: int) -> None:
        work = self.model.chosen(choice)
        for its in work.batch:
            self.command("ZADD", f"koren:fn:{its.function}:leased", "XX", 1, its.subject)
            its.expired = True

    @precondition(lambda self: any(work.expired for work in self.model.works()))
    @rule(name=NAMES)
    def sweep(self, name: str) -> None:
        function = self.function(name)
        expected = [work for work in self.model.works(name) if work.expired]
        leases = self.do(self.queue.expired(name))
        assert {(lease.key, lease.delivery) for lease in leases} == {(work.key, work.delivery) for work in expected}
        for work in self.model.works(name):
            if work.holder is not None and not work.expired:
                end = replace(self.end(work), only_expired=True)
                with pytest.raises(LeaseLost):
                    self.do(self.attempts.fail(function, end, Failure("LeaseExpired", ""), lost=True))
        for work in expected:
            end = replace(self.end(work), only_expired=True)
            ending = self.attempts.fail(function, end, Failure("LeaseExpired", ""), lost=True)
            if work.holder is None:  # with the first event of its batch
                with pytest.raises(LeaseLost):
                    self.do(ending)
                continue
            self.do(ending)
            for its in work.batch:
                if its.holder is not None:  # it may have ended before by itself
                    self.model.fail(its, function.max_attempts, lost=True)
        self._trimmed()

    @precondition(lambda self: any(not work.due for work in self.model.works()))
    @rule(name=NAMES)
    def let_time_pass(self, name: str) -> None:
        for works in self.model.queues[name].values():
            if works[0].holder is None:
                self.command("ZADD", f"koren:fn:{name}:ready", "XX", 1, works[0].subject)
                works[0].due = True

    @precondition(lambda self: any(self.model.works()))
    @rule(choice=CHOICES)
    def withdraw(self, choice: int) -> None:
        works = list(self.model.works())
        work = works[choice % len(works)]
        assert self.do(self.queue.withdraw(work.function, work.key)) == (work.holder is None)
        if work.holder is None:
            self.model.remove(work)

    @rule(name=NAMES, key=st.sampled_from(["k", "l"]), size=st.sampled_from([1, 300, 900]), pod=PODS, slot=SLOTS)
    def keep_state(self, name: str, key: str, size: int, pod: str, slot: int) -> None:
        work = self.model.in_hand(pod, slot)
        of = None
        if work is not None:
            name, of = work.function, (work.key, work.delivery)
        state = self.model.state
        more = len(key) + size + 250 - state.get((name, key), 0)
        its = sum(bytes for (function, _), bytes in state.items() if function == name)
        full = more > 0 and (its + more > BUDGETS.state_function or sum(state.values()) + more > BUDGETS.state)
        put = self.state.put(name, key, b"x" * size, condition="", expires_s=None, invocation=of)
        if full:
            self.model.dropped["state-full"] += 1
            with pytest.raises(StateFull):
                self.do(put)
        else:
            assert self.do(put)
            state[name, key] = len(key) + size + 250

    # People.

    @precondition(lambda self: self.model.letters)
    @rule(choice=CHOICES)
    def redrive(self, choice: int) -> None:
        model = self.model
        id = list(model.letters)[choice % len(model.letters)]
        letter = model.letters[id]
        if not letter.function or self.functions.get(letter.function) is None:
            return
        key = f"redriven-{next(self.numbers)}"
        with mock.patch("uuid.uuid4", lambda: key):
            assert self.do(self.dead.redrive(id))
        del model.letters[id]
        assert letter.subject is not None and letter.event is not None
        subject = letter.subject if letter.subject.startswith("s/") else f"e/{key}"
        work = Work("", key, subject, letter.event, letter.size, False, replayed=letter.replayed)
        model.spread(work, [letter.function])
        self._trimmed()

    @precondition(lambda self: self.model.history)
    @rule(name=NAMES, subject=st.sampled_from([None, "s"]), dry_run=st.booleans())
    def replay(self, name: str, subject: str | None, dry_run: bool) -> None:
        function = self.functions.get(name)
        if function is None:
            return
        model, request = self.model, f"replay-{next(self.numbers)}"
        its = [past for past in model.history.values() if past.function == name]
        its = [past for past in its if subject is None or past.subject == f"s/{subject}"]
        needed = sum(past.size + 1000 for past in its)
        queued = sum(work.bytes for work in model.works(name)) + needed
        free = BUDGETS.queue - sum(work.bytes for work in model.works()) - needed
        asked: dict[str, Any] = {"from_ms": 0, "to_ms": EVER_MS, "subject": subject, "request": request, "by": "kim"}
        if its and (queued > BUDGETS.queue_function or queued > 4 * free):
            with pytest.raises(NoRoom):
                self.do(self.history.replay(function, **asked, dry_run=dry_run))
            return
        assert self.do(self.history.replay(function, **asked, dry_run=dry_run)).events == len(its)
        if dry_run:
            return
        assert self.do(self.history.replay(function, **asked)).is_repeat
        for place, past in enumerate(its, 1):
            key = f"{request}-{place}"
            of = past.subject if past.subject.startswith("s/") else f"e/{key}"
            assert model.put(name, Work(name, key, of, past.event, past.size, False, replayed=True))

    @precondition(lambda self: self.model.letters)
    @rule(choice=CHOICES)
    def throw_away(self, choice: int) -> None:
        id = list(self.model.letters)[choice % len(self.model.letters)]
        assert self.do(self.dead.delete(id))
        assert not self.do(self.dead.delete(id))
        assert not self.do(self.dead.redrive(id))
        del self.model.letters[id]

    @precondition(lambda self: len(self.model.letters) > 2)
    @rule(name=st.none() | NAMES)
    def purge(self, name: str | None) -> None:
        gone = [id for id, letter in self.model.letters.items() if name in (None, letter.function)]
        assert self.do(self.dead.purge(name)) == len(gone)
        for id in gone:
            del self.model.letters[id]

    @precondition(lambda self: self.model.held)
    @rule(choice=CHOICES, releases=st.booleans())
    def decide(self, choice: int, releases: bool) -> None:
        model = self.model
        key = list(model.held)[choice % len(model.held)]
        waiting = model.held[key]
        if waiting.state == "dismissed":
            return
        keys = model.holding[waiting.subject]
        self.next_step()
        if not releases:
            assert [one.id for one in self.do(self.held.dismiss(key, "kim"))] == keys
            model.dismiss(waiting.subject)
            return
        assert [one.id for one in self.do(self.held.release(key, "kim"))] == keys
        del model.holding[waiting.subject]
        model.verdicts[waiting.subject] = "released"
        for key in keys:
            one = model.held.pop(key)
            names = [function.name for function in self.functions.wanting(one.topic)]
            model.receipts["received"] += 1
            model.receipts["no-function"] += not names
            model.spread(Work("", key, one.subject, key, one.size, False), names)
        self._trimmed()

    # Time, and what goes.

    @precondition(lambda self: self.model.held or self.model.letters or self.model.history)
    @rule(choice=CHOICES, what=st.sampled_from(["held", "dismissed", "dead", "history", "unwanted"]))
    def tidy(self, choice: int, what: str) -> None:
        model = self.model
        kept: dict[str, Any] = {"dead": model.letters, "history": model.history, "unwanted": {}}.get(what, model.held)
        ids = [id for id, one in kept.items() if what in ("dead", "history") or one.state == what]
        late, functions = 0, self.functions.all()
        self.next_step()
        if ids:
            id = ids[choice % len(ids)]
            self.command("ZADD", f"koren:{what}", "XX", 1, id)
            if what == "history":
                self.command("ZADD", f"koren:fn:{model.history[id].function}:history", "XX", 1, id)
                model.history = {id: model.history.pop(id), **model.history}
                if model.history[id].function in {function.name for function in functions}:
                    del model.history[id]
            elif what == "dead":
                del model.letters[id]
                model.dropped["dead-letters-by-age"] += 1
            elif what == "dismissed":
                del model.held[id]
            else:
                late = len(model.holding[model.held[id].subject])
                model.dismiss(model.held[id].subject)
        if what == "unwanted":
            functions = [replace(function, history_s=0) for function in functions]
            names = {function.name for function in functions}
            model.history = {id: past for id, past in model.history.items() if past.function not in names}
        model.trim_history()
        assert self.do(self.queue.tidy(functions)) == late

    @precondition(lambda self: len(self.functions.all()) == len(DEPLOYMENTS))
    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.functions.apply(Change("removed", [DEPLOYMENTS[name]]))

    @precondition(lambda self: len(self.functions.all()) < len(DEPLOYMENTS))
    @rule()
    def deploy_again(self) -> None:
        self.functions.apply(Change("listed", list(DEPLOYMENTS.values())))

    @precondition(lambda self: len(self.functions.all()) < len(DEPLOYMENTS) or self.model.noted_gone)
    @rule(long_gone=st.booleans())
    def clear_up(self, long_gone: bool) -> None:
        model = self.model
        known = [function.name for function in self.functions.all()]
        here = {name.decode() for name in self.command("SMEMBERS", "koren:functions")}
        model.noted_gone -= set(known)
        ripe = model.noted_gone & here
        if long_gone:
            for name in ripe:
                self.command("HSET", "koren:gone", name, 1)
        model.noted_gone |= here - set(known)
        while True:
            due = {name for name in ripe if any(model.works(name))}
            buried = self.do(self.queue.clear_up_after(known))
            assert set(buried) == due
            ripe = model.noted_gone & here  # the grace is over at once here
            for name in buried:
                for subject in list(model.queues[name]):
                    left = self.command("LRANGE", f"koren:fn:{name}:queue:{subject}", 0, -1)
                    for work in list(model.queues[name][subject]):
                        if work.key.encode() not in left:
                            model.finish(work, "dead-lettered")
            self._trimmed()
            done = ripe - set(buried)
            model.history = {id: past for id, past in model.history.items() if past.function not in done}
            if not any(any(model.works(name)) for name in ripe):
                break
        if long_gone:
            for name in ripe & {name.decode() for name in self.command("SMEMBERS", "koren:functions")}:
                self.command("HSET", "koren:gone", name, 1)
            assert self.do(self.queue.clear_up_after(known)) == []
            for name in ripe:
                model.noted_gone.discard(name)
                model.state = {key: bytes for key, bytes in model.state.items() if key[0] != name}
            assert not ripe & {name.decode() for name in self.command("SMEMBERS", "koren:functions")}

    @precondition(lambda self: self.outages < 1)
    @rule(name=NAMES)
    def outage(self, name: str) -> None:
        self.outages += 1
        self.server.kill()
        with pytest.raises(StoreUnavailable):
            self.do(self.queue.take(self.function(name), "pod-1", None))
        self.server.start()
        until = time.monotonic() + 10
        while True:
            try:
                self.command("HLEN", "koren:holders")
                return
            except StoreUnavailable:
                assert time.monotonic() < until
                time.sleep(0.02)

    # What must hold.

    def _trimmed(self) -> None:
        """Takes over which of the oldest dead letters and remembered events went, if they had to."""
        model = self.model
        letters, by_age = model.letters, self.do(self._letter_times())
        gone = {id: letter for id, letter in letters.items() if id not in by_age}
        if gone:
            over = sum(letter.bytes for letter in letters.values()) > BUDGETS.dead
            for name in {letter.function for letter in gone.values()}:
                its = [letter for letter in letters.values() if letter.function == name]
                assert over or sum(letter.bytes for letter in its) > BUDGETS.dead_function
                youngest_gone = max(letter.time for id, letter in gone.items() if letter.function == name)
                assert all(
                    letter.time == 0 or youngest_gone <= letter.time
                    for id, letter in letters.items()
                    if id in by_age and letter.function == name
                )
            for id in gone:
                del letters[id]
            model.dropped["dead-letters"] += len(gone)
        for id, letter in letters.items():
            letter.time = by_age[id]
        seen = {member.hex() for member in self.command("ZRANGE", "koren:seen", 0, -1)}
        assert seen <= model.seen and len(seen) == min(len(model.seen), BUDGETS.seen)
        if len(model.seen) > len(seen):
            model.dropped["seen"] += len(model.seen) - len(seen)
            model.seen = seen

    async def _letter_times(self) -> dict[str, int]:
        found = await self.store.command("ZRANGE", "koren:dead", 0, -1)
        times = await self.store.commands(*(("HGET", b"koren:dead:" + id, "time") for id in found)) if found else []
        return {id.decode(): int(time) for id, time in zip(found, times, strict=True)}

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        there = self.do(self._dump())
        model = self.model
        refs: Counter[str] = Counter(work.event for work in model.works())
        refs.update(letter.event for letter in model.letters.values() if letter.event)
        refs.update(past.event for past in model.history.values())
        bytes: Counter[str] = Counter()
        holders, expected = {}, {}
        for name, queue in model.queues.items():
            ready, leased = set(), set()
            for subject, works in queue.items():
                expected[f"fn:{name}:queue:{subject}"] = [work.key for work in works]
                for place, work in enumerate(works):
                    assert place == 0 or work.holder is None
                    expected[f"fn:{name}:invocation:{work.key}"] = (work.attempts, work.delivery, _written(work))
                    bytes["queue"] += work.bytes
                    bytes[f"queue:{name}"] += work.bytes
                (ready if works[0].holder is None else leased).add(subject)
                if works[0].holder is not None and not works[0].is_other:
                    work = works[0]
                    holders[_written(work)] = f"{name}\n{work.key}\n{work.delivery}"
            letters = {id for id, letter in model.letters.items() if letter.function == name}
            past = {id for id, past in model.history.items() if past.function == name}
            for part, members in (("ready", ready), ("leased", leased), ("dead", letters), ("history", past)):
                if members:
                    expected[f"fn:{name}:{part}"] = members
            states = {key for function, key in model.state if function == name}
            if states:
                expected[f"fn:{name}:states"] = states
                expected |= {f"fn:{name}:state:{key}": None for key in states}
                expected[f"fn:{name}:state-bytes"] = {
                    key: str(bytes) for (function, key), bytes in model.state.items() if function == name
                }
        for (name, _), amount in model.state.items():
            bytes["state"] += amount
            bytes[f"state:{name}"] += amount
        for id, letter in model.letters.items():
            expected[f"dead:{id}"] = (letter.function, letter.event, letter.bytes)
            bytes["dead"] += letter.bytes
            if letter.function:
                bytes[f"dead:{letter.function}"] += letter.bytes
        for id, past_one in model.history.items():
            expected[f"history:{id}"] = (past_one.event, past_one.bytes)
            bytes["history"] += past_one.bytes
            bytes[f"history:{past_one.function}"] += past_one.bytes
        for key, one in model.held.items():
            expected[f"held:{key}"] = one.state
            bytes["held"] += one.bytes
        for state in ("held", "dismissed"):
            if members := {key for key, one in model.held.items() if one.state == state}:
                expected[state] = members
        expected |= {f"holding:{subject}": keys for subject, keys in model.holding.items()}
        expected |= {f"event:{event}": count for event, count in refs.items()}
        if model.letters:
            expected["dead"] = set(model.letters)
        if model.history:
            expected["history"] = list(model.history)
        if holders:
            expected["holders"] = holders
        if bytes:
            expected["bytes"] = {name: str(amount) for name, amount in bytes.items()}
        if dropped := +model.dropped:
            expected["dropped"] = {what: str(count) for what, count in dropped.items()}
        assert there == expected

    async def _dump(self) -> dict[str, Any]:
        """All that is there, but what the model does not know."""
        names = [key.decode() async for key in self.redis.scan_iter("koren:*", count=1000)]
        found: dict[str, Any] = {}
        asked: list[tuple[Any, ...]] = []
        keys = []
        for key in names:
            name = key.removeprefix("koren:")
            part = name.split(":")[2] if name.startswith("fn:") else name.partition(":")[0]
            if part in {"closed", "incidents", "activated", "replay", *STAYS} - {"dropped"}:
                continue
            keys.append((key, name, part))
            match part:
                case "queue" | "holding":
                    asked.append(("LRANGE", key, 0, -1))
                case "ready" | "leased" | "states":
                    asked.append(("ZRANGE", key, 0, -1))
                case "dead" | "history" | "held" | "dismissed" if name == part or name.startswith("fn:"):
                    asked.append(("ZRANGE", key, 0, -1))
                case "invocation":
                    asked.append(("HMGET", key, "attempts", "delivery", "holder", "bytes"))
                case "event":
                    asked.append(("HMGET", key, "refs", "body", "meta", "received"))
                case "dead":
                    asked.append(("HMGET", key, "function", "event", "bytes", "reason"))
                case "history":
                    asked.append(("HMGET", key, "event", "bytes"))
                case "held":
                    asked.append(("HGET", key, "state"))
                case "holders" | "bytes" | "dropped" | "state-bytes":
                    asked.append(("HGETALL", key))
                case "state":
                    asked.append(("EXISTS", key))
                case _:
                    raise AssertionError(f"nobody knows {key}")
        answers = await self.store.commands(*asked) if asked else []
        for (_, name, part), answer in zip(keys, answers, strict=True):
            match part:
                case "queue" | "holding":
                    found[name] = [item.decode() for item in answer]
                case "invocation":
                    attempts, delivery, holder, size = answer
                    assert int(size) >= 500
                    found[name] = (int(attempts), int(delivery), holder.decode() if holder else None)
                case "event":
                    assert None not in answer
                    found[name] = int(answer[0])
                case "dead" if isinstance(answer, list) and len(answer) == 4 and name.startswith("dead:"):
                    function, event, size, _ = answer
                    found[name] = (function.decode(), event.decode() if event else None, int(size))
                case "history" if name == part:
                    found[name] = [item.decode() for item in answer]
                case "history" if name.startswith("history:"):
                    found[name] = (answer[0].decode(), int(answer[1]))
                case "held" if isinstance(answer, bytes):
                    found[name] = answer.decode()
                case "holders" | "bytes" | "dropped" | "state-bytes":
                    pairs = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
                    found[name] = {key.decode(): value.decode() for key, value in pairs.items()}
                case "state":
                    found[name] = None
                case _:
                    found[name] = {item.decode() for item in answer}
        return found

    def teardown(self) -> None:
        try:
            if not hasattr(self, "redis"):
                return
            self._end_all()
        finally:
            self.do(self.redis.aclose())
            self.runner.close()

    def _end_all(self) -> None:
        """All work done and all letters thrown away, nothing is left but what is meant to stay."""
        for name in DEPLOYMENTS:
            self.functions.apply(Change("changed", [DEPLOYMENTS[name]]))
        self.do(self.queue.clear_up_after(list(DEPLOYMENTS)))
        while any(work.holder for work in self.model.works()):
            self.succeed(0, False)
        for name in DEPLOYMENTS:
            while any(self.model.works(name)):
                self.let_time_pass(name)
                self.take(name, "pod-1", 0)
                self.succeed(0, False)
        for subject in list(self.model.holding):
            self.do(self.queue.dismiss(subject, "kim"))
            self.model.dismiss(subject)
        for key in list(self.model.held):
            self.command("ZADD", "koren:dismissed", "XX", 1, key)
        self.do(self.queue.tidy())
        self.model.held.clear()
        self.do(self.dead.purge())
        self.model.letters.clear()
        self.do(self.queue.tidy([Function(name=name) for name in DEPLOYMENTS]))
        self.model.history.clear()
        self.redis_holds_what_the_model_says()
        receipts = self.command("XRANGE", "koren:receipts", "-", "+")
        states = Counter(fields[b"state"].decode() for _, fields in receipts)
        assert states == +self.model.receipts


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that may be killed; in memory, for the disk tells nothing here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="koren-model-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.mark.fuzz
def test_the_queue_does_what_its_model_says(own_redis: RedisServer) -> None:
    nowhere = Path("/nowhere")
    made = Settings(
        region="seoul",
        pod="gateway-0",
        tls_certificate=nowhere,
        tls_key=nowhere,
        tls_ca=nowhere,
        broker_host="localhost",
        redis_host="127.0.0.1",
        redis_port=own_redis.port,
        redis_user=REDIS_USER,
        redis_password=REDIS_PASSWORD,
        max_deliveries=MAX_DELIVERIES,
        retry_base_s=1000.0,
        retry_cap_s=1000.0,
        lease_s=600.0,
        gone_after_s=0.0,
    )
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: QueueMachine(own_redis, made), settings=search(25, 2000, stateful_step_count=50)
    )
