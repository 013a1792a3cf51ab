"""Events that wait for a person: kept, shown, released or dismissed by subject."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from koren_events.cloudevent import CloudEvent
from koren_events.times import format_ms
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import GatewayError
from koren_gateway.queue.dead_letters import page_of, shown
from koren_gateway.queue.queue import Queue, event_of
from koren_gateway.queue.store import Store, number

HELD = "koren:held"
DISMISSED = "koren:dismissed"

_FIELDS = ("state", "subject", "topic", "meta", "received", "by", "bytes")
_TRIES = 20


class NotHeld(GatewayError):
    """The event does not wait (any more); the text says what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldEvent:
    """An event that waits, or that was dismissed."""

    id: str
    state: Literal["held", "dismissed"]
    subject: str
    topic: str
    received_ms: int
    until_ms: int | None
    """When it is dismissed, or, dismissed, forgotten."""
    by: str
    """Who dismissed it; empty when nobody released it in time."""
    bytes: int
    event: CloudEvent | None

    def to_dict(self) -> dict[str, Any]:
        """As the Function API shows it."""
        return {
            "id": self.id,
            "state": self.state,
            "received": format_ms(self.received_ms),
            "until": None if self.until_ms is None else format_ms(self.until_ms),
            "by": self.by or None,
            "bytes": self.bytes,
            "event": shown(self.event),
        }


class HeldEvents:
    """The region's held events. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store, queue: Queue, triggers: Triggers) -> None:
        self._store = store
        self._queue = queue
        self._triggers = triggers

    async def page(
        self, *, limit: int, after: str | None = None
    ) -> tuple[list[HeldEvent], str | None]:
        """At most `limit`: those that wait, the most urgent first, then those dismissed; and where
        the next page begins. Raises ValueError when `after` is not what a page before said."""
        where, _, cursor = (after or "held:").partition(":")
        if where not in ("held", "dismissed"):
            raise ValueError(f"after={where[:40]!r} is not what an earlier page gave as next")
        found: list[HeldEvent] = []
        if where == "held":
            members, following = await page_of(self._store, HELD, limit, cursor or None)
            found += await self._of([id for id, _ in members])
            if following is not None:
                return found, f"held:{following}"
            cursor = ""
        if len(found) < limit:
            members, following = await page_of(
                self._store, DISMISSED, limit - len(found), cursor or None
            )
            found += await self._of([id for id, _ in members])
            return found, None if following is None else f"dismissed:{following}"
        return found, "dismissed:"

    async def get(self, id: str) -> tuple[HeldEvent, bytes] | None:
        """The event and its message."""
        held = next(iter(await self._of([id])), None)
        if held is None:
            return None
        return held, await self._store.command("HGET", f"{HELD}:{id}", "body") or b""

    async def count(self) -> int:
        """How many wait."""
        return int(await self._store.command("ZCARD", HELD))

    async def release(self, id: str, by: str) -> list[HeldEvent]:
        """Queues all held events of the event's subject, in order; later ones follow by
        themselves. None when there is no such event: empty. Raises NotHeld."""
        for _ in range(_TRIES):
            subject, waiting = await self._waiting(id)
            if not waiting:
                return []
            events = [
                (
                    held.id,
                    self._triggers.wanting(held.topic),
                    held.event or CloudEvent(id=held.id, source="?", type="?"),
                )
                for held in waiting
            ]
            if await self._queue.release(subject, by, events):
                return waiting
        raise NotHeld(f"event {id}: events of its subject come too fast; try again")

    async def dismiss(self, id: str, by: str) -> list[HeldEvent]:
        """Dismisses all held events of the event's subject; empty when there is no such event.
        Raises NotHeld."""
        subject, waiting = await self._waiting(id)
        if waiting and not await self._queue.dismiss(subject, by):
            raise NotHeld(f"event {id} does not wait any more: somebody else released or dismissed it")
        return waiting

    async def _waiting(self, id: str) -> tuple[str, list[HeldEvent]]:
        """The subject of the event, and all of its events that wait."""
        held = next(iter(await self._of([id])), None)
        if held is None:
            return "", []
        if held.state != "held":
            raise NotHeld(f"event {id} was dismissed by {held.by or 'nobody: its time ran out'}")
        ids = await self._store.command("LRANGE", f"koren:holding:{held.subject}", 0, -1)
        return held.subject, await self._of([one.decode(errors="replace") for one in ids])

    async def _of(self, ids: list[str]) -> list[HeldEvent]:
        if not ids:
            return []
        answers = await self._store.commands(
            *(("HMGET", f"{HELD}:{id}", *_FIELDS) for id in ids),
            *(("ZSCORE", HELD, id) for id in ids),
            *(("ZSCORE", DISMISSED, id) for id in ids),
        )
        count = len(ids)
        made = (
            _held(id, dict(zip(_FIELDS, values, strict=True)), waits or forgotten)
            for id, values, waits, forgotten in zip(
                ids, answers[:count], answers[count : 2 * count], answers[2 * count :], strict=True
            )
        )
        return [held for held in made if held is not None]


def _held(id: str, has: Mapping[str, bytes | None], until_ms: Any) -> HeldEvent | None:
    if not has["meta"] or not has["subject"]:
        return None
    return HeldEvent(
        id=id,
        state="dismissed" if has["state"] == b"dismissed" else "held",
        subject=has["subject"].decode(errors="replace"),
        topic=(has["topic"] or b"").decode(errors="replace"),
        received_ms=number(has["received"]),
        until_ms=None if until_ms is None else number(until_ms),
        by=(has["by"] or b"").decode(errors="replace"),
        bytes=number(has["bytes"]),
        event=event_of(has["meta"]),
    )
