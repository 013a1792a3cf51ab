# SPDX-License-Identifier: Apache-2.0
"""What the page shows as JSON, for programs: /v1/incidents, /v1/regions, /v1/alerts, /v1/top.

A caller proves who it is by a token of the central cluster for the audience `console`, in the header Koren-Token (the
API server's proxy, through which it comes, takes Authorization for itself). What it may read is RBAC of that cluster:
verb `list` or `get` on `incidents`, `regions`, `alerts` and `figures` of the group console.koren.kr in the console's
namespace.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections import OrderedDict
from datetime import datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from koren_console.model import Alert, Board, Refused
from koren_console.sources.apiserver import ApiServer
from koren_console.sources.gateway import NAMESPACE
from koren_console.sources.http import SourceDown

AUDIENCE = "console"
GROUP = "console.koren.kr"

_KEPT_S = 60.0
_MOST_KEPT = 1_000
_ASKED_AT_ONCE = 4
_MOST_WAITING = 64
_MOST = 1_000
_MOST_PAST = 10_000
"""Past alerts that are looked through for a region's."""


class Callers:
    """Whether a token may do something: the central API server's word, kept for a minute."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._known: OrderedDict[tuple[str, str, str], tuple[int, float]] = OrderedDict()
        # Anybody may send tokens: what they make the API server do is bounded.
        self._room = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._waiting = 0

    async def check(self, request: Request, verb: str, resource: str) -> None:
        """Raises HTTPException: 401 for no valid token, 403 for one that may not, 503 while nobody can say."""
        token = request.headers.get("Koren-Token", "")
        if not token:
            raise HTTPException(401, f"Send a token for the audience {AUDIENCE} (TokenRequest) in Koren-Token.")
        # Tokens themselves are not kept.
        key = (hashlib.sha256(token.encode()).hexdigest(), verb, resource)
        known = self._known.get(key)
        if known is None or known[1] < time.monotonic():
            try:
                known = (await self._ask_in_turn(token, verb, resource), time.monotonic() + _KEPT_S)
            except (SourceDown, KeyError, TypeError, ValueError):
                raise HTTPException(503, "The central API server does not answer. Try again.") from None
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
        if known[0] == 401:
            raise HTTPException(401, f"The token is not valid for the audience {AUDIENCE}.")
        if known[0] == 403:
            raise HTTPException(403, f"It may not {verb} {resource}.{GROUP} in {NAMESPACE}: bind a Role that lets it.")

    async def _ask_in_turn(self, token: str, verb: str, resource: str) -> int:
        if self._waiting >= _MOST_WAITING:
            raise HTTPException(503, "Too many tokens are being checked. Try again.", {"Retry-After": "1"})
        self._waiting += 1
        try:
            async with self._room:
                return await self._ask(token, verb, resource)
        finally:
            self._waiting -= 1

    async def _ask(self, token: str, verb: str, resource: str) -> int:
        review = await self._server.post(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": [AUDIENCE]},
            },
        )
        status = review["status"]
        if not status.get("authenticated") or AUDIENCE not in status.get("audiences", ()):
            return 401
        user = status["user"]
        if "authentication.kubernetes.io/pod-name" in user.get("extra", {}):
            return 403
        access = await self._server.post(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user["username"],
                    "uid": user.get("uid", ""),
                    "groups": user.get("groups", []),
                    "extra": user.get("extra", {}),
                    "resourceAttributes": {
                        "namespace": NAMESPACE,
                        "verb": verb,
                        "group": GROUP,
                        "resource": resource,
                    },
                },
            },
        )
        return 200 if access["status"].get("allowed") else 403


def routes(board: Board, callers: Callers) -> list[Route]:
    """The API's addresses."""

    async def incidents(request: Request) -> Response:
        await callers.check(request, "list", "incidents")
        query = request.query_params
        found = [
            _without_marks(one)
            for one in board.incidents()
            if query.get("region", one.region) == one.region and query.get("state", one.state) == one.state
        ]
        return JSONResponse({"incidents": found[:_MOST]})

    async def incident(request: Request) -> Response:
        await callers.check(request, "get", "incidents")
        found = await board.incident(request.path_params["subject"])
        if found is None:
            raise HTTPException(404, "There is no such incident, or history does not go back so far.")
        return JSONResponse(plain(found))

    async def regions(request: Request) -> Response:
        await callers.check(request, "list", "regions")
        return JSONResponse({"regions": [plain(one) for one in board.regions()]})

    async def alerts(request: Request) -> Response:
        await callers.check(request, "list", "alerts")
        return JSONResponse({"alerts": [plain(one) for one in board.alerts() if _of_region(request, one)][:_MOST]})

    async def past_alerts(request: Request) -> Response:
        await callers.check(request, "list", "alerts")
        try:
            past = await board.past_alerts(_MOST_PAST)
        except Refused as refused:
            raise HTTPException(503, refused.words.en) from None
        found = [plain(one.alert) | {"ended": plain(one.ended)} for one in past if _of_region(request, one.alert)]
        return JSONResponse({"alerts": found[:_MOST]})

    async def top(request: Request) -> Response:
        await callers.check(request, "list", "figures")
        functions = [plain(dataclasses.replace(one, description={})) for one in board.functions()]
        for one in functions:
            one["pods"] = len(one["pods"])
            del one["description"]
        return JSONResponse({"summary": plain(board.summary()), "functions": functions})

    return [
        Route("/v1/incidents", incidents),
        Route("/v1/incidents/{subject:path}", incident),
        Route("/v1/regions", regions),
        Route("/v1/alerts", alerts),
        Route("/v1/alerts/past", past_alerts),
        Route("/v1/top", top),
    ]


def plain(record: Any) -> Any:
    """A record as JSON's values; times are RFC 3339 in UTC."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, datetime):
        return record.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(record, list | tuple):
        return [plain(one) for one in record]
    if isinstance(record, dict):
        return {str(name): plain(value) for name, value in record.items()}
    return record


def _of_region(request: Request, alert: Alert) -> bool:
    wanted = request.query_params.get("region")
    return wanted is None or alert.labels.get("region") == wanted


def _without_marks(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = plain(dataclasses.replace(record, marks=()))
    del found["marks"]
    return found
