"""What waits for a function: an invocation in its queue, and the caller who wants the outcome."""

import asyncio
import base64
import contextlib
import math
import time
from typing import Any

import structlog

from koren_events.cloudevent import CloudEvent, json_value
from koren_events.errors import InvalidEvent
from koren_gateway.api.http import Refused
from koren_gateway.cluster.functions import Function
from koren_gateway.errors import GatewayError
from koren_gateway.queue.attempts import Failure
from koren_gateway.queue.init_errors import InitErrors
from koren_gateway.queue.queue import Entry, Outcome, Queue
from koren_gateway.scaling.bell import Bell, Ticket
from koren_gateway.tracing import Spans

START_S = 30.0
"""How long a function may take to start, beside the time of its handler."""

_log = structlog.get_logger()


class QueueFull(GatewayError):
    """The function's queue takes no more."""


class Repeated(GatewayError):
    """The event was taken in before."""


class NotStarting(GatewayError):
    """The function's pods do not load its handler; the invocation is withdrawn."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class NoAnswer(GatewayError):
    """The time is over, or this replica stops, before there is an outcome."""

    def __init__(self, *, stopping: bool, withdrawn: bool) -> None:
        super().__init__("the gateway stops" if stopping else "no answer in time")
        self.stopping = stopping
        self.withdrawn = withdrawn
        """Whether the invocation had not begun, and will not."""


class Calls:
    """Starts invocations and waits for them. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(
        self, *, queue: Queue, bell: Bell, init_errors: InitErrors, stopping: asyncio.Event, spans: Spans | None
    ) -> None:
        self._queue = queue
        self._bell = bell
        self._init_errors = init_errors
        self._stopping = stopping
        self._spans = spans

    async def start(self, entry: Entry, event: CloudEvent) -> None:
        """Puts the invocation on disk. Raises QueueFull and Repeated."""
        [taken_in] = await self._queue.enqueue([entry])
        if taken_in.outcome == "full":
            raise QueueFull("the queue is full")
        if taken_in.outcome == "seen":
            raise Repeated(f"event {event.id} of {event.source} was taken in before")
        if self._spans is not None:
            self._spans.taken_in(
                entry.trace,
                event,
                received_ms=entry.received_ms,
                durable_ms=round(time.time() * 1000),
                size_bytes=len(entry.message),
                outcome="called",
            )

    async def outcome(
        self, function: Function, entry: Entry, event: CloudEvent, *, at_most_s: float = math.inf
    ) -> Outcome:
        """Starts the invocation and waits for its outcome: for the time of the handler and its start, and
        for `at_most_s` seconds.

        When nobody waits any more it is withdrawn, if it has not begun; unless its answer is kept for later.
        Raises what `start` raises, NotStarting and NoAnswer.
        """
        limit_s = min(function.timeout_s + START_S, at_most_s)
        is_kept = entry.answer_kept_ms > 0
        with self._bell.watcher(f"o:{entry.key}", f"i:{function.name}") as ticket:
            try:
                await self.start(entry, event)
                return await self._wait(function.name, entry.key, ticket, limit_s, is_kept)
            except asyncio.CancelledError:
                # Whoever asked has hung up: what nobody took yet is not to run.
                if not is_kept:
                    await asyncio.shield(self._withdraw(function.name, entry.key))
                raise

    async def _withdraw(self, function: str, key: str) -> None:
        with contextlib.suppress(GatewayError):
            if await self._queue.withdraw(function, key):
                _log.info("call withdrawn, its caller has gone", function=function, key=key)

    async def _wait(self, function: str, key: str, ticket: Ticket, limit_s: float, is_kept: bool) -> Outcome:
        until = time.monotonic() + limit_s
        while True:
            ticket.answer()
            outcome = await self._queue.outcome(key)
            if outcome is not None:
                return outcome
            failure = await self._init_errors.get(function)
            if failure is not None and await self._queue.withdraw(function, key):
                raise NotStarting(failure)
            left_s = until - time.monotonic()
            if left_s <= 0 or self._stopping.is_set():
                break
            await ticket.wait(left_s)
        withdrawn = not is_kept and await self._queue.withdraw(function, key)
        raise NoAnswer(stopping=self._stopping.is_set(), withdrawn=withdrawn)


def data_of(content_type: str, charset: str | None, body: bytes) -> dict[str, Any]:
    """The attributes of a CloudEvent that hold a request's body: JSON, a text, or bytes as base64.

    Raises Refused when the body is not what its content type says.
    """
    if content_type == "application/json" or content_type.endswith("+json") or not body:
        try:
            return {"datacontenttype": "application/json", "data": json_value(body or b"null")}
        except InvalidEvent as error:
            raise Refused(400, f"the body is {error}; send text as text/plain") from None
    if content_type.startswith("text/") or content_type == "application/x-www-form-urlencoded":
        return {"datacontenttype": content_type, "data": _decoded(body, charset)}
    return {"datacontenttype": content_type, "data_base64": base64.b64encode(body).decode()}


def _decoded(body: bytes, charset: str | None) -> str:
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except LookupError:
        raise Refused(400, f"charset {charset!r} is not known; send UTF-8") from None
