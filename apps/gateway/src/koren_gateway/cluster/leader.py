"""Which replica takes events in: the holder of a Kubernetes Lease.

The Lease only keeps replicas from fighting over the broker's session. What makes two at a time
harmless is elsewhere: the broker has one session a client id, and Redis drops what it has seen. So
the holder goes on while the API server is away; only when it loses the broker it needs the Lease
again, for then someone else may have it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from koren_gateway.cluster.interface import Cluster, LeaseRecord
from koren_gateway.errors import ClusterUnavailable

DURATION_S = 10
RENEW_S = 3.0
RETRY_S = 1.0
STEP_BACK_S = 3 * RETRY_S
"""Whoever gave the Lease back because it could not do its work lets the others try first."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Sighting:
    """Another's Lease as last seen to change, by the own clock: hosts' clocks need not agree."""

    renewed: str | None = None
    at_s: float = 0.0

    def may_take(self, lease: LeaseRecord, me: str, now_s: float) -> bool:
        """Whether the Lease is free: nobody's, one's own, or not renewed for its duration."""
        if lease.holder in (None, me):
            return True
        if lease.renewed != self.renewed:
            self.renewed, self.at_s = lease.renewed, now_s
        return now_s - self.at_s > lease.duration_s


class Leader:
    """Runs `lead` while this replica holds the Lease; gives it back when `lead` returns.

    The Lease is taken only when `able` says that the work could be done now.
    """

    def __init__(
        self,
        cluster: Cluster,
        me: str,
        lead: Callable[[], Awaitable[None]],
        able: Callable[[], Awaitable[bool]],
    ) -> None:
        self._cluster = cluster
        self._me = me
        self._lead = lead
        self._able = able

    async def run(self) -> None:
        """Takes the Lease whenever it is free, for ever."""
        sighting = Sighting()
        while True:
            pause_s = RETRY_S
            try:
                lease = await self._cluster.read_lease()
                taken = (
                    sighting.may_take(lease, self._me, time.monotonic())
                    and await self._able()
                    and await self._write(lease.version, self._me)
                )
            except ClusterUnavailable as error:
                _log.warning("no lease yet", problem=str(error))
                taken = False
            if taken:
                await self._hold()
                if not await self._able():
                    pause_s = STEP_BACK_S
            await asyncio.sleep(pause_s)

    async def _hold(self) -> None:
        _log.info("lease taken", me=self._me)
        leading = asyncio.ensure_future(self._lead())
        try:
            while not leading.done() and await self._renew():
                await asyncio.wait([leading], timeout=RENEW_S)
        finally:
            leading.cancel()
            [ended] = await asyncio.gather(leading, return_exceptions=True)
            if isinstance(ended, Exception):
                _log.error("leading failed", problem=repr(ended), exc_info=ended)
            with contextlib.suppress(ClusterUnavailable):
                await self._give_back()
            _log.info("lease left", me=self._me)

    async def _renew(self) -> bool:
        try:
            lease = await self._cluster.read_lease()
            if lease.holder not in (None, self._me):
                _log.warning("lease lost", holder=lease.holder)
                return False
            await self._write(lease.version, self._me)
        except ClusterUnavailable as error:
            _log.warning("lease not renewed", problem=str(error))
        return True

    async def _give_back(self) -> None:
        lease = await self._cluster.read_lease()
        if lease.holder == self._me:
            await self._write(lease.version, None)

    async def _write(self, version: str | None, holder: str | None) -> bool:
        return await self._cluster.write_lease(
            LeaseRecord(holder=holder, renewed=None, duration_s=DURATION_S, version=version)
        )
