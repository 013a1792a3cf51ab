# SPDX-License-Identifier: Apache-2.0
"""The console as it runs: a process of its own, over TLS, also while none of its sources answers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from gateway_lab import Pki, free_port

VIEWS = (
    "/",
    "/incidents",
    "/functions",
    "/regions",
    "/held",
    "/events",
    "/dead-letters",
    "/alerts",
    "/alerts/past",
    "/saved",
    "/audit",
)
PASSWORD = "only-for-tests"


class Console:
    """The program, which can be killed and started again."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.folder, self.pki, self.port = folder, pki, free_port()
        certificate, key = pki.issue("console")
        hash = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
        (folder / "users.json").write_text(json.dumps({"operator": {"role": "operator", "hash": hash}}))
        (folder / "data").mkdir()
        self.settings: dict[str, Any] = {
            "address": "127.0.0.1",
            "port": self.port,
            "public_url": f"https://localhost:{self.port}",
            "data": f"{folder}/data",
            "tls": {"ca": str(pki.ca), "certificate": str(certificate), "key": str(key)},
            "broker": {"host": "127.0.0.1", "port": free_port()},
            "prometheus": f"https://127.0.0.1:{free_port()}",
            "alertmanager": f"https://127.0.0.1:{free_port()}",
            "logs": f"https://127.0.0.1:{free_port()}",
            "regions": [
                {
                    "name": name,
                    "title": {"ko": name, "en": name},
                    "server": f"https://127.0.0.1:{free_port()}",
                    "authority": str(pki.ca),
                    "token": str(folder / "token"),
                }
                for name in ("central", "seoul")
            ],
            "users": f"{folder}/users.json",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        file = self.folder / "settings.json"
        file.write_text(json.dumps(self.settings))
        log = (self.folder / "log").open("ab")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "koren_console", file], stdout=log, stderr=log, env=environment
        )
        log.close()
        end = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)

    def end(self, number: int) -> float:
        assert self.process is not None
        begin = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(20)
        return time.monotonic() - begin

    def browser(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://localhost:{self.port}",
            verify=ssl.create_default_context(cafile=self.pki.ca),
            headers={"Accept": "text/html", "Origin": self.settings["public_url"]},
            timeout=20,
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def console(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    made = Console(tmp_path, Pki(tmp_path_factory.mktemp("pki")))
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGKILL)


def log_in(browser: httpx.Client) -> httpx.Response:
    page = browser.get("/login").text
    found = re.search(r'name="csrf"\s+value="([^"]+)"', page)
    assert found, page
    return browser.post("/login", data={"name": "operator", "password": PASSWORD, "csrf": found[1], "next": "/regions"})


def test_every_view_is_there_while_no_source_answers(console: Console) -> None:
    with console.browser() as browser:
        assert browser.get("/").headers["Location"] == "/login"
        assert browser.get("/healthz", headers={"Accept": "*/*"}).text == "ok\n"
        answer = log_in(browser)
        assert answer.headers["Location"] == "/regions", answer.text
        for view in VIEWS:
            page = browser.get(view)
            assert page.status_code == 200, f"{view}: {page.text[:2000]}"
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert browser.get("/v1/regions").status_code == 401
        assert browser.get("/v1/regions").json()["error"]
        with browser.stream("GET", "/live/changes") as changes:
            assert changes.headers["Content-Type"].startswith("text/event-stream")
            assert next(changes.iter_bytes())
    assert [line["who"] for line in console.lines() if line.get("message") == "audit"] == ["operator"]
    assert PASSWORD not in (console.folder / "log").read_text()


def test_a_kill_undoes_no_log_in_and_no_log_out_and_an_end_is_quick(console: Console) -> None:
    with console.browser() as browser:
        log_in(browser)
        console.end(signal.SIGKILL)
        console.start()
        page = browser.get("/audit")
        assert page.status_code == 200
        assert "log-in" in page.text
        with browser.stream("GET", "/live/changes"):
            assert console.end(signal.SIGTERM) < 8
        console.start()
        cookies = dict(browser.cookies)
        token = re.search(r'name="csrf"\s+value="([^"]+)"', browser.get("/audit").text)
        assert token
        assert browser.post("/logout", data={"csrf": token[1]}).headers["Location"] == "/login"
        console.end(signal.SIGKILL)
        console.start()
        browser.cookies.update(cookies)
        assert browser.get("/audit").headers["Location"].startswith("/login")


def test_tls_is_asked_for_by_its_newer_versions_only(console: Console) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", console.port)) as plain, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(plain)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"users": None}, "give either users or oidc"),
        ({"regions": []}, "regions"),
        ({"public_url": "http://x"}, "public_url"),
        ({"trace_url": "http://tempo.example/trace/{trace_id}"}, "give an https address with {trace_id} exactly once"),
        ({"users": "/nowhere.json"}, "/nowhere.json"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"typo": 1}, "typo"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    (tmp_path / "pki").mkdir()
    console = Console(tmp_path, Pki(tmp_path / "pki"))
    (tmp_path / "settings.json").write_text(json.dumps({**console.settings, **change}))
    done = subprocess.run(
        [sys.executable, "-m", "koren_console", tmp_path / "settings.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr
