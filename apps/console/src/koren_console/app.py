# SPDX-License-Identifier: Apache-2.0
"""The application: board, log-in, page and API put together."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import certifi
import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from koren_console import api, web
from koren_console.auth import Audit, Auth, Guard, SecurityHeaders
from koren_console.auth.oidc import Provider
from koren_console.auth.sessions import Sessions
from koren_console.auth.users import Users
from koren_console.history import History
from koren_console.settings import Settings
from koren_console.site import Site

_PROVIDER_S = 10.0


def application(settings: Settings) -> Starlette:
    """The whole console.

    Raises:
        HistoryUnusable, UsersBroken: what the settings name can't be used.
    """
    history = History(settings.data, days=settings.history_days, megabytes=settings.history_mb)
    audit = Audit(history)
    site = Site(settings, history, audit)
    auth = _auth(settings, history, audit)
    callers = api.Callers(site.central)

    @contextlib.asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        listening = asyncio.create_task(site.run())
        try:
            yield
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await asyncio.to_thread(history.close)

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    pages = web.errors(site, auth)
    return Starlette(
        routes=[
            Route("/healthz", alive),
            *api.routes(site, callers),
            *auth.routes(),
            *web.routes(site, auth, settings.trace_url),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(Guard, auth=auth, public_url=settings.public_url),
            Middleware(GZipMiddleware, minimum_size=500),
        ],
        exception_handlers={**pages, HTTPException: _failed(pages[HTTPException])},
        lifespan=running,
    )


def _auth(settings: Settings, history: History, audit: Audit) -> Auth:
    sessions = Sessions(history)
    if settings.oidc is None:
        assert settings.users is not None
        return Auth(sessions, audit, users=Users(settings.users))
    trusted = ssl.create_default_context(cafile=certifi.where())
    if settings.oidc.authority is not None:
        trusted.load_verify_locations(settings.oidc.authority)
    http = httpx.AsyncClient(timeout=_PROVIDER_S, verify=trusted)
    return Auth(sessions, audit, provider=Provider(settings.oidc, f"{settings.public_url}/login/callback", http))


def _failed(page: Callable[[Request, Exception], Awaitable[Response]]) -> Any:
    """Errors of the API as JSON, those of the page as its own."""

    async def failed(request: Request, error: HTTPException) -> Response:
        if request.url.path.startswith("/v1/"):
            return JSONResponse({"error": error.detail}, error.status_code)
        return await page(request, error)

    return failed
