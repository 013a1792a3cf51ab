"""Leases that nobody keeps: their time ran out, or their pod is gone."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog

from koren_events.times import parse_time
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.interface import Change, Cluster
from koren_gateway.cluster.reviews import Reviewer
from koren_gateway.errors import ClusterUnavailable, GatewayError, LeaseLost, StoreUnavailable
from koren_gateway.queue.attempts import Attempts, Failure
from koren_gateway.queue.init_errors import InitErrors
from koren_gateway.queue.queue import End, Kept, Queue
from koren_gateway.settings import Settings

_SWEEP_S = 1.0
_ENDED = ("Failed", "Succeeded")
_log = structlog.get_logger()


class Leases:
    """Every replica looks; who is first ends the attempt, for the others it has ended then.

    After an outage of Redis, or of this process, nothing is swept for a lease's time: the pods must
    have had the time to say what they hold.
    """

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        functions: Functions,
        attempts: Attempts,
        init_errors: InitErrors,
        reviewer: Reviewer,
    ) -> None:
        self._lease_s = settings.lease_s
        self._queue = queue
        self._functions = functions
        self._attempts = attempts
        self._init_errors = init_errors
        self._reviewer = reviewer
        self._pods: set[str] = set()
        self._ends: dict[str, tuple[Failure, int | None]] = {}
        """How and when (Unix time in ms) the last container of a pod ended."""
        self._looked_at: float | None = None
        self._sweep_from = 0.0

    async def sweep(self) -> None:
        """Ends attempts whose lease ran out, for ever."""
        await self._functions.wait_in_step()
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self.sweep_once()

    async def sweep_once(self) -> None:
        """Ends the attempts whose lease has run out by now, unless there was an outage."""
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at > 3 * _SWEEP_S:
            self._sweep_from = now + self._lease_s
        try:
            await self._follow_clock(now)
            # Asked also when nothing is swept: it shows that Redis is there.
            expired = [
                (function, lease)
                for function in self._functions.all()
                for lease in await self._expired(function.name)
            ]
        except StoreUnavailable as error:
            _log.debug("no sweep of leases", problem=str(error))
            self._looked_at = None
            return
        self._looked_at = now
        if now < self._sweep_from:
            return
        failure = Failure("LeaseExpired", "no word came from the function's pod any more")
        for function, lease in expired:
            end = End(
                function=function.name, key=lease.key, delivery=lease.delivery, only_expired=True
            )
            try:
                await self._attempts.fail(function, end, failure, lost=True)
            except LeaseLost:
                _log.debug("lease was kept after all", key=lease.key)
            except StoreUnavailable:
                self._looked_at = None
                return
            except Exception:
                _log.exception("lease not ended", function=function.name, key=lease.key)

    async def _follow_clock(self, now: float) -> None:
        ran_ms = None if self._looked_at is None else round((now - self._looked_at) * 1000)
        try:
            step_ms = await self._queue.follow_clock(ran_ms)
        except StoreUnavailable:
            raise
        except GatewayError as error:
            _log.error("clock not followed", problem=str(error))
            return
        if step_ms:
            _log.warning("the host's clock was set; what waits keeps its time", by_ms=step_ms)

    async def follow(self, cluster: Cluster) -> None:
        """Drops the leases of pods that are gone, for ever."""
        async for change in cluster.pods():
            for pod, failure in self._gone(change).items():
                self._reviewer.forget_pod(pod)
                await self._drop(pod, failure)
            for item in change.objects if change.kind != "removed" else ():
                await self._look_at(item, cluster)

    async def _was_taken(self, kept: Kept, before_ms: int | None) -> bool:
        """Whether the lease is older than that. What ended a container may be told late; its
        successor, which may have an event by then, keeps it."""
        function = self._functions.get(kept.function)
        if before_ms is None or function is None:
            return True
        standing = await self._queue.standing(kept.function, kept.key)
        return standing.deadline_ms - round(function.timeout_s * 1000) < before_ms

    async def _expired(self, function: str) -> list[Any]:
        try:
            return await self._queue.expired(function)
        except StoreUnavailable:
            raise
        except GatewayError as error:
            _log.error("leases not looked at", function=function, problem=str(error))
            return []

    async def why(self, pod: str, kept: Kept) -> Failure | None:
        """How the container of the pod that took the lease ended, if that is known."""
        why, at_ms = self._ends.get(pod, (None, None))
        # The time has no fractions of a second.
        if why is None or not await self._was_taken(kept, at_ms and at_ms + 1000):
            return None
        return why

    async def _look_at(self, item: Mapping[str, Any], cluster: Cluster) -> None:
        """Drops the leases of a pod whose container has ended, and removes a pod that failed as a
        whole: nothing else would."""
        name, status = _name(item), _status(item)
        try:
            for container in status.get("containerStatuses") or ():
                state, last = container.get("state") or {}, container.get("lastState") or {}
                ended = state.get("terminated") or last.get("terminated")
                if ended:
                    why, at_ms = _ended_by(item, ended.get("reason")), _ms(ended.get("finishedAt"))
                    self._ends[name] = why, at_ms
                    if "running" not in state:
                        await self._drop(name, why, before_ms=at_ms)
            if status.get("phase") == "Failed":
                await cluster.delete_pod(name)
                _log.warning("failed pod removed", pod=name, reason=status.get("reason"))
        except ClusterUnavailable as error:
            _log.warning("failed pod not removed", pod=name, problem=str(error))
        except (AttributeError, TypeError, ValueError):
            _log.exception("pod not understood", pod=name)

    def _gone(self, change: Change) -> dict[str, Failure]:
        ended = {
            _name(pod): _failure_of(pod)
            for pod in change.objects
            if change.kind == "removed" or _status(pod).get("phase") in _ENDED
        }
        match change.kind:
            case "listed":
                missing = self._pods - set(change.names)
                self._pods = set(change.names)
                ended |= {pod: Failure("PodLost", f"pod {pod} is gone") for pod in missing}
            case "changed":
                self._pods |= set(change.names)
            case "removed":
                self._pods -= set(change.names)
        for pod in ended:
            self._ends.pop(pod, None)
        return ended

    async def _drop(self, pod: str, failure: Failure, before_ms: int | None = None) -> None:
        """Drops the pod's leases (those taken `before_ms`, if given)."""
        try:
            for function in self._functions.all():
                await self._init_errors.forget(function.name, pod)
            leases = await self._queue.kept_by(pod)
        except StoreUnavailable as error:
            # They run out by themselves.
            _log.warning("leases of a lost pod not dropped", pod=pod, problem=str(error))
            return
        except Exception:
            _log.exception("leases of a lost pod not dropped", pod=pod)
            return
        for kept in leases:
            try:
                if await self._was_taken(kept, before_ms):
                    await self._attempts.release(kept, failure)
            except StoreUnavailable as error:
                _log.warning("lease of a lost pod not dropped", pod=pod, key=kept.key, problem=str(error))
            except Exception:
                _log.exception("lease of a lost pod not dropped", pod=pod, key=kept.key)


def _name(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def _status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    status = pod.get("status")
    return status if isinstance(status, Mapping) else {}


def _ms(time: str | None) -> int | None:
    """A time in an object's status, which has no fractions of a second."""
    return None if time is None else round(parse_time(time).timestamp() * 1000)


def _failure_of(pod: Mapping[str, Any]) -> Failure:
    """Why a pod is gone, as its status says."""
    status = _status(pod)
    if status.get("reason") == "Evicted":
        why = status.get("message") or "no reason given"
        return Failure("Evicted", f"pod {_name(pod)} was evicted: {why}")
    try:
        for container in status.get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                return _ended_by(pod, ended["reason"])
    except (AttributeError, TypeError):
        _log.exception("pod not understood", pod=_name(pod))
    return Failure("PodLost", f"pod {_name(pod)} is gone")


def _ended_by(pod: Mapping[str, Any], reason: str | None) -> Failure:
    if reason == "OOMKilled":
        containers = (pod.get("spec") or {}).get("containers") or [{}]
        limits = (containers[0].get("resources") or {}).get("limits") or {}
        return Failure("OutOfMemory", f"out of memory, limit {limits.get('memory', 'none')}")
    why = reason or "unknown reason"
    return Failure("PodLost", f"the container of pod {_name(pod)} ended ({why})")
