"""The API of function pods: take the next event, say how it went, keep state."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import structlog
from aiohttp import web

from koren_events import CONTENT_TYPE
from koren_events.times import format_time, utc_now
from koren_gateway.api import http
from koren_gateway.api.http import (
    Bodies,
    Handler,
    Refused,
    errors_as_json,
    json_body,
    number_header,
)
from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.cluster.reviews import Reviewer
from koren_gateway.errors import StoreUnavailable
from koren_gateway.log import Seldom
from koren_gateway.metrics import Metrics
from koren_gateway.queue.attempts import Attempts, Failure
from koren_gateway.queue.init_errors import InitErrors
from koren_gateway.queue.leases import Leases
from koren_gateway.queue.logs import Logs
from koren_gateway.queue.queue import SLOTS, End, Kept, Nothing, Queue, Taken
from koren_gateway.queue.state import KEY_MAX_CHARACTERS, VALUE_MAX_BYTES, State, StateFull
from koren_gateway.scaling.bell import Bell
from koren_gateway.tracing import trace_id

_RESPONSE_MAX_BYTES = 2 * 2**20
_BODIES_MAX_BYTES = 4 * _RESPONSE_MAX_BYTES
_TEXT_MAX = 16_000
_INIT_ERROR_EVERY_S = 10.0
_BATCH_TYPE = "kr.koren.batch"
_DELIVERY = web.RequestKey("delivery", int)
_log = structlog.get_logger()


class RuntimeApi:
    """Serves the pods of functions; which function a caller is, its token says.

    A slot of a pod handles one event at a time: when it asks for the next, it is done with the last
    one, or knows nothing of it (its process was replaced, or the answer never reached it).
    """

    def __init__(
        self,
        *,
        namespace: str,
        poll_s: float,
        stopping: asyncio.Event,
        queue: Queue,
        bell: Bell,
        functions: Functions,
        attempts: Attempts,
        leases: Leases,
        state: State,
        logs: Logs,
        reviewer: Reviewer,
        init_errors: InitErrors,
        metrics: Metrics,
        lease_s: float,
    ) -> None:
        self._namespace = namespace
        self._poll_s = poll_s
        self._stopping = stopping
        self._queue = queue
        self._bell = bell
        self._functions = functions
        self._attempts = attempts
        self._leases = leases
        self._state = state
        self._logs = logs
        self._reviewer = reviewer
        self._init_errors = init_errors
        self._metrics = metrics
        self._bodies = Bodies(_BODIES_MAX_BYTES)
        self._seldom = Seldom(_INIT_ERROR_EVERY_S)
        self._lease_ms = str(round(lease_s * 1000))

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(
            middlewares=[errors_as_json, _leases_in_an_outage], client_max_size=_RESPONSE_MAX_BYTES
        )
        app.add_routes(
            [
                http.get("/v1/invocation/next", self._next),
                http.post("/v1/invocation/{key}/entered", self._entered),
                http.post("/v1/invocation/{key}/heartbeat", self._heartbeat),
                http.post("/v1/invocation/{key}/response", self._response),
                http.post("/v1/invocation/{key}/error", self._error),
                http.post("/v1/init/error", self._init_error),
                http.post("/v1/log", self._log),
                http.get("/v1/state/{key:.+}", self._get_state),
                http.put("/v1/state/{key:.+}", self._put_state),
            ]
        )
        return app

    async def _next(self, request: web.Request) -> web.Response:
        function, pod = await self._caller(request)
        started_ms = number_header(request, "Koren-Started-Ms")
        if started_ms is not None:
            started_ms = min(started_ms, round(time.time() * 1000))
        cold = request.headers.get("Koren-Cold-Start") == "1"
        slot = number_header(request, "Koren-Slot") or 0
        if slot >= SLOTS:
            raise Refused(400, f"header Koren-Slot is {slot}; give a number from 0 to {SLOTS - 1}")
        until = time.monotonic() + self._poll_s
        with self._bell.worker(f"f:{function.name}") as ticket:
            while not self._stopping.is_set():
                ticket.answer()
                # Its limits may have changed while the pod waited.
                function = self._functions.get(function.name) or function
                match await self._queue.take(function, pod, started_ms, slot=slot, cold=cold):
                    case Taken() as taken if not all(one.event for one in (taken, *taken.others)):
                        # No function could do anything with it.
                        await self._attempts.set_aside(function, taken)
                        continue
                    case Taken() as taken:
                        return self._hand_out(function, pod, taken, cold=cold)
                    case Kept() as kept:
                        failure = await self._leases.why(pod, kept) or Failure(
                            "Abandoned", f"pod {pod} asked for another event"
                        )
                        await self._attempts.release(kept, failure)
                        continue
                    case Nothing(next_due_s):
                        pass
                left_s = until - time.monotonic()
                if left_s <= 0:
                    break
                wait_s = left_s if next_due_s is None else min(left_s, next_due_s + 0.001)
                await ticket.wait(wait_s)
        return web.Response(status=204)

    def _hand_out(self, function: Function, pod: str, taken: Taken, *, cold: bool) -> web.Response:
        event = taken.event
        assert event is not None
        if taken.more:
            self._bell.ring_worker(f"f:{function.name}")
        self._attempts.taken(function, taken, cold=cold)
        _log.info(
            "invocation handed out",
            function=function.name,
            key=taken.key,
            delivery=taken.delivery,
            event_id=event.id,
            subject=event.subject,
            pod=pod,
            batch=1 + len(taken.others),
            **trace_id(taken.trace),
        )
        body, event_id = self._told(function, taken), event.id
        if function.batch_size > 1:
            event_id = f"{taken.key}.{taken.delivery}"
            others = [self._told(function, other) for other in taken.others]
            body = _batch(function, event_id, [body, *others], self._attempts.traceparent(function, taken))
        return web.Response(
            body=body,
            headers={
                "Content-Type": CONTENT_TYPE,
                "Koren-Invocation-Id": taken.key,
                # For the pod's log, before its worker has read the event. Ids may be in any script.
                "Koren-Event-Id": quote(event_id),
                "Koren-Attempt": str(taken.delivery),
                "Koren-Deadline-Ms": str(taken.deadline_ms),
                "Koren-Lease-Ms": self._lease_ms,
            },
        )

    def _told(self, function: Function, taken: Taken) -> bytes:
        """The event with what this region has to say of it."""
        more = {
            "releasedby": taken.released_by,
            "replayedby": taken.replayed_by,
            "traceparent": self._attempts.traceparent(function, taken),
        }
        return _with(taken.message, {name: value for name, value in more.items() if value})

    async def _entered(self, request: web.Request) -> web.Response:
        return await self._keep(request, entered_ms=round(time.time() * 1000))

    async def _heartbeat(self, request: web.Request) -> web.Response:
        return await self._keep(request, entered_ms=None)

    async def _keep(self, request: web.Request, entered_ms: int | None) -> web.Response:
        function, key, delivery = await self._invocation(request)
        progress = await self._queue.extend(function.name, key, delivery, entered_ms)
        if entered_ms is not None:
            self._attempts.entered(function, key, progress)
        return web.Response(status=204, headers={"Koren-Lease-Ms": self._lease_ms})

    async def _response(self, request: web.Request) -> web.Response:
        now_ms = round(time.time() * 1000)
        function, key, delivery = await self._invocation(request)
        try:
            result = _compact(await self._json(request, function))
        except ValueError:
            raise Refused(400, "the body is not JSON: a number is not finite") from None
        end = End(function=function.name, key=key, delivery=delivery, done_ms=now_ms)
        await self._attempts.succeed(end, result)
        return web.Response(status=204)

    async def _error(self, request: web.Request) -> web.Response:
        now_ms = round(time.time() * 1000)
        function, key, delivery = await self._invocation(request)
        failure = _failure(await self._json(request, function))
        end = End(function=function.name, key=key, delivery=delivery, done_ms=now_ms)
        await self._attempts.fail(function, end, failure)
        return web.Response(status=204)

    async def _log(self, request: web.Request) -> web.Response:
        function, pod = await self._caller(request)
        body = await self._json(request, function)
        if not isinstance(body, dict) or not isinstance(body.get("text"), str):
            raise Refused(400, 'the body must be {"text": what the pod wrote}')
        if body["text"]:
            await self._logs.add(function.name, pod, body["text"])
        return web.Response(status=204)

    async def _init_error(self, request: web.Request) -> web.Response:
        function, pod = await self._caller(request)
        failure = _failure(await self._json(request, function))
        await self._init_errors.note(function.name, pod, failure)
        self._metrics.crashes.labels(function.name, "InitError").inc()
        left_out = self._seldom.left_out(function.name)
        if left_out is not None:
            _log.error(
                "function does not start",
                function=function.name,
                pod=pod,
                problem=str(failure),
                traceback=failure.traceback,
                left_out=left_out,
            )
        return web.Response(status=204)

    async def _get_state(self, request: web.Request) -> web.Response:
        function, _ = await self._caller(request)
        key = _state_key(request)
        value = await self._state.get(function.name, key)
        if value is None:
            raise Refused(404, f"state {key!r} has no value")
        return web.Response(
            body=value.value,
            headers={"ETag": f'"{value.tag}"', "Content-Type": "application/octet-stream"},
        )

    async def _put_state(self, request: web.Request) -> web.Response:
        function, _ = await self._caller(request)
        key = _state_key(request)
        with self._bodies.reading(request, function.name):
            value = await request.read()
        if len(value) > VALUE_MAX_BYTES:
            raise Refused(
                413, f"state {key!r} has {len(value)} bytes; keep it below {VALUE_MAX_BYTES}"
            )
        try:
            tag = await self._state.put(
                function.name,
                key,
                value,
                condition=_condition(request),
                expires_s=number_header(request, "Koren-Expires-S"),
                invocation=_invocation_of(request),
            )
        except StateFull as error:
            raise Refused(507, str(error)) from None
        if tag is None:
            raise Refused(412, f"state {key!r} is not what the request says; read it again")
        return web.Response(status=204, headers={"ETag": f'"{tag}"'})

    async def _json(self, request: web.Request, function: Function) -> Any:
        with self._bodies.reading(request, function.name):
            return await json_body(request)

    async def _caller(self, request: web.Request) -> tuple[Function, str]:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        caller = await self._reviewer.review(token.strip()) if scheme == "Bearer" else None
        if caller is None:
            raise Refused(
                401, "no valid token; send the pod's token for audience 'gateway' as Bearer"
            )
        name, pod = caller.function(self._namespace), caller.pod
        if name is None or pod is None:
            raise Refused(
                403,
                f"{caller.user} is no function; its pod must run in namespace "
                f"{self._namespace} with a token that is bound to it",
            )
        if not self._functions.in_step:
            raise Refused(503, "the functions of this region are not known yet; try again")
        function = self._functions.get(name)
        if function is None:
            raise Refused(
                403,
                f"there is no function {name}; its Deployment needs label faas.koren.kr/function: {name}",
            )
        return function, pod

    async def _invocation(self, request: web.Request) -> tuple[Function, str, int]:
        function, _ = await self._caller(request)
        delivery = number_header(request, "Koren-Attempt")
        if delivery is None:
            raise Refused(400, "header Koren-Attempt is missing; send the one that 'next' gave")
        request[_DELIVERY] = delivery
        return function, request.match_info["key"], delivery


@web.middleware
async def _leases_in_an_outage(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Says what an outage of Redis means for the caller's lease: nobody can take it now, nor for a
    lease's time after Redis is back."""
    try:
        return await handler(request)
    except StoreUnavailable as error:
        if _DELIVERY not in request:
            raise
        return web.json_response(
            {"error": f"{error}; try again"},
            status=503,
            headers={"Koren-Lease": "kept", "Retry-After": "1"},
        )


def _compact(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="replace")


def _failure(body: Any) -> Failure:
    if not isinstance(body, dict):
        raise Refused(400, 'the body must be {"type", "message", "traceback"}')
    after_s = body.get("retry_after_s")
    if after_s is not None and (
        isinstance(after_s, bool) or not isinstance(after_s, int | float) or not 0 <= after_s < 1e9
    ):
        raise Refused(400, "retry_after_s must be a number of seconds, 0 or more")
    kind, message, traceback = (
        str(body.get(name, ""))[:_TEXT_MAX] for name in ("type", "message", "traceback")
    )
    reject = body.get("reject") is True
    return Failure(kind, message, traceback, reject=reject, retry_after_s=after_s)


def _batch(function: Function, id: str, events: Sequence[bytes], traceparent: str) -> bytes:
    """A CloudEvent whose data is these CloudEvents."""
    attributes = {
        "specversion": "1.0",
        "id": id,
        "type": _BATCH_TYPE,
        "source": f"/functions/{function.name}",
        "time": format_time(utc_now()),
        "datacontenttype": "application/cloudevents-batch+json",
    }
    if traceparent:
        attributes["traceparent"] = traceparent
    return _with(b'{"data":[' + b",".join(events) + b"]}", attributes)


def _with(message: bytes, attributes: Mapping[str, str]) -> bytes:
    """The event with these attributes; the rest of it as it came."""
    if not attributes:
        return message
    # Of a name that comes twice, readers take the last.
    return message.rstrip()[:-1] + b"," + json.dumps(attributes).encode()[1:]


def _invocation_of(request: web.Request) -> tuple[str, int] | None:
    """Key and delivery of the event for which the request is made, if it says so."""
    key = request.headers.get("Koren-Invocation-Id")
    delivery = number_header(request, "Koren-Attempt")
    return None if key is None or delivery is None else (key, delivery)


def _state_key(request: web.Request) -> str:
    key = request.match_info["key"]
    if len(key) > KEY_MAX_CHARACTERS:
        raise Refused(400, f"the key has {len(key)} characters; give at most {KEY_MAX_CHARACTERS}")
    return key


def _condition(request: web.Request) -> str:
    must_match = request.headers.get("If-Match")
    if must_match is not None:
        return must_match.strip('"')
    none_match = request.headers.get("If-None-Match")
    if none_match is None:
        return ""
    if none_match != "*":
        raise Refused(400, "If-None-Match can only be '*': write if there is no value")
    return "*"
