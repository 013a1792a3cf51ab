"""Triggers of kind cron: at each moment that a schedule names, one event for the trigger's function.

The replica that takes events in runs this, with the region's Redis and nothing else. That a moment becomes one event,
whoever runs this and how often, is the queue's memory of seen events: the event's id is made of the trigger's name
and the moment.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog

from koren_events.cloudevent import CloudEvent, build, json_value
from koren_events.times import format_time, from_ms
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.triggers import CronTrigger, Triggers
from koren_gateway.errors import StoreUnavailable
from koren_gateway.intake.intake import outcome_of
from koren_gateway.metrics import Metrics
from koren_gateway.queue.queue import Entry, Queue, event_key
from koren_gateway.queue.store import Store, number
from koren_gateway.tracing import Spans, trace_id, trace_of

CRON_TYPE = "kr.koren.cron"
KEPT = "koren:cron"

_AGAIN_S = 1.0
_LOOK_S = 30.0  # so long at most it trusts the clock of waiting: the host's may be set meanwhile
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Due:
    """The moments of a schedule that have come."""

    run: datetime | None
    """The latest; none when there is none, or when it is past the starting deadline."""
    late: int
    """How many others there were, as far back as the starting deadline reaches."""


def due(trigger: CronTrigger, last: datetime, now: datetime) -> Due:
    """What of the trigger's schedule has come since `last`."""
    run, count = None, 0
    for moment in trigger.schedule.after(max(last, now - timedelta(seconds=trigger.deadline_s))):
        if moment > now:
            break
        run, count = moment, count + 1
    return Due(run, max(0, count - 1))


def event_at(trigger: CronTrigger, moment: datetime, region: str) -> tuple[CloudEvent, bytes]:
    """The event of one moment of a trigger. Its subject is the trigger, so that runs do not overlap."""
    at = format_time(moment)
    values = {
        "specversion": "1.0",
        "id": f"{trigger.name}-{at}",
        "source": f"cron/{region}/{trigger.name}",
        "type": CRON_TYPE,
        "subject": trigger.name,
        "time": at,
        "region": region,
    }
    if trigger.payload:
        values |= {"datacontenttype": "application/json", "data": json_value(trigger.payload.encode())}
    return build(values)


class Cron:
    """Starts functions by the clock."""

    def __init__(
        self,
        region: str,
        store: Store,
        queue: Queue,
        functions: Functions,
        triggers: Triggers,
        metrics: Metrics,
        spans: Spans | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._region = region
        self._store = store
        self._queue = queue
        self._functions = functions
        self._triggers = triggers
        self._metrics = metrics
        self._spans = spans
        self._clock = clock
        self._changed = asyncio.Event()
        triggers.changes.watch(self._changed)

    async def run(self) -> None:
        """Starts what is due, for ever."""
        while True:
            self._changed.clear()
            try:
                await self.start_due()
            except StoreUnavailable as error:
                _log.warning("triggers of kind cron wait for redis", problem=str(error))
                await asyncio.sleep(_AGAIN_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._next_s()):
                    await self._changed.wait()

    async def start_due(self) -> None:
        """Puts an event into the queue for each trigger with a moment that has come. Raises StoreUnavailable."""
        await self._functions.wait_in_step()
        await self._triggers.wait_in_step()
        kept = await self._store.command("HGETALL", KEPT)
        triggers = {trigger.name: trigger for trigger in self._triggers.cron()}
        for name in kept.keys() - {name.encode() for name in triggers}:
            await self._store.command("HDEL", KEPT, name)
        for name, trigger in triggers.items():
            try:
                await self._start_if_due(trigger, kept.get(name.encode(), b"").decode(errors="replace"))
            except StoreUnavailable:
                raise
            except Exception:
                # What is wrong with one trigger concerns no other.
                _log.exception("trigger not looked at", trigger=name)
                self._metrics.faults.labels("cron").inc()

    async def last(self) -> dict[str, datetime]:
        """The latest moment of each trigger that was looked at, or when that began. Raises StoreUnavailable."""
        kept = await self._store.command("HGETALL", KEPT)
        return {
            name.decode(errors="replace"): from_ms(number(value.partition(b"\n")[0])) for name, value in kept.items()
        }

    async def _start_if_due(self, trigger: CronTrigger, kept: str) -> None:
        now = self._clock()
        since_ms, _, its = kept.partition("\n")
        since = from_ms(number(since_ms))
        if its != _text(trigger) or since > now:
            # It is new, has another schedule, or the clock was set back: moments of the past are not made up for.
            await self._keep(trigger, now)
            return
        found = due(trigger, since, now)
        if found.run is None:
            return
        await self._start(trigger, found.run)
        await self._keep(trigger, found.run)
        if found.late:
            self._metrics.cron_runs.labels(trigger.name, "late").inc(found.late)
            _log.warning("moments left out", trigger=trigger.name, moments=found.late)

    async def _start(self, trigger: CronTrigger, moment: datetime) -> None:
        function = self._functions.get(trigger.function)
        event, message = event_at(trigger, moment, self._region)
        entry = Entry(
            key=event_key(event.source, event.id),
            event=event,
            message=message,
            received_ms=round(time.time() * 1000),
            functions=[] if function is None else [replace(function, via=trigger.name)],
            trace=trace_of(event, "", self._spans),
        )
        [taken_in] = await self._queue.enqueue([entry])
        outcome = outcome_of(entry, taken_in)
        self._metrics.cron_runs.labels(trigger.name, outcome).inc()
        _log.info(
            "function started by the clock",
            trigger=trigger.name,
            function=trigger.function,
            event_id=event.id,
            outcome=outcome,
            **trace_id(entry.trace),
        )

    async def _keep(self, trigger: CronTrigger, moment: datetime) -> None:
        await self._store.command("HSET", KEPT, trigger.name, f"{round(moment.timestamp() * 1000)}\n{_text(trigger)}")

    def _next_s(self) -> float:
        now = self._clock()
        moments = (next(trigger.schedule.after(now), None) for trigger in self._triggers.cron())
        return min([_LOOK_S, *((moment - now).total_seconds() for moment in moments if moment is not None)])


def _text(trigger: CronTrigger) -> str:
    return f"{trigger.schedule.expression}\n{trigger.schedule.zone}"
