"""What Prometheus reads of the gateway."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from koren_gateway.cloudevent import CloudEvent
from koren_gateway.queue import Backlog, Progress, Taken, event_key

_PREFIX = "koren_gateway_"
_PHASE_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)
_CALL_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The gateway's series; those of a function carry its name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = Counter(
            f"{_PREFIX}events",
            "Messages from the broker by outcome: queued, duplicate, no-function, dead-lettered.",
            ["outcome"],
            registry=self.registry,
        )
        self.invocations = Counter(
            f"{_PREFIX}invocations",
            "Attempts by outcome: succeeded, failed, lost, dead-lettered (with the last attempt).",
            ["function", "outcome"],
            registry=self.registry,
        )
        self.phases = Histogram(
            f"{_PREFIX}phase_seconds",
            "From the event's own time to each phase of its first attempt.",
            ["function", "phase"],
            buckets=_PHASE_BUCKETS_S,
            registry=self.registry,
        )
        self.handlers = Histogram(
            f"{_PREFIX}handler_seconds",
            "Time that the handler took for one attempt.",
            ["function"],
            buckets=_PHASE_BUCKETS_S,
            registry=self.registry,
        )
        self.commits = Histogram(
            f"{_PREFIX}commit_seconds",
            "Time to put a batch of events on disk.",
            buckets=_CALL_BUCKETS_S,
            registry=self.registry,
        )
        self.batch = Histogram(
            f"{_PREFIX}commit_events",
            "Events in a batch.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self.registry,
        )
        self.reviews = Histogram(
            f"{_PREFIX}token_review_seconds",
            "Time to have a token reviewed that was not known.",
            buckets=_CALL_BUCKETS_S,
            registry=self.registry,
        )
        self.intake_connected = self._gauge(
            "intake_connected", "1 in the replica that takes events in."
        )
        self.intake_paused = self._gauge(
            "intake_paused", "1 while Redis takes no events (down or full)."
        )
        self.redis_connected = self._gauge("redis_connected", "1 while Redis answers.")
        self.dead_letters = self._gauge("dead_letters", "Dead letters in the region.")
        self.receipts_waiting = self._gauge(
            "receipts_waiting", "Receipts that the broker has not got yet."
        )
        self._backlog = {
            name: Gauge(f"{_PREFIX}{name}", text, ["function"], registry=self.registry)
            for name, text in {
                "runnable_subjects": "Subjects with an event that is due.",
                "in_flight": "Events in hand.",
                "waiting_subjects": "Subjects whose next attempt is due later.",
                "open_incidents": "Incidents that keep the function running.",
            }.items()
        }

    def committed(self, events: int, took_s: float) -> None:
        """A batch is on disk."""
        self.batch.observe(events)
        self.commits.observe(took_s)

    def phase(self, function: str, name: str, event: CloudEvent, at_ms: int) -> None:
        """The event reached a phase; clocks of two hosts may differ by less than it took."""
        if event.time_ms is not None:
            self.phases.labels(function, name).observe(max(0, at_ms - event.time_ms) / 1000)

    def attempt(
        self, function: str, key: str, attempt: int, progress: Progress | Taken, *names: str
    ) -> None:
        """Those of the phases `names` that were reached; not of retries, calls and redriven events,
        whose times tell something else."""
        event = progress.event
        if event is not None and attempt == 1 and key == event_key(event.source, event.id):
            for name in names:
                if name in progress.phases:
                    self.phase(function, name, event, progress.phases[name])

    def ended(self, function: str, progress: Progress) -> None:
        """The handler has come to an end, whichever."""
        phases = progress.phases
        if "handler_entered" in phases and "handler_done" in phases:
            took_ms = phases["handler_done"] - phases["handler_entered"]
            self.handlers.labels(function).observe(max(0, took_ms) / 1000)

    def backlog(self, function: str, backlog: Backlog) -> None:
        """What the function has to do."""
        for name, count in zip(
            self._backlog,
            (backlog.runnable, backlog.in_flight, backlog.waiting, backlog.open_incidents),
            strict=True,
        ):
            self._backlog[name].labels(function).set(count)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}{name}", text, registry=self.registry)
