"""Events that could not be handled: kept until someone sends them again or throws them away."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from koren_events.cloudevent import CloudEvent
from koren_events.times import format_ms
from koren_gateway.cluster.functions import Functions
from koren_gateway.errors import GatewayError
from koren_gateway.queue.queue import Entry, Queue, event_of
from koren_gateway.queue.store import Store, number

DEAD = "koren:dead"

_ALL_BUT_BODY = ("function", "reason", "meta", "attempts", "time", "bytes", "event")
_PURGED_AT_ONCE = 200
_CURSOR = re.compile(r"[0-9]{1,15}_[0-9]{1,9}")


class NotRedrivable(GatewayError):
    """The dead letter can't be sent again as things are; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One event that one function, or none, could handle."""

    id: str
    function: str | None
    reason: str
    attempts: int
    time_ms: int
    """When it became one, Unix time."""
    bytes: int
    """What it counts against the budgets."""
    event: CloudEvent | None
    event_key: str | None
    """Where its message is, if several have it."""

    def to_dict(self) -> dict[str, Any]:
        """As the Function API shows it."""
        return {
            "id": self.id,
            "function": self.function,
            "reason": self.reason,
            "attempts": self.attempts,
            "time": format_ms(self.time_ms),
            "bytes": self.bytes,
            "event": shown(self.event),
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Some dead letters, and where the next ones begin."""

    letters: list[DeadLetter]
    next: str | None


class DeadLetters:
    """The region's dead letters. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store, queue: Queue, functions: Functions, region: str) -> None:
        self._store = store
        self._queue = queue
        self._functions = functions
        self._region = region

    async def page(self, function: str | None, *, limit: int, after: str | None = None) -> Page:
        """At most `limit`, oldest first, those of one function if given; `after` is what the page
        before said is next. Raises ValueError when it is not that."""
        members, cursor = await page_of(self._store, _index(function), limit, after)
        if not members:
            return Page([], None)
        ids = [id for id, _ in members]
        found = await self._store.commands(
            *(("HMGET", f"{DEAD}:{id}", *_ALL_BUT_BODY) for id in ids)
        )
        letters = (_letter(id, values) for id, values in zip(ids, found, strict=True))
        return Page([letter for letter in letters if letter is not None], cursor)

    async def get(self, id: str) -> tuple[DeadLetter, bytes] | None:
        """The dead letter and its message."""
        *values, body = await self._store.command("HMGET", f"{DEAD}:{id}", *_ALL_BUT_BODY, "body")
        letter = _letter(id, values)
        if letter is None:
            return None
        if letter.event_key is not None:
            body = await self._store.command("HGET", f"koren:event:{letter.event_key}", "body")
        return letter, body or b""

    async def redrive(self, id: str) -> bool:
        """Sends it to its function again, as new; it is no dead letter then. False when there is
        none. Raises NotRedrivable."""
        found = await self.get(id)
        if found is None:
            return False
        [taken_in] = await self._queue.enqueue([self._entry(found[0])])
        return taken_in.outcome == "new"

    async def delete(self, id: str) -> bool:
        """Throws it away; False when there is none."""
        return bool(await self._store.run("drop_letters", ids=[id]))

    async def purge(self, function: str | None = None) -> int:
        """Throws all away that there are now, or those of one function; how many."""
        purged = 0
        left = int(await self._store.command("ZCARD", _index(function)))
        while left > 0:
            ids = await self._store.command(
                "ZRANGE", _index(function), 0, min(left, _PURGED_AT_ONCE) - 1
            )
            if not ids:
                break
            purged += int(await self._store.run("drop_letters", ids=ids))
            left -= len(ids)
        return purged

    async def count(self) -> int:
        """How many there are."""
        return int(await self._store.command("ZCARD", DEAD))

    def _entry(self, letter: DeadLetter) -> Entry:
        if letter.function is None:
            raise NotRedrivable(
                f"dead letter {letter.id} is no event for this region: {letter.reason}; "
                "publish a right one and delete it"
            )
        function = self._functions.get(letter.function)
        if function is None:
            raise NotRedrivable(
                f"dead letter {letter.id}: function {letter.function} is not here (any more); "
                "deploy it, or delete the dead letter"
            )
        return Entry(
            key=str(uuid.uuid4()),
            event=letter.event,
            message=b"",
            received_ms=round(time.time() * 1000),
            functions=[function],
            repeats_count=False,
            from_letter=letter.id,
        )


async def page_of(
    store: Store, index: str, limit: int, after: str | None, *, first: int | str = "-inf", last: int | str = "+inf"
) -> tuple[list[tuple[str, int]], str | None]:
    """Up to `limit` members of a sorted set with their scores, by score from `first` to `last`, and the cursor of the
    page that follows.

    The cursor is a score and how many of that score were shown: what is added or removed meanwhile
    shifts no other member out of sight. Raises ValueError when `after` is no cursor.
    """
    if after is not None and not _CURSOR.fullmatch(after):
        raise ValueError(f"after={after[:40]!r} is not what an earlier page gave as next")
    score, _, skip = (after or f"{first}_0").partition("_")
    pairs = await store.command(
        "ZRANGEBYSCORE", index, score, last, "WITHSCORES", "LIMIT", int(skip), limit + 1
    )
    members = [(id.decode(errors="replace"), number(ms)) for id, ms in _pairs(pairs)]
    if len(members) <= limit:
        return members, None
    shown = members[:limit]
    latest = shown[-1][1]
    same = sum(1 for _, ms in shown if ms == latest)
    if str(latest) == score:
        same += int(skip)
    return shown, f"{latest}_{same}"


def shown(event: CloudEvent | None) -> dict[str, Any] | None:
    """An event's attributes as the Function API shows them."""
    if event is None:
        return None
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": None if event.time_ms is None else format_ms(event.time_ms),
    }


def _pairs(answer: Any) -> Any:
    # redis-py gives WITHSCORES as pairs, or flat where it does not know the command's form.
    if answer and not isinstance(answer[0], list | tuple):
        return zip(answer[::2], answer[1::2], strict=True)
    return answer


def _index(function: str | None) -> str:
    return DEAD if function is None else f"koren:fn:{function}:dead"


def _letter(id: str, values: Any) -> DeadLetter | None:
    has: Mapping[str, bytes | None] = dict(zip(_ALL_BUT_BODY, values, strict=True))
    reason, meta, time_ms = has["reason"], has["meta"], has["time"]
    if reason is None or meta is None or time_ms is None:
        return None
    function, key = has["function"], has["event"]
    return DeadLetter(
        id=id,
        function=function.decode(errors="replace") if function else None,
        reason=reason.decode(errors="replace"),
        attempts=number(has["attempts"]),
        time_ms=number(time_ms),
        bytes=number(has["bytes"]),
        event=event_of(meta),
        event_key=key.decode(errors="replace") if key else None,
    )
