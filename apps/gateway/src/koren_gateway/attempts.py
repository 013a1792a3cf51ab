"""How attempts end: by the runtime's word, by a lease that ran out, or with their pod."""

import json
import random
from dataclasses import asdict, dataclass

import structlog

from koren_gateway.errors import LeaseLost
from koren_gateway.functions import Function, Functions
from koren_gateway.metrics import Metrics
from koren_gateway.queue import Held, Progress, Queue
from koren_gateway.retries import GiveUp, Retry, after_failure
from koren_gateway.settings import Settings

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in the handler's words or the gateway's."""

    type: str
    message: str
    traceback: str = ""

    def to_json(self) -> bytes:
        """The three as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"[:2000]


class Attempts:
    """Ends attempts. Every call may raise StoreUnavailable."""

    def __init__(
        self, settings: Settings, queue: Queue, functions: Functions, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._functions = functions
        self._metrics = metrics
        self._dice = random.Random()

    async def succeed(
        self, function: Function, key: str, attempt: int, result: bytes, done_ms: int
    ) -> None:
        """The handler returned `result` (JSON). Raises LeaseLost."""
        progress = await self._queue.succeed(function, key, attempt, result, done_ms)
        self._count(function, key, attempt, progress, "succeeded")

    async def fail(
        self,
        function: Function,
        key: str,
        attempt: int,
        failure: Failure,
        *,
        once: bool | None = None,
        done_ms: int | None = None,
        lost: bool = False,
        only_expired: bool = False,
    ) -> None:
        """The attempt failed, or was `lost`: the next is due some time, or the event is a dead
        letter. `once` says that there is one attempt only; None when it is to be looked up.

        Raises LeaseLost, also with `only_expired` when the lease still runs.
        """
        if once is None:
            once = await self._queue.waits_for_outcome(function.name, key)
        verdict = after_failure(
            attempt=attempt,
            max_attempts=1 if once else function.max_attempts,
            lost=lost,
            base_s=self._settings.retry_base_s,
            cap_s=self._settings.retry_cap_s,
            dice=self._dice,
        )
        match verdict:
            case Retry(delay_s):
                progress = await self._queue.retry(
                    function,
                    key,
                    attempt,
                    str(failure),
                    delay_s,
                    done_ms=done_ms,
                    only_expired=only_expired,
                )
                outcome = "lost" if lost else "failed"
            case GiveUp():
                progress = await self._queue.dead_letter(
                    function,
                    key,
                    attempt,
                    str(failure),
                    failure.to_json(),
                    done_ms=done_ms,
                    only_expired=only_expired,
                )
                outcome = "dead-lettered"
        self._count(function, key, attempt, progress, outcome, problem=str(failure))

    async def release(self, held: Held, failure: Failure) -> None:
        """Drops a lease whose holder is gone or knows nothing of it, if it has not ended."""
        function = self._functions.get(held.function) or Function(name=held.function)
        try:
            await self.fail(function, held.key, held.attempt, failure, lost=True)
        except LeaseLost:
            _log.info("lease had ended", function=held.function, key=held.key)

    def _count(
        self,
        function: Function,
        key: str,
        attempt: int,
        progress: Progress,
        outcome: str,
        **more: str,
    ) -> None:
        self._metrics.invocations.labels(function.name, outcome).inc()
        self._metrics.ended(function.name, progress)
        self._metrics.attempt(function.name, key, attempt, progress, "handler_done")
        log = _log.info if outcome == "succeeded" else _log.warning
        log(
            f"invocation {outcome}",
            function=function.name,
            key=key,
            attempt=attempt,
            event_id=progress.event.id if progress.event else None,
            subject=progress.event.subject if progress.event else None,
            **more,
        )
