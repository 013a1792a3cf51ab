"""What came back for the events that were published here: receipts, and a broker's refusals."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from koren_events.errors import EventsError, PublishRefused
from koren_events.receipt import Receipt

TRACKED = 1000


@dataclass(slots=True)
class _Track:
    order: tuple[str, str]
    accepted: bool = False
    """Whether the broker took it; what is refused since then is another event."""
    receipts: list[Receipt] = field(default_factory=list)


class Tracks:
    """The receipts of the last events published, for callers that wait for them.

    Safe to use from several threads. Events are known by the topic of their receipts; `order` is
    region and subject: a refused event holds the later ones of its subject back, and who waits
    for one of those is told of the refusal too.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tracks: OrderedDict[str, _Track] = OrderedDict()
        self._refusals: dict[tuple[str, str], tuple[str, str]] = {}
        self._failure: Exception | None = None

    def check_working(self) -> None:
        """Raises EventsError once the publisher has stopped."""
        if self._failure is not None:
            raise EventsError(
                f"the publisher has stopped: {self._failure}; the spool keeps its events, open it anew"
            ) from self._failure

    def follow(self, key: str, order: tuple[str, str], store: Callable[[], bool]) -> None:
        """Has `store` put an event into the spool, and follows the event from then on.

        `store` returns whether the event is new; a new one has no receipts yet. Calls of this
        method come one after the other, and no receipt is noted in between.
        """
        with self._changed:
            self.check_working()
            # An event that was delivered before, and has left the spool, gets a new answer.
            if store() or key not in self._tracks:
                self._tracks[key] = _Track(order)
            self._tracks.move_to_end(key)
            if len(self._tracks) > TRACKED:
                self._tracks.popitem(last=False)

    def note_receipt(self, key: str, receipt: Receipt) -> None:
        """Notes a receipt, unless the same step is known: a repeat by a broker or a gateway."""
        with self._changed:
            track = self._tracks.get(key)
            if track is not None and not any(_step(known) == _step(receipt) for known in track.receipts):
                track.receipts.append(receipt)
            self._changed.notify_all()

    def note_answer(self, key: str, order: tuple[str, str], refusal: str | None) -> None:
        """Notes whether the broker took an event, or what it said instead."""
        with self._changed:
            track = self._tracks.get(key)
            if track is not None:
                track.accepted = refusal is None
            if refusal is not None:
                self._refusals[order] = (key, refusal)
                self._changed.notify_all()
            else:
                self._forget_refusal(key, order)

    def forget_refusal(self, key: str, order: tuple[str, str]) -> None:
        """The event needs no broker any more: a refusal of it holds nothing back."""
        with self._changed:
            self._forget_refusal(key, order)

    def _forget_refusal(self, key: str, order: tuple[str, str]) -> None:
        if self._refusals.get(order, ("", ""))[0] == key:
            del self._refusals[order]

    def notify(self) -> None:
        """Has callers of `wait_until` look again."""
        with self._changed:
            self._changed.notify_all()

    def stop(self, failure: Exception) -> None:
        """Whoever waits, now or later, is told that the publisher has stopped."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for something that `notify` tells of. Raises EventsError as above."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._failure, timeout_s)
            self.check_working()
            return condition()

    def await_receipt(self, key: str, place: int, deadline: float) -> Receipt | None:
        """The event's receipt number `place`, from 0; None when it is not there in time.

        `deadline` is on the monotonic clock. Raises KeyError for an event that is not followed,
        PublishRefused, and EventsError as above.
        """
        with self._changed:
            track = self._tracks[key]

            def refusal() -> str | None:
                # An event with a receipt is in its region: nothing of the broker matters to it.
                if track.accepted or track.receipts:
                    return None
                return self._refusals.get(track.order, (None, None))[1]

            self._changed.wait_for(
                lambda: len(track.receipts) > place or refusal() or self._failure,
                max(0.0, deadline - time.monotonic()),
            )
            if len(track.receipts) > place:
                return track.receipts[place]
            self.check_working()
            problem = refusal()
            if problem is not None:
                raise PublishRefused(problem)
            return None


def _step(receipt: Receipt) -> tuple[str, str | None, int | None]:
    return (receipt.state, receipt.function, receipt.attempt)
