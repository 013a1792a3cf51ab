# SPDX-License-Identifier: Apache-2.0
"""The page with a simulated board, for somebody who is always signed in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute

from koren_console import web
from koren_console.auth import SecurityHeaders, User
from koren_console.model import Role
from koren_console.simulation.board import Simulation
from koren_console.web.access import Auth

CSRF = "simulated"
TRACES = "https://tempo.example/trace/{trace_id}"


class Anybody:
    """Everyone is signed in: as operator, or as viewer with the cookie `role=viewer`."""

    by_provider = False

    def user(self, request: Request) -> User | None:
        role = Role.VIEWER if request.cookies.get("role") == "viewer" else Role.OPERATOR
        return User("kim.jiyoung", role)

    def stands(self, request: Request) -> bool:
        return True

    def csrf(self, request: Request) -> str:
        return CSRF

    def check_csrf(self, form: Mapping[str, Any], request: Request) -> None:
        if form.get("csrf") != CSRF:
            raise HTTPException(403)

    def check_role(self, request: Request, role: Role) -> User:
        user = self.user(request)
        if user is None:
            raise HTTPException(401)
        if role is Role.OPERATOR and user.role is not Role.OPERATOR:
            raise HTTPException(403)
        return user


def application(
    board: Simulation, auth: Auth, more: list[BaseRoute] | None = None, *, trace_url: str = TRACES
) -> Starlette:
    """The page alone; `more` are the addresses of whoever signs people in, `trace_url` is the setting."""

    @contextlib.asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        living = asyncio.create_task(board.live())
        yield
        living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await living

    return Starlette(
        routes=[*(more or []), *web.routes(board, auth, trace_url)],
        middleware=[Middleware(SecurityHeaders), Middleware(GZipMiddleware, minimum_size=500)],
        exception_handlers=web.errors(board, auth),
        lifespan=running,
    )
