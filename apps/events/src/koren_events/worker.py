"""The publisher's thread: decides what is sent when, from what happens on the link and in here."""

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from koren_events.errors import SpoolBroken
from koren_events.health import Health
from koren_events.link import (
    WINDOW,
    Answered,
    Arrived,
    Connected,
    Disconnected,
    Happening,
    Senseless,
)
from koren_events.receipt import Receipt
from koren_events.resend import Outbox
from koren_events.spool import Spool
from koren_events.times import utc_now
from koren_events.topics import RECEIPTS_FILTER, receipt_topic
from koren_events.tracks import Tracks

if TYPE_CHECKING:
    from koren_events.publish_spans import PublishSpans

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0
_GOODBYE_S = 1.0
_HEALTH_FILTER = "health/+/gateway"


@dataclass(frozen=True, slots=True)
class Added:
    """An event is in the spool."""

    key: str
    region: str
    subject: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The publisher is being left."""


class _Nonsense(ValueError):
    """Something came in that no part of this system says."""


class Sender(Protocol):
    """What the worker needs of a link."""

    address: str

    def subscribe(self, *filters: str) -> None: ...
    def send(self, topic: str, message: bytes, *, connection: int) -> int | None: ...
    def say(self, health: Health, *, wait_s: float = 0.0) -> None: ...


@dataclass(slots=True)
class _ToSettle:
    """What the spool is to be told."""

    sent: list[str] = field(default_factory=list)
    received: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sent or self.received)


class Worker:
    """Takes happenings from a queue, in a thread of its own, and acts on each.

    Whatever one of them holds, the others are acted on: what fails is logged and counted in
    `faults`. Only a spool that is broken ends the thread; `tracks` is told.
    """

    def __init__(
        self,
        happenings: "queue.SimpleQueue[Happening | Added | Stop]",
        link: Sender,
        spool: Spool,
        tracks: Tracks,
        *,
        on_receipt: Callable[[Receipt], None] | None,
        health_part: str | None,
        spans: "PublishSpans | None" = None,
    ) -> None:
        self.faults = 0
        self.down_because: str | None = "the first connection is being made"
        self.health: dict[str, Health] = {}
        self._happenings = happenings
        self._link = link
        self._spool = spool
        self._tracks = tracks
        self._on_receipt = on_receipt
        self._health_part = health_part
        self._spans = spans
        self._thread = threading.Thread(target=self._run, name="koren-events", daemon=True)
        self._connection = 0
        self._outbox = Outbox()
        self._mids: dict[int, tuple[str, str]] = {}
        self._to_settle = _ToSettle()
        self._arrived: list[tuple[str, Receipt]] = []
        self._again = False
        self._trouble = ""

    def start(self) -> None:
        """Loads what the spool holds and starts the thread."""
        # The wall clock may be set back, while this one goes on.
        now, wall = time.monotonic(), time.time()
        for entry in self._spool.entries():
            sent_at = None if entry.sent_at is None else now - max(0.0, wall - entry.sent_at)
            self._outbox.add(
                entry.receipt_topic,
                entry.region,
                entry.subject,
                sends=entry.sends,
                sent_at=sent_at,
            )
        self._thread.start()

    def join(self) -> None:
        """Waits for the thread's end, which follows a `Stop`."""
        self._thread.join()

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller runs in this worker's thread."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        try:
            while self.step():
                pass
            if self.down_because is None and self._health_part is not None:
                # The broker keeps the last will to itself when a client takes its leave.
                self._say("down", wait_s=_GOODBYE_S)
        except SpoolBroken as error:
            _log.error("the publisher stops: %s", error)
            self._tracks.stop(error)
        except BaseException as error:
            _log.exception("the publisher stops; the spool keeps its events")
            self._tracks.stop(RuntimeError(repr(error)))
            raise

    def step(self) -> bool:
        """Waits for happenings, or for the time to send something, and acts; False at the end.

        Raises SpoolBroken.
        """
        happenings = self._next_happenings()
        for happening in happenings:
            self._guarded(self._handle, happening)
        is_over = any(isinstance(happening, Stop) for happening in happenings)
        self._again = False
        # First what others wait for, then the disk.
        if self.down_because is None and not is_over:
            self._guarded(self._send)
        self._guarded(self._settle)
        for topic, receipt in self._arrived:
            self._guarded(self._hand_out, topic, receipt)
        self._arrived.clear()
        return not is_over

    def _guarded(self, act: Callable[..., None], *what: object) -> None:
        try:
            act(*what)
        except SpoolBroken:
            raise
        except _Nonsense as error:
            self.faults += 1
            _log.warning("%s", error)
        except Exception:
            self.faults += 1
            _log.exception("not handled: %.200r", what)

    def _next_happenings(self) -> list[Happening | Added | Stop]:
        wait_s = None
        if self.down_because is None and self._outbox.next_due_at < math.inf:
            wait_s = max(0.0, self._outbox.next_due_at - time.monotonic())
        if self._to_settle or self._again:
            wait_s = _AGAIN_S if wait_s is None else min(wait_s, _AGAIN_S)
        happenings: list[Happening | Added | Stop] = []
        with contextlib.suppress(queue.Empty):
            happenings.append(self._happenings.get(timeout=wait_s))
            while True:
                happenings.append(self._happenings.get_nowait())
        return happenings

    def _handle(self, happening: Happening | Added | Stop) -> None:
        match happening:
            case Connected(number):
                self._connected(number)
            case Disconnected(why):
                if self.down_because != why:
                    _log.warning("not connected to %s: %s", self._link.address, why)
                self.down_because = why
            case Added(key, region, subject):
                # One that its region has by now may still be in the spool, but needs no sending.
                if key not in self._to_settle.received:
                    self._outbox.add(key, region, subject)
            case Answered(mid, refusal):
                self._answered(mid, refusal)
            case Arrived(topic, message, retained) if topic.startswith("health/"):
                self._note_health(topic, message, retained=retained)
            case Arrived(topic, message):
                self._note_receipt(topic, message)
            case Senseless(what):
                raise _Nonsense(f"{self._link.address} sent {what}")

    def _connected(self, number: int) -> None:
        _log.info("connected to %s", self._link.address)
        self._mids.clear()
        self._outbox.connected(time.monotonic())
        self._connection = number
        self.down_because = None
        # Sent before any event, so the broker knows it before it can have a receipt.
        self._link.subscribe(RECEIPTS_FILTER, _HEALTH_FILTER)
        if self._health_part is not None:
            self._say("up")

    def _answered(self, mid: int, refusal: str | None) -> None:
        key, topic = self._mids.pop(mid, ("", ""))
        if key:
            self._to_settle.sent.append(key)
            self._note_answer(key, topic, refusal)

    def _note_answer(self, key: str, topic: str, refusal: str | None) -> None:
        self._outbox.acknowledged(key, time.monotonic(), refused=refusal is not None)
        order = self._outbox.order(key)
        if order is None:
            return  # the region has it already
        if self._spans is not None:
            self._spans.answered(key, refusal)
        if refusal is not None:
            refusal = (
                f"{self._link.address} refused an event on {topic}: {refusal}; "
                "check the broker's ACL for this client's certificate. "
                f"The later events of {order[1]!r} wait for it"
            )
            _log.error("%s", refusal, extra={"subject": order[1], "region": order[0]})
        self._tracks.note_answer(key, order, refusal)

    def _note_receipt(self, topic: str, message: bytes) -> None:
        try:
            receipt = Receipt.from_json(message)
        except ValueError as error:
            raise _Nonsense(f"{topic!r}: {error}") from None
        # A broker lets a region's gateway write below its own region only: the topic is the proof.
        if topic != receipt_topic(receipt.region, receipt.source, receipt.id):
            raise _Nonsense(f"{topic!r}: the receipt is of another event or region")
        self._arrived.append((topic, receipt))
        order = self._outbox.order(topic)
        if order is not None:
            if self._spans is not None:
                self._spans.received(topic, receipt, lambda: self._spool.message(topic))
            self._outbox.received(topic)
            self._to_settle.received[topic] = None
            self._tracks.forget_refusal(topic, order)

    def _note_health(self, topic: str, message: bytes, *, retained: bool) -> None:
        try:
            _, region, _ = topic.split("/")
            health = Health.from_json(message)
        except ValueError as error:
            raise _Nonsense(f"{topic!r}: {error}") from None
        known = self.health.get(region)
        self.health[region] = health
        # What a new subscription brings first tells the state, not that it has changed.
        returned = not retained if known is None else health != known
        if health.state == "up" and returned:
            _log.info("the gateway of %s is back", region, extra={"region": region})
            self._outbox.region_returned(region, time.monotonic())

    def _settle(self) -> None:
        if not self._to_settle:
            return
        try:
            self._spool.settle(sent=self._to_settle.sent, received=self._to_settle.received)
        except OSError as error:
            # It costs a repeated event should the process end before it is noted.
            self._note_trouble(f"the spool can't be written, trying again: {error}")
            return
        self._trouble = ""
        self._to_settle = _ToSettle()
        self._tracks.notify()

    def _hand_out(self, topic: str, receipt: Receipt) -> None:
        self._tracks.note_receipt(topic, receipt)
        if self._on_receipt is not None:
            try:
                self._on_receipt(receipt)
            except BaseException as error:
                # Not even `sys.exit` there may end the thread that keeps the events going.
                raise RuntimeError(f"on_receipt failed for event {receipt.id!r}") from error

    def _send(self) -> None:
        for key in self._outbox.take(time.monotonic(), room=WINDOW - self._outbox.in_flight):
            try:
                self._send_one(key)
            except SpoolBroken:
                raise
            except OSError as error:
                self._note_trouble(f"the spool can't be read, trying again: {error}")
                self._outbox.returned(key)
                self._again = True
            except Exception as error:
                self.faults += 1
                _log.exception("an event can't be sent; its receipts would come on %s", key)
                self._note_answer(key, key, repr(error))

    def _send_one(self, key: str) -> None:
        spooled = self._spool.message(key)
        if spooled is None:
            # Published again at the moment its receipt came: there is nothing left to send.
            self._outbox.received(key)
            return
        topic, message = spooled
        mid = self._link.send(topic, message, connection=self._connection)
        if mid is None:
            self._outbox.returned(key)
        else:
            self._mids[mid] = (key, topic)

    def _note_trouble(self, what: str) -> None:
        if what != self._trouble:
            _log.error("%s", what)
        self._trouble = what

    def _say(self, state: Literal["up", "down"], *, wait_s: float = 0.0) -> None:
        assert self._health_part is not None
        health = Health(region="central", part=self._health_part, state=state, since=utc_now())
        self._link.say(health, wait_s=wait_s)
