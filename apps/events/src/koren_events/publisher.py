"""The publisher: takes events to disk at once and to their regions as soon as it can be done."""

import itertools
import queue
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from koren_events.contract import validate
from koren_events.errors import ConfigurationError, ReceiptTimeout
from koren_events.event import Event, event_topic
from koren_events.health import Health
from koren_events.link import Link
from koren_events.receipt import Receipt
from koren_events.spool import Spool
from koren_events.telemetry import Telemetry
from koren_events.topics import receipt_topic
from koren_events.tracks import TRACKED, Tracks
from koren_events.worker import Added, Stop, Worker

if TYPE_CHECKING:
    from koren_events.publish_spans import PublishSpans
    from koren_events.tracing import Tracer

DEFAULT_SPOOL_BYTES = 256 * 2**20

_SPANS_END_S = 2.0
_LEVEL = re.compile(r"[^/+#\s]+")


class Publisher:
    """Publishes events that are not lost, whichever process, broker or link dies on the way.

    A context manager: inside it, a thread sends what the spool holds and takes receipts in. An
    event leaves the spool once its region's gateway has it on disk. Whoever opens the same spool
    later goes on where this one ended.

    `spool` is a file of this publisher alone, `spool_limit_bytes` what its events may add up to.
    `client_id` must be unique at the broker and stay the same over restarts. The client's
    certificate is its user name, and must be allowed to write `events/#` and to read `receipts/#`
    and `health/#`. `on_receipt` is called, in the publisher's thread, with every receipt that the
    broker delivers, those of other publishers' events included. `health_part` makes the publisher
    keep `health/central/<part>` true, by a last will. `telemetry` makes it begin a trace for each
    event that has none, and send a span of each event's way to its region; `client_id` names the
    service.

    Raises ConfigurationError when a file or a name can't be used, SpoolInUse when the spool is
    open elsewhere. A broker that can't be reached is no error: events wait.
    """

    def __init__(
        self,
        *,
        spool: Path,
        host: str,
        port: int = 8883,
        ca: Path,
        cert: Path,
        key: Path,
        client_id: str,
        spool_limit_bytes: int = DEFAULT_SPOOL_BYTES,
        on_receipt: Callable[[Receipt], None] | None = None,
        health_part: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        for name, value in (("client_id", client_id), ("health_part", health_part)):
            if value is not None and not _LEVEL.fullmatch(value):
                raise ConfigurationError(f"{name} {value!r} must not be empty or have spaces, '/', '+', '#'")
        will = None
        if health_part is not None:
            will = Health(region="central", part=health_part, state="down")
        self._happenings: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._link = Link(
            self._happenings,
            host=host,
            port=port,
            ca=ca,
            cert=cert,
            key=key,
            client_id=client_id,
            will=will,
        )
        self._tracer = None if telemetry is None else telemetry.tracer({"service.name": client_id})
        self._spans = None if self._tracer is None else _spans_of(self._tracer)
        self._spool = Spool(spool, limit_bytes=spool_limit_bytes)
        self._tracks = Tracks()
        self._worker = Worker(
            self._happenings,
            self._link,
            self._spool,
            self._tracks,
            on_receipt=on_receipt,
            health_part=health_part,
            spans=self._spans,
        )

    def __enter__(self) -> Self:
        self._worker.start()
        self._link.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._happenings.put(Stop())
        self._worker.join()
        self._link.close()
        self._spool.close()
        if self._tracer is not None:
            self._tracer.close(_SPANS_END_S)

    def publish(self, event: Event) -> None:
        """Puts the event into the spool and returns; it is on disk then, and will be sent.

        The events of one subject are sent in the order of these calls. The same event again
        changes nothing. Raises InvalidEvent for what no gateway would accept, SpoolFull and
        SpoolBroken; the event is not taken then.
        """
        if self._spans is not None:
            event = self._spans.traced(event)
        message = validate(event)
        key = _key(event)

        def store() -> bool:
            is_new = self._spool.put(
                receipt_topic=key,
                region=event.region,
                subject=event.subject,
                topic=event_topic(event),
                message=message,
            )
            if is_new and self._spans is not None:
                self._spans.spooled(key, event)
            # In here, so that the queue has the events of several threads in the spool's order.
            self._happenings.put(Added(key, event.region, event.subject))
            return is_new

        self._tracks.follow(key, (event.region, event.subject), store)

    def wait(self, event: Event, timeout_s: float) -> Receipt:
        """Waits until the region has the event on disk; its first receipt.

        Raises ReceiptTimeout, whose message says where the event is, PublishRefused when the
        broker does not let this client publish it or an earlier one of its subject, and KeyError
        when it was not published here. Either way the event stays in the spool and is sent again.
        """
        return self._await_receipt(event, 0, time.monotonic() + timeout_s)

    def receipts(self, event: Event, timeout_s: float) -> Iterator[Receipt]:
        """The event's receipts as they come, up to and with the first final one.

        An event that several functions take has a final one of each: `on_receipt` gets them all.
        Raises as `wait` does, ReceiptTimeout when the final one is not there after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        for place in itertools.count():
            receipt = self._await_receipt(event, place, deadline)
            yield receipt
            if receipt.state.final:
                return

    def flush(self, timeout_s: float) -> bool:
        """Waits until the spool is empty: every event is on disk in its region. False if not."""
        return self._tracks.wait_until(lambda: len(self._spool) == 0, timeout_s)

    @property
    def spooled(self) -> int:
        """How many events no region has acknowledged yet."""
        return len(self._spool)

    @property
    def faults(self) -> int:
        """How many things that came in made no sense or could not be handled; the log has each."""
        return self._worker.faults

    def _await_receipt(self, event: Event, place: int, deadline: float) -> Receipt:
        if self._worker.is_current_thread:
            raise RuntimeError("on_receipt must not wait: receipts come in its own thread")
        try:
            receipt = self._tracks.await_receipt(_key(event), place, deadline)
        except KeyError:
            raise KeyError(f"event {event.id} is not among the last {TRACKED} published here") from None
        if receipt is None:
            raise ReceiptTimeout(self._explain(event, place))
        return receipt

    def _explain(self, event: Event, place: int) -> str:
        address, down_because = self._link.address, self._worker.down_because
        health = self._worker.health.get(event.region)
        missing = "no receipt" if place == 0 else f"{place} receipts and no further one"
        text = f"{missing} for event {event.id} from region {event.region}: "
        if down_because is not None:
            text += f"not connected to {address}: {down_because}"
        elif health is None:
            text += f"{address} knows no gateway of this region; is its name right, its bridge up?"
        elif health.state == "down":
            text += "its gateway is down"
        else:
            text += "its gateway is up; it has not answered yet"
        return text + ". The event is in the spool and is being sent"


def _spans_of(tracer: "Tracer") -> "PublishSpans":
    # OpenTelemetry is imported where traces are wanted, and only there.
    from koren_events.publish_spans import PublishSpans

    return PublishSpans(tracer)


def _key(event: Event) -> str:
    return receipt_topic(event.region, event.source, event.id)
