"""The API of people and tools: call functions, look after dead letters; who may, RBAC says."""

import asyncio
import base64
import json
import time
import uuid
from typing import Any

import structlog
from aiohttp import web

from koren_events import CONTENT_TYPE, MAX_EVENT_BYTES
from koren_events.times import format_time, utc_now
from koren_gateway.auth import Reviewer
from koren_gateway.bell import Bell, Ticket
from koren_gateway.cloudevent import CloudEvent, parse
from koren_gateway.cluster import Cluster
from koren_gateway.dead_letters import DeadLetters, NotRedrivable
from koren_gateway.errors import InvalidCloudEvent
from koren_gateway.functions import Function, Functions
from koren_gateway.http_errors import Refused, errors_as_json
from koren_gateway.init_errors import InitErrors
from koren_gateway.queue import Entry, Outcome, Queue

INVOCATION_TYPE = "kr.koren.faas.invocation"

_START_S = 30.0
_log = structlog.get_logger()


class FunctionApi:
    """Reached through the API server's proxy, which takes Authorization for itself: the caller's
    token comes in the header Koren-Token."""

    def __init__(
        self,
        *,
        region: str,
        queue: Queue,
        bell: Bell,
        functions: Functions,
        dead_letters: DeadLetters,
        reviewer: Reviewer,
        init_errors: InitErrors,
        cluster: Cluster,
        stopping: asyncio.Event,
    ) -> None:
        self._region = region
        self._queue = queue
        self._bell = bell
        self._functions = functions
        self._dead_letters = dead_letters
        self._reviewer = reviewer
        self._init_errors = init_errors
        self._cluster = cluster
        self._stopping = stopping

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[errors_as_json], client_max_size=2 * MAX_EVENT_BYTES)
        app.add_routes(
            [
                web.get("/v1/functions", self._list),
                web.post("/v1/functions/{name}/invoke", self._invoke),
                web.get("/v1/dead-letters", self._list_dead),
                web.delete("/v1/dead-letters", self._purge_dead),
                web.get("/v1/dead-letters/{id}", self._get_dead),
                web.post("/v1/dead-letters/{id}/redrive", self._redrive_dead),
                web.delete("/v1/dead-letters/{id}", self._delete_dead),
            ]
        )
        return app

    async def _list(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "functions")
        functions = []
        for function in self._functions.all():
            backlog = await self._queue.backlog(function.name)
            functions.append(
                {
                    "name": function.name,
                    "topic": function.topic,
                    "handler": function.handler,
                    "runtime": function.runtime,
                    "timeout_s": function.timeout_s,
                    "max_attempts": function.max_attempts,
                    "active": backlog.active,
                    "runnable": backlog.runnable,
                    "in_flight": backlog.in_flight,
                    "waiting": backlog.waiting,
                    "open_incidents": backlog.open_incidents,
                }
            )
        return web.json_response({"region": self._region, "functions": functions})

    async def _invoke(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._allow(request, "invoke", "functions", name)
        function = self._functions.get(name)
        if function is None:
            raise Refused(
                404, f"there is no function {name} in {self._region}; deploy it, or mind the region"
            )
        wait = request.query.get("wait", "true") != "false"
        event, message = self._event_of(
            name, request.content_type, request.charset, await request.read()
        )
        if len(message) > MAX_EVENT_BYTES:
            raise Refused(
                413, f"the event has {len(message)} bytes; send at most {MAX_EVENT_BYTES}"
            )
        entry = Entry(
            key=str(uuid.uuid4()),
            event=event,
            message=message,
            received_ms=round(time.time() * 1000),
            functions=[function],
            repeats_count=False,
            once=wait,
        )
        _log.info("function called", function=name, key=entry.key, event_id=event.id, wait=wait)
        if not wait:
            await self._queue.enqueue([entry])
            return web.json_response({"id": entry.key, "event": event.id}, status=202)
        with self._bell.watcher(f"o:{entry.key}", f"i:{name}") as ticket:
            await self._queue.enqueue([entry])
            outcome = await self._wait(function, entry.key, ticket)
        headers = {"Koren-Invocation-Id": entry.key}
        if outcome.state == "succeeded":
            return web.Response(body=outcome.body, content_type="application/json", headers=headers)
        failure = json.loads(outcome.body)
        raise Refused(502, f"{name} failed: {failure['type']}: {failure['message']}", **failure)

    async def _wait(self, function: Function, key: str, ticket: Ticket) -> Outcome:
        until = time.monotonic() + function.timeout_s + _START_S
        while True:
            ticket.answer()
            outcome = await self._queue.outcome(key)
            if outcome is not None:
                return outcome
            failure = await self._init_errors.get(function.name)
            if failure is not None and await self._queue.withdraw(function.name, key):
                raise Refused(
                    502,
                    f"{function.name} does not start: {failure}",
                    type=failure.type,
                    message=failure.message,
                    traceback=failure.traceback,
                )
            left_s = until - time.monotonic()
            if left_s <= 0 or self._stopping.is_set():
                break
            await ticket.wait(left_s)
        started = not await self._queue.withdraw(function.name, key)
        why = "the gateway stops" if self._stopping.is_set() else "no answer in time"
        raise Refused(
            504,
            f"{function.name}: {why}; "
            + ("it runs still" if started else "it had not started, and will not; try again"),
        )

    def _event_of(
        self, name: str, content_type: str, charset: str | None, body: bytes
    ) -> tuple[CloudEvent, bytes]:
        if content_type == CONTENT_TYPE:
            try:
                return parse(body), body
            except InvalidCloudEvent as error:
                raise Refused(400, str(error)) from None
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": f"/functions/{name}",
            "type": INVOCATION_TYPE,
            "time": format_time(utc_now()),
            "region": self._region,
        }
        if content_type == "application/json" or not body:
            try:
                data = {"datacontenttype": "application/json", "data": json.loads(body or b"null")}
            except ValueError as error:
                raise Refused(
                    400, f"the body is not JSON ({error}); send text as text/plain"
                ) from None
        elif content_type.startswith("text/"):
            data = {
                "datacontenttype": content_type,
                "data": body.decode(charset or "utf-8", errors="replace"),
            }
        else:
            data = {
                "datacontenttype": content_type,
                "data_base64": base64.b64encode(body).decode(),
            }
        message = json.dumps(attributes | data, ensure_ascii=False).encode(errors="replace")
        return parse(message), message

    async def _list_dead(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "deadletters")
        letters = await self._dead_letters.all(request.query.get("function"))
        return web.json_response(
            {"region": self._region, "dead_letters": [letter.to_dict() for letter in letters]}
        )

    async def _get_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        await self._allow(request, "get", "deadletters", id)
        found = await self._dead_letters.get(id)
        if found is None:
            raise _no_letter(id)
        letter, message = found
        try:
            shown = {"message": json.loads(message)}
        except ValueError:
            shown = {"message_base64": base64.b64encode(message).decode()}
        return web.json_response(letter.to_dict() | shown)

    async def _redrive_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        await self._allow(request, "redrive", "deadletters", id)
        try:
            redriven = await self._dead_letters.redrive(id)
        except NotRedrivable as error:
            raise Refused(409, str(error)) from None
        if not redriven:
            raise _no_letter(id)
        _log.info("dead letter redriven", dead_letter=id)
        return web.json_response({"redriven": id}, status=202)

    async def _delete_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        await self._allow(request, "delete", "deadletters", id)
        if not await self._dead_letters.delete(id):
            raise _no_letter(id)
        _log.info("dead letter deleted", dead_letter=id)
        return web.json_response({"deleted": 1})

    async def _purge_dead(self, request: web.Request) -> web.Response:
        await self._allow(request, "delete", "deadletters")
        deleted = await self._dead_letters.purge(request.query.get("function"))
        _log.info("dead letters purged", count=deleted)
        return web.json_response({"deleted": deleted})

    async def _allow(
        self, request: web.Request, verb: str, resource: str, name: str | None = None
    ) -> None:
        caller = await self._reviewer.review(request.headers.get("Koren-Token", ""))
        if caller is None:
            raise Refused(
                401,
                "no valid token; send one for audience 'gateway' (TokenRequest) in Koren-Token",
            )
        if caller.pod is not None:
            raise Refused(403, f"{caller.user} calls from pod {caller.pod}; pods have no way in")
        if not await self._cluster.may(caller, verb, resource, name):
            raise Refused(
                403,
                f"{caller.user} may not {verb} {resource}.faas.koren.kr; "
                "bind a Role that lets it, in the functions' namespace",
            )


def _no_letter(id: str) -> Refused:
    return Refused(404, f"there is no dead letter {id}; list them to see what there is")
