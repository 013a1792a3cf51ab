"""The gateway's spans: an event's intake, its time in a queue, each attempt, and the function's run.

An event has its trace in Redis beside it: `traceparent`, and a topic in a second line. The ids of
spans follow from it and from what a span is about, so that an attempt which one replica has handed
out may end at another. Only `Spans` needs OpenTelemetry; it is imported where traces are wanted.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from koren_events.cloudevent import CloudEvent
from koren_events.trace_context import TraceContext

if TYPE_CHECKING:
    from koren_events.tracing import Tracer

CALL_TYPE = "kr.koren.faas.invocation"
"""Type of the event that a call of a function becomes."""
REQUEST_TYPE = "kr.koren.http.request"
"""Type of the event that a request of an HTTP trigger becomes."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of an event in the queue."""

    context: TraceContext
    topic: str = ""

    @classmethod
    def parse(cls, kept: bytes | str | None) -> Self | None:
        """What is kept in Redis; None when there is nothing, or nothing that makes sense."""
        text = kept.decode(errors="replace") if isinstance(kept, bytes) else kept or ""
        traceparent, _, topic = text.partition("\n")
        context = TraceContext.parse(traceparent)
        return None if context is None else cls(context, topic)

    def __str__(self) -> str:
        return f"{self.context}\n{self.topic}"


def trace_of(event: CloudEvent | None, topic: str, spans: "Spans | None") -> str:
    """The trace of an event that comes in, as it is kept; empty when it has none.

    One that says no trace begins its own, where traces are wanted.
    """
    if event is None:
        return ""
    context = TraceContext.parse(event.traceparent)
    if context is None and spans is not None:
        context = spans.begun_by(event)
    return "" if context is None else str(Trace(context, topic))


def trace_id(trace: Trace | str | None) -> dict[str, str]:
    """What a line of the log says of a trace."""
    found = Trace.parse(trace) if isinstance(trace, str) else trace
    return {} if found is None else {"trace_id": found.context.trace_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One delivery of an event to a function."""

    trace: Trace
    function: str
    key: str
    delivery: int
    event: CloudEvent

    @property
    def intake(self) -> TraceContext:
        """The span of the event's intake."""
        return self.trace.context.child("intake", self.event.source, self.event.id)

    @property
    def delivered(self) -> TraceContext:
        """The span of the attempt."""
        return self.intake.child("attempt", self.function, self.key, self.delivery)

    @property
    def run(self) -> TraceContext:
        """The span of the function's run."""
        return self.delivered.child("function")


class Spans:
    """Makes the gateway's spans; of traces that are not recorded it makes none."""

    def __init__(self, tracer: "Tracer", region: str) -> None:
        from koren_events import tracing

        self._of = tracing
        self._tracer = tracer
        self._region = region

    def begun_by(self, event: CloudEvent) -> TraceContext:
        """The trace that an event begins which says none."""
        return self._tracer.begun_by(event.source, event.id)

    def taken_in(
        self, kept: str, event: CloudEvent, *, received_ms: int, durable_ms: int, size_bytes: int, outcome: str
    ) -> None:
        """An event came in and is on disk, or is a repeat of one; `kept` is its trace as it is kept, if it has one."""
        trace = Trace.parse(kept)
        if trace is None:
            return
        context = trace.context.child("intake", event.source, event.id)
        if outcome == "duplicate":
            context = context.child(outcome, received_ms)
        is_dead = outcome == "dead-lettered"
        called = event.type in (CALL_TYPE, REQUEST_TYPE)
        self._tracer.span(
            f"receive {trace.topic}" if trace.topic else "receive call",
            self._of.SpanKind.SERVER if called else self._of.SpanKind.CONSUMER,
            context,
            self._parent_of(trace, event),
            start_ns=received_ms * 1_000_000,
            end_ns=durable_ms * 1_000_000,
            attributes={
                **self._about(event, trace.topic, "receive", "receive"),
                "messaging.message.body.size": size_bytes,
                "koren.outcome": outcome,
                **(self._of.failed(outcome) if is_dead else {}),
            },
            error=outcome if is_dead else None,
        )

    def waited(self, attempt: Attempt, *, due_ms: int) -> None:
        """An event was handed out, that was due then."""
        self._tracer.span(
            f"queue {attempt.function}",
            self._of.SpanKind.INTERNAL,
            attempt.intake.child("queue", attempt.function, attempt.key, attempt.delivery),
            attempt.intake,
            start_ns=due_ms * 1_000_000,
            end_ns=time.time_ns(),
            attributes={"faas.invoked_name": attempt.function, "koren.delivery": attempt.delivery},
        )

    def ended(
        self,
        attempt: Attempt,
        *,
        times_ms: Mapping[str, int],
        outcome: str,
        cold: bool,
        pod: str,
        error: tuple[str, str] | None,
    ) -> None:
        """An attempt ended. `times_ms` has `taken`, and `handler_entered` and `handler_done` if they were;
        `error` is its type and what may be told of it."""
        now_ns = time.time_ns()
        ended_ns = times_ms["handler_done"] * 1_000_000 if "handler_done" in times_ms else now_ns
        event, topic = attempt.event, attempt.trace.topic
        failure: dict[str, Any] = {} if error is None else self._of.failed(error[0])
        text = None if error is None else error[1]
        self._tracer.span(
            f"deliver {attempt.function}",
            self._of.SpanKind.CLIENT,
            attempt.delivered,
            attempt.intake,
            start_ns=times_ms.get("taken", now_ns // 1_000_000) * 1_000_000,
            end_ns=max(ended_ns, now_ns),
            attributes={
                "faas.invoked_name": attempt.function,
                "faas.invoked_region": self._region,
                "faas.invocation_id": attempt.key,
                "messaging.message.id": event.id,
                "k8s.pod.name": pod,
                "koren.delivery": attempt.delivery,
                "koren.outcome": outcome,
                **failure,
            },
            error=text,
        )
        if "handler_entered" not in times_ms:
            return
        called = event.type in (CALL_TYPE, REQUEST_TYPE)
        self._tracer.span(
            attempt.function,
            self._of.SpanKind.SERVER if called else self._of.SpanKind.CONSUMER,
            attempt.run,
            attempt.delivered,
            start_ns=times_ms["handler_entered"] * 1_000_000,
            end_ns=ended_ns,
            attributes={
                **self._about(event, topic, "process", "process"),
                "faas.name": attempt.function,
                "faas.trigger": "http" if called else "pubsub",
                "faas.coldstart": cold,
                "faas.invocation_id": attempt.key,
                **failure,
            },
            error=text,
            service={
                "service.name": attempt.function,
                "service.instance.id": pod,
                "faas.name": attempt.function,
                "faas.instance": pod,
                "koren.region": self._region,
            },
        )

    def close(self, timeout_s: float) -> None:
        """Sends what waits; what has not gone by then is dropped."""
        self._tracer.close(timeout_s)

    def _about(self, event: CloudEvent, topic: str, operation: str, kind: str) -> dict[str, str | int | bool]:
        about = self._of.event_attributes(event, topic, operation, kind)
        return about if topic else {name: its for name, its in about.items() if not name.startswith("messaging.")}

    def _parent_of(self, trace: Trace, event: CloudEvent) -> TraceContext | None:
        # What the event's own trace begins with is the publisher's span. Without a publisher there is none.
        return None if event.traceparent is None else trace.context
