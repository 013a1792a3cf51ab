# SPDX-License-Identifier: Apache-2.0
"""The social server, used over the network as a function uses it."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Site

HANDLE = "seoul.koren.test"
Wait = Callable[[Callable[[], bool], float], None]


class Server:
    """XRPC calls; an answer other than 200 raises HTTPError."""

    def __init__(self, site: Site) -> None:
        self.address = site.hosts["sns-1"]
        self._tls = ssl.create_default_context(cafile=site.client_files("operator")[0])

    def call(self, method: str, body: Any = None, *, token: str = "", media_type: str = "application/json") -> Any:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"https://{self.address}/xrpc/{method}", data)
        if data is not None:
            request.add_header("Content-Type", media_type)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=20, context=self._tls) as answer:
            content = answer.read()
        return json.loads(content) if content.startswith(b"{") else content

    def log_in(self, password: str) -> str:
        login = {"identifier": HANDLE, "password": password}
        token: str = self.call("com.atproto.server.createSession", login)["accessJwt"]
        return token


@pytest.fixture
def server(site: Site) -> Server:
    """The server by its address, as its certificate has it."""
    return Server(site)


@pytest.fixture
def password(site: Site) -> str:
    """The password of Seoul's account, a secret of the site."""
    return (site.folder / "secrets/sns-seoul").read_text().strip()


def test_a_photo_post_survives_a_killed_server(site: Site, server: Server, password: str, eventually: Wait) -> None:
    token = server.log_in(password)
    photo = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 300 + b"\xff\xd9"
    blob = server.call("com.atproto.repo.uploadBlob", photo, token=token, media_type="image/jpeg")["blob"]
    record = {
        "$type": "app.bsky.feed.post",
        "text": "사고 accident",
        "createdAt": "2026-07-01T00:00:00Z",
        "embed": {"$type": "app.bsky.embed.images", "images": [{"image": blob, "alt": "photo"}]},
    }
    post = {"repo": HANDLE, "collection": "app.bsky.feed.post", "record": record}
    made = server.call("com.atproto.repo.createRecord", post, token=token)
    site.run("sns-1", "systemctl kill --signal=KILL sns")

    where = f"repo={HANDLE}&collection=app.bsky.feed.post&rkey={made['uri'].rpartition('/')[2]}"

    def back() -> bool:
        try:
            return bool(server.call(f"com.atproto.repo.getRecord?{where}"))
        except urllib.error.HTTPError:
            return False

    eventually(back, 30)
    assert server.call(f"com.atproto.repo.getRecord?{where}")["value"]["text"] == "사고 accident"
    did = made["uri"].split("/")[2]
    assert server.call(f"com.atproto.sync.getBlob?did={did}&cid={blob['ref']['$link']}") == photo


def test_a_wrong_password_is_refused(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        server.log_in("wrong-password")
    assert error.value.code == 401


def test_nobody_registers_without_an_invitation(server: Server) -> None:
    account = {"handle": "daegu.koren.test", "email": "daegu@koren.test", "password": "some-password"}
    with pytest.raises(urllib.error.HTTPError) as error:
        server.call("com.atproto.server.createAccount", account)
    assert error.value.code == 400
    assert b"invite" in error.value.read().lower()


def test_only_the_proxy_answers(site: Site, server: Server) -> None:
    listening = site.run("sns-1", "ss --listening --tcp --numeric --no-header")
    open_ports = {
        line.split()[3].rpartition(":")[2] for line in listening.splitlines() if not line.split()[3].startswith("127.")
    }
    assert open_ports <= {"22", "443", "9100"}
    with socket.create_connection((server.address, 443), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: sns.koren.test\r\n\r\n")
        assert plain.recv(20).startswith(b"HTTP/1.1 400")


def test_secrets_are_for_the_server_alone(site: Site, password: str) -> None:
    assert site.run("sns-1", "stat --format '%U %a' /etc/sns/sns.env").strip() == "root 600"
    shown = site.run("sns-1", "cat /proc/*/cmdline; journalctl --no-pager -u sns -u nginx")
    for name in ("sns-rotation-key", "sns-jwt", "sns-admin"):
        assert (site.folder / "secrets" / name).read_text().strip() not in shown
    assert password not in shown
