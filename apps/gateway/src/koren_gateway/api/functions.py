"""The API of people and tools: call functions, look after dead letters; who may, RBAC says."""

import base64
import json
import re
import time
import unicodedata
import uuid
from typing import Any
from urllib.parse import unquote

import structlog
from aiohttp import web

from koren_events import CONTENT_TYPE, MAX_EVENT_BYTES
from koren_events.cloudevent import CloudEvent, check_unclaimed, parse
from koren_events.errors import InvalidEvent
from koren_events.times import format_time, parse_time, utc_now
from koren_gateway.api import http
from koren_gateway.api.calls import Calls, NoAnswer, NotStarting, QueueFull, data_of
from koren_gateway.api.http import Refused, errors_as_json
from koren_gateway.api.triggers import TriggerList
from koren_gateway.cluster.functions import Function, Functions, is_name
from koren_gateway.cluster.http_triggers import HttpTriggers
from koren_gateway.cluster.interface import Caller, Cluster
from koren_gateway.cluster.reviews import Reviewer
from koren_gateway.intake.subscriptions import Subscriptions
from koren_gateway.queue.dead_letters import DeadLetters, NotRedrivable
from koren_gateway.queue.held import HeldEvent, HeldEvents, NotHeld
from koren_gateway.queue.history import EVER_MS, History, NoRoom, TooMuch
from koren_gateway.queue.logs import Logs
from koren_gateway.queue.queue import Entry, Outcome, Queue
from koren_gateway.tracing import CALL_TYPE, Spans, trace_id, trace_of

_REPLAY = {"request": str, "since": str, "until": str, "subject": str, "dry_run": bool}
_KINDS = {str: "a text", bool: "true or false"}
_REQUEST = re.compile(r"[0-9A-Za-z-]{1,64}")
_NAME_MAX = 128
_BEHALF_MAX = 12 * _NAME_MAX
_log = structlog.get_logger()


class FunctionApi:
    """Reached through the API server's proxy, which takes Authorization for itself: the caller's
    token comes in the header Koren-Token."""

    def __init__(
        self,
        *,
        region: str,
        queue: Queue,
        calls: Calls,
        functions: Functions,
        sources: Subscriptions,
        http_triggers: HttpTriggers,
        triggers: TriggerList,
        dead_letters: DeadLetters,
        history: History,
        held: HeldEvents,
        logs: Logs,
        reviewer: Reviewer,
        cluster: Cluster,
        spans: Spans | None = None,
        on_behalf_accounts: frozenset[str] = frozenset(),
    ) -> None:
        self._region = region
        self._queue = queue
        self._calls = calls
        self._functions = functions
        self._sources = sources
        self._http_triggers = http_triggers
        self._triggers = triggers
        self._dead_letters = dead_letters
        self._history = history
        self._held = held
        self._logs = logs
        self._reviewer = reviewer
        self._cluster = cluster
        self._spans = spans
        self._on_behalf_accounts = on_behalf_accounts

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[errors_as_json], client_max_size=2 * MAX_EVENT_BYTES)
        app.add_routes(
            [
                http.get("/v1/functions", self._list),
                http.get("/v1/sources", self._list_sources),
                http.get("/v1/http-triggers", self._list_http_triggers),
                http.get("/v1/triggers", self._list_triggers),
                http.post("/v1/functions/{name}/invoke", self._invoke),
                http.get("/v1/functions/{name}/log", self._log),
                http.get("/v1/functions/{name}/history", self._list_history),
                http.post("/v1/functions/{name}/replay", self._replay),
                http.get("/v1/dead-letters", self._list_dead),
                http.delete("/v1/dead-letters", self._purge_dead),
                http.get("/v1/dead-letters/{id}", self._get_dead),
                http.post("/v1/dead-letters/{id}/redrive", self._redrive_dead),
                http.delete("/v1/dead-letters/{id}", self._delete_dead),
                http.get("/v1/held", self._list_held),
                http.get("/v1/held/{id}", self._get_held),
                http.post("/v1/held/{id}/release", self._release_held),
                http.post("/v1/held/{id}/dismiss", self._dismiss_held),
            ]
        )
        return app

    async def _list(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "functions")
        functions = []
        for function in self._functions.all():
            backlog = await self._queue.backlog(function)
            functions.append(
                {
                    "name": function.name,
                    "topic": function.topic,
                    "handler": function.handler,
                    "runtime": function.runtime,
                    "timeout_s": function.timeout_s,
                    "max_attempts": function.max_attempts,
                    "max_in_flight": function.max_in_flight,
                    "rate": None if function.rate is None else str(function.rate),
                    "history_s": function.history_s,
                    "active": backlog.active,
                    "runnable": backlog.runnable,
                    "in_flight": backlog.in_flight,
                    "waiting": backlog.waiting,
                    "paused": backlog.paused,
                    "open_incidents": backlog.open_incidents,
                    "longest_due_s": backlog.longest_due_s,
                }
            )
        refused = [
            {"deployment": refusal.deployment, "problem": refusal.problem}
            for refusal in self._functions.refused()
        ]
        return web.json_response(
            {"region": self._region, "functions": functions, "refused": refused}
        )

    async def _list_sources(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "sources")
        return web.json_response({"region": self._region, "sources": await self._sources.state()})

    async def _list_http_triggers(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "triggers")
        if not self._http_triggers.in_step:
            raise Refused(503, "the triggers of this region are not known yet; try again")
        known = [
            {"name": one.name, "paused": one.paused, "problem": None} for one in self._http_triggers.all()
        ]
        refused = [
            {"name": one.name, "paused": False, "problem": one.problem}
            for one in self._http_triggers.refused()
        ]
        return web.json_response({"region": self._region, "triggers": known + refused})

    async def _list_triggers(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "triggers")
        return web.json_response({"region": self._region, "triggers": await self._triggers.state()})

    async def _log(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._allow(request, "logs", "functions", name)
        if not is_name(name):
            raise Refused(404, f"{name[:80]!r} is no name of a function")
        return web.json_response({"region": self._region, "log": await self._logs.of(name)})

    async def _invoke(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._allow(request, "invoke", "functions", name)
        function = self._known(name)
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
            call=True,
            trace=trace_of(event, "", self._spans),
        )
        told = {"function": name, "key": entry.key, "event_id": event.id, "subject": event.subject}
        _log.info("function called", wait=wait, **told, **trace_id(entry.trace))
        if not wait:
            await self._calls.start(entry, event)
            return web.json_response({"id": entry.key, "event": event.id}, status=202)
        headers = {"Koren-Invocation-Id": entry.key}
        outcome = await self._outcome(function, entry, event)
        if outcome.state == "succeeded":
            return web.Response(body=outcome.body, content_type="application/json", headers=headers)
        failure = json.loads(outcome.body)
        raise Refused(502, f"{name} failed: {failure['type']}: {failure['message']}", **failure)

    def _known(self, name: str) -> Function:
        function = self._functions.get(name)
        if function is None:
            raise Refused(
                404, f"there is no function {name[:80]} in {self._region}; deploy it, or mind the region"
            )
        return function

    async def _outcome(self, function: Function, entry: Entry, event: CloudEvent) -> Outcome:
        try:
            return await self._calls.outcome(function, entry, event)
        except QueueFull:
            raise Refused(
                507, f"the queue of {function.name} is full; try again later"
            ) from None
        except NotStarting as error:
            failure = error.failure
            raise Refused(
                502,
                f"{function.name} does not start: {failure}",
                type=failure.type,
                message=failure.message,
                traceback=failure.traceback,
            ) from None
        except NoAnswer as error:
            end = "it runs still"
            if error.withdrawn:
                end = "it had not started, and will not; try again"
            raise Refused(504, f"{function.name}: {error}; {end}") from None

    def _event_of(
        self, name: str, content_type: str, charset: str | None, body: bytes
    ) -> tuple[CloudEvent, bytes]:
        if content_type == CONTENT_TYPE:
            try:
                event, message = parse(body)
                check_unclaimed(event)
                return event, message
            except InvalidEvent as error:
                raise Refused(400, str(error)) from None
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": f"/functions/{name}",
            "type": CALL_TYPE,
            "time": format_time(utc_now()),
            "region": self._region,
        }
        data = data_of(content_type, charset, body)
        message = json.dumps(attributes | data, ensure_ascii=False).encode(errors="replace")
        try:
            return parse(message)
        except InvalidEvent as error:
            raise Refused(400, str(error)) from None

    async def _list_dead(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "deadletters")
        try:
            page = await self._dead_letters.page(
                _function(request),
                limit=_limit(request),
                after=request.query.get("after"),
            )
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return web.json_response(
            {
                "region": self._region,
                "dead_letters": [letter.to_dict() for letter in page.letters],
                "next": page.next,
            }
        )

    async def _get_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        await self._allow(request, "get", "deadletters", id)
        found = await self._dead_letters.get(id)
        if found is None:
            raise _no_letter(id)
        letter, message = found
        return web.json_response(letter.to_dict() | _shown(message))

    async def _redrive_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        caller = await self._allow(request, "redrive", "deadletters", id)
        try:
            redriven = await self._dead_letters.redrive(id)
        except NotRedrivable as error:
            raise Refused(409, str(error)) from None
        if not redriven:
            raise _no_letter(id)
        _log.info("dead letter redriven", dead_letter=id, by=self._acting(request, caller))
        return web.json_response({"redriven": id}, status=202)

    async def _delete_dead(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        caller = await self._allow(request, "delete", "deadletters", id)
        if not await self._dead_letters.delete(id):
            raise _no_letter(id)
        _log.info("dead letter deleted", dead_letter=id, by=self._acting(request, caller))
        return web.json_response({"deleted": 1})

    async def _purge_dead(self, request: web.Request) -> web.Response:
        caller = await self._allow(request, "delete", "deadletters")
        deleted = await self._dead_letters.purge(_function(request))
        _log.info("dead letters purged", count=deleted, by=self._acting(request, caller))
        return web.json_response({"deleted": deleted})

    async def _list_history(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._allow(request, "list", "handledevents", name)
        function = self._with_history(name)
        from_ms, to_ms = _span(request.query.get("since"), request.query.get("until"))
        try:
            events, following = await self._history.page(
                name, from_ms=from_ms, to_ms=to_ms, limit=_limit(request), after=request.query.get("after")
            )
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return web.json_response(
            {
                "region": self._region,
                "function": name,
                "history_s": function.history_s,
                "events": [event.to_dict() for event in events],
                "next": following,
            }
        )

    async def _replay(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        caller = await self._allow(request, "replay", "handledevents", name)
        function = self._with_history(name)
        wanted = _replay_of(await request.read())
        from_ms, to_ms = _span(wanted["since"], wanted.get("until"))
        dry_run, by = wanted.get("dry_run", False), self._acting(request, caller)
        try:
            replayed = await self._history.replay(
                function,
                from_ms=from_ms,
                to_ms=to_ms,
                subject=wanted.get("subject"),
                request=wanted["request"],
                by=by,
                dry_run=dry_run,
            )
        except TooMuch as error:
            raise Refused(400, str(error)) from None
        except NoRoom as error:
            raise Refused(507, str(error)) from None
        told = {"function": name, "request": wanted["request"], "events": replayed.events}
        if not dry_run:
            span = {"since": wanted["since"], "until": wanted.get("until"), "of_subject": wanted.get("subject")}
            _log.info("events replayed", by=by, repeat=replayed.is_repeat, **told, **span)
        answer = {"region": self._region, **told, "repeat": replayed.is_repeat}
        return web.json_response(answer, status=200 if dry_run else 202)

    def _with_history(self, name: str) -> Function:
        function = self._known(name)
        if not function.history_s:
            raise Refused(
                409,
                f"{name} keeps no history in {self._region}; have it keep what it handles from now on: "
                f"faas function update {name} --history 24h",
            )
        return function

    async def _list_held(self, request: web.Request) -> web.Response:
        await self._allow(request, "list", "heldevents")
        try:
            events, following = await self._held.page(
                limit=_limit(request), after=request.query.get("after")
            )
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return web.json_response(
            {
                "region": self._region,
                "held": [event.to_dict() for event in events],
                "next": following,
            }
        )

    async def _get_held(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        await self._allow(request, "get", "heldevents", id)
        found = await self._held.get(id)
        if found is None:
            raise _no_held(id)
        event, message = found
        return web.json_response(event.to_dict() | _shown(message))

    async def _release_held(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        caller = await self._allow(request, "release", "heldevents", id)
        if not self._triggers.in_step:
            raise Refused(
                503, "the functions and triggers of this region are not known yet; try again"
            )
        by = self._acting(request, caller)
        try:
            released = await self._held.release(id, by)
        except NotHeld as error:
            raise Refused(409, str(error)) from None
        return _acted("released", id, released, by, status=202)

    async def _dismiss_held(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        caller = await self._allow(request, "dismiss", "heldevents", id)
        by = self._acting(request, caller)
        try:
            dismissed = await self._held.dismiss(id, by)
        except NotHeld as error:
            raise Refused(409, str(error)) from None
        return _acted("dismissed", id, dismissed, by, status=200)

    def _acting(self, request: web.Request, caller: Caller) -> str:
        """Who acts: the caller, or for whom the console says that it does."""
        behalf = request.headers.get("Koren-On-Behalf", "")
        if not behalf or caller.user not in self._on_behalf_accounts:
            return caller.user
        # Names may be in any script, and a header is ASCII.
        name = unicodedata.normalize("NFC", unquote(behalf[:_BEHALF_MAX], errors="replace"))
        name = "".join(
            c for c in name if unicodedata.category(c)[0] not in "CZ" or c == " "
        ).strip()
        return f"console:{name[:_NAME_MAX]}" if name else caller.user

    async def _allow(
        self, request: web.Request, verb: str, resource: str, name: str | None = None
    ) -> Caller:
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
        return caller


def _function(request: web.Request) -> str | None:
    name = request.query.get("function")
    if name is not None and not is_name(name):
        raise Refused(400, f"function is {name[:80]!r}; give a function's name, e.g. hello")
    return name


def _span(since: str | None, until: str | None) -> tuple[int, int]:
    moments = []
    for name, text, without in (("since", since, 0), ("until", until, EVER_MS)):
        try:
            moments.append(without if text is None else round(parse_time(text).timestamp() * 1000))
        except ValueError as error:
            raise Refused(400, f"{name}: {error}") from None
    if moments[0] > moments[1]:
        raise Refused(400, f"since is {since}, which is after until, {until}; give the earlier time as since")
    return max(0, moments[0]), max(0, moments[1])


def _replay_of(body: bytes) -> dict[str, Any]:
    """What is to be replayed, each value of its type. Raises Refused."""
    try:
        wanted = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(wanted, dict):
        raise Refused(400, "the body is not a JSON object")
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if unknown := sorted(wanted.keys() - _REPLAY.keys()):
        raise Refused(400, f"{unknown[0][:40]!r} is no key of a replay; known are {', '.join(_REPLAY)}")
    for name, kind in _REPLAY.items():
        if name in wanted and not isinstance(wanted[name], kind):
            raise Refused(400, f"{name} is {str(wanted[name])[:40]!r}; give {_KINDS[kind]}")
    if "since" not in wanted:
        raise Refused(400, "since is missing; give the time from which on events are replayed")
    if not _REQUEST.fullmatch(wanted.get("request", "")):
        raise Refused(400, "request is missing or no id; give 1 to 64 letters, digits and hyphens, e.g. a UUID")
    return wanted


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 1000:
        raise Refused(400, f"limit is {text[:40]!r}; give a number from 1 to 1000")
    return int(text)


def _shown(message: bytes) -> dict[str, Any]:
    try:
        return {"message": json.loads(message.decode())}
    except (ValueError, RecursionError):
        return {"message_base64": base64.b64encode(message).decode()}


def _acted(what: str, id: str, events: list[HeldEvent], by: str, *, status: int) -> web.Response:
    if not events:
        raise _no_held(id)
    subject = next((held.event.subject for held in events if held.event), None)
    _log.info(f"held event {what}", held=id, by=by, subject=subject, events=len(events))
    return web.json_response(
        {what: [held.event.id if held.event else held.id for held in events], "subject": subject},
        status=status,
    )


def _no_held(id: str) -> Refused:
    return Refused(404, f"there is no held event {id}; list them to see what there is")


def _no_letter(id: str) -> Refused:
    return Refused(404, f"there is no dead letter {id}; list them to see what there is")
