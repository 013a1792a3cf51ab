# SPDX-License-Identifier: Apache-2.0
"""What the page needs of whoever signs people in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.requests import Request

from koren_console.model import Role


class User(Protocol):
    """A person who is signed in."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> Role: ...


class Auth(Protocol):
    """Says who asks and what they may do, and whether a form was sent by this page."""

    @property
    def by_provider(self) -> bool:
        """Whether people sign in at a provider, at /login/oidc, and not by name and password."""
        ...

    def user(self, request: Request) -> User | None: ...
    def stands(self, request: Request) -> bool:
        """Whether who asked is still signed in; for answers that last."""
        ...

    def csrf(self, request: Request) -> str: ...
    def check_csrf(self, form: Mapping[str, Any], request: Request) -> None:
        """Raises `HTTPException` 403 for a form that was not sent by this page."""
        ...

    def check_role(self, request: Request, role: Role) -> User:
        """Who asks. Raises `HTTPException` 401 before log-in and 403 for a role that is less."""
        ...
