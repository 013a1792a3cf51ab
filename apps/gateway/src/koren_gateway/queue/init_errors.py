"""Functions that do not start: whoever waits for one of theirs is told at once."""

import json

from koren_gateway.queue.attempts import Failure
from koren_gateway.queue.store import BELL_CHANNEL, Store

_KEPT_MS = 600_000


class InitErrors:
    """Why each function's pod does not start, until one does or the pod is gone.

    Every call may raise StoreUnavailable.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def note(self, function: str, pod: str, failure: Failure) -> None:
        """Notes it, for every replica. `take.lua` forgets it: a pod that asks has started."""
        key = _key(function)
        await self._store.commands(
            ("HSET", key, "pod", pod, "failure", failure.to_json()),
            ("PEXPIRE", key, _KEPT_MS),
            ("PUBLISH", BELL_CHANNEL, f"i:{function}"),
        )

    async def get(self, function: str) -> Failure | None:
        """Why the function does not start."""
        noted = await self._store.command("HGET", _key(function), "failure")
        try:
            return None if noted is None else Failure(**json.loads(noted))
        except (TypeError, ValueError, RecursionError):
            return None

    async def forget(self, function: str, pod: str) -> None:
        """The pod is gone; the next one may start."""
        if await self._store.command("HGET", _key(function), "pod") == pod.encode():
            await self._store.command("DEL", _key(function))


def _key(function: str) -> str:
    return f"koren:fn:{function}:init-error"
