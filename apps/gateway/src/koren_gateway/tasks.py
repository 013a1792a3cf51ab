"""Running coroutines side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from koren_gateway.metrics import Metrics

_AGAIN_S = 1.0
_log = structlog.get_logger()


class Changes:
    """Tells whoever watches a thing that it has changed."""

    def __init__(self) -> None:
        self._watchers: list[asyncio.Event] = []

    def watch(self, changed: asyncio.Event) -> None:
        """Has the event set at each change from now on; the watcher clears it."""
        self._watchers.append(changed)

    def tell(self) -> None:
        """The thing has changed."""
        for changed in self._watchers:
            changed.set()


async def first_failure(*endless: Coroutine[Any, Any, None]) -> None:
    """Runs all until one ends, then cancels the others; raises what that one raised.

    A TaskGroup would raise it wrapped, and its callers tell errors apart.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in endless]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def for_ever(part: str, run: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """Runs `run` again and again: an error that nobody foresaw is logged and counted, and ends
    neither the process nor the other parts."""
    while True:
        try:
            await run()
        except Exception:
            _log.exception("part failed, and begins anew", part=part)
            metrics.faults.labels(part).inc()
        await asyncio.sleep(_AGAIN_S)
