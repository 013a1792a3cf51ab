"""Answers to requests of HTTP triggers, which their clients may ask for a while."""

from dataclasses import dataclass
from typing import Literal

from koren_gateway.queue.queue import event_key
from koren_gateway.queue.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a request stands."""

    key: str
    function: str
    trigger: str
    state: Literal["queued", "running", "succeeded", "failed"]
    body: bytes | None
    """JSON, once it ended: the result, or `{"type", "message", "traceback"}`; None when it was too large to be kept."""


class Answers:
    """Answers by the key of their invocation. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, key: str) -> Answer | None:
        """The answer, or how far it is; None when there is none (any more)."""
        function, trigger, state, body = await self._store.command(
            "HMGET", f"koren:answer:{key}", "function", "trigger", "state", "body"
        )
        if function is None or trigger is None:
            return None
        name = function.decode(errors="replace")
        told: Literal["queued", "running", "succeeded", "failed"]
        if state is None:
            holder = await self._store.command("HGET", f"koren:fn:{name}:invocation:{key}", "holder")
            told = "queued" if holder is None else "running"
        else:
            told = "succeeded" if state == b"succeeded" else "failed"
        return Answer(key=key, function=name, trigger=trigger.decode(errors="replace"), state=told, body=body)

    async def to(self, source: str, id: str) -> Answer | None:
        """The answer to an event that came before."""
        key = await self._store.command("GET", b"koren:asked:" + bytes.fromhex(event_key(source, id)))
        return None if key is None else await self.get(key.decode(errors="replace"))
