# SPDX-License-Identifier: Apache-2.0
"""Log-in at a provider of OpenID Connect.

The stand-in keeps to the contract (discovery, PKCE with S256, codes for one use, client authentication, signed tokens,
a JWKS) so that it can also break it, one point at a time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from koren_console.auth.oidc import Identity, OidcFailed, Provider
from koren_console.model import Role
from koren_console.settings import Oidc

ISSUER = "https://id.test/realm"
REDIRECT = "https://console.test/login/callback"
SECRET = "s3cret:with/odd characters"

pytestmark = pytest.mark.asyncio


@dataclass
class StandIn:
    """A provider whose ID tokens `tweak` may change before they are signed, and `sign` signs."""

    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"}))
    tweak: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] | None = None
    userinfo: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/realm/.well-known/openid-configuration", self._discovery),
                Route("/jwks", self._jwks),
                Route("/token", self._token, methods=["POST"]),
                Route("/userinfo", self._userinfo),
            ]
        )

    def authorize(self, address: str) -> dict[str, str]:
        """What the browser brings back after the person has agreed at that address."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert query["response_type"] == "code"
        assert query["client_id"] == "console"
        assert query["redirect_uri"] == REDIRECT
        assert "openid" in query["scope"].split()
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return {"code": code, "state": query["state"]}

    async def _discovery(self, request: Request) -> Response:
        self.asked.append("discovery")
        if self.down:
            return Response(status_code=503)
        return JSONResponse(
            {
                "issuer": ISSUER,
                "authorization_endpoint": "https://id.test/authorize",
                "token_endpoint": "https://id.test/token",
                "jwks_uri": "https://id.test/jwks",
                "userinfo_endpoint": "https://id.test/userinfo",
                **self.metadata,
            }
        )

    async def _jwks(self, request: Request) -> Response:
        self.asked.append("jwks")
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        kind, _, pair = request.headers.get("Authorization", "").partition(" ")
        given = (
            base64.b64decode(pair).decode()
            if kind == "Basic"
            else f"{form.get('client_id')}:{form.get('client_secret')}"
        )
        if given not in ("console:s3cret%3Awith%2Fodd%20characters", f"console:{SECRET}"):
            return JSONResponse({"error": "invalid_client"}, 401)
        asked = self.codes.pop(str(form["code"]), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest()).rstrip(b"=")
        if asked is None or asked["code_challenge"] != challenge.decode() or form["redirect_uri"] != REDIRECT:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": "console",
            "sub": "u-1",
            "iat": now,
            "exp": now + 60,
            "nonce": asked["nonce"],
            "preferred_username": "kim",
            "groups": ["staff", "traffic-operators"],
            **self.tweak,
        }
        claims = {name: value for name, value in claims.items() if value is not ...}
        token = self.sign(claims) if self.sign else jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return JSONResponse({"id_token": token, "access_token": "at", "token_type": "Bearer"})

    async def _userinfo(self, request: Request) -> Response:
        if request.headers.get("Authorization") != "Bearer at":
            return Response(status_code=401)
        return JSONResponse(self.userinfo)


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def provider(stand_in: StandIn, tmp_path: Path) -> Provider:
    (tmp_path / "secret").write_text(SECRET + "\n")
    settings = Oidc(
        issuer=ISSUER,
        client_id="console",
        client_secret_file=tmp_path / "secret",
        operators=["traffic-operators"],
        viewers=["staff"],
    )
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=stand_in.app()))
    return Provider(settings, REDIRECT, http)


async def log_in(provider: Provider, stand_in: StandIn, **more: str) -> Identity:
    address = await provider.begin("browser-1", "/incidents")
    return await provider.finish("browser-1", stand_in.authorize(address) | more)


async def refused(provider: Provider, stand_in: StandIn, **more: str) -> OidcFailed:
    with pytest.raises(OidcFailed) as caught:
        await log_in(provider, stand_in, **more)
    return caught.value


async def test_a_person_with_the_operators_group_is_one(provider: Provider, stand_in: StandIn) -> None:
    assert await log_in(provider, stand_in) == Identity("kim", Role.OPERATOR, "/incidents")


async def test_a_client_that_must_send_its_secret_in_the_form_does(provider: Provider, stand_in: StandIn) -> None:
    stand_in.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert (await log_in(provider, stand_in)).name == "kim"


@pytest.mark.parametrize(
    ("groups", "role"),
    [(["staff"], Role.VIEWER), ("staff", Role.VIEWER), ("traffic-operators", Role.OPERATOR)],
)
async def test_the_role_is_what_the_claim_says(
    provider: Provider, stand_in: StandIn, groups: object, role: Role
) -> None:
    stand_in.tweak = {"groups": groups}
    assert (await log_in(provider, stand_in)).role is role


@pytest.mark.parametrize("groups", [[], ["else"], "", None, 7, {"staff": True}, [["staff"]], ...], ids=repr)
async def test_whoever_has_no_role_is_not_let_in(provider: Provider, stand_in: StandIn, groups: object) -> None:
    stand_in.tweak, stand_in.userinfo = {"groups": groups}, {"sub": "u-1"}
    assert (await refused(provider, stand_in)).kind == "refused"


async def test_a_claim_may_lie_deeper_or_at_the_userinfo(provider: Provider, stand_in: StandIn) -> None:
    provider._settings = provider._settings.model_copy(update={"role_claim": "realm_access.roles"})
    stand_in.tweak = {"realm_access": {"roles": ["staff"]}}
    assert (await log_in(provider, stand_in)).role is Role.VIEWER
    stand_in.tweak, stand_in.userinfo = {}, {"sub": "u-1", "realm_access": {"roles": ["traffic-operators"]}}
    assert (await log_in(provider, stand_in)).role is Role.OPERATOR
    stand_in.userinfo["sub"] = "u-2"
    assert (await refused(provider, stand_in)).kind == "provider"


@pytest.mark.parametrize(
    "tweak",
    [
        {"nonce": "another"},
        {"nonce": ...},
        {"iss": "https://evil.test"},
        {"aud": "another-client"},
        {"aud": ["console", "another"]},
        {"azp": "another"},
        {"exp": 1},
        {"exp": ...},
        {"exp": "9999999999"},
        {"iat": 99999999999},
        {"nbf": 99999999999},
        {"sub": ""},
    ],
    ids=str,
)
async def test_an_id_token_that_is_not_for_this_log_in_is_refused(
    provider: Provider, stand_in: StandIn, tweak: dict[str, Any]
) -> None:
    stand_in.tweak = tweak
    assert (await refused(provider, stand_in)).kind == "provider"


async def test_an_id_token_that_the_provider_did_not_sign_is_refused(provider: Provider, stand_in: StandIn) -> None:
    other = RSAKey.generate_key(2048, {"kid": "one"})
    curve = ECKey.generate_key("P-256", {"kid": "two"})

    def none(claims: dict[str, Any]) -> str:
        signed = jwt.encode({"alg": "RS256", "kid": "one"}, claims, stand_in.key)
        return base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode() + "." + signed.split(".")[1] + "."

    def by_the_public_key(claims: dict[str, Any]) -> str:
        head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
        body = jwt.encode({"alg": "RS256", "kid": "one"}, claims, stand_in.key).split(".")[1]
        mac = hmac.digest(stand_in.key.as_pem(private=False), f"{head}.{body}".encode(), "sha256")
        return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    forgeries: list[Callable[[dict[str, Any]], str]] = [
        lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, other),
        lambda claims: jwt.encode({"alg": "ES256", "kid": "two"}, claims, curve),
        by_the_public_key,
        none,
        lambda claims: "",
        lambda claims: "a.b.c",
    ]
    for forge in forgeries:
        stand_in.sign = forge
        assert (await refused(provider, stand_in)).kind == "provider"


async def test_keys_that_the_provider_changed_are_asked_for_again(
    provider: Provider, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log_in(provider, stand_in)
    stand_in.key = RSAKey.generate_key(2048, {"kid": "two", "use": "sig"})
    stand_in.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "two"}, claims, stand_in.key)
    assert (await refused(provider, stand_in)).kind == "provider", "not again within a minute"
    assert stand_in.asked.count("jwks") == 1
    monkeypatch.setattr("koren_console.auth.oidc._KEYS_AGAIN_S", -1.0)
    assert (await log_in(provider, stand_in)).name == "kim"


async def test_an_answer_counts_once(provider: Provider, stand_in: StandIn) -> None:
    answer = stand_in.authorize(await provider.begin("browser-1", "/"))
    await provider.finish("browser-1", answer)
    with pytest.raises(OidcFailed) as again:
        await provider.finish("browser-1", answer)
    assert again.value.kind == "expired"


async def test_a_code_that_was_used_is_refused_by_the_provider(provider: Provider, stand_in: StandIn) -> None:
    answer = stand_in.authorize(await provider.begin("browser-1", "/"))
    await provider.finish("browser-1", answer)
    second = stand_in.authorize(await provider.begin("browser-1", "/"))
    with pytest.raises(OidcFailed) as replay:
        await provider.finish("browser-1", {"state": second["state"], "code": answer["code"]})
    assert replay.value.kind == "expired"


@pytest.mark.parametrize("browser", ["", "browser-2"])
async def test_another_browsers_answer_is_refused(provider: Provider, stand_in: StandIn, browser: str) -> None:
    answer = stand_in.authorize(await provider.begin("browser-1", "/"))
    with pytest.raises(OidcFailed):
        await provider.finish(browser, answer)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"state": "made-up"}, "expired"),
        ({"iss": "https://evil.test"}, "provider"),
        ({"error": "access_denied"}, "refused"),
        ({"code": ""}, "provider"),
        ({"code": "made-up"}, "expired"),
    ],
)
async def test_an_answer_that_is_not_what_it_should_be_is_refused(
    provider: Provider, stand_in: StandIn, more: dict[str, str], kind: str
) -> None:
    assert (await refused(provider, stand_in, **more)).kind == kind


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.test"},
        {"token_endpoint": "http://id.test/token"},
        {"jwks_uri": None},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
async def test_a_discovery_that_could_mislead_is_refused(
    provider: Provider, stand_in: StandIn, metadata: dict[str, Any]
) -> None:
    stand_in.metadata = metadata
    with pytest.raises(OidcFailed) as caught:
        await provider.begin("browser-1", "/")
    assert caught.value.kind == "provider"


async def test_a_provider_that_is_down_is_asked_again(provider: Provider, stand_in: StandIn) -> None:
    stand_in.down = True
    with pytest.raises(OidcFailed):
        await provider.begin("browser-1", "/")
    stand_in.down = False
    assert (await log_in(provider, stand_in)).name == "kim"


async def test_log_ins_that_nobody_finishes_take_bounded_room_and_end(
    provider: Provider, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_console.auth.oidc._MOST_PENDING", 5)
    answers = [stand_in.authorize(await provider.begin("browser-1", "/")) for _ in range(8)]
    assert len(provider._pending) == 5
    with pytest.raises(OidcFailed):
        await provider.finish("browser-1", answers[0])
    provider._clock = lambda: time.time() + 601
    with pytest.raises(OidcFailed) as late:
        await provider.finish("browser-1", answers[7])
    assert late.value.kind == "expired"
