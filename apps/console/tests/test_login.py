# SPDX-License-Identifier: Apache-2.0
"""Log-in with local users, from outside: what a browser, and somebody who is not one, can get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from koren_console.auth import Audit, Auth, Guard, SecurityHeaders
from koren_console.auth.guard import own_path
from koren_console.auth.limits import Bucket, LoginLimits, network
from koren_console.auth.sessions import IDLE, LONGEST, Session, Sessions
from koren_console.auth.users import Users, UsersBroken
from koren_console.model import AuditLine, Role

URL = "https://console.test"
PASSWORDS = {"viewer": "see-all-do-nothing", "operator": "with-great-power"}
OWN = {"Origin": URL, "Sec-Fetch-Site": "same-origin"}


@dataclass
class Memory:
    """A keeper of sessions and audit lines."""

    lines: list[AuditLine] = field(default_factory=list)
    kept: dict[str, Session] = field(default_factory=dict)

    def audit(self, line: AuditLine) -> None:
        self.lines.append(line)

    def sessions(self) -> list[Session]:
        return list(self.kept.values())

    def keep_session(self, session: Session) -> None:
        self.kept[session.key] = session

    def flush(self) -> None: ...

    def drop_session(self, key: str) -> None:
        self.kept.pop(key, None)

    def outcomes(self) -> list[str]:
        return [f"{line.who} {line.what} {line.outcome}" for line in self.lines]


@dataclass
class Clock:
    """A time that tests move."""

    now: datetime = datetime(2026, 11, 28, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()


@pytest.fixture(scope="session")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("users") / "users.json"
    hasher = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    content = {name: {"role": name, "hash": hasher.hash(password)} for name, password in PASSWORDS.items()}
    file.write_text(json.dumps(content))
    return file


@dataclass
class Door:
    """An application behind the guard, and what it keeps."""

    app: Starlette
    auth: Auth
    memory: Memory
    clock: Clock

    def browser(self, address: str = "192.0.2.1") -> TestClient:
        return TestClient(self.app, base_url=URL, follow_redirects=False, client=(address, 1234))


def door_of(users_file: Path) -> Door:
    memory, clock = Memory(), Clock()
    auth = Auth(Sessions(memory, clock), Audit(memory), users=Users(users_file), limits=LoginLimits(clock.seconds))

    async def page(request: Request) -> Response:
        user = auth.user(request)
        return JSONResponse({"user": user.name if user else "", "csrf": auth.csrf(request)})

    async def act(request: Request) -> Response:
        async with request.form() as form:
            auth.check_csrf(form, request)
        return PlainTextResponse("acted")

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/incidents", page),
            Route("/login", page),
            Route("/act", auth.require(Role.OPERATOR)(act), methods=["POST"]),
            Route("/healthz", page),
            *auth.routes(),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(Guard, auth=auth, public_url=URL)],
    )
    return Door(app, auth, memory, clock)


@pytest.fixture
def door(users_file: Path) -> Iterator[Door]:
    yield door_of(users_file)


def log_in(browser: TestClient, name: str = "operator", password: str = "", **fields: str) -> httpx.Response:
    csrf = browser.get("/login").json()["csrf"]
    form = {"name": name, "password": password or PASSWORDS[name], "csrf": csrf, **fields}
    return browser.post("/login", data=form, headers=OWN)


def test_a_user_logs_in_and_out(door: Door) -> None:
    browser = door.browser()
    assert browser.get("/", headers={"Accept": "text/html"}).headers["Location"] == "/login"
    answer = log_in(browser, next="/incidents?state=open")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/incidents?state=open")
    page = browser.get("/").json()
    assert page["user"] == "operator"
    assert browser.post("/logout", data={"csrf": page["csrf"]}, headers=OWN).status_code == 303
    assert browser.get("/").status_code == 401
    assert door.memory.outcomes() == ["operator log-in done", "operator log-out done"]


def test_the_cookie_is_one_that_scripts_and_other_sites_do_not_get(door: Door) -> None:
    cookies = log_in(door.browser()).headers.get_list("set-cookie")
    [cookie] = [one for one in cookies if one.startswith("__Host-koren=")]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= attributes
    assert not any(part.startswith("domain") for part in attributes)


@pytest.mark.parametrize(
    ("name", "password"), [("operator", "wrong"), ("nobody", "with-great-power"), ("operator", "x" * 2000), ("", "")]
)
def test_a_wrong_name_or_password_opens_nothing_and_tells_no_difference(door: Door, name: str, password: str) -> None:
    browser = door.browser()
    csrf = browser.get("/login").json()["csrf"]
    answer = browser.post("/login", data={"name": name, "password": password, "csrf": csrf}, headers=OWN)
    assert answer.headers["Location"] == "/login?error=wrong"
    assert browser.get("/").status_code == 401


def test_a_session_that_was_there_before_log_in_is_not_carried_on(door: Door) -> None:
    browser = door.browser()
    browser.cookies.set("__Host-koren", "chosen-by-somebody-else", domain="console.test")
    assert browser.get("/").status_code == 401
    log_in(browser)
    first = browser.cookies["__Host-koren"]
    assert first != "chosen-by-somebody-else"
    log_in(browser, "viewer")
    assert browser.cookies["__Host-koren"] != first
    old = door.browser()
    old.cookies.set("__Host-koren", first, domain="console.test")
    assert old.get("/").status_code == 401, "a new log-in ends the session before it"


def test_what_is_kept_of_a_session_opens_nothing(door: Door) -> None:
    log_in(door.browser())
    [key] = door.memory.kept
    thief = door.browser()
    thief.cookies.set("__Host-koren", key, domain="console.test")
    assert thief.get("/").status_code == 401


def test_a_session_survives_a_restart_of_the_console(door: Door) -> None:
    browser = door.browser()
    log_in(browser)
    again = Sessions(door.memory, door.clock)
    assert again.find(browser.cookies["__Host-koren"]) is not None


@pytest.mark.parametrize("now", [{}, {"operator": "viewer"}], ids=["gone", "less"])
def test_who_may_less_after_a_restart_is_logged_out(
    door: Door, users_file: Path, tmp_path: Path, now: dict[str, str]
) -> None:
    operator, viewer = door.browser(), door.browser()
    log_in(operator, "operator")
    log_in(viewer, "viewer")
    before = json.loads(users_file.read_text())
    users = {"viewer": before["viewer"], **{name: {**before[name], "role": role} for name, role in now.items()}}
    (tmp_path / "users.json").write_text(json.dumps(users))
    sessions = Sessions(door.memory, door.clock)
    Auth(sessions, Audit(door.memory), users=Users(tmp_path / "users.json"))
    assert sessions.find(operator.cookies["__Host-koren"]) is None
    assert sessions.find(viewer.cookies["__Host-koren"]) is not None


def test_a_session_ends_by_lack_of_use_and_by_age(door: Door) -> None:
    browser = door.browser()
    log_in(browser)
    door.clock.now += IDLE + timedelta(seconds=1)
    assert browser.get("/").status_code == 401
    log_in(browser)
    begin = door.clock.now
    while door.clock.now - begin < LONGEST:
        assert browser.get("/").status_code == 200
        door.clock.now += IDLE / 2
    door.clock.now = begin + LONGEST + timedelta(seconds=1)
    assert browser.get("/").status_code == 401


def test_sessions_are_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_console.auth.sessions._MOST", 3)
    values = [door.auth.sessions.begin(f"user-{number}", Role.VIEWER)[0] for number in range(5)]
    assert [door.auth.sessions.find(value) is not None for value in values] == [False, False, True, True, True]
    assert len(door.memory.kept) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Origin": URL, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://console.test.evil.test"},
        {"Origin": "http://console.test"},
        {},
    ],
    ids=str,
)
def test_a_form_of_another_site_is_refused_even_with_the_token(door: Door, headers: dict[str, str]) -> None:
    browser = door.browser()
    log_in(browser)
    csrf = browser.get("/").json()["csrf"]
    assert browser.post("/act", data={"csrf": csrf}, headers=headers).status_code == 403


@pytest.mark.parametrize("csrf", ["", "x", "ü"])
def test_a_form_without_the_sessions_token_is_refused(door: Door, csrf: str) -> None:
    browser = door.browser()
    log_in(browser)
    assert browser.post("/act", data={"csrf": csrf}, headers=OWN).status_code == 403
    other = door.browser()
    log_in(other)
    others = other.get("/").json()["csrf"]
    assert browser.post("/act", data={"csrf": others}, headers=OWN).status_code == 403


def test_a_log_in_needs_the_token_of_this_browsers_own_form(door: Door) -> None:
    stranger = door.browser().get("/login").json()["csrf"]
    browser = door.browser()
    browser.get("/login")
    form = {"name": "operator", "password": PASSWORDS["operator"], "csrf": stranger}
    answer = browser.post("/login", data=form, headers=OWN)
    assert answer.headers["Location"] == "/login?error=expired"
    assert "__Host-koren" not in browser.cookies


def test_a_viewer_is_refused_what_is_an_operators(door: Door) -> None:
    browser = door.browser()
    log_in(browser, "viewer")
    csrf = browser.get("/").json()["csrf"]
    assert browser.post("/act", data={"csrf": csrf, "role": "operator"}, headers=OWN).status_code == 403
    assert "viewer refusal refused" in door.memory.outcomes()
    log_in(browser, "operator")
    csrf = browser.get("/").json()["csrf"]
    assert browser.post("/act", data={"csrf": csrf}, headers=OWN).text == "acted"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/",
        "//evil.test/",
        "/\\evil.test/",
        "\\\\evil.test",
        "/\t/evil.test",
        "/%0d%0aSet-Cookie:x=y\r\n",
        "javascript:alert(1)",
        "/login?next=//evil.test",
        "/logout",
        "evil.test",
        "",
        "/" + "a" * 3000,
    ],
)
def test_log_in_leads_to_no_other_site(door: Door, target: str) -> None:
    answer = log_in(door.browser(), next=target)
    assert answer.headers["Location"] == "/"
    assert own_path(target) == "/"


def test_guessing_one_users_password_is_slowed_down_and_does_not_lock_the_user_out_elsewhere(door: Door) -> None:
    browser = door.browser("192.0.2.66")
    tries = [log_in(browser, "operator", f"guess {number}").headers["Location"] for number in range(8)]
    assert tries[:5] == ["/login?error=wrong"] * 5
    limited = [re.fullmatch(r"/login\?error=limited&wait=(\d+)", one) for one in tries[5:]]
    assert all(one is not None and 0 < int(one[1]) <= 60 for one in limited)
    assert log_in(browser).headers["Location"].startswith("/login?error=limited"), "also with the right one"
    assert log_in(door.browser("192.0.2.1")).headers["Location"] == "/"
    door.clock.now += timedelta(seconds=61)
    assert log_in(browser).headers["Location"] == "/"


def test_who_is_refused_again_and_again_crowds_nobody_out_of_the_audit(door: Door) -> None:
    stranger, viewer = door.browser("192.0.2.66"), door.browser("192.0.2.1")
    for _ in range(200):
        log_in(stranger, "operator", "guess")
    log_in(viewer, "viewer")
    csrf = viewer.get("/").json()["csrf"]
    for _ in range(200):
        assert viewer.post("/act", data={"csrf": csrf}, headers=OWN).status_code == 403
    outcomes = door.memory.outcomes()
    assert 10 < outcomes.count("operator log-in refused") < 50
    assert 10 < outcomes.count("viewer refusal refused") < 50
    assert "viewer log-in done" in outcomes
    assert sum("what follows" in line.detail for line in door.memory.lines) == 2


def test_guessing_many_users_from_one_address_is_slowed_down(door: Door) -> None:
    browser = door.browser("192.0.2.66")
    answers = [log_in(browser, f"user-{number}", "x").headers["Location"] for number in range(25)]
    assert sum(one.startswith("/login?error=limited") for one in answers) == 5


def test_right_passwords_use_nothing_up(door: Door) -> None:
    browser = door.browser()
    assert {log_in(browser).headers["Location"] for _ in range(30)} == {"/"}


def test_limits_keep_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_console.auth.limits._MOST_KEYS", 100)
    bucket = Bucket(1, 60, lambda: 0.0)
    for number in range(1000):
        bucket.take(str(number))
    assert len(bucket) == 100
    assert bucket.wait_s("999") > 0


@pytest.mark.parametrize(
    ("address", "stands_for"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1:2", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_an_address_stands_for_its_network(address: str, stands_for: str) -> None:
    assert network(address) == stands_for


def test_every_answer_says_what_the_page_may_do(door: Door) -> None:
    for path in ("/login", "/", "/nothing", "/healthz"):
        headers = door.browser().get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_body_that_is_too_large_or_of_unknown_size_is_not_read(door: Door) -> None:
    browser = door.browser()
    assert browser.post("/login", content=b"x" * (1024 * 1024 + 1), headers=OWN).status_code == 413

    def endless() -> Iterator[bytes]:
        yield b"x"

    assert browser.post("/login", content=endless(), headers=OWN).status_code == 411


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"a": {}}',
        '{"a": {"role": "admin", "hash": "$argon2id$x"}}',
        '{"a": {"role": "viewer", "hash": "x"}}',
    ],
)
def test_a_wrong_file_of_users_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "users.json"
    file.write_text(content)
    with pytest.raises(UsersBroken, match=r"users\.json"):
        Users(file)


def test_an_unknown_name_takes_as_long_as_a_wrong_password(users_file: Path) -> None:
    users = Users(users_file)
    verified: list[str] = []
    original = users._verify

    def counted(hash: str, password: str) -> bool:
        verified.append(hash)
        return original(hash, password)

    users._verify = counted  # type: ignore[method-assign]
    import asyncio

    for name in ("operator", "nobody"):
        assert asyncio.run(users.check(name, "wrong")) is None
    assert [hash.split("$")[3] for hash in verified] == ["m=1024,t=1,p=1"] * 2, "one hash of the same cost each"
