"""When an event goes out, and when it goes out again: the decision, without clock and network.

The broker's acknowledgement does not mean that the event is on disk anywhere, so an event stays
here until its region's receipt came. It is sent again for a reason only:

- the connection it was acknowledged on has ended: the broker may have restarted without it (a
  broker that is killed loses what it acknowledged last, even when it still knows the session);
- the region's gateway connected anew: the edge's broker may have restarted without it;
- ten minutes have passed.

The reasons in the first two may come in rows, from a broker that restarts over and over or a link
that flaps, while the region is cut off for hours. Each copy then waits twice as long as the one
before, up to the same ten minutes: such a night costs ten copies and six an hour.

The events of one subject go in the order in which they were added, the copies too, and one at a
time: an event waits until the region has the one before it. The broker's acknowledgement is not
enough for that either: a broker that is killed loses an event that it acknowledged, and whatever
was sent behind it meanwhile would overtake the copy. Events of other subjects do not wait.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

RESEND_AFTER_S = 600.0
FIRST_DOUBT_S = 1.0
SETTLE_S = 1.0
"""After a reason, receipts that were waiting at the broker get this long to come first."""


@dataclass(slots=True, eq=False)
class _Entry:
    key: str
    region: str
    subject: str
    place: int
    sends: int
    sent_at: float | None
    """When the broker answered last; None when the event is to go at once."""
    in_flight: bool = False
    refused: bool = False
    doubted_at: float | None = None

    @property
    def rests(self) -> bool:
        return self.sent_at is not None and self.doubted_at is None and not self.refused

    @property
    def due_at(self) -> float:
        if self.sent_at is None:
            return -math.inf
        if self.doubted_at is None:
            return self.sent_at + RESEND_AFTER_S
        # 2**10 s is beyond ten minutes; a larger exponent would only grow a huge number.
        pause_s = min(FIRST_DOUBT_S * 2.0 ** min(self.sends - 1, 10), RESEND_AFTER_S)
        return max(self.sent_at + pause_s, self.doubted_at + SETTLE_S)


class Outbox:
    """The events of the spool by what is to be done with each; keys are receipt topics.

    Times are seconds on one clock of the caller's choice that never goes back.
    """

    def __init__(self) -> None:
        self._places = 0
        self._entries: dict[str, _Entry] = {}
        # By region and subject, the events that the region does not have, oldest first: the first goes next.
        self._queues: dict[tuple[str, str], list[_Entry]] = {}
        # Heaps of such first events. What became of one meanwhile shows when it is looked at.
        self._alarms: list[tuple[float, int, _Entry]] = []
        self._ready: list[tuple[int, _Entry]] = []
        self._in_flight = 0

    def add(
        self,
        key: str,
        region: str,
        subject: str,
        *,
        sends: int = 0,
        sent_at: float | None = None,
    ) -> None:
        """Takes in an event, the newest of its subject. One that is here already stays as it is.

        With `sent_at`, it is one that the broker acknowledged then.
        """
        if key in self._entries:
            return
        self._places += 1
        sends = sends if sent_at is None else max(sends, 1)
        entry = _Entry(key, region, subject, self._places, sends, sent_at)
        self._entries[key] = entry
        queue = self._queue_of(entry)
        queue.append(entry)
        if queue[0] is entry:
            self._offer(entry)

    def connected(self, now: float) -> None:
        """A new connection stands: whatever an earlier one carried may be lost."""
        for entry in self._entries.values():
            entry.in_flight = False
        self._in_flight = 0
        self._doubt(self._entries.values(), now)

    def region_returned(self, region: str, now: float) -> None:
        """The region's gateway connected anew: whatever was on its way there may be lost."""
        self._doubt([e for e in self._entries.values() if e.region == region and e.rests], now)

    def take(self, now: float, *, room: int) -> list[str]:
        """Up to `room` keys to send now, oldest first; they are in flight then."""
        while self._alarms and self._alarms[0][0] <= now:
            _, _, entry = heapq.heappop(self._alarms)
            if self._entries.get(entry.key) is entry and not entry.in_flight:
                if entry.due_at <= now:
                    entry.sent_at, entry.doubted_at, entry.refused = None, None, False
                self._offer(entry)
        taken: list[str] = []
        while self._ready and len(taken) < room:
            _, entry = heapq.heappop(self._ready)
            is_here = self._entries.get(entry.key) is entry
            if is_here and entry.sent_at is None and not entry.in_flight:
                entry.in_flight = True
                self._in_flight += 1
                taken.append(entry.key)
        return taken

    def returned(self, key: str) -> None:
        """An event in flight did not get away; it is to go as soon as there is a chance."""
        entry = self._landed(key)
        if entry is not None:
            self._offer(entry)

    def acknowledged(self, key: str, now: float, *, refused: bool = False) -> None:
        """The broker answered an event in flight; one that it refused is tried again later."""
        entry = self._landed(key)
        if entry is None:
            return
        entry.sends += 1
        entry.sent_at = now
        entry.doubted_at = None
        entry.refused = refused
        self._offer(entry)

    def received(self, key: str) -> bool:
        """The region has it. False when it was not here: a receipt that came twice."""
        self._landed(key)
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        queue = self._queue_of(entry)
        was_first = queue[0] is entry
        queue.remove(entry)
        if not queue:
            del self._queues[(entry.region, entry.subject)]
        elif was_first:
            self._offer(queue[0])
        return True

    def order(self, key: str) -> tuple[str, str] | None:
        """Region and subject of an event, within which order is kept; None when it is not here."""
        entry = self._entries.get(key)
        return None if entry is None else (entry.region, entry.subject)

    @property
    def in_flight(self) -> int:
        """How many the broker has not answered."""
        return self._in_flight

    @property
    def next_due_at(self) -> float:
        """When to call `take` again though nothing happened; infinite when there is no reason.

        Never later than the first event is due; it may be earlier.
        """
        return self._alarms[0][0] if self._alarms else math.inf

    def _queue_of(self, entry: _Entry) -> list[_Entry]:
        return self._queues.setdefault((entry.region, entry.subject), [])

    def _offer(self, first: _Entry) -> None:
        """Files the first of its queue under what is to be done with it, and when."""
        if first.in_flight:
            return
        if first.sent_at is None:
            heapq.heappush(self._ready, (first.place, first))
        else:
            heapq.heappush(self._alarms, (first.due_at, first.place, first))

    def _landed(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or not entry.in_flight:
            return None
        entry.in_flight = False
        self._in_flight -= 1
        return entry

    def _doubt(self, entries: Iterable[_Entry], now: float) -> None:
        for entry in entries:
            # The first reason counts: a link that flaps must not put the resending off for ever.
            if entry.sent_at is not None and entry.doubted_at is None:
                entry.doubted_at = now
            if self._queue_of(entry)[0] is entry:
                self._offer(entry)
