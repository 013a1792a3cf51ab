# SPDX-License-Identifier: Apache-2.0
"""The Function API of a region's gateway, through the region's API server, in the name of a role."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from koren_console.model import Role
from koren_console.sources.apiserver import ApiServer
from koren_console.sources.http import SourceDown

NAMESPACE = "koren-console"
ACCOUNTS = {Role.VIEWER: "console-viewer", Role.OPERATOR: "console-operator"}
AUDIENCE = "gateway"

_API = "/api/v1/namespaces/koren-faas/services/https:gateway:functions/proxy/v1"
_TOKEN_LIFE_S = 600
_PAGE = 500
_MOST = 5_000


class Gateway:
    """One region's gateway. What may be done is checked there, by the rights of the role's service account."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._tokens: dict[Role, tuple[str, float]] = {}

    @property
    def region(self) -> str:
        """Whose it is."""
        return self._server.region

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Read, as a viewer. Raises SourceDown."""
        answer: dict[str, Any] = json.loads(await self._ask(Role.VIEWER, "GET", path, query=query))
        return answer

    async def pages(self, path: str, key: str) -> list[dict[str, Any]]:
        """What a list holds, page by page, within a bound. Raises SourceDown."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while len(found) < _MOST:
            answer = await self.get(path, {"limit": str(_PAGE), **({} if after is None else {"after": after})})
            found += answer[key]
            after = answer.get("next")
            if after is None:
                break
        return found

    async def act(self, role: Role, who: str, method: str, *path: str) -> dict[str, Any]:
        """Change something in somebody's name. Raises SourceDown."""
        target = "/" + "/".join(quote(part, safe="") for part in path)
        answer = await self._ask(role, method, target, who=who)
        found: dict[str, Any] = json.loads(answer) if answer else {}
        return found

    async def call(
        self, role: Role, who: str, function: str, payload: bytes, content_type: str, timeout_s: float
    ) -> bytes:
        """Call a function and wait for its answer. Raises SourceDown."""
        return await self._ask(
            role,
            "POST",
            f"/functions/{quote(function, safe='')}/invoke",
            body=payload,
            content_type=content_type,
            who=who,
            timeout_s=timeout_s,
        )

    async def _ask(
        self,
        role: Role,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        who: str = "",
        timeout_s: float = 15.0,
    ) -> bytes:
        headers = {"Koren-Token": await self._token(role), "Content-Type": content_type}
        if who:
            # Names may be in any script; a header is ASCII.
            headers["Koren-On-Behalf"] = quote(who, safe=" @.+-_")
        try:
            return await self._server.request(
                method, _API + path, query=query, body=body, headers=headers, timeout_s=timeout_s
            )
        except SourceDown as down:
            if down.status == 401:
                self._tokens.pop(role, None)
            raise

    async def _token(self, role: Role) -> str:
        known = self._tokens.get(role)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        answer = await self._server.post(
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNTS[role]}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [AUDIENCE], "expirationSeconds": _TOKEN_LIFE_S},
            },
        )
        token = str(answer["status"]["token"])
        self._tokens[role] = (token, time.monotonic() + _TOKEN_LIFE_S * 0.8)
        return token
