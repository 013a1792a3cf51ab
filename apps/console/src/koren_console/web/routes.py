# SPDX-License-Identifier: Apache-2.0
"""The page's addresses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from koren_console.model import Board
from koren_console.web import live
from koren_console.web.access import Auth
from koren_console.web.pages import (
    alerts,
    audit,
    dead_letters,
    door,
    events,
    functions,
    held,
    incidents,
    now,
    regions,
    saved,
)
from koren_console.web.view import STATIC, Console, View

Page = Callable[[View], Awaitable[Response]]
PICTURES = ("image/jpeg", "image/png", "image/webp")


async def picture(view: View) -> Response:
    """A picture of an incident."""
    found = await view.board.picture(view.request.path_params["name"])
    if found is None or found[0] not in PICTURES:
        raise HTTPException(404)
    return Response(found[1], media_type=found[0], headers={"Cache-Control": "private, max-age=86400, immutable"})


GET: list[tuple[str, Page]] = [
    ("/", now.now),
    ("/incidents", incidents.incidents),
    ("/incidents/{subject:path}", incidents.incident),
    ("/functions", functions.functions),
    ("/functions/{region}/{name}", functions.function),
    ("/functions/{region}/{name}/call", functions.call_form),
    ("/regions", regions.regions),
    ("/regions/{name}", regions.region),
    ("/held", held.held),
    ("/held/{region}/{id}/{act}", held.step),
    ("/events", events.events),
    ("/dead-letters", dead_letters.dead_letters),
    ("/dead-letters/{region}/{id}", dead_letters.dead_letter),
    ("/dead-letters/{region}/{id}/picture", dead_letters.picture),
    ("/alerts", alerts.alerts),
    ("/alerts/past", alerts.past),
    ("/alerts/{fingerprint}", alerts.step),
    ("/saved", saved.saved),
    ("/audit", audit.audit),
    ("/pictures/{name}", picture),
    ("/live/changes", live.changes),
    ("/live/series", functions.series),
    ("/live/logs/{region}/{name}", functions.follow),
]
POST: list[tuple[str, Page]] = [
    ("/held/{region}/{id}/{act}", held.decide),
    ("/dead-letters/review", dead_letters.review),
    ("/dead-letters/act", dead_letters.act),
    ("/functions/{region}/{name}/call", functions.call),
    ("/alerts/{fingerprint}", alerts.act),
]
OPEN: list[tuple[str, Page, str]] = [
    ("/login", door.login, "GET"),
    ("/login/preferences", door.preferences, "POST"),
]
"""Before log-in."""


class Kept(StaticFiles):
    """Static files whose address has their content's hash, so that browsers keep them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        hashed = bool(scope.get("query_string"))
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return answer


def routes(board: Board, auth: Auth, trace_url: str = "") -> list[BaseRoute]:
    """All addresses of the page; /login is only shown here, the session is begun by whoever gives `auth`.

    `trace_url` is the setting of that name.
    """
    console = Console(board, auth, trace_url)

    def endpoint(page: Page, closed: bool) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            view = View(console, request)
            if closed and view.user is None:
                if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                    return RedirectResponse(f"/login?next={quote(view.path, safe='')}", 303)
                raise HTTPException(401)
            if request.path_params.get("act", "release") not in ("release", "dismiss"):
                raise HTTPException(404)
            try:
                return await page(view)
            except HTTPException as error:
                return door.failed(view, error)

        return answer

    return [
        *(Route(path, endpoint(page, True), methods=["GET"]) for path, page in GET),
        *(Route(path, endpoint(page, True), methods=["POST"]) for path, page in POST),
        *(Route(path, endpoint(page, False), methods=[method]) for path, page, method in OPEN),
        Mount("/static", Kept(directory=STATIC)),
    ]


def errors(board: Board, auth: Auth) -> dict[Any, Any]:
    """Handlers for an application whose addresses these are: pages for what is not there and what went wrong."""
    console = Console(board, auth)

    async def failed(request: Request, error: Exception) -> Response:
        known = error if isinstance(error, HTTPException) else HTTPException(500)
        return door.failed(View(console, request), known)

    return {HTTPException: failed, Exception: failed}
