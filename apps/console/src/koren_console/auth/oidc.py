# SPDX-License-Identifier: Apache-2.0
"""Log-in at a provider of OpenID Connect: authorization code with PKCE."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from koren_console.auth.sessions import same
from koren_console.model import Role
from koren_console.settings import Oidc

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"""What an ID token may be signed with: keys of the provider only, never the client's secret."""

_PENDING_S = 600.0
_MOST_PENDING = 1_000
_METADATA_S = 3600.0
_KEYS_AGAIN_S = 60.0
_SKEW_S = 60
_MOST_BYTES = 256 * 1024


class OidcFailed(Exception):
    """The log-in did not come about. `reason` is for the log and the audit, never for the page."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        """provider (it does not answer or is wrong), expired (begin again), refused (no role here)."""
        self.reason = reason


@dataclass(frozen=True)
class _Pending:
    browser: str
    nonce: str
    verifier: str
    after: str
    until: float


@dataclass(frozen=True)
class Identity:
    """Who logged in."""

    name: str
    role: Role
    after: str


class Provider:
    """One provider, as the settings describe it. Asks it only when somebody logs in."""

    def __init__(
        self, settings: Oidc, redirect_uri: str, http: httpx.AsyncClient, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._http = http
        self._clock = clock
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._metadata: dict[str, Any] = {}
        self._metadata_until = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0

    async def begin(self, browser: str, after: str) -> str:
        """Where to send the browser.

        Args:
            browser: a secret that only this browser has, by which it is known when it comes back.
            after: path to go to after the log-in.

        Raises:
            OidcFailed: the provider does not answer.
        """
        metadata = await self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        now = self._clock()
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if oldest.until >= now and len(self._pending) < _MOST_PENDING:
                break
            self._pending.popitem(last=False)
        self._pending[state] = _Pending(browser, nonce, verifier, after, now + _PENDING_S)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._settings.client_id,
                "redirect_uri": self._redirect_uri,
                "scope": self._settings.scope,
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        address = str(metadata["authorization_endpoint"])
        return f"{address}{'&' if '?' in address else '?'}{query}"

    async def finish(self, browser: str, query: Mapping[str, str]) -> Identity:
        """Who it is that comes back.

        Raises:
            OidcFailed: the answer is not one to a log-in that this browser began, or the provider refused.
        """
        pending = self._pending.pop(query.get("state", ""), None)
        if pending is None or pending.until < self._clock():
            raise OidcFailed("expired", "unknown or expired state")
        if not browser or not same(browser, pending.browser):
            raise OidcFailed("expired", "another browser began this log-in")
        if "iss" in query and query["iss"] != self._settings.issuer:
            raise OidcFailed("provider", f"the answer is of issuer {query['iss'][:200]!r}")
        if "error" in query:
            raise OidcFailed("refused", f"the provider says {query['error'][:200]!r}")
        if not query.get("code"):
            raise OidcFailed("provider", "the answer has no code")
        metadata = await self._discover()
        tokens = await self._exchange(metadata, query["code"], pending.verifier)
        claims = await self._claims(metadata, str(tokens.get("id_token", "")), pending.nonce)
        access = tokens.get("access_token")
        if _at(claims, self._settings.role_claim) is None and access and metadata.get("userinfo_endpoint"):
            claims = {**await self._userinfo(metadata, str(access), str(claims["sub"])), **claims}
        role = self._role(claims)
        name = _at(claims, self._settings.name_claim)
        who = name if isinstance(name, str) and name else str(claims["sub"])
        if role is None:
            raise OidcFailed("refused", f"{who[:100]} has no role here")
        return Identity(who[:100], role, pending.after)

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        value = _at(claims, self._settings.role_claim)
        has = {value} if isinstance(value, str) else set()
        if isinstance(value, list):
            has = {one for one in value if isinstance(one, str)}
        if has & set(self._settings.operators):
            return Role.OPERATOR
        return Role.VIEWER if has & set(self._settings.viewers) else None

    async def _discover(self) -> dict[str, Any]:
        if self._metadata and self._clock() < self._metadata_until:
            return self._metadata
        issuer = self._settings.issuer
        found = await self._json("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise OidcFailed("provider", f"{issuer} calls itself {found.get('issuer')!r}")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(found.get(name), str) or not found[name].startswith("https://"):
                raise OidcFailed("provider", f"{issuer} names no https address as {name}")
        self._metadata, self._metadata_until = found, self._clock() + _METADATA_S
        return found

    async def _exchange(self, metadata: Mapping[str, Any], code: str, verifier: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        try:
            secret = self._settings.client_secret_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise OidcFailed("provider", f"the client's secret can't be read: {error}") from None
        headers = {}
        # Basic is what a provider takes unless it says otherwise.
        if "client_secret_basic" in metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
            pair = f"{quote(self._settings.client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self._settings.client_id, "client_secret": secret}
        return await self._json("POST", metadata["token_endpoint"], data=form, headers=headers)

    async def _claims(self, metadata: Mapping[str, Any], token: str, nonce: str) -> dict[str, Any]:
        decoded = None
        for fresh in (False, True):
            keys = await self._key_set(metadata, fresh=fresh)
            try:
                decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
                break
            except (JoseError, ValueError) as error:
                # Keys may have been changed; they are asked for again once.
                if fresh:
                    raise OidcFailed("provider", f"the ID token is not the provider's: {error}") from None
        assert decoded is not None
        claims = dict(decoded.claims)
        now = self._clock()
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        checks = {
            "iss": claims.get("iss") == self._settings.issuer,
            "aud": self._settings.client_id in audiences,
            "azp": claims.get("azp") in (None, self._settings.client_id)
            and (len(audiences) == 1 or claims.get("azp") is not None),
            "exp": _number(claims.get("exp")) > now - _SKEW_S,
            "iat": 0 < _number(claims.get("iat")) < now + _SKEW_S,
            "nbf": "nbf" not in claims or _number(claims["nbf"]) < now + _SKEW_S,
            "nonce": isinstance(claims.get("nonce"), str) and same(claims["nonce"], nonce),
            "sub": isinstance(claims.get("sub"), str) and bool(claims["sub"]),
        }
        wrong = [name for name, right in checks.items() if not right]
        if wrong:
            raise OidcFailed("provider", f"the ID token is not for this log-in: {', '.join(wrong)}")
        return claims

    async def _userinfo(self, metadata: Mapping[str, Any], access: str, subject: str) -> dict[str, Any]:
        found = await self._json("GET", metadata["userinfo_endpoint"], headers={"Authorization": f"Bearer {access}"})
        if found.get("sub") != subject:
            raise OidcFailed("provider", "the provider's userinfo is about somebody else")
        return found

    async def _key_set(self, metadata: Mapping[str, Any], *, fresh: bool) -> KeySet:
        now = self._clock()
        old = self._keys is None or now - self._keys_at > _METADATA_S
        if old or (fresh and now - self._keys_at > _KEYS_AGAIN_S):
            try:
                self._keys = KeySet.import_key_set(await self._json("GET", metadata["jwks_uri"]))  # type: ignore[arg-type]
            except (JoseError, ValueError, KeyError, TypeError) as error:
                raise OidcFailed("provider", f"the provider's keys can't be read: {error}") from None
            self._keys_at = now
        assert self._keys is not None
        return self._keys

    async def _json(self, method: str, address: str, **more: Any) -> dict[str, Any]:
        try:
            async with self._http.stream(method, address, follow_redirects=False, **more) as answer:
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise OidcFailed("provider", f"{address} answers more than {_MOST_BYTES} bytes")
                if answer.status_code == 400 and method == "POST":
                    raise OidcFailed("expired", f"{address} refuses the code: {body[:200]!r}")
                if answer.status_code != 200:
                    raise OidcFailed("provider", f"{address} answers {answer.status_code}")
            found = httpx.Response(200, content=body).json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise OidcFailed("provider", f"{address} does not answer as it should: {error}") from None
        if not isinstance(found, dict):
            raise OidcFailed("provider", f"{address} does not answer with an object")
        return found


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name, or the one that a path with dots leads to."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
