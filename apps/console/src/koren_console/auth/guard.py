# SPDX-License-Identifier: Apache-2.0
"""The door: who is let in, what forms must bring along, and the headers of each answer."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from koren_console.auth.audit import Audit
from koren_console.auth.limits import LoginLimits
from koren_console.auth.oidc import OidcFailed, Provider
from koren_console.auth.sessions import LONGEST, Session, Sessions, same
from koren_console.auth.users import Users
from koren_console.model import Role

COOKIE = "__Host-koren"
BEFORE = "__Host-koren-before"
"""Names a browser that has not logged in yet."""

_OPEN = ("/login", "/healthz", "/readyz", "/static/", "/v1/")
_SAFE = ("GET", "HEAD", "OPTIONS")
_COOKIE_FLAGS = "Path=/; Secure; HttpOnly; SameSite=Lax"
_FORM_BYTES = 64 * 1024
_MOST_BYTES = 1024 * 1024
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no referrer at all browsers send the origin `null`, by which nobody is known.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Strict-Transport-Security": "max-age=31536000",
}

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class User:
    """Who is logged in."""

    name: str
    role: Role


class Auth:
    """Log-in and all that views may ask of it. Exactly one of `users` and `provider` is given."""

    def __init__(
        self,
        sessions: Sessions,
        audit: Audit,
        *,
        users: Users | None = None,
        provider: Provider | None = None,
        limits: LoginLimits | None = None,
    ) -> None:
        self.sessions = sessions
        self.provider = provider
        self._users = users
        self._audit = audit
        self._limits = limits or LoginLimits()
        self._secret = secrets.token_bytes(32)
        if users is not None:
            sessions.keep_only(lambda session: users.role(session.name) is session.role)

    @property
    def by_provider(self) -> bool:
        """Whether people log in at a provider, by the link /login/oidc; else by a form that sends `name`, `password`,
        `csrf` and `next` to /login. Either comes back to /login?error=… with wrong, limited (and wait=SECONDS),
        expired, refused or provider."""
        return self.provider is not None

    def user(self, request: Request) -> User | None:
        """Who asks; None before log-in."""
        session = self.session(request)
        return None if session is None else User(session.name, session.role)

    def session(self, request: Request) -> Session | None:
        """The session of who asks."""
        if "koren_session" not in request.scope:
            request.scope["koren_session"] = self.sessions.find(request.cookies.get(COOKIE, ""))
        found: Session | None = request.scope["koren_session"]
        return found

    def stands(self, request: Request) -> bool:
        """Whether who asked is still logged in; for answers that last, such as a stream of changes."""
        session = self.session(request)
        return session is not None and self.sessions.stands(session)

    def csrf(self, request: Request) -> str:
        """The token that each form has as its field `csrf`, or a script sends as header `X-CSRF-Token`."""
        session = self.session(request)
        return self._before(request) if session is None else session.csrf

    def check_csrf(self, form: Mapping[str, Any], request: Request) -> None:
        """Raises HTTPException 403 when neither the form nor the request's header brings the token along."""
        given = form.get("csrf") or request.headers.get("X-CSRF-Token") or ""
        expected = self.csrf(request)
        if not isinstance(given, str) or not same(given, expected):
            raise HTTPException(403, "This form is out of date. Load the page again, then send it again.")

    def require(self, role: Role) -> Callable[[Endpoint], Endpoint]:
        """A decorator of endpoints: 401 before log-in, 403 for a viewer where an operator is asked for."""

        def around(endpoint: Endpoint) -> Endpoint:
            async def checked(request: Request) -> Response:
                self.check_role(request, role)
                return await endpoint(request)

            return checked

        return around

    def check_role(self, request: Request, role: Role) -> User:
        """Who asks. Raises HTTPException 401 or 403 as `require` does."""
        user = self.user(request)
        if user is None:
            raise HTTPException(401, "You are not logged in.")
        if role is Role.OPERATOR and user.role is not Role.OPERATOR:
            self._audit.refusal(
                f"user {user.name}", user.name, user.role, "refusal", request.url.path, "refused", "a viewer may not"
            )
            raise HTTPException(403, "Only an operator may do this.")
        return user

    def routes(self) -> list[Route]:
        """What makes and ends sessions. The page of /login itself is the views'."""
        return [
            Route("/login", self._login, methods=["POST"]),
            Route("/login/oidc", self._to_provider, methods=["GET"]),
            Route("/login/callback", self._from_provider, methods=["GET"]),
            Route("/logout", self._logout, methods=["POST"]),
        ]

    async def _login(self, request: Request) -> Response:
        if self._users is None:
            raise HTTPException(404, "People log in at the provider: /login/oidc.")
        async with request.form(max_files=0, max_fields=10, max_part_size=_FORM_BYTES) as form:
            name, password = form.get("name", ""), form.get("password", "")
            after = form.get("next", "")
            try:
                self.check_csrf(form, request)
            except HTTPException:
                return _failed("expired", after)
        if not isinstance(name, str) or not isinstance(password, str):
            raise HTTPException(400, "Name and password are texts.")
        address = address_of(request)
        wait_s = self._limits.begin(name, address)
        if wait_s:
            self._not_in(request, "refused", f"too many tries, again in {wait_s} s", name)
            return _failed("limited", after, wait=wait_s)
        role = await self._users.check(name, password)
        if role is None:
            self._not_in(request, "refused", "wrong name or password", name)
            return _failed("wrong", after)
        self._limits.succeeded(name, address)
        return await self._begun(request, name, role, after)

    async def _to_provider(self, request: Request) -> Response:
        if self.provider is None:
            raise HTTPException(404, "People log in with a name and password: /login.")
        browser = secrets.token_urlsafe(32)
        try:
            answer = RedirectResponse(
                await self.provider.begin(browser, own_path(request.query_params.get("next", ""))), 303
            )
        except OidcFailed as failure:
            self._not_in(request, "failed", failure.reason)
            return _failed(failure.kind, "")
        answer.headers.append("Set-Cookie", f"{BEFORE}={browser}; Max-Age=600; {_COOKIE_FLAGS}")
        return answer

    async def _from_provider(self, request: Request) -> Response:
        if self.provider is None:
            raise HTTPException(404, "There is no provider.")
        try:
            identity = await self.provider.finish(request.cookies.get(BEFORE, ""), dict(request.query_params))
        except OidcFailed as failure:
            outcome = "refused" if failure.kind == "refused" else "failed"
            self._not_in(request, outcome, failure.reason)
            return _failed(failure.kind, "")
        return await self._begun(request, identity.name, identity.role, identity.after)

    async def _logout(self, request: Request) -> Response:
        session = self.session(request)
        if session is not None:
            async with request.form(max_files=0, max_fields=10, max_part_size=_FORM_BYTES) as form:
                self.check_csrf(form, request)
            self.sessions.end(session)
            self._audit.write(session.name, session.role, "log-out", address_of(request), "done")
            await self.sessions.settle()
        answer = RedirectResponse("/login", 303)
        answer.headers.append("Set-Cookie", f"{COOKIE}=; Max-Age=0; {_COOKIE_FLAGS}")
        # What the page kept in this browser is not for who comes next.
        answer.headers["Clear-Site-Data"] = '"cache", "storage"'
        return answer

    def _not_in(self, request: Request, outcome: str, why: str, name: str = "") -> None:
        address = address_of(request)
        self._audit.refusal(address, name, "", "log-in", address, outcome, why)

    async def _begun(self, request: Request, name: str, role: Role, after: object) -> Response:
        # A session that was there before log-in is never carried on.
        old = self.session(request)
        if old is not None:
            self.sessions.end(old)
        value, session = self.sessions.begin(name, role)
        self._audit.write(name, role, "log-in", address_of(request), "done")
        await self.sessions.settle()
        answer = RedirectResponse(own_path(after), 303)
        seconds = int(LONGEST.total_seconds())
        answer.headers.append("Set-Cookie", f"{COOKIE}={value}; Max-Age={seconds}; {_COOKIE_FLAGS}")
        answer.headers.append("Set-Cookie", f"{BEFORE}=; Max-Age=0; {_COOKIE_FLAGS}")
        request.scope["koren_session"] = session
        return answer

    def _before(self, request: Request) -> str:
        browser: str = request.scope.get("koren_before") or request.cookies.get(BEFORE, "")
        if not browser:
            # Set on the answer by the guard.
            browser = secrets.token_urlsafe(32)
            request.scope["koren_before_new"] = True
        request.scope["koren_before"] = browser
        return hmac.new(self._secret, browser.encode(errors="replace"), hashlib.sha256).hexdigest()


class Guard:
    """In front of all: what changes something must come from the console's own pages, and nobody who is not logged in
    gets further than the log-in, the health endpoints, static files and the API (which checks tokens itself)."""

    def __init__(self, app: ASGIApp, auth: Auth, public_url: str) -> None:
        self._app = app
        self._auth = auth
        self._origin = public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if scope["method"] not in _SAFE and not self._own(request):
            answer: Response = PlainTextResponse("This request did not come from the console's own pages.\n", 403)
            await answer(scope, receive, send)
            return
        if scope["method"] not in _SAFE and (status := _too_much(request)):
            answer = PlainTextResponse(f"Send at most {_MOST_BYTES} bytes, and say how many.\n", status)
            await answer(scope, receive, send)
            return
        path = scope["path"]
        if not path.startswith(_OPEN) and self._auth.session(request) is None:
            await self._turned_away(request)(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("koren_before_new"):
                MutableHeaders(scope=message).append(
                    "Set-Cookie", f"{BEFORE}={scope['koren_before']}; Max-Age=43200; {_COOKIE_FLAGS}"
                )
            await send(message)

        await self._app(scope, receive, named)

    def _own(self, request: Request) -> bool:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("Origin")
        if origin is None:
            return False
        if origin == self._origin:
            return True
        # By another name of the same server; a page of somebody else's can't set the host.
        return origin == f"https://{request.headers.get('Host', '')}"

    def _turned_away(self, request: Request) -> Response:
        wants_page = "text/html" in request.headers.get("Accept", "") and "HX-Request" not in request.headers
        if request.method == "GET" and wants_page:
            after = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(after, safe='')}" if after != "/" else "/login", 303)
        answer = PlainTextResponse("You are not logged in.\n", 401)
        if "HX-Request" in request.headers:
            answer.headers["HX-Redirect"] = "/login"
        return answer


class SecurityHeaders:
    """Adds the headers that tell browsers what the page may do; nothing is kept by caches but static files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


def _too_much(request: Request) -> int:
    """The status that refuses a body which is too large or does not say how large it is; 0 for one that is not."""
    length = request.headers.get("Content-Length", "")
    if not length.isascii() or not length.isdigit():
        return 411
    return 413 if int(length[:12]) > _MOST_BYTES else 0


def own_path(value: object) -> str:
    """A path of this server to go to after log-in; `/` in place of anything else."""
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 2000:
        return "/"
    # Browsers read a backslash as a slash, and leave out tabs and line ends.
    if (
        value.startswith("//")
        or "\\" in value
        or any(ord(character) < 0x21 or ord(character) > 0x7E for character in value)
    ):
        return "/"
    parts = urlsplit(value)
    return "/" if parts.scheme or parts.netloc or parts.path.startswith(("/login", "/logout")) else value


def address_of(request: Request) -> str:
    """The address that the connection came from."""
    return request.client.host if request.client else ""


def _failed(error: str, after: object, **more: int) -> Response:
    query = {"error": error, **more}
    path = own_path(after)
    if path != "/":
        query["next"] = path
    return RedirectResponse(f"/login?{urlencode(query)}", 303)
