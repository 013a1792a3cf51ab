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
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

RESEND_AFTER_S = 600.0
FIRST_DOUBT_S = 1.0
SETTLE_S = 1.0
"""After a reason, receipts that were waiting at the broker get this long to come first."""


@dataclass(slots=True)
class _Acknowledged:
    region: str
    sends: int
    sent_at: float
    doubted_at: float | None = None

    @property
    def due_at(self) -> float:
        if self.doubted_at is None:
            return self.sent_at + RESEND_AFTER_S
        # 2**10 s is beyond ten minutes; a larger exponent would only grow a huge number.
        pause_s = min(FIRST_DOUBT_S * 2.0 ** min(self.sends - 1, 10), RESEND_AFTER_S)
        return max(self.sent_at + pause_s, self.doubted_at + SETTLE_S)


class Outbox:
    """The events of the spool by what is to be done with each; keys are receipt topics.

    An event is waiting (to be sent), in flight (the broker has not acknowledged it) or
    acknowledged. Times are seconds on one clock of the caller's choice.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._in_flight: dict[str, tuple[str, int]] = {}
        self._acknowledged: dict[str, _Acknowledged] = {}
        # Never later than the first due time, so that most calls need not look at every event.
        self._next_due_at = math.inf

    def add(self, key: str, region: str, *, sends: int = 0, sent_at: float | None = None) -> None:
        """Takes in an event; with `sent_at`, one that the broker acknowledged earlier."""
        if key in self._waiting or key in self._in_flight or key in self._acknowledged:
            return
        if sent_at is None:
            self._waiting[key] = (region, sends)
        else:
            self._hold(key, _Acknowledged(region, max(sends, 1), sent_at))

    def connected(self, now: float) -> None:
        """A new connection stands: whatever an earlier one acknowledged may be lost."""
        self._doubt(self._acknowledged.values(), now)

    def region_returned(self, region: str, now: float) -> None:
        """The region's gateway connected anew: whatever was on its way there may be lost."""
        self._doubt((a for a in self._acknowledged.values() if a.region == region), now)

    def take(self, now: float, *, room: int) -> list[str]:
        """Up to `room` keys to send now, oldest first; they are in flight then."""
        if now >= self._next_due_at:
            for key in [k for k, a in self._acknowledged.items() if a.due_at <= now]:
                again = self._acknowledged.pop(key)
                self._waiting[key] = (again.region, again.sends)
            self._next_due_at = min(
                (a.due_at for a in self._acknowledged.values()), default=math.inf
            )
        taken: list[str] = []
        while self._waiting and len(taken) < room:
            key, entry = self._waiting.popitem(last=False)
            self._in_flight[key] = entry
            taken.append(key)
        return taken

    def acknowledged(self, key: str, now: float) -> None:
        """The broker acknowledged an event in flight."""
        entry = self._in_flight.pop(key, None)
        if entry is not None:
            self._hold(key, _Acknowledged(entry[0], entry[1] + 1, now))

    def received(self, key: str) -> bool:
        """The region has it. False when it was not here: a receipt that came twice."""
        here = [d.pop(key, None) for d in (self._waiting, self._in_flight, self._acknowledged)]
        return any(entry is not None for entry in here)

    @property
    def in_flight(self) -> int:
        """How many the broker has not acknowledged."""
        return len(self._in_flight)

    @property
    def next_due_at(self) -> float:
        """When to call `take` again though nothing happened; infinite when there is no reason."""
        return self._next_due_at

    def _hold(self, key: str, entry: _Acknowledged) -> None:
        self._acknowledged[key] = entry
        self._next_due_at = min(self._next_due_at, entry.due_at)

    def _doubt(self, entries: Iterable[_Acknowledged], now: float) -> None:
        for entry in entries:
            # The first reason counts: a link that flaps must not put the resending off for ever.
            if entry.doubted_at is None:
                entry.doubted_at = now
            self._next_due_at = min(self._next_due_at, entry.due_at)
