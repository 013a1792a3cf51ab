"""What functions have handled: kept for as long as each says, to be listed and replayed."""

from dataclasses import dataclass
from typing import Any

from koren_events.cloudevent import CloudEvent
from koren_events.times import format_ms
from koren_gateway.cluster.functions import Function
from koren_gateway.errors import GatewayError
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.dead_letters import page_of, shown
from koren_gateway.queue.queue import Queue, event_of
from koren_gateway.queue.store import Store, number

HISTORY = "koren:history"
EVER_MS = 253_402_300_799_999
"""A time after all others."""
REPLAYED_MAX = 5000
"""How many events one replay may queue: Redis does nothing else meanwhile."""

_REQUEST_KNOWN_MS = 24 * 3600 * 1000


class TooMuch(GatewayError):
    """A replay has more events than one may have; nothing was queued."""


class NoRoom(GatewayError):
    """The function's queue has no room for a replay; nothing was queued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandledEvent:
    """One event that a function has handled."""

    event: CloudEvent
    time_ms: int
    """When it was handled, Unix time."""
    attempts: int
    bytes: int
    """What it counts against the budgets."""

    def to_dict(self) -> dict[str, Any]:
        """As the Function API shows it."""
        return {
            "time": format_ms(self.time_ms),
            "attempts": self.attempts,
            "bytes": self.bytes,
            "event": shown(self.event),
        }


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay has queued, or would."""

    events: int
    is_repeat: bool
    """Whether the same request had queued them before."""


class History:
    """What functions have handled. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store, queue: Queue, memory: Memory) -> None:
        self._store = store
        self._queue = queue
        self._memory = memory

    async def page(
        self, function: str, *, from_ms: int, to_ms: int, limit: int, after: str | None = None
    ) -> tuple[list[HandledEvent], str | None]:
        """At most `limit` events that were handled in that span, oldest first, and where the next page begins; `after`
        is what the page before said is next. Raises ValueError when it is not that."""
        index = f"koren:fn:{function}:history"
        members, following = await page_of(self._store, index, limit, after, first=from_ms, last=to_ms)
        if not members:
            return [], None
        kept = await self._store.commands(
            *(("HMGET", f"{HISTORY}:{id}", "event", "attempts", "bytes") for id, _ in members)
        )
        metas = await self._store.commands(
            *(("HGET", b"koren:event:" + (key or b""), "meta") for key, _, _ in kept)
        )
        found = []
        for (_, time_ms), (_, attempts, size), meta in zip(members, kept, metas, strict=True):
            event = event_of(meta)
            if event is not None:
                made = HandledEvent(event=event, time_ms=time_ms, attempts=number(attempts), bytes=number(size))
                found.append(made)
        return found, following

    async def replay(
        self,
        function: Function,
        *,
        from_ms: int,
        to_ms: int,
        subject: str | None,
        request: str,
        by: str,
        dry_run: bool = False,
    ) -> Replayed:
        """Queues copies of what the function handled in that span, in that order, for it alone.

        The same `request` again queues nothing. Raises TooMuch and NoRoom.
        """
        told = await self._queue.replay(
            function.name,
            from_ms=from_ms,
            to_ms=to_ms,
            subject="" if subject is None else f"s/{subject}",
            request=request,
            by=by,
            most=REPLAYED_MAX,
            dry=int(dry_run),
            told_for=_REQUEST_KNOWN_MS,
        )
        events = told["events"]
        match told["state"]:
            case b"many":
                raise TooMuch(
                    f"{function.name} has handled {events} such events, and one replay queues {REPLAYED_MAX} at most; "
                    "replay shorter spans one after the other"
                )
            case b"full":
                budgets = self._memory.budgets
                raise NoRoom(
                    f"{events} events of {told['bytes']} bytes do not fit into the queue of {function.name}: it has "
                    f"{told['its']} bytes of at most {budgets.queue_function}, all queues of the region have "
                    f"{told['all']} of at most {budgets.queue}; nothing was queued; replay a shorter span, or wait "
                    "until the queues are shorter"
                )
        return Replayed(events, told["state"] == b"known")
