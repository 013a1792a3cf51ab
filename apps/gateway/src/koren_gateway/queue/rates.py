"""How many requests of an HTTP trigger a region takes, over all replicas of its gateway."""

from koren_gateway.cluster.functions import Rate
from koren_gateway.queue.store import Store


class Rates:
    """Counts requests in Redis. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def wait_s(self, name: str, rate: Rate) -> float:
        """Counts a request of that name: 0 when it may pass, else in how many seconds the next may."""
        every_us = rate.window_s * 1_000_000 // rate.events
        wait_ms: int = await self._store.run("pace", name=name, every=every_us, burst=rate.events)
        return wait_ms / 1000
