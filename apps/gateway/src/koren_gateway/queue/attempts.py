"""How attempts end: by the runtime's word, by a lease that ran out, or with their pod."""

import contextlib
import json
import random
from dataclasses import asdict, dataclass, replace

import structlog

from koren_events.cloudevent import CloudEvent
from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.errors import LeaseLost
from koren_gateway.metrics import Metrics
from koren_gateway.queue.queue import End, Kept, Progress, Queue, Standing, Taken, event_key
from koren_gateway.queue.retries import GiveUp, Policy, Retry, after_failure
from koren_gateway.settings import Settings
from koren_gateway.tracing import Attempt, Spans, Trace, trace_id

_CRASHES = ("Abandoned", "Evicted", "LeaseExpired", "OutOfMemory", "PodLost", "WorkerEnded")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in the handler's words or the gateway's."""

    type: str
    message: str
    traceback: str = ""
    reject: bool = False
    """The handler says that no further attempt will help."""
    retry_after_s: float | None = None
    """The handler says when the next attempt may help."""

    def to_json(self) -> bytes:
        """What is told of it, as JSON."""
        told = asdict(self)
        del told["reject"], told["retry_after_s"]
        return json.dumps(told, ensure_ascii=False).encode(errors="replace")

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"[:2000].encode(errors="replace").decode()


class Attempts:
    """Ends attempts. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        functions: Functions,
        metrics: Metrics,
        spans: Spans | None = None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._functions = functions
        self._metrics = metrics
        self._spans = spans
        self._dice = random.Random()

    async def succeed(self, end: End, result: bytes) -> None:
        """The handler returned `result` (JSON). Raises LeaseLost."""
        function = self._functions.get(end.function)
        history_s = 0 if function is None else function.history_s
        progress = await self._queue.succeed(replace(end, counts=True, history_s=history_s), result)
        self._count(end, progress, "succeeded")
        for key, delivery, its in progress.others:
            self._count(replace(end, key=key, delivery=delivery), its, "succeeded", is_other=True)

    async def fail(
        self, function: Function, end: End, failure: Failure, *, lost: bool = False
    ) -> None:
        """The attempt failed, or was `lost`: the next is due some time, or the event is a dead
        letter.

        Each event of a batch has an attempt of its own next, whatever the handler says of this one: it can't mean
        them all. Raises LeaseLost, also with `end.only_expired` when the lease still runs.
        """
        standing = await self._queue.standing(function.name, end.key)
        if standing.others and standing.deliveries == end.delivery:
            failure = replace(failure, reject=False)
            for key, delivery in standing.others:
                # The first event comes last: until then what is left of the batch can be found by it.
                if key != end.key:
                    await self._fail_other(function, replace(end, key=key, delivery=delivery), failure, lost=lost)
        await self._fail(function, end, failure, standing, lost=lost)
        if failure.type in _CRASHES:
            self._metrics.crashes.labels(function.name, failure.type).inc()

    async def set_aside(self, function: Function, taken: Taken) -> None:
        """Makes a dead letter of what can't be read, and has the others of its batch handed out without it."""
        problem = "what Redis keeps of the event's attributes can't be read"
        for one in (*taken.others, taken):
            broken = one.event is None
            failure = Failure("BrokenData", problem, reject=broken)
            end = End(function=function.name, key=one.key, delivery=one.delivery)
            await self._fail_other(function, end, failure, lost=not broken)

    async def _fail_other(self, function: Function, end: End, failure: Failure, *, lost: bool) -> None:
        with contextlib.suppress(LeaseLost):
            standing = await self._queue.standing(function.name, end.key)
            await self._fail(function, end, failure, standing, lost=lost, is_other=True)

    async def _fail(
        self,
        function: Function,
        end: End,
        failure: Failure,
        standing: Standing,
        *,
        lost: bool,
        is_other: bool = False,
    ) -> None:
        counts = standing.entered or not lost
        verdict = after_failure(
            Policy(
                max_attempts=1 if standing.once else function.max_attempts,
                max_deliveries=self._settings.max_deliveries,
                base_s=self._settings.retry_base_s,
                cap_s=self._settings.retry_cap_s,
            ),
            attempts=standing.attempts + (counts and not standing.entered),
            deliveries=standing.deliveries,
            lost=lost,
            dice=self._dice,
            reject=failure.reject,
            retry_after_s=failure.retry_after_s,
        )
        end = replace(end, counts=counts)
        match verdict:
            case Retry(delay_s):
                progress = await self._queue.retry(end, str(failure), delay_s)
                outcome = "lost" if lost else "failed"
            case GiveUp():
                progress = await self._queue.dead_letter(end, str(failure), failure.to_json())
                outcome = "dead-lettered"
        self._count(end, progress, outcome, failure, is_other=is_other)

    async def release(self, kept: Kept, failure: Failure) -> None:
        """Drops a lease whose holder is gone or knows nothing of it, if it has not ended."""
        function = self._functions.get(kept.function) or Function(name=kept.function)
        end = End(function=kept.function, key=kept.key, delivery=kept.delivery)
        try:
            await self.fail(function, end, failure, lost=True)
        except LeaseLost:
            _log.info("lease had ended", function=kept.function, key=kept.key)

    def taken(self, function: Function, taken: Taken, *, cold: bool) -> None:
        """Notes that an event (with those of its batch) was handed out, and its phases; `cold` says that its pod had
        none before."""
        for other in taken.others:
            self.taken(function, other, cold=False)
        if cold:
            self._metrics.starts.labels(function.name).inc()
        if self._spans is not None:
            self._note_wait(self._spans, function.name, taken)
        if taken.delivery == 1 and not taken.released_by and not taken.delayed:
            progress = Progress(1, taken.event, taken.phases)
            self._observe(function.name, taken.key, progress, "activated", "pod_started")

    def traceparent(self, function: Function, taken: Taken) -> str:
        """What the function's own spans are to be below; empty when the trace is not recorded here."""
        attempt = _attempt(taken.trace, function.name, taken.key, taken.delivery, taken.event)
        if self._spans is None or attempt is None or not attempt.run.sampled:
            return ""
        return str(attempt.run)

    def entered(self, function: Function, key: str, progress: Progress) -> None:
        """Notes that a handler was entered."""
        self._observe(function.name, key, progress, "handler_entered")
        for its_key, _, its in progress.others:
            self._observe(function.name, its_key, its, "handler_entered")

    def _observe(self, function: str, key: str, progress: Progress, *names: str) -> None:
        # Not of retries, calls, and redriven, held and delayed events: their times tell something else.
        event = progress.event
        if event is None or event.time_ms is None or progress.attempt != 1 or progress.waited:
            return
        if key == event_key(event.source, event.id):
            for name in names:
                if name in progress.phases:
                    # Of those that waited for a pod to start, the phase says so.
                    start = "zero" if "pod_started" in progress.phases else "warm"
                    self._metrics.phase(function, name, event.time_ms, progress.phases[name], start)

    def _note_wait(self, spans: Spans, function: str, taken: Taken) -> None:
        attempt = _attempt(taken.trace, function, taken.key, taken.delivery, taken.event)
        if attempt is None:
            return
        # A retry and a delayed event wait from when they were due; a redriven event was received long ago.
        is_first = taken.delivery == 1 and not taken.delayed and taken.key == event_key(
            attempt.event.source, attempt.event.id
        )
        spans.waited(
            attempt,
            due_ms=taken.phases["received"]
            if is_first and taken.phases.get("received")
            else taken.due_ms,
        )

    def _note_end(
        self, spans: Spans, end: End, progress: Progress, outcome: str, failure: Failure | None
    ) -> None:
        attempt = _attempt(progress.trace, end.function, end.key, end.delivery, progress.event)
        if attempt is None:
            return
        error = None
        if failure is not None:
            # What a handler's exception says may hold what it worked on: its kind is all that leaves the region.
            error = failure.type, failure.type if failure.traceback else str(failure)
        times_ms = {
            **progress.phases,
            **({"taken": progress.taken_ms} if progress.taken_ms else {}),
        }
        spans.ended(
            attempt,
            times_ms=times_ms,
            outcome=outcome,
            cold=progress.cold,
            pod=progress.pod,
            error=error,
        )

    def _count(
        self, end: End, progress: Progress, outcome: str, failure: Failure | None = None, *, is_other: bool = False
    ) -> None:
        self._metrics.invocations.labels(end.function, outcome).inc()
        phases = progress.phases
        if "handler_entered" in phases and "handler_done" in phases and not is_other:
            took_ms = phases["handler_done"] - phases["handler_entered"]
            self._metrics.handlers.labels(end.function).observe(max(0, took_ms) / 1000)
        self._observe(end.function, end.key, progress, "handler_done")
        if self._spans is not None:
            self._note_end(self._spans, end, progress, outcome, failure)
        log = _log.info if outcome == "succeeded" else _log.warning
        log(
            f"invocation {outcome}",
            function=end.function,
            key=end.key,
            attempt=progress.attempt,
            event_id=progress.event.id if progress.event else None,
            subject=progress.event.subject if progress.event else None,
            **trace_id(progress.trace),
            **({} if failure is None else {"problem": str(failure)}),
        )


def _attempt(
    trace: Trace | None, function: str, key: str, delivery: int, event: CloudEvent | None
) -> Attempt | None:
    if trace is None or event is None:
        return None
    return Attempt(trace=trace, function=function, key=key, delivery=delivery, event=event)
