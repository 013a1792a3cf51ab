"""The publisher's spans: one an event, from the spool to its region's first receipt.

A span is made when it is over. Its ids are in the event's `traceparent` or follow from the event,
so a publisher that is started anew makes the spans of events that an earlier one has spooled.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from koren_events.cloudevent import parse
from koren_events.errors import InvalidEvent
from koren_events.event import Event, event_topic
from koren_events.receipt import Receipt, ReceiptState
from koren_events.trace_context import TraceContext
from koren_events.tracing import Attributes, SpanKind, Tracer, event_attributes, failed


@dataclass(slots=True)
class _Open:
    context: TraceContext
    parent: TraceContext | None
    start_ns: int
    topic: str
    attributes: dict[str, str | int | bool]
    answers: list[tuple[str, int, Attributes]] = field(default_factory=list)


class PublishSpans:
    """Follows events by the topic of their receipts. Safe to use from several threads."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._began_ns = time.time_ns()
        self._open: dict[str, _Open] = {}
        self._early: dict[str, list[tuple[str, int, Attributes]]] = {}

    def traced(self, event: Event) -> Event:
        """The event, with a trace of its own if it has none."""
        if event.traceparent is not None:
            return event
        return dataclasses.replace(event, traceparent=str(self._tracer.begun_by(event.source, event.id)))

    def spooled(self, key: str, event: Event) -> None:
        """The event is on disk."""
        attributes = event_attributes(event, event_topic(event), "publish", "send")
        self._begin(key, event.source, event.id, event.traceparent, event_topic(event), attributes, time.time_ns())

    def answered(self, key: str, refusal: str | None) -> None:
        """The broker answered: it has the event now, or refused it."""
        name = "acknowledged" if refusal is None else "refused"
        entry = self._open.get(key)
        answers = self._early.setdefault(key, []) if entry is None else entry.answers
        if len(answers) < 100:
            answers.append((name, time.time_ns(), {}))

    def received(self, key: str, receipt: Receipt, message: Callable[[], tuple[str, bytes] | None]) -> None:
        """The region has the event. `message` gives its topic and itself, if it is in the spool still."""
        early = self._early.pop(key, [])
        entry = self._open.pop(key, None)
        if entry is None:
            entry = self._resumed(key, message())
        if entry is None:
            return
        entry.answers += early
        refused = receipt.state is ReceiptState.DEAD_LETTERED
        self._tracer.span(
            f"publish {entry.topic}",
            SpanKind.PRODUCER,
            entry.context,
            entry.parent,
            start_ns=entry.start_ns,
            end_ns=time.time_ns(),
            attributes={
                **entry.attributes,
                "koren.receipt": receipt.state.value,
                "koren.sends": len(entry.answers),
                **(failed(receipt.state.value) if refused else {}),
            },
            error=receipt.state.value if refused else None,
            events=entry.answers,
        )

    def _resumed(self, key: str, found: tuple[str, bytes] | None) -> _Open | None:
        """An event that an earlier process has spooled: when, is not known."""
        if found is None:
            return None
        topic, message = found
        try:
            event, _ = parse(message)
        except InvalidEvent:
            return None
        attributes = event_attributes(event, topic, "publish", "send") | {"koren.resumed": True}
        self._begin(key, event.source, event.id, event.traceparent, topic, attributes, self._began_ns)
        return self._open.pop(key, None)

    def _begin(
        self,
        key: str,
        source: str,
        id: str,
        traceparent: str | None,
        topic: str,
        attributes: dict[str, str | int | bool],
        start_ns: int,
    ) -> None:
        context = TraceContext.parse(traceparent)
        if context is None or not context.sampled:
            return
        parent = None
        own = TraceContext.of_event(source, id)
        if (context.trace_id, context.span_id) != (own.trace_id, own.span_id):
            context, parent = context.child("publish", source, id), context
        self._open[key] = _Open(context, parent, start_ns, topic, attributes)
