# SPDX-License-Identifier: Apache-2.0
"""The way of one incident, read from the events and receipts that a broker carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

try:
    from koren_events import Event, Receipt, ReceiptState
except ImportError:
    HAS_EVENTS = False
else:
    HAS_EVENTS = True

DETECTED = "kr.koren.traffic.accident.detected"
CLEARED = "kr.koren.traffic.accident.cleared"


class WentWrong(Exception):
    """The incident's way ended elsewhere than it should; the text says where."""


@dataclass(frozen=True)
class Step:
    """One step that was made, with its time as the part itself gave it."""

    name: str
    time: datetime
    text: str = ""


@dataclass
class Incident:
    """The first incident that ``camera`` reports from ``since`` on, and its way through ``function`` in ``region``."""

    region: str
    camera: str
    function: str
    since: datetime
    detected: Event | None = None
    cleared: Event | None = None
    post: dict[str, Any] | None = None
    _arrived: dict[str, datetime] = field(default_factory=dict)
    _receipts: dict[str, list[Receipt]] = field(default_factory=dict)

    def accept(self, topic: str, message: bytes, arrived: datetime) -> None:
        """Take note of one message.

        Raises:
            WentWrong: it is of another region, or says that an event of the incident came to nothing.
        """
        kind, region = topic.split("/")[:2]
        if kind == "events":
            self._accept_event(region, Event.from_json(message), arrived)
        else:
            self._accept_receipt(region, Receipt.from_json(message))

    def _accept_event(self, region: str, event: Event, arrived: datetime) -> None:
        if event.time < self.since or event.id in self._arrived:
            return
        if region != self.region:
            raise WentWrong(f"region {region} was not to see anything, and got {event.type} from {event.source}")
        if event.type == DETECTED and event.source == self.camera and self.detected is None:
            self.detected = event
        elif event.type == CLEARED and self.detected is not None and event.subject == self.detected.subject:
            self.cleared = event
        else:
            return
        self._arrived[event.id] = arrived

    def _accept_receipt(self, region: str, receipt: Receipt) -> None:
        if receipt.time < self.since or receipt.source != self.camera:
            return
        if receipt.function not in (None, self.function):
            return
        if region != self.region:
            raise WentWrong(f"region {region} was not to do anything, and says {receipt.state} of {receipt.id}")
        self._receipts.setdefault(receipt.id, []).append(receipt)
        if receipt.state is ReceiptState.DEAD_LETTERED:
            raise WentWrong(f"the event {receipt.id} is a dead letter: {receipt.error}")
        if receipt.state is ReceiptState.NO_FUNCTION:
            raise WentWrong(f"no function in {region} wants the event {receipt.id}")

    def steps(self) -> Iterator[Step]:
        """The steps that are known to be made, in their order."""
        if self.detected is None:
            return
        seen = self.detected
        what = f"{seen.source}: {seen.data['what']}, {seen.data['severity']}, {seen.data['confidence']:.0%} sure"
        yield Step("seen", seen.time, what)
        yield Step("sent", self._arrived[seen.id], "the event is at the centre's broker")
        phases, done = self._phases(seen)
        for name, phase, text in (
            ("durable", "durable", f"the event is on disk in {self.region}"),
            ("pod started", "pod_started", f"{self.function} runs in {self.region}"),
            ("handler entered", "handler_entered", ""),
        ):
            if phase in phases:
                yield Step(name, phases[phase], text)
        if done is not None:
            self.post = done.result
            yield Step("posted", phases["handler_done"], str(done.result["uri"]))
        if self.cleared is not None:
            yield Step("cleared", self.cleared.time, "the road is free")
            phases, done = self._phases(self.cleared)
            if done is not None:
                self.post = done.result
                yield Step("edited", phases["handler_done"], str(done.result["uri"]))

    def _phases(self, event: Event) -> tuple[dict[str, datetime], Receipt | None]:
        """The phases known of an event, and its last receipt."""
        phases: dict[str, datetime] = {}
        done = None
        for receipt in self._receipts.get(event.id, []):
            phases |= receipt.phases
            if receipt.state is ReceiptState.SUCCEEDED:
                done = receipt
        return phases, done

    def failures(self) -> Iterator[str]:
        """What failed on the way and is tried again."""
        for receipts in self._receipts.values():
            for receipt in receipts:
                if receipt.state is ReceiptState.FAILED:
                    yield f"attempt {receipt.attempt} failed: {receipt.error}"
