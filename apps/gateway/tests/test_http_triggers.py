"""Requests from outside that start functions: which trigger they are of, what their clients are told."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp.test_utils import make_mocked_request
from gateway_lab import REGION, Lab, Mosquitto, Pki, TestCluster, deployment, started, until
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from koren_events.cloudevent import parse
from koren_gateway.api.http import Refused
from koren_gateway.api.http_triggers import event_of
from koren_gateway.cluster.http_triggers import TRIGGER_LABEL, HttpTrigger, HttpTriggers, http_trigger_of
from koren_gateway.cluster.interface import Change
from koren_gateway.queue.rates import Rates
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

TOKEN = "a-token-of-the-tests-0123456789"
OTHER_TOKEN = "another-token-of-the-tests-9876"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FUNCTION = "hello"


def trigger(name: str = "orders", made: str = "", **data: str) -> dict[str, Any]:
    """The ConfigMap of a trigger; `data` are its keys, with _ for -."""
    its = {"kind": "http", "function": FUNCTION, "path": f"/{name}", "anonymous": "true", **data}
    if "token_secret" in data:
        del its["anonymous"]
    return {
        "metadata": {"name": f"trigger-{name}", "labels": {TRIGGER_LABEL: name}, "creationTimestamp": made},
        "data": {key.replace("_", "-"): value for key, value in its.items()},
    }


@pytest_asyncio.fixture
async def web(lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto) -> AsyncIterator["Web"]:
    """A gateway with a function that only triggers start."""
    cluster = TestCluster(functions=[deployment(FUNCTION, timeout_s="20")], secrets={"doors": {"a": TOKEN.encode()}})
    async with started(lab_settings, pki, cluster) as lab:
        yield Web(lab, pki)


class Web:
    """The world outside, which only the ingress connects with the gateway."""

    def __init__(self, lab: Lab, pki: Pki) -> None:
        self.lab = lab
        self.pki = pki
        self._context = pki.client_context(f"ingress.{REGION}")

    async def declare(self, *declared: dict[str, Any]) -> None:
        """Declares triggers, and waits until the gateway knows them."""
        await self.lab.cluster.trigger_changes.put(Change("listed", declared))
        names = {one["metadata"]["labels"][TRIGGER_LABEL] for one in declared}

        async def known() -> bool:
            listed = (await self.lab.admin("GET", "/v1/http-triggers")).json()
            return {one["name"] for one in listed["triggers"]} == names

        await until(known, f"triggers {names}")

    async def ask(self, method: str = "POST", path: str = "/orders", **more: Any) -> httpx.Response:
        context = more.pop("context", self._context)
        base = f"https://localhost:{self.lab.settings.http_port}"
        async with httpx.AsyncClient(base_url=base, verify=context, timeout=30) as client:
            return await client.request(method, path, **more)

    async def answered(self, result: Any, **request: Any) -> tuple[httpx.Response, Any]:
        """A request that the function answers with `result`, and the event that it got."""
        asked = asyncio.create_task(self.ask(**request))
        pod = self.lab.pod(function=FUNCTION)
        event = await pod.next()
        assert await pod.post("response", result) == 204
        return await asked, event

    @contextlib.asynccontextmanager
    async def sending_slowly(self, size: int, client: str = "") -> AsyncIterator[asyncio.StreamReader]:
        """A request whose body of that size does not come; where its answer will be."""
        reader, writer = await asyncio.open_connection(
            "localhost", self.lab.settings.http_port, ssl=self._context, server_hostname="localhost"
        )
        head = f"POST /orders HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\nContent-Length: {size}\r\n\r\na"
        writer.write(head.encode())
        try:
            yield reader
        finally:
            writer.transport.abort()

    async def receipt(self, accepted: httpx.Response, state: str, **more: Any) -> Any:
        """The receipt, once it has that state."""
        last: dict[str, Any] = {}

        async def is_so() -> bool:
            last.update((await self.ask("GET", accepted.headers["Location"], **more)).json())
            return last["state"] == state

        await until(is_so, lambda: f"{state}, not {last}")
        return last


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("result", "content_type", "body"),
    [
        ({"n": 1}, "application/json", '{"n":1}'),
        ("안녕 <b>", "text/plain", "안녕 <b>"),
        (0, "application/json", "0"),
    ],
)
async def test_a_request_starts_a_function_and_gets_its_result(
    web: Web, result: Any, content_type: str, body: str
) -> None:
    await web.declare(trigger(methods="POST GET", headers="X-GitHub-Event"))
    answer, event = await web.answered(
        result,
        path="/orders?size=3&size=%EA%B0%80",
        json={"name": "Seoul"},
        headers={"X-GitHub-Event": "push", "Cookie": "session=1", "User-Agent": "curl"},
    )
    assert answer.status_code == 200 and answer.text == body
    assert answer.headers["Content-Type"].startswith(content_type)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert event["data"] == {"name": "Seoul"} and event["datacontenttype"] == "application/json"
    assert (event["type"], event["source"], event["region"]) == ("kr.koren.http.request", "http/orders", REGION)
    assert (event["httpmethod"], event["httppath"]) == ("POST", "/orders")
    assert event["httpquery"] == "size=3&size=%EA%B0%80"
    assert (event["httpxgithubevent"], event["httpuseragent"]) == ("push", "curl")
    assert "session" not in json.dumps(event)
    # The result is for the client alone.
    assert (await web.lab.broker.receipt("succeeded")).result is None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "content_type", "its"),
    [
        ("문 열림".encode(), "text/plain; charset=utf-8", {"data": "문 열림"}),
        (b"a=1&b=2", "application/x-www-form-urlencoded", {"data": "a=1&b=2"}),
        (b'{"a": 1}', "application/vnd.x+json", {"data": {"a": 1}}),
        (b"\x00\xff", "application/octet-stream", {"data_base64": "AP8="}),
        (b"", "text/plain", {"data": None}),
    ],
)
async def test_a_body_may_be_anything(web: Web, content: bytes, content_type: str, its: dict[str, Any]) -> None:
    await web.declare(trigger())
    answer, event = await web.answered(1, content=content, headers={"Content-Type": content_type})
    assert answer.status_code == 200
    assert {name: event.get(name) for name in its} == its


@pytest.mark.asyncio
async def test_a_client_without_one_of_the_tokens_starts_nothing(web: Web) -> None:
    await web.declare(trigger(token_secret="doors"))
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = await web.ask(headers=headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert "Bearer TOKEN" in answer.json()["error"]
    assert (await web.lab.function(FUNCTION) or {})["active"] is False
    answer, _ = await web.answered("in", headers=BEARER)
    assert answer.text == "in"


@pytest.mark.asyncio
async def test_tokens_are_exchanged_and_stay_valid_while_the_api_server_is_away(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_gateway.cluster.tokens._FRESH_S", 0.0)
    await web.declare(trigger(token_secret="doors", **{"async": "true"}))
    cluster = web.lab.cluster
    assert (await web.ask(headers=BEARER)).status_code == 202
    cluster.secrets["doors"] = {"old": TOKEN.encode(), "new": f"{OTHER_TOKEN}\n".encode(), "short": b"123"}
    assert (await web.ask(headers={"Authorization": f"Bearer {OTHER_TOKEN}"})).status_code == 202
    assert (await web.ask(headers={"Authorization": "Bearer 123"})).status_code == 401
    cluster.there = False
    assert (await web.ask(headers=BEARER)).status_code == 202
    cluster.there = True
    del cluster.secrets["doors"]
    assert (await web.ask(headers=BEARER)).status_code == 401


@pytest.mark.asyncio
async def test_tokens_that_the_gateway_may_not_read_any_more_let_nobody_in(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_gateway.cluster.tokens._FRESH_S", 0.0)
    await web.declare(trigger(token_secret="doors", **{"async": "true"}))
    cluster = web.lab.cluster
    assert (await web.ask(headers=BEARER)).status_code == 202
    cluster.secrets_refused.add("doors")
    for there in (True, False):
        cluster.there = there
        assert (await web.ask(headers=BEARER)).status_code == 503
    cluster.there = True
    cluster.secrets_refused.clear()
    assert (await web.ask(headers=BEARER)).status_code == 202


@pytest.mark.asyncio
async def test_an_api_server_that_hangs_keeps_no_client_waiting_for_long(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_gateway.cluster.tokens._FRESH_S", 0.0)
    monkeypatch.setattr("koren_gateway.cluster.tokens._WAIT_S", 0.2)
    cluster = web.lab.cluster
    cluster.secrets["gates"] = {"a": TOKEN.encode()}
    is_async = {"async": "true"}
    await web.declare(trigger(token_secret="doors", **is_async), trigger("gates", token_secret="gates", **is_async))
    assert (await web.ask(headers=BEARER)).status_code == 202
    cluster.secrets_slow |= {"doors", "gates"}
    unknown = asyncio.create_task(web.ask(path="/gates", headers=BEARER))
    assert (await asyncio.wait_for(web.ask(headers=BEARER), 5)).status_code == 202
    unknown.cancel()


@pytest.mark.asyncio
async def test_only_the_ingress_is_let_in(web: Web) -> None:
    await web.declare(trigger())
    stranger = await web.ask(context=web.pki.client_context("operator"))
    assert stranger.status_code == 403 and "ingress" in stranger.json()["error"]
    with pytest.raises(httpx.TransportError):
        await web.ask(context=web.pki.client_context())
    assert (await web.ask("GET", "/-/healthz")).status_code == 200


@pytest.mark.asyncio
async def test_what_is_no_trigger_says_what_it_is(web: Web) -> None:
    await web.declare(trigger(host="hello.seoul.example"), trigger("stopped", paused="true"))
    assert (await web.ask(path="/none")).status_code == 404
    assert (await web.ask()).status_code == 404
    wrong = await web.ask("GET", headers={"Host": "Hello.Seoul.Example:443"})
    assert wrong.status_code == 405 and wrong.headers["Allow"] == "POST"
    paused = await web.ask(path="/stopped")
    assert paused.status_code == 503 and "paused" in paused.json()["error"] and paused.headers["Retry-After"]
    listed = (await web.lab.admin("GET", "/v1/http-triggers")).json()["triggers"]
    assert {one["name"]: one["paused"] for one in listed} == {"orders": False, "stopped": True}
    assert (await web.ask("GET", "/-/receipts/none")).status_code == 404
    hello = {"Host": "hello.seoul.example"}
    assert (await web.ask(headers=hello, content=b"x" * (512 * 1024 + 1))).status_code == 413
    assert (await web.ask(headers=hello, content=b"\xff" * (512 * 1024))).status_code == 413
    broken = await web.ask(headers={**hello, "Content-Type": "application/json"}, content=b"{")
    assert broken.status_code == 400 and "not JSON" in broken.json()["error"]
    assert await web.lab.metric("http_requests_total", status="413", trigger="orders") == 2
    assert await web.lab.metric("http_requests_total", status="404", trigger="") == 2


@pytest.mark.asyncio
async def test_a_function_that_fails_tells_no_more_than_the_kind_of_error(web: Web) -> None:
    await web.declare(trigger())
    asked = asyncio.create_task(web.ask())
    pod = web.lab.pod(function=FUNCTION)
    assert await pod.next()
    await pod.post("error", {"type": "KeyError", "message": "secret", "traceback": "secret"})
    answer = await asked
    assert answer.status_code == 502 and answer.json()["error"] == "hello failed: KeyError"
    assert "secret" not in answer.text
    assert await web.lab.dead_letters() == []


@pytest.mark.asyncio
async def test_an_asynchronous_trigger_gives_a_receipt_that_tells_the_result(web: Web) -> None:
    await web.declare(trigger(token_secret="doors", **{"async": "true"}))
    accepted = await web.ask(headers=BEARER, json=1)
    assert accepted.status_code == 202
    assert accepted.headers["Location"] == accepted.json()["receipt"] == f"/-/receipts/{accepted.json()['id']}"
    assert (await web.ask("GET", accepted.headers["Location"])).status_code == 401
    await web.receipt(accepted, "queued", headers=BEARER)
    pod = web.lab.pod(function=FUNCTION)
    assert await pod.next()
    running = await web.receipt(accepted, "running", headers=BEARER)
    assert "result" not in running
    assert await pod.post("response", {"n": 3}) == 204
    assert (await web.receipt(accepted, "succeeded", headers=BEARER))["result"] == {"n": 3}
    # A failed one is tried again, and then a dead letter as any event.
    failing = await web.ask(headers=BEARER, json=2)
    assert await pod.next()
    await pod.post("error", {"type": "Reject", "message": "secret", "reject": True})
    told = await web.receipt(failing, "failed", headers=BEARER)
    assert told["error"] == "hello failed: Reject"
    [letter] = await web.lab.dead_letters(FUNCTION)
    assert letter["event"]["source"] == "http/orders"


@pytest.mark.asyncio
async def test_a_repeat_finds_the_first_answer(web: Web) -> None:
    await web.declare(trigger(), trigger("later", **{"async": "true"}))
    key = {"Idempotency-Key": "order-17"}
    asked = asyncio.create_task(web.ask(headers=key))
    pod = web.lab.pod(function=FUNCTION)
    assert (await pod.next())["id"] == "order-17"
    again = await web.ask(headers=key)
    assert again.status_code == 409 and again.headers["Retry-After"] == "1"
    assert await pod.post("response", {"n": 1}) == 204
    assert (await asked).json() == {"n": 1}
    assert (await web.ask(headers=key)).json() == {"n": 1}
    # Of another trigger it is another request.
    first, second = [await web.ask(path="/later", headers=key) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202) and first.json() == second.json()
    assert await pod.next()
    assert await pod.post("response", 2) == 204
    assert await pod.next_now() is None
    assert (await web.ask(headers={"Idempotency-Key": "a b"})).status_code == 400


@pytest.mark.asyncio
async def test_a_client_that_hangs_up_finds_the_answer_by_its_key_and_else_starts_nothing(web: Web) -> None:
    await web.declare(trigger())
    for headers, runnable in (({}, 0), ({"Idempotency-Key": "k"}, 1)):
        asked = asyncio.create_task(web.ask(headers=headers))
        await web.lab.queued(FUNCTION, runnable=1)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await web.lab.queued(FUNCTION, runnable=runnable)
    pod = web.lab.pod(function=FUNCTION)
    assert await pod.next()
    assert await pod.post("response", "late") == 204
    assert (await web.ask(headers={"Idempotency-Key": "k"})).text == "late"


@pytest.mark.asyncio
async def test_a_request_of_a_function_that_does_not_start_may_be_repeated(web: Web) -> None:
    await web.declare(trigger())
    key = {"Idempotency-Key": "k"}
    asked = asyncio.create_task(web.ask(headers=key))
    await web.lab.queued(FUNCTION, runnable=1)
    pod = web.lab.pod(function=FUNCTION)
    error = {"type": "ImportError", "message": "secret", "traceback": "…"}
    assert (await pod.call("POST", "/v1/init/error", json=error)).status_code == 204
    answer = await asked
    assert answer.status_code == 502 and "does not start: ImportError" in answer.json()["error"]
    await web.lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    pod = web.lab.pod("pod-b", function=FUNCTION)

    async def started_again() -> bool:
        return (await web.ask(headers=key)).status_code == 200

    async def work() -> None:
        assert await pod.next()
        assert await pod.post("response", 1) == 204

    working = asyncio.create_task(work())
    await until(started_again, "the repeat is answered")
    await working


@pytest.mark.asyncio
async def test_a_request_that_takes_too_long_is_told_so(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_gateway.api.http_triggers.WAIT_MAX_S", 0.2)
    await web.declare(trigger())
    answer = await web.ask()
    assert answer.status_code == 504 and "had not started" in answer.json()["error"]
    await web.lab.queued(FUNCTION, runnable=0)
    answer = await web.ask(headers={"Idempotency-Key": "k"})
    assert answer.status_code == 504 and "same Idempotency-Key" in answer.json()["error"]
    await web.lab.queued(FUNCTION, runnable=1)


@pytest.mark.asyncio
async def test_more_requests_than_the_rate_are_told_when_to_come_again(web: Web) -> None:
    await web.declare(trigger(rate="2/m", **{"async": "true"}))
    statuses = [(await web.ask()).status_code for _ in range(3)]
    assert statuses == [202, 202, 429]
    refused = await web.ask()
    assert 0 < int(refused.headers["Retry-After"]) <= 30


@pytest.mark.asyncio
async def test_requests_that_wait_are_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_gateway.api.http_triggers.WAITING_OF_TRIGGER_MAX", 1)
    await web.declare(trigger())
    asked = asyncio.create_task(web.ask())
    await web.lab.queued(FUNCTION, runnable=1)
    assert (await web.ask()).status_code == 503
    pod = web.lab.pod(function=FUNCTION)
    assert await pod.next()
    assert await pod.post("response", 1) == 204
    assert (await asked).status_code == 200


@pytest.mark.asyncio
async def test_clients_that_send_slowly_keep_no_place_from_others(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_gateway.api.http_triggers.BODY_S", 1.0)
    monkeypatch.setattr("koren_gateway.api.http_triggers.WAITING_OF_TRIGGER_MAX", 1)
    await web.declare(trigger())
    async with web.sending_slowly(100) as first, web.sending_slowly(100) as second:
        answer, _ = await web.answered("in time")
        assert answer.text == "in time"
        for one in (first, second):
            assert (await asyncio.wait_for(one.readline(), 10)).split()[1] == b"408"


@pytest.mark.asyncio
async def test_one_client_sends_only_so_much_at_once(web: Web) -> None:
    await web.declare(trigger(**{"async": "true"}))
    client, other = ({"X-Forwarded-For": address} for address in ("192.0.2.1", "192.0.2.2"))
    async with web.sending_slowly(8 * 2**20, client["X-Forwarded-For"]):

        async def refused() -> bool:
            answer = await web.ask(headers=client, content=b"b")
            return answer.status_code == 503 and "192.0.2.1 sends too much" in answer.json()["error"]

        await until(refused, "the client is refused")
        assert (await web.ask(headers=other, content=b"b")).status_code == 202


@pytest.mark.asyncio
async def test_a_large_body_stops_nobody_else(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return event_of(*arguments)

    monkeypatch.setattr("koren_gateway.api.http_triggers.event_of", slow)
    await web.declare(trigger(**{"async": "true"}))
    asked = asyncio.create_task(web.ask(json=["x"] * 10_000))
    assert await asyncio.to_thread(begun.wait, 10)
    assert (await web.ask("GET", "/-/healthz")).status_code == 200
    go_on.set()
    assert (await asked).status_code == 202


@pytest.mark.asyncio
async def test_answers_that_are_still_to_come_keep_to_their_budget(web: Web, store: Store) -> None:
    memory = web.lab.gateway._memory
    memory.budgets = replace(memory.budgets, answers=2000)  # two without a body
    await web.declare(trigger(**{"async": "true"}))
    keys = [{"Idempotency-Key": str(number)} for number in range(3)]
    accepted, _, full = [await web.ask(headers=key) for key in keys]
    assert accepted.status_code == 202
    assert full.status_code == 503 and "full" in full.json()["error"] and full.headers["Retry-After"]
    pod = web.lab.pod(function=FUNCTION)
    for _ in range(2):
        assert await pod.next()
        assert await pod.post("response", 1) == 204
    # One that has come makes room, and the request that was refused may be repeated.
    assert (await web.ask(headers=keys[2])).status_code == 202
    assert (await web.ask("GET", accepted.headers["Location"])).status_code == 404


@pytest.mark.asyncio
async def test_answers_go_after_their_time_and_the_oldest_first(web: Web, store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("koren_gateway.queue.tidying._EVERY_S", 0.1)
    monkeypatch.setattr("koren_gateway.api.http_triggers.ANSWER_KEPT_S", 0.3)
    await web.declare(trigger())
    key = {"Idempotency-Key": "k"}
    await web.answered(1, headers=key)

    async def gone() -> bool:
        return not await store.command("ZCARD", "koren:answers")

    await until(gone, "the answer is forgotten", timeout_s=20)
    again = await web.ask(headers=key)
    assert again.status_code == 409 and "not kept" in again.json()["error"]
    assert [key async for key in store.redis.scan_iter("koren:a[ns]*") if key != b"koren:answers"] == []
    assert await store.command("HGET", "koren:bytes", "answers") is None


@pytest.mark.asyncio
async def test_a_rate_lets_so_many_pass_and_tells_exactly_when_the_next_may(store: Store) -> None:
    rates, rate = Rates(store), http_trigger_of(trigger(rate="5/s")).rate
    assert rate is not None
    waits = [await rates.wait_s("a", rate) for _ in range(7)]
    assert waits[:5] == [0] * 5 and 0 < waits[5] <= 0.2
    assert await rates.wait_s("b", rate) == 0
    await asyncio.sleep(waits[6])
    assert await rates.wait_s("a", rate) == 0


def known(*declared: dict[str, Any]) -> HttpTriggers:
    triggers = HttpTriggers()
    triggers.apply(Change("listed", declared))
    return triggers


def test_the_most_specific_trigger_takes_a_request() -> None:
    triggers = known(
        trigger("all", path="/*"),
        trigger("below", path="/a/*"),
        trigger("exact", path="/a/b"),
        trigger("base", path="/a"),
        trigger("hosted", path="/*", host="h.example"),
    )

    def of(host: str, path: str) -> str | None:
        found = triggers.of(host, path)
        return found.name if found else None

    assert [of("", path) for path in ("/", "/x", "/a", "/a/", "/a/b", "/a/b/c", "/ab")] == [
        *("all", "all", "base", "below", "exact", "below", "all"),
    ]
    assert of("h.example", "/a/b") == "hosted"


def test_of_two_triggers_of_a_path_the_younger_is_refused_and_said_so() -> None:
    old, young = trigger("old", "2026-01-01T00:00:00Z", path="/x"), trigger("young", "2026-01-02T00:00:00Z", path="/x")
    triggers = known(young, old)
    assert [one.name for one in triggers.all()] == ["old"]
    [refused] = triggers.refused()
    assert refused.name == "young" and "trigger old has /x already" in refused.problem
    triggers.apply(Change("removed", [old]))
    assert [one.name for one in triggers.all()] == ["young"] and triggers.refused() == []


def test_kinds_of_others_are_left_to_them() -> None:
    triggers = known({**trigger(), "data": {"kind": "cron"}})
    assert triggers.all() == () and triggers.refused() == [] and triggers.in_step


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"function": "Hello"}, "function is"),
        ({"path": "orders"}, "path is"),
        ({"path": "/a*"}, "path is"),
        ({"path": "/a/../b"}, "leave out"),
        ({"path": "/-/healthz"}, "the gateway's own"),
        ({"host": "https://x"}, "host is"),
        ({"methods": "POST,HEAD"}, "methods has 'HEAD'"),
        ({"rate": "0/s"}, "rate is"),
        ({"rate": "5"}, "rate is"),
        ({"async": "yes"}, "async is"),
        ({"headers": "Authorization"}, "holds a secret"),
        ({"anonymous": "false"}, "token-secret or anonymous"),
    ],
)
def test_a_declaration_that_is_wrong_says_what_it_should_be(data: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        http_trigger_of(trigger(**data))


def test_a_trigger_with_tokens_for_anybody_is_refused() -> None:
    both = trigger(token_secret="doors")
    both["data"]["anonymous"] = "true"
    with pytest.raises(ValueError, match="either token-secret or anonymous"):
        http_trigger_of(both)


@given(
    st.dictionaries(
        st.sampled_from(
            ("function", "path", "host", "methods", "async", "rate", "token-secret", "anonymous", "headers", "paused")
        ),
        st.text(max_size=30) | st.sampled_from(("/a", "/a/*", "true", "false", "1/s", "POST", "x")),
    ),
    st.text(max_size=20),
)
def test_any_declaration_is_a_trigger_or_refused(data: dict[str, str], name: str) -> None:
    declared = trigger(name or "orders")
    declared["data"] = {"kind": "http", **data}
    triggers = known(declared)
    assert len(triggers.all()) + len(triggers.refused()) == 1
    for one in triggers.all():
        assert isinstance(one, HttpTrigger) and one.takes(one.path.removesuffix("*"))
        assert bool(one.token_secret) is not (data.get("anonymous") == "true")


@given(
    st.binary(max_size=200),
    st.sampled_from(
        ("application/json", "text/plain", "text/plain; charset=x", "application/x", "a/b+json", "", "text")
    ),
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from(("X-A", "X-B-2", "Accept")), st.text(st.characters(max_codepoint=255), max_size=20)
    ),
)
def test_any_request_is_an_event_or_refused(body: bytes, kind: str, query: str, headers: dict[str, str]) -> None:
    its = http_trigger_of(trigger(headers="X-A X-B-2"))
    request = make_mocked_request("POST", str(URL("/orders") % {"q": query}), {"Content-Type": kind, **headers})
    try:
        event, message = event_of(request, body, its, REGION, "id-1")
    except Refused as refused:
        assert refused.status == 400
        return
    again, as_it_came = parse(message)
    assert (again, as_it_came) == (event, message) and event.source == "http/orders"
    made = json.loads(message)
    assert {name for name in made if name.startswith("http")} <= {
        *("httpmethod", "httppath", "httpquery", "httpaccept", "httpxa", "httpxb2"),
    }
    assert ("data" in made) is not ("data_base64" in made)
