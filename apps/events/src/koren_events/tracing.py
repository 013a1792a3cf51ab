"""Spans, made by OpenTelemetry's SDK and sent by OTLP. Import it only where traces are wanted."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from koren_events.telemetry import Telemetry
from koren_events.trace_context import TraceContext

__all__ = ["SpanKind", "Tracer", "event_attributes", "failed"]

QUEUED_MAX = 2048
"""Spans that wait for the collector; what comes above it is dropped."""

_BATCH = 512
_EVERY_MS = 1000
_TIMEOUT_S = 5
_SERVICES_MAX = 1000
_TEXT_MAX = 256
_log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | bool]


class _Identified(Protocol):
    """An event, whether `Event` or `CloudEvent`."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def subject(self) -> str | None: ...


class Tracer:
    """Makes spans of what has happened, and hands them to a thread that sends them.

    Nobody waits for the collector: what it does not take in time is dropped and counted. Safe to
    use from several threads.
    """

    def __init__(self, telemetry: Telemetry, service: Mapping[str, str]) -> None:
        for noisy in ("opentelemetry.sdk", "opentelemetry.exporter"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # `_Way` says it once
        self._service = dict(service)
        self._ratio = TraceIdRatioBased(telemetry.ratio)
        self._way = _Way(telemetry)
        self._ids = _Ids()
        self._lock = threading.Lock()
        self._providers: dict[tuple[tuple[str, str], ...], TracerProvider] = {}

    def begun_by(self, source: str, id: str) -> TraceContext:
        """The first span of an event's own trace, recorded or not as the ratio says."""
        context = TraceContext.of_event(source, id)
        verdict = self._ratio.should_sample(None, int(context.trace_id, 16), "")
        return TraceContext(context.trace_id, context.span_id, verdict.decision is not Decision.DROP)

    def span(
        self,
        name: str,
        kind: SpanKind,
        context: TraceContext,
        parent: TraceContext | None,
        *,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        error: str | None = None,
        events: Sequence[tuple[str, int, Attributes]] = (),
        service: Mapping[str, str] | None = None,
    ) -> None:
        """Sends a span that is over, unless its trace is not recorded; times are Unix time.

        `events` are name, time and attributes. `service` is whose span it is when it is not this
        program's own. Texts are cut at 256 characters.
        """
        if not context.sampled:
            return
        try:
            self._span(name, kind, context, parent, start_ns, end_ns, attributes, error, events, service)
        except Exception:
            # Whatever is wrong with a span, the event goes on.
            _log.exception("span not made")
            self._way.drop(1)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        context: TraceContext,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        error: str | None,
        events: Sequence[tuple[str, int, Attributes]],
        service: Mapping[str, str] | None,
    ) -> None:
        start_ns = max(0, start_ns)  # before 1970 is nothing that OTLP can say
        around = set_span_in_context(NonRecordingSpan(_otel(parent))) if parent is not None else None
        with self._lock:
            tracer = self._provider(service or self._service).get_tracer("koren")
            self._ids.next = context
            span = tracer.start_span(
                _text(name), around, kind, _cut(attributes), start_time=start_ns, record_exception=False
            )
        for what, at_ns, more in events:
            span.add_event(what, _cut(more), at_ns)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, _text(error)))
        span.end(max(start_ns, end_ns))

    def close(self, timeout_s: float) -> None:
        """Sends what waits; what has not gone by then is dropped."""
        ending = threading.Thread(target=self._way.shutdown, daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _provider(self, service: Mapping[str, str]) -> TracerProvider:
        key = tuple(sorted(service.items()))
        provider = self._providers.get(key)
        if provider is None:
            if len(self._providers) >= _SERVICES_MAX:
                self._providers.clear()
            provider = TracerProvider(
                sampler=ALWAYS_ON,  # who began the trace has decided
                resource=Resource(dict(service)),
                id_generator=self._ids,
                shutdown_on_exit=False,
            )
            provider.add_span_processor(self._way)
            self._providers[key] = provider
        return provider


class _Ids(RandomIdGenerator):
    """Gives the next span the ids that it is to have."""

    next = TraceContext.of_event("", "")

    def generate_trace_id(self) -> int:
        return int(self.next.trace_id, 16)

    def generate_span_id(self) -> int:
        return int(self.next.span_id, 16)


class _Way(SpanProcessor, SpanExporter):
    """The way to the collector: the SDK's own, with a bound at its beginning and a count of what is lost."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._endpoint = telemetry.endpoint
        self.drop = telemetry.on_drop
        self._lock = threading.Lock()
        self._queued = 0
        self._takes = True
        session = requests.Session()
        # REQUESTS_CA_BUNDLE of the environment would go before the authority that is named.
        session.trust_env = telemetry.ca is None
        self._exporter = OTLPSpanExporter(
            endpoint=telemetry.endpoint.rstrip("/") + "/v1/traces",
            certificate_file=str(telemetry.ca) if telemetry.ca is not None else None,
            headers=dict(telemetry.headers),
            timeout=_TIMEOUT_S,
            session=session,
        )
        # Its own queue is never full: this one is smaller.
        self._batches = BatchSpanProcessor(
            self, max_queue_size=2 * QUEUED_MAX, schedule_delay_millis=_EVERY_MS, max_export_batch_size=_BATCH
        )

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            has_room = self._queued < QUEUED_MAX
            self._queued += has_room
        if has_room:
            self._batches.on_end(span)
        else:
            self.drop(1)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:
            _log.exception("spans not sent")
            result = SpanExportResult.FAILURE
        with self._lock:
            self._queued -= len(spans)
        takes = result is SpanExportResult.SUCCESS
        if not takes:
            self.drop(len(spans))
        if takes is not self._takes:
            self._takes = takes
            if takes:
                _log.info("%s takes spans again", self._endpoint)
            else:
                _log.warning("%s takes no spans; they are dropped and counted", self._endpoint)
        return result

    def shutdown(self) -> None:
        # It comes here again, to its exporter.
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batches.force_flush(timeout_millis)


def event_attributes(event: _Identified, topic: str, operation: str, kind: str) -> dict[str, str | int | bool]:
    """What a span about an event says of it: what it is known by, and nothing of its data.

    `operation` is what is done with the message, `kind` which of OpenTelemetry's types that is.
    """
    attributes: dict[str, str | int | bool] = {
        "messaging.system": "mqtt",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.message.id": event.id,
        "cloudevents.event_id": event.id,
        "cloudevents.event_source": event.source,
        "cloudevents.event_type": event.type,
    }
    if topic:
        attributes["messaging.destination.name"] = topic
    if event.subject is not None:
        attributes["cloudevents.event_subject"] = event.subject
    return attributes


def failed(kind: str) -> dict[str, str | int | bool]:
    """The attribute of a span that failed."""
    return {"error.type": kind}


def _otel(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT),
    )


def _text(value: str) -> str:
    # Half a surrogate pair has no UTF-8, and would cost the whole batch.
    return value[:_TEXT_MAX].encode(errors="replace").decode()


def _cut(attributes: Attributes) -> dict[str, str | int | bool]:
    return {name: _text(value) if isinstance(value, str) else value for name, value in attributes.items()}
