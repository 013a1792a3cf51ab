"""Requests from outside: by HTTPS a client starts a function of a region, and gets its answer."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import SITE_DIR, Cluster, cut_off, faas, until

TRIGGER, SLOW, SECRET = "e2e-ask", "e2e-ask-later", "e2e-ask-tokens"
TOKEN = uuid.uuid4().hex
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Answer:
    """What a client gets."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def ask(site: dict[str, Any]) -> Ask:
    """Asks Seoul's ingress, as a client does that trusts the site's authority."""
    ingress = site["regions"]["seoul"].get("ingress")
    if not ingress:
        pytest.skip("the site's regions have no ingress")
    trusts = ssl.create_default_context(cafile=SITE_DIR / "pki" / "ca.crt")

    def asked(path: str, data: Any = None, method: str = "POST", **headers: str) -> Answer:
        body = None if data is None else json.dumps(data).encode()
        named = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        request = urllib.request.Request(ingress + path, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120, context=trusts) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as answer:
            return Answer(answer.code, answer.headers, answer.read())

    return asked


@pytest.fixture(scope="module")
def triggers(ask: Ask, probe: str, cluster: Callable[[str], Cluster]) -> Iterator[None]:
    """A trigger whose clients wait, and one whose clients ask later; both of the probe in Seoul."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": "functions"},
        "data": {"token": base64.b64encode(TOKEN.encode()).decode()},
    }
    cluster("seoul").run("apply", "-f", "-", stdin=json.dumps(secret))
    with contextlib.ExitStack() as stack:
        stack.callback(cluster("seoul").run, "delete", "secret", SECRET, "-n", "functions")
        for name, more in ((TRIGGER, ("--methods", "POST,GET")), (SLOW, ("--async",))):
            create = ("trigger", "http", "create", name, "--function", probe, "--region", "seoul", "--path", f"/{name}")
            faas(*create, "--token-secret", SECRET, *more)
            stack.callback(faas, "trigger", "http", "delete", name)
        yield


@pytest.fixture
def idle(probe: str, cluster: Callable[[str], Cluster]) -> None:
    """Nothing of the probe runs in Seoul."""
    until("nothing runs", lambda: not cluster("seoul").pods(probe), 120)


@pytest.mark.usefixtures("triggers", "idle")
def test_a_request_wakes_a_function_and_gets_its_answer(
    ask: Ask, probe: str, cluster: Callable[[str], Cluster]
) -> None:
    answer = ask(f"/{TRIGGER}?x=1", {"do": "tell"}, **BEARER)
    assert answer.status == 200, answer.body
    assert answer.json["pod"].startswith(f"{probe}-")
    until("nothing runs again", lambda: not cluster("seoul").pods(probe), 120)


@pytest.mark.usefixtures("triggers", "idle")
def test_who_has_no_token_wakes_nothing(ask: Ask, probe: str, cluster: Callable[[str], Cluster]) -> None:
    assert ask(f"/{TRIGGER}", {}).status == 401
    assert ask(f"/{TRIGGER}", {}, Authorization=f"Bearer {TOKEN}x").status == 401
    assert ask("/e2e-nothing", {}, **BEARER).status == 404
    assert ask("/-/healthz", method="GET").status == 404
    assert ask(f"/{SLOW}", method="GET", **BEARER).status == 405
    assert not cluster("seoul").pods(probe)


@pytest.mark.usefixtures("triggers")
def test_a_client_may_ask_later(ask: Ask) -> None:
    accepted = ask(f"/{SLOW}", {"do": "note", "work_s": 2}, **BEARER)
    assert accepted.status == 202
    place = accepted.headers["Location"]
    assert ask(place, method="GET").status == 401

    def told() -> Any:
        return ask(place, method="GET", **BEARER).json

    until("the function has answered", lambda: told()["state"] == "succeeded", 120)
    assert told()["result"]["entries"]


@pytest.mark.usefixtures("triggers")
def test_a_repeat_runs_once(ask: Ask) -> None:
    key = {"Idempotency_Key": f"e2e-{uuid.uuid4()}"}
    first, second = [ask(f"/{TRIGGER}", {"do": "note"}, **BEARER, **key) for _ in range(2)]
    assert first.status == second.status == 200
    assert first.body == second.body and len(first.json["entries"]) == 1


@pytest.mark.usefixtures("triggers")
def test_a_function_that_fails_is_told_without_its_secrets(ask: Ask) -> None:
    answer = ask(f"/{TRIGGER}", {"do": "fail", "times": 9}, **BEARER)
    assert answer.status == 502
    assert answer.json["error"].endswith("failed: RuntimeError") and b"are to fail" not in answer.body


@pytest.mark.usefixtures("triggers", "idle")
def test_it_works_while_the_region_is_cut_off(ask: Ask) -> None:
    with cut_off("seoul"):
        answer = ask(f"/{TRIGGER}", {"do": "tell"}, **BEARER)
    assert answer.status == 200, answer.body


@pytest.mark.long
@pytest.mark.usefixtures("triggers", "idle")
def test_a_paused_trigger_refuses_and_wakes_nothing_until_it_is_resumed(
    ask: Ask, probe: str, cluster: Callable[[str], Cluster]
) -> None:
    faas("trigger", "pause", TRIGGER, "--region", "seoul")
    try:
        listed = json.loads(faas("trigger", "http", "list", "--region", "seoul", "-o", "json"))
        assert {one["name"]: one["status"] for one in listed}[TRIGGER] == "PAUSED"

        def refused() -> bool:
            return ask(f"/{TRIGGER}", {"do": "tell"}, **BEARER).status == 503

        until("all gateways refuse", lambda: all(refused() for _ in range(5)), 60)
        answer = ask(f"/{TRIGGER}", {"do": "tell"}, **BEARER)
        assert "paused" in answer.json["error"] and answer.headers["Retry-After"] == "60"
        assert ask(f"/{TRIGGER}", {}).status == 401
        assert not cluster("seoul").pods(probe)
    finally:
        faas("trigger", "resume", TRIGGER, "--region", "seoul")
    until("it answers again", lambda: ask(f"/{TRIGGER}", {"do": "tell"}, **BEARER).status == 200, 120)
