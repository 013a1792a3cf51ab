"""Running coroutines side by side."""

import asyncio
from collections.abc import Coroutine
from typing import Any


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
