# SPDX-License-Identifier: Apache-2.0
"""The log-in page with the console's own log-in behind it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from playwright.sync_api import expect
from reading import Reader, Served, accessible, fits, shot

from koren_console.auth import Audit, Auth, Guard
from koren_console.auth.sessions import Session, Sessions
from koren_console.auth.users import Users
from koren_console.model import AuditLine
from koren_console.simulation import Simulation, application

PASSWORD = "correct horse battery"


class Nowhere:
    """Keeps nothing for longer."""

    def audit(self, line: AuditLine) -> None: ...
    def sessions(self) -> list[Session]:
        return []

    def keep_session(self, session: Session) -> None: ...
    def flush(self) -> None: ...

    def drop_session(self, key: str) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    users = tmp_path / "users.json"
    hasher = PasswordHasher(time_cost=1, memory_cost=1024)
    users.write_text(json.dumps({"operator": {"role": "operator", "hash": hasher.hash(PASSWORD)}}))
    auth = Auth(Sessions(Nowhere()), Audit(Nowhere()), users=Users(users))
    board = Simulation(every_s=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = application(board, auth, list(auth.routes()))
    running = Served(Guard(app, auth, f"http://127.0.0.1:{port}"), board, port)
    running.start()
    yield running
    running.stop()


def test_log_in_then_the_page_that_was_asked_for(served: Served, reader: Reader) -> None:
    page = reader.open(f"{served.url}/regions?q=busan")
    expect(page.locator("h1")).to_have_text("Sign in")
    fits(page)
    shot(page, "login")
    accessible(page)
    page.get_by_label("Name").fill("operator")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Name or password is wrong.")
    shot(page, "login-wrong")
    accessible(page)
    page.get_by_label("Name").fill("operator")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.url.endswith("/regions?q=busan")
    page.locator(".user summary").click()
    expect(page.locator(".user")).to_contain_text("You are signed in as an operator.")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("h1")).to_have_text("Sign in")
    page.goto(f"{served.url}/incidents")
    expect(page.locator("h1")).to_have_text("Sign in")


def test_language_can_be_chosen_before_log_in(served: Served, reader: Reader) -> None:
    page = reader.open(f"{served.url}/login", width=360)
    page.get_by_role("button", name="한국어").click()
    expect(page.locator("h1")).to_have_text("로그인")
    fits(page)
    shot(page, "login-ko-360")


def test_open_page_says_that_its_reader_was_signed_out(served: Served, reader: Reader) -> None:
    page = reader.open(served.url)
    page.get_by_label("Name").fill("operator")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#h-figures")).to_be_visible()
    other = page.context.new_page()
    other.goto(served.url)
    other.locator(".user summary").click()
    other.get_by_role("button", name=re.compile("Sign out")).click()
    expect(other.locator("h1")).to_have_text("Sign in")
    served.do(served.board.cut, "busan")
    expect(page.locator("#connection")).to_contain_text("You are signed out.")
