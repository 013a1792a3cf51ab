"""What Prometheus reads of the gateway."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
            "Messages from the broker by outcome: queued, duplicate, no-function, dead-lettered, held, dismissed.",
            ["outcome"],
            registry=self.registry,
        )
        self.source_messages = Counter(
            f"{_PREFIX}source_messages",
            "Messages of declared sources by outcome, as koren_gateway_events.",
            ["source", "outcome"],
            registry=self.registry,
        )
        self.cron_runs = Counter(
            f"{_PREFIX}cron_runs",
            "Moments of triggers of kind cron by outcome: queued, no-function, duplicate, dead-lettered, or late when "
            "no gateway took them before a later one or the starting deadline.",
            ["trigger", "outcome"],
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
            "From the event's own time to each phase of its first attempt; start is zero when the event waited for a "
            "pod to start, else warm.",
            ["function", "phase", "start"],
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
        self.starts = Counter(
            f"{_PREFIX}starts",
            "Pods that were given their first event.",
            ["function"],
            registry=self.registry,
        )
        self.crashes = Counter(
            f"{_PREFIX}crashes",
            "Functions' processes and pods that ended with an event in hand, or (InitError) did not load the handler.",
            ["function", "reason"],
            registry=self.registry,
        )
        self.spans_dropped = Counter(
            f"{_PREFIX}spans_dropped",
            "Spans of traces that the collector did not get.",
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
        self.faults = Counter(
            f"{_PREFIX}faults",
            "Errors that nobody foresaw, by the part that began anew after it.",
            ["part"],
            registry=self.registry,
        )
        self.dead_letters = self._gauge("dead_letters", "Dead letters in the region.")
        self.held = self._gauge("held_events", "Events that wait for a person.")
        self.refused = self._gauge(
            "refused_deployments", "Deployments with a function's label that are no function."
        )
        self.sources = self._gauge("sources", "Declared sources.")
        self.sources_connected = self._gauge(
            "sources_connected", "1 in the replica that takes messages of sources in."
        )
        self.refused_sources = self._gauge(
            "refused_sources", "ConfigMaps with a source's label that are no source."
        )
        self.http_requests = Counter(
            f"{_PREFIX}http_requests",
            "Requests of HTTP triggers by the answer's status; without a trigger when none has the path.",
            ["trigger", "status"],
            registry=self.registry,
        )
        self.http_waiting = self._gauge("http_waiting", "Requests of HTTP triggers in hand.")
        self.http_triggers = self._gauge("http_triggers", "Declared HTTP triggers.")
        self.refused_http_triggers = self._gauge(
            "refused_http_triggers", "ConfigMaps that declare an HTTP trigger and are none."
        )
        self.refused_triggers = self._gauge(
            "refused_triggers", "ConfigMaps with a trigger's label that are no trigger."
        )
        self.redis_used = self._gauge("redis_used_bytes", "Memory that Redis uses.")
        self.redis_limit = self._gauge("redis_limit_bytes", "Redis' memory limit; 0: none.")
        self.redis_aof_ok = Gauge(
            f"{_PREFIX}redis_aof_ok",
            "1 if Redis' last step of this kind on its append-only file succeeded: write, rewrite.",
            ["step"],
            registry=self.registry,
        )
        self._used = Gauge(
            f"{_PREFIX}used_bytes",
            "What an account of the budgets holds: dead, history, held, queue, state, answers, log; of the region "
            "where no function is named.",
            ["account", "function"],
            registry=self.registry,
        )
        self._limits = Gauge(
            f"{_PREFIX}budget",
            "The budgets, in bytes (seen: events).",
            ["name"],
            registry=self.registry,
        )
        self._dropped = Gauge(
            f"{_PREFIX}dropped",
            "What was dropped for want of room or by age, ever; the same in every replica.",
            ["what"],
            registry=self.registry,
        )
        self.receipts_waiting = self._gauge(
            "receipts_waiting", "Receipts that the broker has not got yet."
        )
        self._backlog = {
            name: Gauge(f"{_PREFIX}{name}", text, ["function"], registry=self.registry)
            for name, text in {
                "runnable_subjects": "Subjects with an event that is due.",
                "in_flight": "Events in hand.",
                "waiting_subjects": "Subjects whose next event is due later (retry, delay), or waits for the limits.",
                "paused_subjects": "Subjects whose trigger is paused.",
                "open_incidents": "Incidents that keep the function running.",
                "longest_due_seconds": "How long the subject that has waited longest has been due.",
            }.items()
        }

    def committed(self, events: int, took_s: float) -> None:
        """A batch is on disk."""
        self.batch.observe(events)
        self.commits.observe(took_s)

    def phase(self, function: str, name: str, event_ms: int, at_ms: int, start: str = "") -> None:
        """An event of that time reached a phase; clocks of two hosts may differ by less than it
        took."""
        self.phases.labels(function, name, start).observe(max(0, at_ms - event_ms) / 1000)

    def begin(self, function: str) -> None:
        """Counts of a function begin at zero: what only appears with its first event has no increase then."""
        for outcome in ("succeeded", "failed", "lost", "dead-lettered"):
            self.invocations.labels(function, outcome)
        for phase in ("handler_entered", "handler_done"):
            for start in ("zero", "warm"):
                self.phases.labels(function, phase, start)

    def backlogs(self, of: Mapping[str, Mapping[str, float]]) -> None:
        """What each function has to do, by the names of `_backlog`; no other has anything."""
        for gauge in self._backlog.values():
            gauge.clear()
        for function, counts in of.items():
            for name, count in counts.items():
                self._backlog[name].labels(function).set(count)

    def used(self, accounts: Mapping[tuple[str, str], int]) -> None:
        """What the accounts of the budgets hold, by account and function; others hold nothing."""
        self._used.clear()
        for (account, function), used_bytes in accounts.items():
            self._used.labels(account, function).set(used_bytes)

    def limits(self, limits: Mapping[str, int]) -> None:
        """The budgets themselves."""
        for name, limit in limits.items():
            self._limits.labels(name).set(limit)

    def dropped(self, what: str, count: int) -> None:
        """How many were dropped so far, as Redis counts them for all replicas."""
        self._dropped.labels(what).set(count)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}{name}", text, registry=self.registry)
