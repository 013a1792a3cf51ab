"""The API of HTTP triggers: a request that the region's ingress passes on starts a function."""

import asyncio
import contextlib
import json
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import structlog
from aiohttp import web

from koren_events import MAX_EVENT_BYTES
from koren_events.cloudevent import CloudEvent, build
from koren_events.errors import InvalidEvent
from koren_events.times import format_time, utc_now
from koren_gateway.api import http
from koren_gateway.api.calls import Calls, NoAnswer, NotStarting, QueueFull, Repeated, data_of
from koren_gateway.api.http import Bodies, Handler, Refused, errors_as_json
from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.cluster.http_triggers import OWN_PATHS, HttpTrigger, HttpTriggers
from koren_gateway.cluster.tokens import Tokens
from koren_gateway.errors import ClusterUnavailable, StoreBroken, StoreUnavailable
from koren_gateway.metrics import Metrics
from koren_gateway.queue.answers import Answer, Answers
from koren_gateway.queue.queue import Entry
from koren_gateway.queue.rates import Rates
from koren_gateway.tracing import REQUEST_TYPE, Spans, trace_id, trace_of

BODY_MAX_BYTES = 512 * 1024
ANSWER_KEPT_S = 3600
"""How long after its end an answer can be asked for."""
WAIT_MAX_S = 290.0
"""How long a request waits at most; the ingress gives up a little later."""
WAITING_MAX = 200
"""Requests that wait in one replica."""
WAITING_OF_TRIGGER_MAX = 100

BODY_S = 30.0
"""How long a client may take to send a body."""
_BODIES_BYTES = 48 * 2**20
_BODIES_OF_CLIENT_BYTES = 8 * 2**20
_AT_ONCE_BYTES = 16 * 1024
"""A body up to this size becomes an event at once. A larger one can take a second."""
_PASSED_ON = ("accept", "accept-language", "user-agent")
_VALUE_MAX = 1024
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_RECEIPTS = f"{OWN_PATHS}receipts/"
# An answer is never a page of this host, whatever the handler returns.
_ANSWER_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_trigger_of = web.RequestKey("trigger", str)
_log = structlog.get_logger()


class HttpTriggerApi:
    """Only the ingress reaches it, which is known by its certificate. Clients are known by the tokens that a
    trigger's Secret holds."""

    def __init__(
        self,
        *,
        region: str,
        client: str,
        triggers: HttpTriggers,
        functions: Functions,
        tokens: Tokens,
        rates: Rates,
        calls: Calls,
        answers: Answers,
        metrics: Metrics,
        stopping: asyncio.Event,
        spans: Spans | None = None,
    ) -> None:
        """`client` is the common name of the ingress's certificate."""
        self._region = region
        self._client = client
        self._triggers = triggers
        self._functions = functions
        self._tokens = tokens
        self._rates = rates
        self._calls = calls
        self._answers = answers
        self._metrics = metrics
        self._stopping = stopping
        self._spans = spans
        self._bodies = Bodies(_BODIES_BYTES)
        self._incoming = Bodies(_BODIES_OF_CLIENT_BYTES)
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="http-events")
        self._waiting: Counter[str] = Counter()

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(
            middlewares=[self._counted, errors_as_json, self._only_the_ingress, _without_details],
            client_max_size=BODY_MAX_BYTES,
        )
        app.add_routes(
            [
                http.get(f"{OWN_PATHS}healthz", self._healthz),
                http.get(_RECEIPTS + "{id}", self._receipt),
                http.route("*", "/{path:.*}", self._request),
            ]
        )
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if not request.path.startswith(OWN_PATHS):
            self._metrics.http_requests.labels(request.get(_trigger_of, ""), str(answer.status)).inc()
        return answer

    @web.middleware
    async def _only_the_ingress(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport else None
        subject = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
        if ("commonName", self._client) not in subject:
            raise Refused(403, f"only {self._client} may ask here; send requests to the region's ingress")
        return await handler(request)

    async def _healthz(self, request: web.Request) -> web.Response:
        self._check_serving()
        return web.Response(text="ok\n")

    def _check_serving(self) -> None:
        if self._stopping.is_set():
            _refuse_for_now(503, "this replica stops", 1)
        if not (self._triggers.in_step and self._functions.in_step):
            _refuse_for_now(503, "the triggers of this region are not known yet", 1)

    async def _request(self, request: web.Request) -> web.Response:
        self._check_serving()
        trigger = self._triggers.of(_host(request), request.path)
        if trigger is None:
            raise Refused(404, "no trigger of this region has this host and path")
        request[_trigger_of] = trigger.name
        if request.method not in trigger.methods:
            methods = ", ".join(trigger.methods)
            raise Refused(405, f"{trigger.path} takes {methods}", headers={"Allow": methods})
        await self._check_token(request, trigger)
        if trigger.paused:
            _refuse_for_now(503, f"trigger {trigger.name} is paused", 60)
        if trigger.rate is not None:
            wait_s = await self._rates.wait_s(trigger.name, trigger.rate)
            if wait_s:
                _refuse_for_now(429, f"trigger {trigger.name} takes {trigger.rate} requests", math.ceil(wait_s))
        function = self._functions.get(trigger.function)
        if function is None:
            raise Refused(503, f"function {trigger.function} is not deployed in {self._region}")
        with self._bodies.reading(request, "the clients of all triggers"):
            # Only who waits for the function has a place: clients that send slowly must not take all of them.
            with self._incoming.reading(request, _client(request)):
                body = await _body(request)
            with self._place(trigger):
                return await self._start(request, body, trigger, function)

    async def _start(self, request: web.Request, body: bytes, trigger: HttpTrigger, function: Function) -> web.Response:
        repeats_as = _idempotency_key(request)
        made_of = (request, body, trigger, self._region, repeats_as or str(uuid.uuid4()))
        if len(body) <= _AT_ONCE_BYTES:
            event, message = event_of(*made_of)
        else:
            # Leases and the intake of events must not wait for it.
            event, message = await asyncio.get_running_loop().run_in_executor(self._maker, event_of, *made_of)
        entry = Entry(
            key=str(uuid.uuid4()),
            event=event,
            message=message,
            received_ms=round(time.time() * 1000),
            functions=[function],
            repeats_count=repeats_as is not None,
            once=not trigger.is_async,
            call=True,
            answer_kept_ms=ANSWER_KEPT_S * 1000 if repeats_as is not None or trigger.is_async else 0,
            trigger=trigger.name,
            trace=trace_of(event, "", self._spans),
        )
        told = {"trigger": trigger.name, "function": function.name, "key": entry.key, "event_id": event.id}
        _log.info("function requested", **told, **trace_id(entry.trace))
        try:
            if trigger.is_async:
                await self._calls.start(entry, event)
                return _accepted(entry.key)
            outcome = await self._calls.outcome(function, entry, event, at_most_s=WAIT_MAX_S)
        except Repeated:
            return await self._repeated(trigger, event)
        except QueueFull:
            _refuse_for_now(503, f"the queue of {function.name} is full", 5)
        except NotStarting as error:
            raise Refused(502, f"{function.name} does not start: {error.failure.type}", id=entry.key) from None
        except NoAnswer as error:
            raise _no_answer(function.name, entry, error) from None
        return _answered(function.name, entry.key, outcome.state == "succeeded", outcome.body)

    async def _repeated(self, trigger: HttpTrigger, event: CloudEvent) -> web.Response:
        answer = await self._answers.to(event.source, event.id)
        if answer is None:
            raise Refused(409, "this Idempotency-Key was used before, and its answer is not kept any more")
        if trigger.is_async:
            return _accepted(answer.key)
        if answer.state in ("queued", "running"):
            _refuse_for_now(409, "the first request with this Idempotency-Key is in work still", 1)
        return _answered(answer.function, answer.key, answer.state == "succeeded", answer.body)

    async def _receipt(self, request: web.Request) -> web.Response:
        self._check_serving()
        answer = await self._answers.get(request.match_info["id"])
        trigger = self._triggers.get(answer.trigger) if answer else None
        if answer is None or trigger is None:
            raise Refused(404, f"there is no receipt of this id; one is kept for {ANSWER_KEPT_S} s after the end")
        await self._check_token(request, trigger)
        has_ended = answer.state in ("succeeded", "failed")
        headers = _ANSWER_HEADERS if has_ended else {**_ANSWER_HEADERS, "Retry-After": "1"}
        return web.json_response(_told(answer), headers=headers)

    async def _check_token(self, request: web.Request, trigger: HttpTrigger) -> None:
        if not trigger.token_secret:
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not await self._tokens.accepts(trigger.token_secret, token.strip()):
            raise Refused(
                401,
                f"trigger {trigger.name} wants one of its tokens; send it as 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": "Bearer"},
            )

    @contextlib.contextmanager
    def _place(self, trigger: HttpTrigger) -> Iterator[None]:
        """A place among those who wait. Raises Refused when all are taken."""
        if self._waiting[trigger.name] >= WAITING_OF_TRIGGER_MAX or self._waiting.total() >= WAITING_MAX:
            _refuse_for_now(503, "too many requests wait for an answer", 1)
        self._waiting[trigger.name] += 1
        self._metrics.http_waiting.inc()
        try:
            yield
        finally:
            self._metrics.http_waiting.dec()
            self._waiting[trigger.name] -= 1


def event_of(request: web.Request, body: bytes, trigger: HttpTrigger, region: str, id: str) -> tuple[CloudEvent, bytes]:
    """The event that a request becomes, and the structured message to hand on.

    Its attributes `httpmethod`, `httppath`, `httpquery` and `http<header>` (lower case, letters and digits only)
    say what was asked for. Raises Refused when the request can't be an event.
    """
    values = {
        "specversion": "1.0",
        "id": id,
        "source": f"http/{trigger.name}",
        "type": REQUEST_TYPE,
        "time": format_time(utc_now()),
        "region": region,
        "httpmethod": request.method,
        "httppath": request.rel_url.raw_path[:_VALUE_MAX],
        **({"httpquery": request.rel_url.raw_query_string[:_VALUE_MAX]} if request.rel_url.raw_query_string else {}),
        **{
            "http" + re.sub(r"[^a-z0-9]", "", name): request.headers[name][:_VALUE_MAX]
            for name in (*_PASSED_ON, *trigger.headers)
            if name in request.headers
        },
        **data_of(request.content_type, request.charset, body),
    }
    try:
        event, message = build(values)
    except InvalidEvent as error:
        raise Refused(400, str(error)) from None
    if len(message) > MAX_EVENT_BYTES:
        raise Refused(413, f"the request has {len(message)} bytes as an event; send less than {MAX_EVENT_BYTES}")
    return event, message


@web.middleware
async def _without_details(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is wrong inside the region is for its log, not for clients."""
    try:
        return await handler(request)
    except (StoreUnavailable, StoreBroken, ClusterUnavailable) as error:
        _log.warning("request not served", path=request.path, problem=str(error))
        _refuse_for_now(503, "the region can't serve requests now", 1)


def _refuse_for_now(status: int, problem: str, after_s: int) -> NoReturn:
    raise Refused(status, f"{problem}; try again", headers={"Retry-After": str(after_s)})


def _host(request: web.Request) -> str:
    """The name that the client asked for, without a port."""
    return re.sub(r":[0-9]*$", "", request.host).rstrip(".").lower()


def _client(request: web.Request) -> str:
    """Whose request it is, as the ingress says."""
    return f"client {request.headers.get('X-Forwarded-For', '')}"


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Refused(400, "Idempotency-Key must be 1 to 128 visible ASCII characters")
    return key


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_S:g} s; try again") from None
    except web.HTTPRequestEntityTooLarge:
        raise Refused(413, f"the body is too large; send at most {BODY_MAX_BYTES} bytes") from None


def _accepted(key: str) -> web.Response:
    place = _RECEIPTS + key
    return web.json_response({"id": key, "receipt": place}, status=202, headers={"Location": place})


def _answered(function: str, key: str, succeeded: bool, body: bytes | None) -> web.Response:
    if not succeeded:
        raise Refused(502, _failed(function, body), id=key)
    if body is None:
        raise Refused(409, "this Idempotency-Key was used before, and its answer was too large to be kept", id=key)
    headers = {**_ANSWER_HEADERS, "Koren-Invocation-Id": key}
    if body.startswith(b'"'):
        return web.Response(text=json.loads(body), headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def _told(answer: Answer) -> Mapping[str, Any]:
    told: dict[str, Any] = {"id": answer.key, "trigger": answer.trigger, "state": answer.state}
    match answer.state:
        case "failed":
            told["error"] = _failed(answer.function, answer.body)
        case "succeeded" if answer.body is None:
            told["error"] = "the result was too large to be kept"
        case "succeeded":
            told["result"] = json.loads(answer.body or b"null")
    return told


def _failed(function: str, error: bytes | None) -> str:
    # What a handler's exception says may hold what it worked on: its kind is all that leaves the region.
    kind = json.loads(error)["type"] if error else "its error is not kept"
    return f"{function} failed: {kind}"


def _no_answer(function: str, entry: Entry, error: NoAnswer) -> Refused:
    if entry.answer_kept_ms:
        end = "it goes on; ask again with the same Idempotency-Key"
    elif error.withdrawn:
        end = "it had not started, and will not; try again"
    else:
        end = "it runs still"
    status = 503 if error.stopping else 504
    return Refused(status, f"{function}: {error}; {end}", headers={"Retry-After": "1"}, id=entry.key)
