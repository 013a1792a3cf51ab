"""Which triggers are paused: their events wait in the queue, and start nothing."""

import asyncio

import structlog

from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import StoreUnavailable
from koren_gateway.queue.store import Store

_AGAIN_S = 1.0
_log = structlog.get_logger()


class Pauses:
    """Keeps Redis in step with what is declared. Every replica does: it acts on changes alone, so that one that
    is cut off from the API server takes nothing back."""

    def __init__(self, store: Store, functions: Functions, triggers: Triggers) -> None:
        self._store = store
        self._functions = functions
        self._triggers = triggers
        self._applied: dict[str, frozenset[str]] = {}
        self._changed = asyncio.Event()
        functions.changes.watch(self._changed)
        triggers.changes.watch(self._changed)

    async def run(self) -> None:
        """Pauses and resumes, for ever."""
        await self._functions.wait_in_step()
        await self._triggers.wait_in_step()
        while True:
            self._changed.clear()
            try:
                await self.apply()
            except StoreUnavailable as error:
                _log.warning("triggers are paused and resumed later", problem=str(error))
                await asyncio.sleep(_AGAIN_S)
                continue
            await self._changed.wait()

    async def apply(self) -> None:
        """Pauses and resumes what changed since the last time. Raises StoreUnavailable."""
        declared = self._triggers.paused()
        for function, names in declared.items():
            if self._applied.get(function) != names:
                await self._apply(function, names)
        self._applied = declared

    async def of(self, function: str) -> frozenset[str]:
        """The function's triggers that are paused, by what the queue goes by. Raises StoreUnavailable."""
        names = await self._store.command("SMEMBERS", f"koren:fn:{function}:paused")
        return frozenset(name.decode(errors="replace") for name in names)

    async def _apply(self, function: str, names: frozenset[str]) -> None:
        stay = [0, 0]
        while stay:
            ready, parked = stay
            stay = await self._store.run("pause", name=function, paused=sorted(names), ready=ready, parked=parked)
        if names or self._applied.get(function):
            _log.info("triggers paused", function=function, triggers=sorted(names))
        self._applied[function] = names
