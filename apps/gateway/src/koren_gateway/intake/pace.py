"""How fast messages are taken in."""

import asyncio
import time

_BURST_S = 1.0


class Pace:
    """A number of messages a second, of which those of one second may come at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due_at = time.monotonic() - _BURST_S

    async def take(self, count: int) -> None:
        """Waits until so many more may be taken in."""
        self._due_at = max(self._due_at, time.monotonic() - _BURST_S) + count / self._rate
        wait_s = self._due_at - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
