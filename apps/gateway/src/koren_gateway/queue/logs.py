"""The last lines that the pods of each function wrote, also when the pods have ended."""

from typing import Any

from koren_events.times import format_ms
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.store import Store

TEXT_MAX_BYTES = 64 * 1024


class Logs:
    """Kept within a budget a function. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self._memory = memory

    async def add(self, function: str, pod: str, text: str) -> None:
        """Keeps the end of what a pod wrote."""
        body = text.encode(errors="replace")[-TEXT_MAX_BYTES:]
        limit = self._memory.budgets.log_function
        await self._store.run("log", name=function, pod=pod, text=body, limit=limit)

    async def of(self, function: str) -> list[dict[str, Any]]:
        """What is kept, oldest first: pod, time (when it was told), text."""
        entries = await self._store.command("XRANGE", f"koren:fn:{function}:log", "-", "+")
        return [
            {
                "pod": values.get(b"pod", b"").decode(errors="replace"),
                "time": format_ms(int(id.partition(b"-")[0])),
                "text": values.get(b"text", b"").decode(errors="replace"),
            }
            for id, values in entries
        ]
