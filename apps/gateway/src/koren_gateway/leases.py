"""Leases that nobody keeps: their time ran out, or their pod is gone."""

import asyncio

import structlog

from koren_gateway.attempts import Attempts, Failure
from koren_gateway.auth import Reviewer
from koren_gateway.cluster import Change, Cluster
from koren_gateway.errors import LeaseLost, StoreUnavailable
from koren_gateway.functions import Functions
from koren_gateway.init_errors import InitErrors
from koren_gateway.queue import Queue

_SWEEP_S = 1.0
_log = structlog.get_logger()


class Leases:
    """Every replica looks; who is first ends the attempt, for the others it has ended then."""

    def __init__(
        self,
        queue: Queue,
        functions: Functions,
        attempts: Attempts,
        init_errors: InitErrors,
        reviewer: Reviewer,
    ) -> None:
        self._queue = queue
        self._functions = functions
        self._attempts = attempts
        self._init_errors = init_errors
        self._reviewer = reviewer
        self._pods: set[str] = set()

    async def sweep(self) -> None:
        """Ends attempts whose lease ran out, for ever."""
        await self._functions.wait_in_step()
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self.sweep_once()
            except StoreUnavailable as error:
                _log.debug("no sweep of leases", problem=str(error))

    async def sweep_once(self) -> None:
        """Ends the attempts whose lease has run out by now."""
        failure = Failure("LeaseExpired", "no word came from the function's pod any more")
        for function in self._functions.all():
            for lease in await self._queue.expired(function.name):
                try:
                    await self._attempts.fail(
                        function,
                        lease.key,
                        lease.attempt,
                        failure,
                        once=lease.once,
                        lost=True,
                        only_expired=True,
                    )
                except LeaseLost:
                    _log.debug("lease was kept after all", key=lease.key)

    async def follow(self, cluster: Cluster) -> None:
        """Drops the leases of pods that are gone, for ever."""
        async for change in cluster.pods():
            for pod in self._gone(change):
                self._reviewer.forget_pod(pod)
                await self._drop(pod)

    def _gone(self, change: Change) -> set[str]:
        match change.kind:
            case "listed":
                gone = self._pods - set(change.names)
                self._pods = set(change.names)
            case "changed":
                self._pods |= set(change.names)
                gone = {
                    pod["metadata"]["name"]
                    for pod in change.objects
                    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
                }
            case "removed":
                gone = set(change.names)
                self._pods -= gone
        return gone

    async def _drop(self, pod: str) -> None:
        try:
            for function in self._functions.all():
                await self._init_errors.forget(function.name, pod)
            held = await self._queue.holding(pod)
            if held is not None:
                await self._attempts.release(held, Failure("PodLost", f"pod {pod} is gone"))
        except StoreUnavailable as error:
            # The lease runs out by itself.
            _log.warning("lease of a lost pod not dropped", pod=pod, problem=str(error))
