"""From the broker into Redis: each message judged, committed in batches, then acknowledged."""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import structlog

from koren_events import Health, health_topic
from koren_events.times import utc_now
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.sources import Sources
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import (
    ConnectionLost,
    GatewayError,
    StoreUnavailable,
    StoreUnreachable,
)
from koren_gateway.intake.judge import as_rubbish, judge
from koren_gateway.intake.mqtt import Arrival, Connection, Link
from koren_gateway.intake.pace import Pace
from koren_gateway.intake.receipts import Outbox, Parcel, intake_receipts
from koren_gateway.intake.repeats import Repeats
from koren_gateway.intake.subscriptions import Subscriptions
from koren_gateway.metrics import Metrics
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import Entry, Queue, TakenIn
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings
from koren_gateway.tasks import first_failure
from koren_gateway.tracing import Spans, trace_id

T = TypeVar("T")

PART = "gateway"

_PAUSED_S = 1.0
_AGAIN_S = 0.2
_ELSEWHERE_AFTER_S = 5.0
_ROOM_BYTES = 2**20  # beyond what was refused: or the intake would open and close in turns
_log = structlog.get_logger()


class Intake:
    """The one replica that is connected to the broker runs this."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: Queue,
        functions: Functions,
        sources: Sources,
        triggers: Triggers,
        outbox: Outbox,
        memory: Memory,
        metrics: Metrics,
        spans: Spans | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._functions = functions
        self._sources = sources
        self._triggers = triggers
        self._repeats = Repeats(store)
        self._outbox = outbox
        self._memory = memory
        self._metrics = metrics
        self._spans = spans
        self._confirming: set[asyncio.Task[None]] = set()
        self._refused_bytes = 0

    async def able(self) -> bool:
        """Whether this replica could take events in now: it reaches Redis, full or not."""
        try:
            await self._store.check_writable(0)
        except StoreUnreachable:
            return False
        except GatewayError:
            pass
        return True

    async def run(self) -> None:
        """Takes events in, through whatever Redis does, until the broker is lost, or Redis can't be
        reached for some seconds.

        Then who takes in is decided anew: it may be that another gateway took the session over,
        of which Mosquitto 2.0 does not tell, or that another reaches Redis.
        """
        await self._functions.wait_in_step()
        await self._triggers.wait_in_step()
        try:
            while await self._until_writable():
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

    async def _until_writable(self) -> bool:
        """Waits until Redis takes events; False when it can't be reached from here."""
        paused = False
        reached_at = time.monotonic()
        while True:
            try:
                await self._store.check_writable(self._refused_bytes + _ROOM_BYTES)
            except StoreUnavailable as error:
                if not paused:
                    _log.warning("intake waits for redis", problem=str(error))
                paused = True
                self._metrics.intake_paused.set(1)
                if not isinstance(error, StoreUnreachable):
                    reached_at = time.monotonic()
                elif time.monotonic() - reached_at > _ELSEWHERE_AFTER_S:
                    _log.error("redis can't be reached, another gateway may take in")
                    return False
                await asyncio.sleep(_PAUSED_S)
            else:
                self._metrics.intake_paused.set(0)
                return True

    async def _run_connected(self) -> None:
        region = self._settings.region
        connection = await Connection.open(self._link())
        say_down = True
        try:
            await first_failure(
                self._subscribe(connection),
                self._outbox.publish_to(connection),
                self._take_in(connection),
                self._run_sources(),
            )
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
                farewell = connection.publish(health_topic(region, PART), down.to_json(), retain=True)
            await connection.close(farewell)

    async def _run_sources(self) -> None:
        """Takes messages of sources in, for ever, by a session of its own. So a flood of them fills no queue of
        events, waits at the broker, and what ends their connection ends nothing else."""
        await self._sources.wait_in_step()
        while True:
            try:
                await self._run_sources_connected()
            except (ConnectionLost, StoreUnavailable) as error:
                _log.warning("messages of sources are not taken in", problem=str(error))
            except Exception:
                # Events must not wait for what is wrong with sources.
                _log.exception("messages of sources are not taken in")
                self._metrics.faults.labels("sources").inc()
            await asyncio.sleep(_PAUSED_S)

    async def _run_sources_connected(self) -> None:
        subscriptions = Subscriptions(self._store, self._sources)
        await subscriptions.wait_for_any()
        await self._repeats.load()
        connection = await Connection.open(self._sources_link())
        try:
            self._metrics.sources_connected.set(1)
            pace = Pace(self._settings.sources_rate)
            await first_failure(subscriptions.follow(connection), self._take_in(connection, pace))
        finally:
            self._metrics.sources_connected.set(0)
            await connection.close()

    async def _subscribe(self, connection: Connection) -> None:
        """Subscribes, says that this region is up, and waits for the connection's end.

        What the broker has kept comes before its answer, and must be taken in for that to come.
        """
        region = self._settings.region
        await connection.subscribe(f"events/{region}/#")
        up = Health(region=region, part=PART, state="up", since=utc_now())
        connection.publish(health_topic(region, PART), up.to_json(), retain=True)
        self._metrics.intake_connected.set(1)
        _log.info("intake open", topic=f"events/{region}/#")
        raise await connection.lost()

    def _link(self) -> Link:
        settings = self._settings
        return Link(
            host=settings.broker_host,
            port=settings.broker_port,
            client_id=f"gateway.{settings.region}",
            ca=settings.tls_ca,
            certificate=settings.tls_certificate,
            key=settings.tls_key,
            session_expiry_s=settings.session_expiry_days * 24 * 3600,
            buffer_bytes=settings.intake_buffer_bytes,
            will_topic=health_topic(settings.region, PART),
            will_message=Health(region=settings.region, part=PART, state="down").to_json(),
        )

    def _sources_link(self) -> Link:
        certificate, key = self._settings.sources_certificate, self._settings.sources_key
        if certificate is None or key is None:
            raise ConnectionLost("sources are declared, and sources_certificate and sources_key are not set")
        me = f"sources.{self._settings.region}"
        link = replace(self._link(), client_id=me, certificate=certificate, key=key)
        return replace(link, will_topic="", will_message=b"")

    async def _take_in(self, connection: Connection, pace: Pace | None = None) -> None:
        turn = asyncio.Lock()
        while True:
            arrivals = await connection.fetch(self._memory.budgets.batch)
            if pace is not None:
                await pace.take(len(arrivals))
            entries = await self._judged(arrivals)
            began = time.monotonic()
            entries, taken_in = await self._commit(entries)
            self._metrics.committed(len(entries), time.monotonic() - began)
            durable_ms = round(time.time() * 1000)
            # It begins when the next batch is on its way to Redis, and so takes none of its time.
            mids = array("H", (arrival.mid for arrival in arrivals if arrival.mid is not None))
            task = asyncio.create_task(self._answer(connection, turn, mids, entries, taken_in, durable_ms))
            self._confirming.add(task)
            task.add_done_callback(self._confirming.discard)

    async def _judged(self, arrivals: Sequence[Arrival]) -> list[Entry]:
        region, wanting, spans = self._settings.region, self._triggers.wanting, self._spans
        sources = [self._sources.of(arrival.topic) for arrival in arrivals]
        nameless = [place for place, source in enumerate(sources) if source is not None and not source.id_from]
        if not nameless:
            pairs = zip(arrivals, sources, strict=True)
            return [judge(arrival, region, wanting, spans, source=source) for arrival, source in pairs]
        given = await self._patiently(lambda: self._repeats.ids([arrivals[place] for place in nameless]))
        ids = dict(zip(nameless, given, strict=True))
        return [
            judge(arrival, region, wanting, spans, source=source, id=ids.get(place, ""))
            for place, (arrival, source) in enumerate(zip(arrivals, sources, strict=True))
        ]

    async def _commit(self, entries: list[Entry]) -> tuple[list[Entry], list[TakenIn]]:
        """Puts a batch on disk. An entry that can't be taken in spoils no other: it becomes a dead
        letter, and if even that fails, the intake waits."""
        try:
            return entries, await self._enqueue(entries)
        except StoreUnavailable:
            raise
        except Exception as error:
            _log.exception("batch not taken in", events=len(entries))
            self._metrics.faults.labels("intake").inc()
            problem = f"{type(error).__name__}: {error}"
        if len(entries) > 1:
            committed: list[Entry] = []
            taken_in: list[TakenIn] = []
            for entry in entries:
                one, its = await self._commit([entry])
                committed += one
                taken_in += its
            return committed, taken_in
        for event in (entries[0].event, None):
            rubbish = [as_rubbish(entries[0], problem, event)]
            try:
                return rubbish, await self._enqueue(rubbish)
            except StoreUnavailable:
                raise
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        raise StoreUnavailable(f"a dead letter can't be written: {problem}")

    async def _enqueue(self, entries: list[Entry]) -> list[TakenIn]:
        try:
            return await self._patiently(lambda: self._queue.enqueue(entries))
        except StoreUnavailable:
            self._refused_bytes = sum(len(entry.message) for entry in entries)
            raise

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What Redis answers, asked again for a while when it does not."""
        began = time.monotonic()
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                if time.monotonic() - began > self._settings.pause_after_s:
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _answer(
        self,
        connection: Connection,
        turn: asyncio.Lock,
        mids: Sequence[int],
        entries: Sequence[Entry],
        taken_in: Sequence[TakenIn],
        durable_ms: int,
    ) -> None:
        """Reports on a batch that is on disk, and has the broker forget it.

        The broker confirms receipts only behind the events that it has sent already, and it sends more of
        them than it was told to. So batches take turns, and those that wait are kept small: reading can't
        stop for them, for the confirmations are read from the same connection.
        """
        receipts: list[tuple[str, bytes]] = []
        for entry, its in zip(entries, taken_in, strict=True):
            try:
                receipts += self._report(entry, its, durable_ms)
            except Exception:
                _log.exception("event not reported on", key=entry.key)
                self._metrics.faults.labels("intake").inc()
        del entries, taken_in, entry, its  # they need not stay in memory until the broker confirms
        if turn.locked():
            parcel = Parcel(receipts)
            del receipts
            async with turn:
                confirmations = await self._publish(connection, parcel.receipts())
        else:
            async with turn:
                confirmations = await self._publish(connection, receipts)
            del receipts
        # A receipt that the broker has not confirmed is sent again only with the event itself.
        results = await asyncio.gather(*confirmations, return_exceptions=True)
        if not any(isinstance(result, BaseException) for result in results):
            connection.forget(mids)

    async def _publish(
        self, connection: Connection, receipts: Sequence[tuple[str, bytes]]
    ) -> list[asyncio.Future[None]]:
        """The broker's confirmations, once there is room for more to be published."""
        confirmations = [connection.publish(topic, message) for topic, message in receipts]
        await connection.room()
        return confirmations

    def _report(self, entry: Entry, its: TakenIn, durable_ms: int) -> list[tuple[str, bytes]]:
        """Topics and messages of the event's receipts."""
        outcome = outcome_of(entry, its)
        self._metrics.events.labels(outcome).inc()
        if entry.source:
            self._metrics.source_messages.labels(entry.source, outcome).inc()
        event = entry.event
        told = {
            "outcome": outcome,
            "key": entry.key,
            "event_id": event.id if event else None,
            "source": event.source if event else None,
            "subject": event.subject if event else None,
            **trace_id(entry.trace),
        }
        if outcome == "dead-lettered":
            _log.warning("event dead-lettered", reason=entry.reason, **told)
        else:
            _log.info("event taken in", **told)
        if event is None:
            return []
        if self._spans is not None:
            self._spans.taken_in(
                entry.trace,
                event,
                received_ms=entry.received_ms,
                durable_ms=durable_ms,
                size_bytes=len(entry.message),
                outcome=outcome,
            )
        if its.outcome == "new" and event.time_ms is not None:
            self._metrics.phase("", "received", event.time_ms, entry.received_ms)
            self._metrics.phase("", "durable", event.time_ms, durable_ms)
        return list(intake_receipts(self._settings.region, entry, event, its, durable_ms))


def outcome_of(entry: Entry, its: TakenIn) -> str:
    """The word by which the event is counted."""
    match its.outcome:
        case "new" if not entry.reason:
            return "queued" if entry.functions else "no-function"
        case "held" | "dismissed":
            return its.outcome
        case "seen":
            return "duplicate"
    return "dead-lettered"
