"""The API of function pods: take the next event, say how it went, keep state."""

import asyncio
import json
import time
from typing import Any

import structlog
from aiohttp import web

from koren_events import CONTENT_TYPE
from koren_gateway.attempts import Attempts, Failure
from koren_gateway.auth import Reviewer
from koren_gateway.bell import Bell
from koren_gateway.functions import Function, Functions
from koren_gateway.http_errors import Refused, errors_as_json, json_body, number_header
from koren_gateway.init_errors import InitErrors
from koren_gateway.metrics import Metrics
from koren_gateway.queue import Held, Nothing, Queue, Taken
from koren_gateway.state import KEY_MAX_CHARACTERS, VALUE_MAX_BYTES, State

_RESPONSE_MAX_BYTES = 2 * 2**20
_TEXT_MAX = 16_000
_log = structlog.get_logger()


class RuntimeApi:
    """Serves the pods of functions; which function a caller is, its token says.

    A pod handles one event at a time: when it asks for the next, it is done with the last one, or
    knows nothing of it (its process was replaced, or the answer never reached it).
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
        state: State,
        reviewer: Reviewer,
        init_errors: InitErrors,
        metrics: Metrics,
    ) -> None:
        self._namespace = namespace
        self._poll_s = poll_s
        self._stopping = stopping
        self._queue = queue
        self._bell = bell
        self._functions = functions
        self._attempts = attempts
        self._state = state
        self._reviewer = reviewer
        self._init_errors = init_errors
        self._metrics = metrics

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[errors_as_json], client_max_size=_RESPONSE_MAX_BYTES)
        app.add_routes(
            [
                web.get("/v1/invocation/next", self._next),
                web.post("/v1/invocation/{key}/entered", self._entered),
                web.post("/v1/invocation/{key}/heartbeat", self._heartbeat),
                web.post("/v1/invocation/{key}/response", self._response),
                web.post("/v1/invocation/{key}/error", self._error),
                web.post("/v1/init/error", self._init_error),
                web.get("/v1/state/{key:.+}", self._get_state),
                web.put("/v1/state/{key:.+}", self._put_state),
            ]
        )
        return app

    async def _next(self, request: web.Request) -> web.Response:
        function, pod = await self._caller(request)
        started_ms = number_header(request, "Koren-Started-Ms")
        until = time.monotonic() + self._poll_s
        with self._bell.worker(f"f:{function.name}") as ticket:
            while not self._stopping.is_set():
                ticket.answer()
                match await self._queue.take(function, pod, started_ms):
                    case Taken() as taken:
                        return self._hand_out(function, pod, taken)
                    case Held() as held:
                        failure = Failure("Abandoned", f"pod {pod} asked for another event")
                        await self._attempts.release(held, failure)
                        continue
                    case Nothing(next_due_s):
                        pass
                left_s = until - time.monotonic()
                if left_s <= 0:
                    break
                wait_s = left_s if next_due_s is None else min(left_s, next_due_s + 0.001)
                await ticket.wait(wait_s)
        return web.Response(status=204)

    def _hand_out(self, function: Function, pod: str, taken: Taken) -> web.Response:
        if taken.more:
            self._bell.ring_worker(f"f:{function.name}")
        self._metrics.attempt(
            function.name, taken.key, taken.attempt, taken, "activated", "pod_started"
        )
        _log.info(
            "invocation handed out",
            function=function.name,
            key=taken.key,
            attempt=taken.attempt,
            event_id=taken.event.id,
            subject=taken.event.subject,
            pod=pod,
        )
        return web.Response(
            body=taken.message,
            headers={
                "Content-Type": CONTENT_TYPE,
                "Koren-Invocation-Id": taken.key,
                "Koren-Attempt": str(taken.attempt),
                "Koren-Deadline-Ms": str(taken.deadline_ms),
            },
        )

    async def _entered(self, request: web.Request) -> web.Response:
        now_ms = round(time.time() * 1000)
        function, key, attempt = await self._invocation(request)
        progress = await self._queue.extend(function.name, key, attempt, now_ms)
        self._metrics.attempt(function.name, key, attempt, progress, "handler_entered")
        return web.Response(status=204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        function, key, attempt = await self._invocation(request)
        await self._queue.extend(function.name, key, attempt)
        return web.Response(status=204)

    async def _response(self, request: web.Request) -> web.Response:
        now_ms = round(time.time() * 1000)
        function, key, attempt = await self._invocation(request)
        result = await json_body(request)
        await self._attempts.succeed(function, key, attempt, _compact(result), now_ms)
        return web.Response(status=204)

    async def _error(self, request: web.Request) -> web.Response:
        now_ms = round(time.time() * 1000)
        function, key, attempt = await self._invocation(request)
        failure = _failure(await json_body(request))
        await self._attempts.fail(function, key, attempt, failure, done_ms=now_ms)
        return web.Response(status=204)

    async def _init_error(self, request: web.Request) -> web.Response:
        function, pod = await self._caller(request)
        failure = _failure(await json_body(request))
        await self._init_errors.note(function.name, pod, failure)
        _log.error(
            "function does not start",
            function=function.name,
            pod=pod,
            problem=str(failure),
            traceback=failure.traceback,
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
        value = await request.read()
        if len(value) > VALUE_MAX_BYTES:
            raise Refused(
                413, f"state {key!r} has {len(value)} bytes; keep it below {VALUE_MAX_BYTES}"
            )
        tag = await self._state.put(
            function.name,
            key,
            value,
            condition=_condition(request),
            expires_s=number_header(request, "Koren-Expires-S"),
        )
        if tag is None:
            raise Refused(412, f"state {key!r} is not what the request says; read it again")
        return web.Response(status=204, headers={"ETag": f'"{tag}"'})

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
                f"there is no function {name}; its Deployment needs label "
                f"faas.koren.kr/function: {name}",
            )
        return function, pod

    async def _invocation(self, request: web.Request) -> tuple[Function, str, int]:
        function, _ = await self._caller(request)
        attempt = number_header(request, "Koren-Attempt")
        if attempt is None:
            raise Refused(400, "header Koren-Attempt is missing; send the one that 'next' gave")
        return function, request.match_info["key"], attempt


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _failure(body: Any) -> Failure:
    if not isinstance(body, dict):
        raise Refused(400, 'the body must be {"type", "message", "traceback"}')
    return Failure(
        *(str(body.get(name, ""))[:_TEXT_MAX] for name in ("type", "message", "traceback"))
    )


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
