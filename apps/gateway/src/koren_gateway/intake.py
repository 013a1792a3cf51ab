"""From the broker into Redis: each message judged, committed in batches, then acknowledged."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence

import structlog

from koren_events import MAX_EVENT_BYTES, Health, health_topic
from koren_events.times import utc_now
from koren_gateway.cloudevent import CloudEvent, parse
from koren_gateway.errors import ConnectionLost, InvalidCloudEvent, StoreUnavailable
from koren_gateway.functions import Function, Functions
from koren_gateway.metrics import Metrics
from koren_gateway.mqtt import Arrival, Connection, Link
from koren_gateway.queue import Entry, Queue, event_key
from koren_gateway.receipts import Outbox, intake_receipts
from koren_gateway.settings import Settings
from koren_gateway.store import Store
from koren_gateway.tasks import first_failure

PART = "gateway"

_PAUSED_S = 1.0
_AGAIN_S = 0.2
_ROOM_BYTES = 2**20  # beyond what was refused: or the intake would open and close in turns
_log = structlog.get_logger()


def judge(
    topic: str,
    message: bytes,
    received_ms: int,
    region: str,
    wanting: Callable[[str], Sequence[Function]],
) -> Entry:
    """What becomes of a message: work for the functions that want it, or a dead letter."""
    event: CloudEvent | None = None
    try:
        event = parse(message)
        reason = _wrong_with(topic, message, event, region)
    except InvalidCloudEvent as error:
        reason = str(error)
    if event is None:
        # The same rubbish again is the same dead letter.
        key = hashlib.sha256(b"\n".join((topic.encode(), message))).hexdigest()[:32]
    else:
        key = event_key(event.source, event.id)
    return Entry(
        key=key,
        event=event,
        message=message,
        received_ms=received_ms,
        functions=() if reason else wanting(topic),
        reason=reason,
    )


def _wrong_with(topic: str, message: bytes, event: CloudEvent, region: str) -> str:
    if len(message) > MAX_EVENT_BYTES:
        return f"{len(message)} bytes, more than {MAX_EVENT_BYTES}"
    named = topic.split("/")[1] if topic.startswith("events/") else ""
    if named != region or event.region not in (None, region):
        return (
            f"wrong region: this is {region}, the topic {topic[:200]} and the event's region "
            f"{event.region or 'absent'}"
        )
    return ""


class Intake:
    """The one replica that is connected to the broker runs this."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: Queue,
        functions: Functions,
        outbox: Outbox,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._functions = functions
        self._outbox = outbox
        self._metrics = metrics
        self._confirming: set[asyncio.Task[None]] = set()
        self._refused_bytes = 0

    async def run(self) -> None:
        """Takes events in, through whatever Redis does, until the broker is lost.

        Then who takes in is decided anew: it may be that another gateway took the session over,
        of which Mosquitto 2.0 does not tell.
        """
        await self._functions.wait_in_step()
        try:
            while True:
                await self._until_writable()
                try:
                    await self._run_connected()
                except ConnectionLost as lost:
                    _log.warning(
                        "no connection to the broker",
                        broker=f"{self._settings.broker_host}:{self._settings.broker_port}",
                        problem=str(lost),
                    )
                    return
                except StoreUnavailable as error:
                    _log.error("intake paused", problem=str(error))
                    self._metrics.intake_paused.set(1)
        finally:
            self._metrics.intake_connected.set(0)
            self._metrics.intake_paused.set(0)

    async def _until_writable(self) -> None:
        paused = False
        while True:
            try:
                await self._store.check_writable(self._refused_bytes + _ROOM_BYTES)
            except StoreUnavailable as error:
                if not paused:
                    _log.warning("intake waits for redis", problem=str(error))
                paused = True
                self._metrics.intake_paused.set(1)
                await asyncio.sleep(_PAUSED_S)
            else:
                self._metrics.intake_paused.set(0)
                return

    async def _run_connected(self) -> None:
        region = self._settings.region
        connection = await Connection.open(self._link())
        say_down = True
        try:
            await connection.subscribe(f"events/{region}/#")
            up = Health(region=region, part=PART, state="up", since=utc_now())
            connection.publish(health_topic(region, PART), up.to_json(), retain=True)
            self._metrics.intake_connected.set(1)
            _log.info("intake open", topic=f"events/{region}/#")
            await first_failure(self._outbox.publish_to(connection), self._take_in(connection))
        except ConnectionLost:
            say_down = False
            raise
        finally:
            self._metrics.intake_connected.set(0)
            farewell = None
            if say_down:
                if self._confirming:
                    await asyncio.wait(self._confirming, timeout=1.0)
                down = Health(region=region, part=PART, state="down", since=utc_now())
                farewell = connection.publish(
                    health_topic(region, PART), down.to_json(), retain=True
                )
            await connection.close(farewell)

    def _link(self) -> Link:
        settings = self._settings
        return Link(
            host=settings.broker_host,
            port=settings.broker_port,
            client_id=f"gateway-{settings.region}",
            ca=settings.tls_ca,
            certificate=settings.tls_certificate,
            key=settings.tls_key,
            session_expiry_s=settings.session_expiry_days * 24 * 3600,
            buffer_bytes=settings.intake_buffer_bytes,
            will_topic=health_topic(settings.region, PART),
            will_message=Health(region=settings.region, part=PART, state="down").to_json(),
        )

    async def _take_in(self, connection: Connection) -> None:
        while True:
            arrivals = await connection.fetch(self._settings.batch_bytes)
            entries = [
                judge(
                    arrival.topic,
                    arrival.message,
                    arrival.received_ms,
                    self._settings.region,
                    self._functions.wanting,
                )
                for arrival in arrivals
            ]
            await self._commit(connection, arrivals, entries)

    async def _commit(
        self, connection: Connection, arrivals: Sequence[Arrival], entries: Sequence[Entry]
    ) -> None:
        began = time.monotonic()
        while True:
            try:
                first_received = await self._queue.enqueue(entries)
                break
            except StoreUnavailable:
                if time.monotonic() - began > self._settings.pause_after_s:
                    self._refused_bytes = sum(len(entry.message) for entry in entries)
                    raise
                await asyncio.sleep(_AGAIN_S)
        durable_ms = round(time.time() * 1000)
        self._metrics.committed(len(entries), time.monotonic() - began)
        confirmations = self._report(connection, entries, first_received, durable_ms)
        queued = [
            entry.key
            for entry, first in zip(entries, first_received, strict=True)
            if first is None and entry.functions
        ]
        task = asyncio.create_task(
            self._acknowledge(connection, arrivals, confirmations, queued, durable_ms)
        )
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _acknowledge(
        self,
        connection: Connection,
        arrivals: Sequence[Arrival],
        confirmations: Sequence[asyncio.Future[None]],
        queued: Sequence[str],
        durable_ms: int,
    ) -> None:
        if queued:
            with contextlib.suppress(StoreUnavailable):
                await self._queue.note_durable(queued, durable_ms)
        # A receipt that the broker has not confirmed is sent again only with the event itself.
        results = await asyncio.gather(*confirmations, return_exceptions=True)
        if not any(isinstance(result, BaseException) for result in results):
            connection.acknowledge(arrivals)

    def _report(
        self,
        connection: Connection,
        entries: Sequence[Entry],
        first_received: Sequence[int | None],
        durable_ms: int,
    ) -> list[asyncio.Future[None]]:
        confirmations = []
        for entry, first in zip(entries, first_received, strict=True):
            outcome = outcome_of(entry, repeat=first is not None)
            self._metrics.events.labels(outcome).inc()
            event = entry.event
            log = _log.bind(
                event_id=event.id if event else None,
                source=event.source if event else None,
                subject=event.subject if event else None,
            )
            if entry.reason and first is None:
                log.warning("event dead-lettered", dead_letter=entry.key, reason=entry.reason)
            else:
                log.info("event taken in", outcome=outcome, key=entry.key)
            if event is None:
                continue
            if first is None:
                self._metrics.phase("", "received", event, entry.received_ms)
                self._metrics.phase("", "durable", event, durable_ms)
            confirmations += [
                connection.publish(topic, message)
                for topic, message in intake_receipts(
                    self._settings.region, entry, event, first, durable_ms
                )
            ]
        return confirmations


def outcome_of(entry: Entry, *, repeat: bool) -> str:
    """The word by which the event is counted."""
    if repeat:
        return "duplicate"
    if entry.reason:
        return "dead-lettered"
    return "queued" if entry.functions else "no-function"
