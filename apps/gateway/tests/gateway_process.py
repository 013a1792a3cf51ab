"""A gateway as a process of its own, with a cluster in memory; told by the environment.

`KILL_AT` names a point at which it kills itself: `before-commit`, `after-commit`.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from gateway_lab import TestCluster

from koren_gateway import log
from koren_gateway.app import Gateway
from koren_gateway.queue.queue import Entry, Queue, TakenIn
from koren_gateway.settings import from_environment


def kill_at(point: str) -> None:
    enqueue = Queue.enqueue

    async def killed(self: Any, entries: Sequence[Entry]) -> list[TakenIn]:
        if point == "before-commit":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await enqueue(self, entries)
        if point == "after-commit":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    Queue.enqueue = killed  # type: ignore[method-assign]


if __name__ == "__main__":
    if "KILL_AT" in os.environ:
        kill_at(os.environ["KILL_AT"])
    settings = from_environment()
    log.configure(settings.region, logging.INFO)
    asyncio.run(Gateway(settings, TestCluster()).run())
