"""How much of Redis' memory each kind of thing may take."""

import asyncio
from dataclasses import dataclass, fields

import structlog

from koren_gateway.errors import GatewayError
from koren_gateway.queue.store import Store
from koren_gateway.settings import HISTORY_PERCENT

UNLIMITED_BYTES = 512 * 2**20
"""What counts as Redis' memory when it has no limit of its own."""

SEEN_BYTES = 140
"""What Redis takes to remember one event (measured: 126 to 140 bytes)."""

_INCIDENT_BYTES = 160
_MARK_BYTES = 400
"""What Redis takes to remember an open incident, or a subject's end, at most (measured)."""

_LOG_BYTES = 256 * 1024
_REFRESH_S = 60.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Limits in bytes, but for those that say how many."""

    dead: int
    """Dead letters of the region; beyond it the oldest go."""
    dead_function: int
    """Dead letters of one function."""
    history: int
    """What functions have handled and keep for a replay; beyond it the oldest go."""
    history_function: int
    shared: int
    """Dead letters, state, held events, answers, queues and history together; beyond it the oldest history goes."""
    state: int
    """State of all functions; beyond it writes are refused."""
    state_function: int
    held: int
    """Held events; beyond it dismissed ones go, then new ones become dead letters."""
    queue: int
    """Events that wait for all functions. One function's may take four times what this leaves free, so that the
    largest queues are full first."""
    queue_function: int
    """Events that wait for one function; beyond it new ones become its dead letters."""
    seen: int
    """How many events are remembered, so that their repeats are dropped; the oldest go."""
    log_function: int
    """What the pods of one function wrote."""
    incidents_function: int
    """How many incidents one function may have open; more do not keep it running."""
    answers: int
    """Answers to requests of HTTP triggers; beyond it the oldest go."""
    marks: int
    """Of how many subjects is remembered that they were closed, released or dismissed; the oldest go."""
    batch: int
    """What one commit to Redis holds."""

    def to_dict(self) -> dict[str, int]:
        """By name, for scripts and metrics."""
        return {name: getattr(self, name) for name in _NAMES}


_NAMES = tuple(field.name for field in fields(Budgets))


def budgets_of(memory_bytes: int, batch_bytes: int, history_percent: int = HISTORY_PERCENT) -> Budgets:
    """The budgets in a Redis of so much memory (0: without a limit).

    Dead letters, state, held events, answers, what is remembered of events and subjects, and queues share 94 % of it;
    the rest is for receipts, logs, open incidents and Redis itself. History has no share of its own: it takes what the
    others leave of theirs, at most `history_percent` of the memory.
    """
    memory = memory_bytes or UNLIMITED_BYTES
    return Budgets(
        history=memory * history_percent // 100,
        history_function=memory * history_percent * 6 // 1000,
        shared=memory * 76 // 100,
        dead=memory * 25 // 100,
        dead_function=memory * 15 // 100,
        state=memory * 15 // 100,
        state_function=memory * 5 // 100,
        held=memory * 8 // 100,
        answers=memory * 3 // 100,
        queue=memory * 25 // 100,
        queue_function=memory * 20 // 100,
        seen=memory * 15 // 100 // SEEN_BYTES,
        incidents_function=memory * 2 // 100 // _INCIDENT_BYTES,
        marks=memory * 3 // 100 // _MARK_BYTES,
        log_function=min(_LOG_BYTES, memory // 200),
        batch=min(batch_bytes, memory // 16),
    )


class Memory:
    """The budgets as Redis' limit is now."""

    def __init__(self, store: Store, batch_bytes: int, history_percent: int = HISTORY_PERCENT) -> None:
        self._store = store
        self._batch_bytes = batch_bytes
        self._history_percent = history_percent
        self._limit_bytes = 0
        self.used_bytes = 0
        self.aof_ok: dict[str, bool] = {}
        self.budgets = budgets_of(0, batch_bytes, history_percent)

    @property
    def limit_bytes(self) -> int:
        """Redis' limit; 0 when it has none, or is not known yet."""
        return self._limit_bytes

    async def refresh(self) -> None:
        """Asks Redis for its limit, and whether it could last write and rewrite its file. Raises
        StoreUnavailable."""
        info = await self._store.command("INFO", "memory", "persistence")
        self.used_bytes = int(info["used_memory"])
        self.aof_ok = {
            "write": info["aof_last_write_status"] == "ok",
            "rewrite": info["aof_last_bgrewrite_status"] == "ok",
        }
        limit_bytes = int(info["maxmemory"])
        if limit_bytes != self._limit_bytes:
            self._limit_bytes = limit_bytes
            self.budgets = budgets_of(limit_bytes, self._batch_bytes, self._history_percent)
            _log.info("budgets", redis_memory_bytes=limit_bytes, **self.budgets.to_dict())

    async def follow(self) -> None:
        """Asks again and again, for ever."""
        while True:
            pause_s = _REFRESH_S
            try:
                await self.refresh()
            except GatewayError as error:
                _log.debug("redis' memory not known", problem=str(error))
                pause_s = 1.0
            await asyncio.sleep(pause_s)
