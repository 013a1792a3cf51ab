"""The outbox against a model: random happenings, each event's turn worked out the slow way."""

import math
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from koren_events.resend import RESEND_AFTER_S, SETTLE_S, Outbox


@dataclass
class Modelled:
    key: str
    order: tuple[str, str]
    sends: int = 0
    state: str = "to go"  # or "in flight", "rests", "refused"
    sent_at: float = 0.0
    doubted_at: float | None = None

    @property
    def due_at(self) -> float:
        if self.state in ("to go", "in flight"):
            return -math.inf
        if self.doubted_at is None:
            return self.sent_at + RESEND_AFTER_S
        pause_s = min(2.0 ** (self.sends - 1), RESEND_AFTER_S)
        return max(self.sent_at + pause_s, self.doubted_at + SETTLE_S)


class OutboxMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.now = 1000.0
        self.events: list[Modelled] = []  # oldest first
        self.count = 0

    def first_of_each(self) -> list[Modelled]:
        firsts: dict[tuple[str, str], Modelled] = {}
        for event in self.events:
            firsts.setdefault(event.order, event)
        return list(firsts.values())

    def make_due(self) -> None:
        for event in self.first_of_each():
            if event.state != "in flight" and event.due_at <= self.now:
                event.state, event.doubted_at = "to go", None

    def pick(self, at: int, *states: str) -> Modelled | None:
        fitting = [event for event in self.events if not states or event.state in states]
        return fitting[at % len(fitting)] if fitting else None

    @rule(
        subject=st.sampled_from("abc"),
        region=st.sampled_from(["seoul", "busan"]),
        sent_s_ago=st.none() | st.sampled_from([0.0, 3.0, 900.0]),
        sends=st.integers(0, 12),
    )
    def add(self, subject: str, region: str, sent_s_ago: float | None, sends: int) -> None:
        key = f"event {self.count}"
        self.count += 1
        event = Modelled(key, (region, subject), sends)
        sent_at = None
        if sent_s_ago is not None:
            sent_at = self.now - sent_s_ago
            event.state, event.sent_at, event.sends = "rests", sent_at, max(sends, 1)
        self.events.append(event)
        self.outbox.add(key, region, subject, sends=sends, sent_at=sent_at)

    @precondition(lambda self: self.events)
    @rule(at=st.integers(0, 50))
    def add_what_is_here(self, at: int) -> None:
        event = self.pick(at)
        assert event is not None
        self.outbox.add(event.key, *event.order)

    @rule(room=st.integers(0, 6))
    def take(self, room: int) -> None:
        self.make_due()
        expected = [event for event in self.first_of_each() if event.state == "to go"]
        expected.sort(key=self.events.index)
        assert self.outbox.take(self.now, room=room) == [event.key for event in expected[:room]]
        for event in expected[:room]:
            event.state = "in flight"

    @rule(at=st.integers(0, 50), refused=st.booleans())
    def answer(self, at: int, refused: bool) -> None:
        event = self.pick(at, "in flight")
        if event is not None:
            self.outbox.acknowledged(event.key, self.now, refused=refused)
            event.state = "refused" if refused else "rests"
            event.sent_at, event.doubted_at, event.sends = self.now, None, event.sends + 1

    @rule(at=st.integers(0, 50))
    def come_back_unsent(self, at: int) -> None:
        event = self.pick(at, "in flight")
        if event is not None:
            self.outbox.returned(event.key)
            event.state = "to go"

    @rule(at=st.integers(0, 50))
    def receive(self, at: int) -> None:
        event = self.pick(at)
        if event is not None:
            assert self.outbox.received(event.key)
            self.events.remove(event)
            assert not self.outbox.received(event.key)

    @rule()
    def happen_to_what_is_unknown(self) -> None:
        assert not self.outbox.received("unknown")
        self.outbox.acknowledged("unknown", self.now)
        self.outbox.returned("unknown")

    @rule()
    def connect(self) -> None:
        self.outbox.connected(self.now)
        for event in self.events:
            if event.state == "in flight":
                event.state = "to go"
            elif event.state in ("rests", "refused") and event.doubted_at is None:
                event.doubted_at = self.now

    @rule(region=st.sampled_from(["seoul", "busan"]))
    def region_returns(self, region: str) -> None:
        self.outbox.region_returned(region, self.now)
        for event in self.events:
            if event.state == "rests" and event.doubted_at is None and event.order[0] == region:
                event.doubted_at = self.now

    @rule(seconds=st.sampled_from([0.4, 1.0, 2.0, 30.0, 300.0, 600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def what_is_in_flight_is_counted(self) -> None:
        assert self.outbox.in_flight == sum(event.state == "in flight" for event in self.events)

    @invariant()
    def nothing_is_due_before_it_says(self) -> None:
        dues = [event.due_at for event in self.first_of_each() if event.state in ("rests", "refused")]
        assert self.outbox.next_due_at <= min(dues, default=math.inf)

    def teardown(self) -> None:
        """With a broker that answers and regions that take, each event goes within twice the longest pause."""
        for event in self.events:
            if event.state == "in flight":
                self.outbox.acknowledged(event.key, self.now)
        end, gone = self.now + 2 * RESEND_AFTER_S + 2 * SETTLE_S, set()
        while self.now <= end and (taken := self.outbox.take(self.now, room=3)) is not None:
            gone |= set(taken)
            for key in taken:
                self.outbox.acknowledged(key, self.now)
                self.outbox.received(key)
            if not taken:
                self.now = max(self.now + 0.001, self.outbox.next_due_at)
        assert gone == {event.key for event in self.events}


OutboxMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestOutbox = OutboxMachine.TestCase
