"""Wakes who waits for work, in whichever replica: Redis' scripts publish on one channel."""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Iterator

import structlog

from koren_gateway.errors import StoreUnavailable
from koren_gateway.queue.store import BELL_CHANNEL, Store, raise_unavailable

_RETRY_S = 0.5
_SILENCE_S = 5.0  # after so long the connection is asked whether it lives
_log = structlog.get_logger()


class Ticket:
    """A place among those who wait for a name to ring; taken before looking for work, so that
    nothing rings unheard in between."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    @property
    def rung(self) -> bool:
        """Whether it rang, and was not yet answered."""
        return self._rung.is_set()

    def ring(self) -> None:
        """Wakes the waiter."""
        self._rung.set()

    def answer(self) -> None:
        """Before looking again: from now on only new rings count."""
        self._rung.clear()

    async def wait(self, timeout_s: float | None) -> None:
        """Waits for a ring, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()


class Bell:
    """Rings by name: `f:<function>` when its work changed, `o:<key>` when an outcome is there,
    `i:<function>` when its pod does not start.

    A ring wakes every watcher and one worker of that name. While the channel is down nothing
    rings; when it is back, all do.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._workers: defaultdict[str, deque[Ticket]] = defaultdict(deque)
        self._watchers: defaultdict[str, set[Ticket]] = defaultdict(set)
        self.connected = False

    @contextlib.contextmanager
    def worker(self, name: str) -> Iterator[Ticket]:
        """Waits to take one piece of work: each ring goes to one worker."""
        ticket = Ticket()
        tickets = self._workers[name]
        tickets.append(ticket)
        try:
            yield ticket
        finally:
            tickets.remove(ticket)
            if ticket.rung:
                # Another's work: this one has found its own, or has gone.
                self.ring_worker(name)
            if not tickets:
                self._workers.pop(name, None)

    @contextlib.contextmanager
    def watcher(self, *names: str) -> Iterator[Ticket]:
        """Wants to know of every ring of these names."""
        ticket = Ticket()
        for name in names:
            self._watchers[name].add(ticket)
        try:
            yield ticket
        finally:
            for name in names:
                self._watchers[name].discard(ticket)
                if not self._watchers[name]:
                    del self._watchers[name]

    def ring_worker(self, name: str) -> None:
        """Wakes the worker that has waited longest."""
        for ticket in self._workers.get(name, ()):
            if not ticket.rung:
                ticket.ring()
                return

    def ring(self, name: str) -> None:
        """Wakes every watcher and one worker."""
        self.ring_worker(name)
        for ticket in self._watchers.get(name, ()):
            ticket.ring()

    def ring_all(self) -> None:
        """Wakes everybody: something may have been missed, or the gateway stops."""
        for tickets in (*self._workers.values(), *self._watchers.values()):
            for ticket in tickets:
                ticket.ring()

    async def listen(self) -> None:
        """Takes rings from Redis, for ever."""
        while True:
            try:
                await self._listen()
            except StoreUnavailable as error:
                if self.connected:
                    _log.warning("redis lost", problem=str(error))
                else:
                    _log.warning("waiting for redis", problem=str(error))
            self.connected = False
            await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        async with self._store.redis.pubsub() as channel:
            try:
                await channel.subscribe(BELL_CHANNEL)
                asked = False
                while True:
                    message = await channel.get_message(timeout=_SILENCE_S)
                    if message is None and asked:
                        raise StoreUnavailable(f"Redis: nothing heard for {2 * _SILENCE_S:g} s")
                    asked = message is None
                    if message is None:
                        await channel.ping()
                    elif message["type"] == "subscribe":
                        self.connected = True
                        _log.info("redis connected")
                        self.ring_all()
                    elif message["type"] == "message":
                        self.ring(message["data"].decode(errors="replace"))
            except Exception as error:
                raise_unavailable(error)
                raise
