"""Whatever is paused, resumed, delayed and limited in whatever order: what may start does, and nothing else."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_queue import FN, done, end, entry

from koren_gateway.cluster.functions import Function
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import Nothing, Queue, Taken
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings

PLAIN = replace(FN, opens=None, closes=None)
LATER = "later"
"""A trigger whose delay does not end while a test runs."""
TRIGGERS = ("", "a", "b", LATER)
COMES = st.tuples(st.just("comes"), st.integers(0, 1), st.sampled_from(TRIGGERS))
CHOICE = st.integers(0, 9)
EVENTS = st.lists(COMES, min_size=4, max_size=8)
STEPS = st.lists(
    st.one_of(
        COMES,
        st.tuples(st.just("pauses"), st.sets(st.sampled_from(TRIGGERS[1:]))),
        st.tuples(st.just("limits"), st.sampled_from([None, 1, 2])),
        *(st.tuples(st.just(what), CHOICE) for what in ("taken", "taken", "done", "done", "fails", "withdrawn")),
    ),
    min_size=10,
    max_size=40,
)


@dataclass
class Region:
    """The queue of a function, and what should be in it."""

    queue: Queue
    store: Store
    works: defaultdict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """By subject: keys with their triggers, in order."""
    in_hand: dict[str, Taken] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    most: int | None = None
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def function(self) -> Function:
        return replace(PLAIN, max_in_flight=self.most)

    def waiting(self, paused: bool) -> set[str]:
        """The subjects that wait, for their trigger or not."""
        return {
            subject
            for subject, works in self.works.items()
            if works and subject not in self.in_hand and (works[0][1] in self.paused) is paused
        }

    def startable(self) -> set[str]:
        """The subjects that wait for nothing but a pod, or the limit."""
        return {subject for subject in self.waiting(paused=False) if self.works[subject][0][1] != LATER}

    async def comes(self, place: int, trigger: str) -> None:
        subject = f"s{place}"
        via = replace(PLAIN, via=trigger, via_delay_s=3600 if trigger == LATER else 0)
        made = entry((via,), subject=subject, id=f"e{next(self.numbers)}")
        assert [one.outcome for one in await self.queue.enqueue([made])] == ["new"]
        self.works[subject].append((made.key, trigger))

    async def pauses(self, triggers: set[str]) -> None:
        stay: Sequence[int] = (0, 0)
        while stay:
            ready, parked = stay
            stay = await self.store.run("pause", name=FN.name, paused=sorted(triggers), ready=ready, parked=parked)
        self.paused = triggers

    async def limits(self, most: int | None) -> None:
        self.most = most

    async def taken(self, _: int) -> None:
        taken = await self.queue.take(self.function, f"pod-{next(self.numbers)}", None)
        may_start = self.startable() if self.most is None or len(self.in_hand) < self.most else set()
        if isinstance(taken, Nothing):
            assert not may_start
            return
        assert isinstance(taken, Taken) and taken.event is not None and taken.event.subject is not None
        assert taken.event.subject in may_start
        assert taken.key == self.works[taken.event.subject][0][0]
        self.in_hand[taken.event.subject] = taken

    async def done(self, choice: int) -> None:
        if self.in_hand:
            subject = sorted(self.in_hand)[choice % len(self.in_hand)]
            taken = self.in_hand.pop(subject)
            await done(self.queue, taken)
            key, _ = self.works[subject].pop(0)
            assert key == taken.key

    async def fails(self, choice: int) -> None:
        if self.in_hand:
            subject = sorted(self.in_hand)[choice % len(self.in_hand)]
            await self.queue.retry(end(self.in_hand.pop(subject)), "ValueError: no", 0.0)

    async def withdrawn(self, choice: int) -> None:
        works = [(subject, key) for subject, works in sorted(self.works.items()) for key, _ in works]
        if works:
            subject, key = works[choice % len(works)]
            held = self.in_hand.get(subject)
            assert await self.queue.withdraw(FN.name, key) is (held is None or held.key != key)
            if held is None or held.key != key:
                self.works[subject] = [work for work in self.works[subject] if work[0] != key]

    async def check(self) -> None:
        free = len(self.works) if self.most is None else max(0, self.most - len(self.in_hand))
        runnable, waiting = min(len(self.startable()), free), len(self.waiting(paused=False))
        backlog = await self.queue.backlog(self.function)
        assert (backlog.runnable, backlog.in_flight, backlog.waiting, backlog.paused) == (
            runnable,
            len(self.in_hand),
            waiting - runnable,
            len(self.waiting(paused=True)),
        )

    async def finish(self) -> None:
        """Resumed and without limits, everything is handled but what waits for its delay."""
        await self.pauses(set())
        self.most = None
        for subject, works in self.works.items():
            for key, trigger in list(works):
                if trigger == LATER:
                    assert await self.queue.withdraw(FN.name, key)
                    self.works[subject].remove((key, trigger))
        while any(self.works.values()):
            await self.taken(0)
            await self.done(0)
        assert not (await self.queue.backlog(self.function)).active


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS, STEPS)
def test_what_may_start_does_and_nothing_else(
    lab_settings: Settings, events: list[tuple[object, ...]], steps: list[tuple[object, ...]]
) -> None:
    async def run() -> None:
        redis = connect(lab_settings)
        try:
            if keys := [key async for key in redis.scan_iter("koren:*")]:
                await redis.delete(*keys)
            store = Store(redis)
            region = Region(Queue(store, lab_settings, Memory(store, lab_settings.batch_bytes)), store)
            for what, *more in (*events, *steps):
                await getattr(region, str(what))(*more)
                await region.check()
            await region.finish()
        finally:
            await redis.aclose()

    asyncio.run(run())
