"""A function's queue: one event of a subject at a time, in order; subjects in parallel."""

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from koren_events.cloudevent import CloudEvent
from koren_gateway.cluster.functions import Function
from koren_gateway.errors import LeaseLost, StoreBroken, StoreUnavailable
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.store import Store, number, unpacked
from koren_gateway.settings import Settings
from koren_gateway.tracing import Trace

Phases = dict[str, int]
"""Unix time in milliseconds when an event reached each phase it has reached."""

RECEIPTS = "koren:receipts"
HOLDERS = "koren:holders"
SLOTS = 32
"""How many events one pod may have in hand."""

RESULT_MAX_BYTES = 16 * 1024
"""A result larger than this is left out of the receipt."""

_OUTCOME_KEPT_MS = 60_000
_DAY_MS = 24 * 3600 * 1000


@lru_cache(maxsize=1024)
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
    topic: str = ""
    source: str = ""
    """Name of the declared source that it came by; empty for an event by its own topic."""
    functions: Sequence[Function] = ()
    repeats_count: bool = True
    """Whether the event is dropped when it was seen before, and is seen from now on."""
    once: bool = False
    """One attempt only, and whoever asked waits for the outcome."""
    call: bool = False
    """Somebody called the function: the result is for the caller, not for receipts."""
    answer_kept_ms: int = 0
    """How long after its end the answer can be asked for by the key; 0: it is not kept."""
    trigger: str = ""
    """The HTTP trigger that it came by, whose clients may ask for the answer."""
    from_letter: str = ""
    """Dead letter that this takes the place of, message included."""
    reason: str = ""
    """Why it becomes a dead letter at once."""
    trace: str = ""
    """Its `Trace` as it is kept; empty when it has none."""

    @property
    def subject(self) -> str:
        """Events of the same subject are handled in order; one without subject is its own."""
        if self.event is not None and self.event.subject is not None:
            return f"s/{self.event.subject}"
        return f"e/{self.key}"

    @property
    def hold(self) -> bool:
        """Whether it waits for a person; one that a person calls a function with does not."""
        return self.event is not None and self.event.hold and not self.reason and not self.call


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of an entry, which is on disk now."""

    outcome: Literal["new", "held", "dismissed", "dead-lettered", "full", "gone", "seen"]
    """`dead-lettered`: held events are full; `full`: a call, or one whose answer is
    kept, whose function's queue is full, or too many answers are still to come;
    `gone`: the dead letter that it was to take the place of is."""
    last_ms: int = 0
    """When an event that was seen came last."""
    waits: Literal["", "held", "dismissed"] = ""
    """How an event that was seen stands, if it has not been released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An event in hand: one delivery of one invocation."""

    key: str
    delivery: int
    """Fences: whoever has an older number has no lease any more."""
    deadline_ms: int
    message: bytes
    event: CloudEvent | None
    """None when what is kept of it can't be read."""
    phases: Phases
    released_by: str
    """Who released it, if it was held."""
    delayed: bool
    """Whether its trigger has a delay."""
    replayed_by: str
    """Who replayed it, if it is a copy of an event that was handled before."""
    more: int
    """Subjects that may be taken still."""
    due_ms: int
    """Since when it could have been handed out."""
    trace: Trace | None
    others: tuple["Taken", ...] = ()
    """The other events of a batch, which this one's key stands for."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an invocation is; of a heartbeat nothing is told."""

    attempt: int
    event: CloudEvent | None
    phases: Phases
    waited: bool = False
    """Whether it was held, or its trigger has a delay."""
    trace: Trace | None = None
    taken_ms: int = 0
    """When the delivery that has ended was handed out."""
    cold: bool = False
    """Whether it was the first event of its pod."""
    pod: str = ""
    others: tuple[tuple[str, int, "Progress"], ...] = ()
    """Keys, deliveries and progress of a batch's other events."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing is due."""

    next_due_s: float | None
    """When something will be."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A pod has a lease still, of which it knows nothing (any more)."""

    function: str
    key: str
    delivery: int


@dataclass(frozen=True, slots=True)
class ExpiredLease:
    """A lease that ran out."""

    key: str
    delivery: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an invocation stands before its attempt ends."""

    attempts: int
    """How often the handler was entered."""
    deliveries: int
    entered: bool
    """Whether the handler was entered in this delivery."""
    once: bool
    """Whether someone waits for the outcome, or did, so that there is one attempt only."""
    deadline_ms: int
    """Until when this delivery may take; 0 when none is in hand."""
    others: tuple[tuple[str, int], ...] = ()
    """Keys and deliveries of a batch's other events, of its first while it is in hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a function has to do. Counts are of subjects, for an incident is the work of one at a time."""

    runnable: int
    """Due, and within the function's limits."""
    in_flight: int
    waiting: int
    """Due later: a retry, an event whose trigger has a delay, one that waits for a full batch, or what the function's
    limits let not run now."""
    paused: int
    """Whose trigger is paused."""
    open_incidents: int
    """None while a trigger of the function is paused."""
    next_change_s: float | None
    """When the counts change without anybody's doing."""
    soon: bool = False
    """Whether the function's rate or a batch's window lets nothing run now, and something within seconds."""
    longest_due_s: float
    """How long the subject that has waited longest, but not for a full batch, has been due; 0 when none is."""

    @property
    def active(self) -> bool:
        """Whether the function must run."""
        return self.soon or self.runnable + self.in_flight + self.open_incidents > 0

    @property
    def metric(self) -> int:
        """How many events could be in hand side by side."""
        return self.runnable + self.in_flight


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an invocation that someone waits for ended."""

    state: Literal["succeeded", "dead-lettered"]
    body: bytes
    """JSON: the result, or `{"type", "message", "traceback"}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a delivery ends."""

    function: str
    key: str
    delivery: int
    counts: bool = False
    """It is an attempt even if the handler was not entered."""
    only_expired: bool = False
    """Only if the lease ran out."""
    done_ms: int | None = None
    """When the handler was done, if it was."""
    history_s: int = 0
    """How long the event is kept for a replay if it succeeded; 0: not at all."""


class Queue:
    """The queues of a region, in Redis. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store, settings: Settings, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._lease_ms = round(settings.lease_s * 1000)
        self._grace_ms = round(settings.lease_grace_s * 1000)
        self._hold_ms = round(settings.hold_s * 1000)
        self._dismissed_ms = settings.dismissed_days * _DAY_MS
        self._dead_ms = settings.dead_letter_days * _DAY_MS
        self._seen_ms = settings.seen_days * _DAY_MS
        self._gone_ms = round(settings.gone_after_s * 1000)
        self._receipts_kept = settings.receipts_kept

    async def enqueue(self, entries: Sequence[Entry]) -> list[TakenIn]:
        """Takes all entries in, or none; they are on disk when this returns."""
        answers = await self._run("enqueue", events=[_packed(entry) for entry in entries])
        return [
            TakenIn(outcome.decode(), last_ms, *(state.decode() for state in waits))
            for outcome, last_ms, *waits in unpacked(answers)
        ]

    async def take(
        self, function: Function, pod: str, started_ms: int | None, *, slot: int = 0, cold: bool = False
    ) -> Taken | Nothing | Kept:
        """Leases the next due event of the function, or the next batch of them, to a slot of `pod`.

        `started_ms` is when the pod's process started, `cold` whether it has had no event yet.
        """
        answer = unpacked(
            await self._run(
                "take",
                name=function.name,
                holder=_holder(pod, slot),
                timeout=round(function.timeout_s * 1000),
                started=started_ms,
                cold=int(cold),
                **_limits(function),
            )
        )
        match answer["state"]:
            case b"kept":
                return kept_of(answer["kept"])
            case b"none":
                return Nothing(None if answer["due"] < 0 else answer["due"] / 1000)
        return _taken(answer)

    async def extend(
        self, function: str, key: str, delivery: int, entered_ms: int | None = None
    ) -> Progress:
        """Keeps the lease, and a batch's leases with that of its first event; `entered_ms` says when the handler was
        entered. Raises LeaseLost."""
        answer = await self._run(
            "extend", name=function, key=key, delivery=delivery, entered=entered_ms
        )
        return _progress(answer, key, delivery)

    async def standing(self, function: str, key: str) -> Standing:
        """How the invocation stands; of one that is no more, that it has not begun."""
        once, attempts, deliveries, entered, deadline, members = await self._store.command(
            "HMGET",
            f"koren:fn:{function}:invocation:{key}",
            *("once", "attempts", "delivery", "handler_entered", "deadline", "members"),
        )
        return Standing(
            attempts=number(attempts),
            deliveries=number(deliveries),
            entered=entered is not None,
            once=once in (b"1", b"2"),
            deadline_ms=number(deadline),
            others=_members(members),
        )

    async def succeed(self, end: End, result: bytes) -> Progress:
        """Ends the invocation, and a batch with its first event, with the handler's result (JSON). Raises LeaseLost."""
        told = result if len(result) <= RESULT_MAX_BYTES else b""
        return await self._end(end, state="succeeded", told=told, answered=result)

    async def dead_letter(self, end: End, reason: str, error: bytes) -> Progress:
        """Ends the invocation as a dead letter, or, if someone waits for it, as just failed.

        `reason` is a line, `error` the same as `{"type", "message", "traceback"}`.
        Raises LeaseLost, also with `only_expired` when the lease still runs.
        """
        return await self._end(end, state="dead-lettered", told=reason, answered=error)

    async def retry(self, end: End, reason: str, delay_s: float) -> Progress:
        """Ends the attempt; the next is due in `delay_s`. Raises LeaseLost as `dead_letter`."""
        return await self._end(end, state="failed", told=reason, delay=round(delay_s * 1000))

    async def kept_by(self, pod: str) -> list[Kept]:
        """The leases that the pod has, in all of its slots."""
        holders = [_holder(pod, slot) for slot in range(SLOTS)]
        entries = await self._store.command("HMGET", HOLDERS, *holders)
        kept = []
        for entry in entries:
            if entry is not None:
                with contextlib.suppress(ValueError):  # `take` sorts it out
                    kept.append(kept_of(entry))
        return kept

    async def expired(self, function: str) -> list[ExpiredLease]:
        """The function's leases that ran out."""
        leases = unpacked(await self._run("expired", name=function)) or []
        return [ExpiredLease(key.decode(errors="replace"), delivery) for key, delivery in leases]

    async def follow_clock(self, ran_ms: int | None) -> int:
        """Moves the times of what waits and is in hand when the host's clock was set.

        Args:
            ran_ms: how long ago the caller did this, by a clock that nobody sets; None if it did not.

        Returns:
            By how many ms the clock was set; 0 if it was not, or by half a minute at most.
        """
        return int(await self._run("set_clock", ran=ran_ms))

    async def withdraw(self, function: str, key: str) -> bool:
        """Takes an invocation out of the queue; False when it is in hand or ended."""
        return bool(await self._run("withdraw", name=function, key=key))

    async def outcome(self, key: str) -> Outcome | None:
        """How the invocation ended, once it has; it is told once."""
        state, result, error = await self._store.command(
            "HMGET", f"koren:outcome:{key}", "state", "result", "error"
        )
        if state is None:
            return None
        # An answer may be large, and nobody else asks for it.
        with contextlib.suppress(StoreUnavailable, StoreBroken):
            await self._store.command("DEL", f"koren:outcome:{key}")
        return Outcome(state.decode(), result if state == b"succeeded" else error)

    async def backlog(self, function: Function) -> Backlog:
        """What the function has to do."""
        runnable, in_flight, waiting, open_incidents, change_ms, due_ms, paused, soon = await self._run(
            "backlog", name=function.name, **_limits(function)
        )
        return Backlog(
            runnable=runnable,
            in_flight=in_flight,
            waiting=waiting,
            paused=paused,
            soon=bool(soon),
            open_incidents=open_incidents,
            next_change_s=None if change_ms < 0 else change_ms / 1000,
            longest_due_s=due_ms / 1000,
        )

    async def note_activated(self, function: str, at_ms: int) -> None:
        """Notes when the autoscaler was told that the function must run."""
        await self._store.command("SET", f"koren:fn:{function}:activated", at_ms)

    async def release(
        self, subject: str, by: str, events: Sequence[tuple[str, Sequence[Function], CloudEvent]]
    ) -> bool:
        """Queues the held events of a subject (keys, with who wants each); False when they are not
        these any more."""
        released = await self._run(
            "release",
            subject=subject,
            by=by,
            events=[
                {"key": key, "functions": _wishes(event, functions)}
                for key, functions, event in events
            ],
        )
        return bool(released)

    async def dismiss(self, subject: str, by: str) -> int:
        """Dismisses the held events of a subject; how many there were."""
        return int(await self._run("dismiss", subject=subject, by=by))

    async def tidy(self, functions: Sequence[Function] = ()) -> int:
        """Forgets what is too old or beyond its budget, and what those functions do not keep of their history; how
        many held events nobody released."""
        history = {function.name: function.history_s * 1000 for function in functions}
        return int(await self._run("tidy", dead_for=self._dead_ms, history=history))

    async def replay(self, function: str, *, from_ms: int, to_ms: int, **how: Any) -> dict[str, Any]:
        """Queues copies of what the function handled in that span, all or none; what the script `replay` tells."""
        told = await self._run("replay", name=function, **{"from": from_ms, "to": to_ms}, **how)
        return dict(unpacked(told))

    async def clear_up_after(self, known: Sequence[str]) -> list[str]:
        """Makes dead letters of what waits for functions that are not among the `known` any more,
        after a grace; for which functions there was something."""
        buried = await self._run(
            "gone", known=list(known), grace=self._gone_ms, state_for=self._dead_ms
        )
        return [name.decode(errors="replace") for name in buried]

    async def _end(self, end: End, **verdict: Any) -> Progress:
        answer = await self._run(
            "end",
            name=end.function,
            key=end.key,
            delivery=end.delivery,
            only_expired=end.only_expired,
            counts=end.counts,
            done=end.done_ms,
            history=end.history_s * 1000,
            **verdict,
        )
        return _progress(answer, end.key, end.delivery)

    async def _run(self, script: str, **argument: Any) -> Any:
        return await self._store.run(
            script,
            budgets=self._memory.budgets.to_dict(),
            lease=self._lease_ms,
            grace=argument.pop("grace", self._grace_ms),
            seen_for=self._seen_ms,
            hold_for=self._hold_ms,
            keep_dismissed=self._dismissed_ms,
            outcome_kept=_OUTCOME_KEPT_MS,
            receipts_kept=self._receipts_kept,
            **argument,
        )


def event_of(meta: bytes | None) -> CloudEvent | None:
    """The event whose attributes were kept as `meta`; None when they can't be read."""
    if not meta or meta == b"{}":
        return None
    try:
        return CloudEvent.from_meta(meta)
    except ValueError:
        return None


def kept_of(entry: bytes) -> Kept:
    """An entry of `koren:holders`."""
    function, key, delivery = entry.decode().split("\n")
    return Kept(function, key, int(delivery))


def _holder(pod: str, slot: int) -> str:
    return f"{pod}/{slot}" if slot else pod


def size_of(entry: Entry) -> int:
    """What the entry counts against the budgets, in bytes, beside what its place takes."""
    return _size(entry, _meta(entry.event))


def _meta(event: CloudEvent | None) -> bytes:
    return b"{}" if event is None else event.to_meta().encode(errors="surrogatepass")


def _size(entry: Entry, meta: bytes) -> int:
    # The subject is in the names of a queue and of its places, too.
    subject = entry.subject.encode(errors="surrogatepass")
    return (
        len(entry.message)
        + len(meta)
        + len(entry.trace.encode(errors="surrogatepass"))
        + 4 * len(subject)
    )


def _packed(entry: Entry) -> dict[str, Any]:
    event = entry.event
    # What is refused is not remembered: set right and published again, it is to come in.
    remembered = entry.repeats_count and event is not None and not entry.reason
    subject = entry.subject
    meta = _meta(event)
    return {
        "key": entry.key,
        "subject": subject,
        "received": entry.received_ms,
        "seen": bytes.fromhex(event_key(event.source, event.id)) if event and remembered else b"",
        "meta": meta,
        "trace": entry.trace.encode(errors="surrogatepass"),
        "body": entry.message,
        "size": _size(entry, meta),
        "once": int(entry.once),
        "call": 2 if entry.call and entry.trigger else int(entry.call),
        "answer": entry.answer_kept_ms,
        "trigger": entry.trigger,
        "letter": entry.from_letter,
        "reason": entry.reason,
        "sequence": "" if event is None or event.sequence is None else event.sequence,
        "hold": int(entry.hold),
        "topic": entry.topic,
        "functions": _wishes(event, entry.functions),
    }


def _wishes(event: CloudEvent | None, functions: Sequence[Function]) -> list[dict[str, Any]]:
    return [
        {
            "name": function.name,
            "trigger": function.via,
            "opens": int(_is(event, function.opens)),
            "closes": int(_is(event, function.closes)),
            "limit": round(function.incident_limit_s * 1000),
            "delay": function.via_delay_s * 1000,
        }
        for function in functions
    ]


def _taken(answer: dict[str, Any]) -> Taken:
    return Taken(
        key=answer["key"].decode(),
        delivery=answer["delivery"],
        deadline_ms=answer["deadline"],
        message=answer["body"],
        event=event_of(answer["meta"]),
        phases=dict(answer["phases"]) if answer["phases"] else {},
        released_by=answer["released"].decode(errors="replace"),
        delayed=bool(answer["delayed"]),
        replayed_by=answer["replayed"].decode(errors="replace"),
        more=answer.get("more", 0),
        due_ms=answer["due"],
        trace=Trace.parse(answer["trace"]),
        others=tuple(_taken(other) for other in answer.get("others", ())),
    )


def _members(text: bytes | None) -> tuple[tuple[str, int], ...]:
    """The field `members` of an invocation; nothing of what can't be read, whose leases run out."""
    found = re.findall(rb"^([\w-]+) ([0-9]{1,15})$", text or b"", re.MULTILINE | re.ASCII)
    return tuple((key.decode(), int(delivery)) for key, delivery in found)


def _limits(function: Function) -> dict[str, int | None]:
    rate, has_batches = function.rate, function.batch_size > 1
    return {
        "most": function.max_in_flight,
        "rate": None if rate is None else rate.events,
        "window": None if rate is None else rate.window_s * 1000,
        "batch": function.batch_size if has_batches else None,
        "batch_window": function.batch_window_s * 1000 if has_batches else None,
    }


def _is(event: CloudEvent | None, type: str | None) -> bool:
    # Without a subject there is nothing that could be open.
    return event is not None and event.subject is not None and event.type == type


def _progress(answer: bytes | None, key: str, delivery: int) -> Progress:
    if answer is None:
        raise LeaseLost(f"delivery {delivery} of invocation {key} has no lease any more")
    return _progress_of(unpacked(answer))


def _progress_of(told: dict[str, Any]) -> Progress:
    return Progress(
        attempt=told["attempt"],
        event=event_of(told.get("meta")),
        phases=dict(told.get("phases") or {}),
        waited=bool(told.get("released") or told.get("delayed")),
        trace=Trace.parse(told.get("trace")),
        taken_ms=told.get("taken", 0),
        cold=bool(told.get("cold")),
        pod=told.get("holder", b"").decode(errors="replace").partition("/")[0],
        others=tuple(
            (other["key"].decode(), other.get("delivery", 0), _progress_of(other)) for other in told.get("others", ())
        ),
    )
