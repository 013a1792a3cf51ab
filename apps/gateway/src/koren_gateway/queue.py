"""A function's queue: one event of a subject at a time, in order; subjects in parallel."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from koren_gateway.cloudevent import CloudEvent
from koren_gateway.errors import LeaseLost
from koren_gateway.functions import Function
from koren_gateway.settings import Settings
from koren_gateway.store import Argument, Store

Phases = dict[str, int]
"""Unix time in milliseconds when an event reached each phase it has reached."""

RECEIPTS = "koren:receipts"
HOLDERS = "koren:holders"
DEAD = "koren:dead"

RESULT_MAX_BYTES = 16 * 1024
"""A result larger than this is left out of the receipt."""

_OUTCOME_KEPT_MS = 60_000
_DAY_MS = 24 * 3600 * 1000


def event_key(source: str, id: str) -> str:
    """What an event is known by; the last level of its receipts' topic."""
    return hashlib.sha256(f"{source}\n{id}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event to be taken in."""

    key: str
    event: CloudEvent | None
    """None when the message is no event; `reason` then says why."""
    message: bytes
    received_ms: int
    functions: Sequence[Function] = ()
    repeats_count: bool = True
    """Whether the event is dropped when it was seen before, and is seen from now on."""
    once: bool = False
    """One attempt only, and whoever asked waits for the outcome."""
    from_letter: str = ""
    """Dead letter that this takes the place of."""
    reason: str = ""
    """Why it becomes a dead letter at once."""

    @property
    def subject(self) -> str:
        """Events of the same subject are handled in order; one without subject is its own."""
        if self.event is not None and self.event.subject is not None:
            return f"s/{self.event.subject}"
        return f"e/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An event in hand: one attempt of one invocation."""

    key: str
    attempt: int
    deadline_ms: int
    message: bytes
    event: CloudEvent
    phases: Phases
    more: int
    """Subjects that are due still."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an invocation is; of a heartbeat nothing is told."""

    event: CloudEvent | None
    phases: Phases


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing is due."""

    next_due_s: float | None
    """When something will be."""


@dataclass(frozen=True, slots=True)
class Held:
    """The holder has a lease still, of which it knows nothing (any more)."""

    function: str
    key: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """A lease that ran out."""

    key: str
    attempt: int
    once: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a function has to do. Counts are of subjects, for an incident is one pod's work."""

    runnable: int
    in_flight: int
    waiting: int
    """Due later: a retry."""
    open_incidents: int
    next_change_s: float | None
    """When the counts change without anybody's doing."""

    @property
    def active(self) -> bool:
        """Whether the function must run."""
        return self.runnable + self.in_flight + self.open_incidents > 0

    @property
    def metric(self) -> int:
        """How many pods have work."""
        return self.runnable + self.in_flight


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an invocation that someone waits for ended."""

    state: Literal["succeeded", "dead-lettered"]
    body: bytes
    """JSON: the result, or `{"type", "message", "traceback"}`."""


class Queue:
    """The queues of a region, in Redis. Every call may raise StoreUnavailable."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._lease_ms = round(settings.lease_s * 1000)
        self._grace_ms = round(settings.lease_grace_s * 1000)
        self._seen_ms = settings.seen_days * _DAY_MS
        self._receipts_kept = settings.receipts_kept

    async def enqueue(self, entries: Sequence[Entry]) -> list[int | None]:
        """Takes all entries in, or none; they are on disk when this returns.

        For each: None when it is taken in, or when it was first received (Unix time in ms), or 0
        when the dead letter it comes from is gone.
        """
        keys: list[str] = []
        arguments: list[Argument] = [len(entries)]
        for entry in entries:
            event = entry.event
            seen = event_key(event.source, event.id) if event is not None else ""
            keys += [f"koren:seen:{seen}", f"koren:event:{entry.key}"]
            arguments += [
                entry.key,
                entry.subject,
                entry.received_ms,
                self._seen_ms if entry.repeats_count and event is not None else 0,
                event.to_meta() if event is not None else "{}",
                entry.message,
                int(entry.once),
                entry.from_letter,
                entry.reason,
                "" if event is None or event.sequence is None else event.sequence,
                len(entry.functions),
            ]
            for function in entry.functions:
                arguments += [
                    function.name,
                    int(_is(event, function.opens)),
                    int(_is(event, function.closes)),
                    round(function.incident_limit_s * 1000),
                ]
        answers = await self._store.run("enqueue", keys, arguments)
        return [None if answer == b"new" else int(answer) for answer in answers]

    async def note_durable(self, keys: Sequence[str], at_ms: int) -> None:
        """Notes when these events were on disk."""
        await self._store.run("durable", [f"koren:event:{key}" for key in keys], [at_ms])

    async def take(
        self, function: Function, holder: str, started_ms: int | None
    ) -> Taken | Nothing | Held:
        """Leases the next due event of the function to `holder`.

        `started_ms` is when the holder's process started.
        """
        prefix = f"koren:fn:{function.name}"
        answer = await self._store.run(
            "take",
            [f"{prefix}:ready", f"{prefix}:leased", HOLDERS],
            [
                function.name,
                holder,
                self._lease_ms,
                round(function.timeout_s * 1000),
                self._grace_ms,
                "" if started_ms is None else started_ms,
            ],
        )
        match answer:
            case [b"held", held]:
                return held_of(held)
            case [b"none", due_ms]:
                return Nothing(None if due_ms < 0 else due_ms / 1000)
            case [_, key, _, attempt, deadline_ms, message, meta, phases, more]:
                return Taken(
                    key=key.decode(),
                    attempt=attempt,
                    deadline_ms=deadline_ms,
                    message=message,
                    event=CloudEvent.from_meta(meta),
                    phases=phases_of(phases),
                    more=more,
                )
        raise AssertionError(f"take.lua answered {answer!r:.100}")

    async def extend(
        self, function: str, key: str, attempt: int, entered_ms: int | None = None
    ) -> Progress:
        """Keeps the lease; `entered_ms` says when the handler was entered. Raises LeaseLost."""
        prefix = f"koren:fn:{function}"
        return self._progress(
            await self._store.run(
                "extend",
                [
                    f"{prefix}:invocation:{key}",
                    f"{prefix}:leased",
                    f"koren:event:{key}",
                    RECEIPTS,
                ],
                [
                    function,
                    key,
                    attempt,
                    self._lease_ms,
                    self._grace_ms,
                    "" if entered_ms is None else entered_ms,
                    self._receipts_kept,
                ],
            ),
            key,
            attempt,
        )

    async def succeed(
        self, function: Function, key: str, attempt: int, result: bytes, done_ms: int
    ) -> Progress:
        """Ends the invocation with the handler's result (JSON). Raises LeaseLost."""
        told = result if len(result) <= RESULT_MAX_BYTES else b""
        return await self._complete(
            function, key, attempt, False, "succeeded", told, result, done_ms
        )

    async def dead_letter(
        self,
        function: Function,
        key: str,
        attempt: int,
        reason: str,
        error: bytes,
        *,
        done_ms: int | None = None,
        only_expired: bool = False,
    ) -> Progress:
        """Ends the invocation as a dead letter, or, if someone waits for it, as just failed.

        `reason` is a line, `error` the same as `{"type", "message", "traceback"}`.
        Raises LeaseLost, also with `only_expired` when the lease still runs.
        """
        return await self._complete(
            function, key, attempt, only_expired, "dead-lettered", reason, error, done_ms
        )

    async def retry(
        self,
        function: Function,
        key: str,
        attempt: int,
        reason: str,
        delay_s: float,
        *,
        done_ms: int | None = None,
        only_expired: bool = False,
    ) -> Progress:
        """Ends the attempt; the next is due in `delay_s`. Raises LeaseLost as `dead_letter`."""
        prefix = f"koren:fn:{function.name}"
        return self._progress(
            await self._store.run(
                "retry",
                [
                    f"{prefix}:invocation:{key}",
                    f"{prefix}:leased",
                    f"{prefix}:ready",
                    f"koren:event:{key}",
                    HOLDERS,
                    RECEIPTS,
                ],
                [
                    function.name,
                    key,
                    attempt,
                    int(only_expired),
                    reason,
                    round(delay_s * 1000),
                    "" if done_ms is None else done_ms,
                    self._receipts_kept,
                ],
            ),
            key,
            attempt,
        )

    async def holding(self, holder: str) -> Held | None:
        """The lease that the holder has."""
        held = await self._store.command("HGET", HOLDERS, holder)
        return None if held is None else held_of(held)

    async def waits_for_outcome(self, function: str, key: str) -> bool:
        """Whether someone waits for the invocation's outcome, so that there is one attempt only."""
        once = await self._store.command("HGET", f"koren:fn:{function}:invocation:{key}", "once")
        return bool(once == b"1")

    async def expired(self, function: str) -> list[ExpiredLease]:
        """The function's leases that ran out."""
        leases = await self._store.run("expired", [f"koren:fn:{function}:leased"], [function])
        return [
            ExpiredLease(key.decode(), int(attempt), once == b"1") for key, attempt, once in leases
        ]

    async def withdraw(self, function: str, key: str) -> bool:
        """Takes an invocation out of the queue; False when it is in hand or ended."""
        prefix = f"koren:fn:{function}"
        taken_out = await self._store.run(
            "withdraw",
            [f"{prefix}:invocation:{key}", f"{prefix}:ready", f"koren:event:{key}"],
            [function, key],
        )
        return bool(taken_out)

    async def outcome(self, key: str) -> Outcome | None:
        """How the invocation ended, once it has."""
        state, result, error = await self._store.command(
            "HMGET", f"koren:outcome:{key}", "state", "result", "error"
        )
        if state is None:
            return None
        return Outcome(state.decode(), result if state == b"succeeded" else error)

    async def backlog(self, function: str) -> Backlog:
        """What the function has to do."""
        prefix = f"koren:fn:{function}"
        runnable, in_flight, waiting, open_incidents, change_ms = await self._store.run(
            "backlog", [f"{prefix}:ready", f"{prefix}:leased", f"{prefix}:incidents"], []
        )
        return Backlog(
            runnable=runnable,
            in_flight=in_flight,
            waiting=waiting,
            open_incidents=open_incidents,
            next_change_s=None if change_ms < 0 else change_ms / 1000,
        )

    async def note_activated(self, function: str, at_ms: int) -> None:
        """Notes when the autoscaler was told that the function must run."""
        await self._store.command("SET", f"koren:fn:{function}:activated", at_ms)

    async def _complete(
        self,
        function: Function,
        key: str,
        attempt: int,
        only_expired: bool,
        state: str,
        told: bytes | str,
        answered: bytes,
        done_ms: int | None,
    ) -> Progress:
        prefix = f"koren:fn:{function.name}"
        letter = f"{function.name}.{key}"
        return self._progress(
            await self._store.run(
                "complete",
                [
                    f"{prefix}:invocation:{key}",
                    f"{prefix}:leased",
                    f"{prefix}:ready",
                    f"koren:event:{key}",
                    HOLDERS,
                    RECEIPTS,
                    DEAD,
                    f"{DEAD}:{letter}",
                    f"koren:outcome:{key}",
                ],
                [
                    function.name,
                    key,
                    attempt,
                    int(only_expired),
                    state,
                    told,
                    answered,
                    "" if done_ms is None else done_ms,
                    letter,
                    _OUTCOME_KEPT_MS,
                    # As long as a repeat of its opening event may still come.
                    self._seen_ms,
                    self._receipts_kept,
                ],
            ),
            key,
            attempt,
        )

    def _progress(self, answer: Any, key: str, attempt: int) -> Progress:
        if answer is None:
            raise LeaseLost(f"attempt {attempt} of invocation {key} has no lease any more")
        meta, phases = answer
        return Progress(CloudEvent.from_meta(meta) if meta else None, phases_of(phases))


def phases_of(pairs: Sequence[bytes]) -> Phases:
    """A script's list of names and times; a phase not reached has an empty time."""
    return {
        name.decode(): int(at_ms)
        for name, at_ms in zip(pairs[::2], pairs[1::2], strict=True)
        if at_ms
    }


def held_of(held: bytes) -> Held:
    """An entry of `koren:holders`."""
    function, key, attempt = held.decode().split("\n")
    return Held(function, key, int(attempt))


def _is(event: CloudEvent | None, type: str | None) -> bool:
    # Without a subject there is nothing that could be open.
    return event is not None and event.subject is not None and event.type == type
