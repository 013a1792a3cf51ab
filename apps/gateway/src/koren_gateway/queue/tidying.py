"""What is too old, beyond its budget, or of functions that are no more, goes."""

import asyncio

import structlog

from koren_gateway.cluster.functions import Functions
from koren_gateway.errors import StoreUnavailable
from koren_gateway.queue.queue import Queue

_EVERY_S = 5.0
_log = structlog.get_logger()


class Tidying:
    """Every replica tidies: what is gone for one is gone for the others, too."""

    def __init__(self, queue: Queue, functions: Functions) -> None:
        self._queue = queue
        self._functions = functions

    async def run(self) -> None:
        """Tidies again and again, for ever."""
        await self._functions.wait_in_step()
        while True:
            try:
                more = await self.tidy_once()
            except StoreUnavailable as error:
                _log.debug("nothing tidied", problem=str(error))
                more = False
            await asyncio.sleep(0.05 if more else _EVERY_S)

    async def tidy_once(self) -> bool:
        """Tidies a little; whether there is more to do."""
        late = await self._queue.tidy(self._functions.all())
        if late:
            _log.warning("held events dismissed, for nobody released them in time", events=late)
        # A Deployment that is not right is no deleted function.
        buried = await self._queue.clear_up_after(sorted(self._functions.named()))
        if buried:
            _log.warning("events of deleted functions are dead letters", functions=buried)
        return bool(buried)
