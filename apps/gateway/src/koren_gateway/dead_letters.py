"""Events that could not be handled: kept until someone sends them again or throws them away."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from koren_events.times import format_time
from koren_gateway.cloudevent import CloudEvent
from koren_gateway.errors import GatewayError
from koren_gateway.functions import Functions
from koren_gateway.queue import DEAD, Entry, Queue
from koren_gateway.receipts import moment
from koren_gateway.store import Store

_ALL_BUT_BODY = ("function", "reason", "meta", "attempts", "time")


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
    event: CloudEvent | None

    def to_dict(self) -> dict[str, Any]:
        """As the Function API shows it."""
        event = self.event
        return {
            "id": self.id,
            "function": self.function,
            "reason": self.reason,
            "attempts": self.attempts,
            "time": format_time(moment(self.time_ms)),
            "event": None
            if event is None
            else {
                "id": event.id,
                "source": event.source,
                "type": event.type,
                "subject": event.subject,
                "time": None if event.time_ms is None else format_time(moment(event.time_ms)),
            },
        }


class DeadLetters:
    """The region's dead letters. Every call may raise StoreUnavailable."""

    def __init__(self, store: Store, queue: Queue, functions: Functions, region: str) -> None:
        self._store = store
        self._queue = queue
        self._functions = functions
        self._region = region

    async def all(self, function: str | None = None) -> list[DeadLetter]:
        """Oldest first; those of one function if given."""
        ids = [id.decode() for id in await self._store.command("ZRANGE", DEAD, 0, -1)]
        if function is not None:
            ids = [id for id in ids if id.startswith(f"{function}.")]
        if not ids:
            return []
        found = await self._store.commands(
            *(("HMGET", f"{DEAD}:{id}", *_ALL_BUT_BODY) for id in ids)
        )
        letters = (
            _letter(id, dict(zip(_ALL_BUT_BODY, values, strict=True)))
            for id, values in zip(ids, found, strict=True)
        )
        return [letter for letter in letters if letter is not None]

    async def get(self, id: str) -> tuple[DeadLetter, bytes] | None:
        """The dead letter and its message."""
        *values, message = await self._store.command(
            "HMGET", f"{DEAD}:{id}", *_ALL_BUT_BODY, "body"
        )
        letter = _letter(id, dict(zip(_ALL_BUT_BODY, values, strict=True)))
        return None if letter is None else (letter, message)

    async def redrive(self, id: str) -> bool:
        """Sends it to its function again, as new; it is no dead letter then. False when there is
        none. Raises NotRedrivable."""
        found = await self.get(id)
        if found is None:
            return False
        letter, message = found
        answer = await self._queue.enqueue([self._entry(letter, message)])
        return answer == [None]

    async def delete(self, id: str) -> bool:
        """Throws it away; False when there is none."""
        removed, _ = await self._store.commands(("ZREM", DEAD, id), ("DEL", f"{DEAD}:{id}"))
        return bool(removed)

    async def purge(self, function: str | None = None) -> int:
        """Throws all away, or those of one function; how many."""
        letters = await self.all(function)
        for letter in letters:
            await self.delete(letter.id)
        return len(letters)

    async def count(self) -> int:
        """How many there are."""
        return int(await self._store.command("ZCARD", DEAD))

    def _entry(self, letter: DeadLetter, message: bytes) -> Entry:
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
            message=message,
            received_ms=round(time.time() * 1000),
            functions=[function],
            repeats_count=False,
            from_letter=letter.id,
        )


def _letter(id: str, values: Mapping[str, bytes | None]) -> DeadLetter | None:
    reason, meta, time_ms = values["reason"], values["meta"], values["time"]
    if reason is None or meta is None or time_ms is None:
        return None
    function = values["function"]
    return DeadLetter(
        id=id,
        function=function.decode() if function else None,
        reason=reason.decode(),
        attempts=int(values["attempts"] or 0),
        time_ms=int(time_ms),
        event=CloudEvent.from_meta(meta) if json.loads(meta) else None,
    )
