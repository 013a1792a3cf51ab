"""What people and tools see: calls, dead letters, and who may."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from gateway_lab import Lab, deployment, event, until

from koren_gateway.cluster.interface import Change
from koren_gateway.queue.store import Store

pytestmark = pytest.mark.asyncio

INVOKE = "/v1/functions/report-incident/invoke"


async def test_a_call_waits_for_its_answer(lab: Lab) -> None:
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={"name": "Seoul"}))
    pod = lab.pod()
    got = await pod.next()
    assert got["data"] == {"name": "Seoul"} and got["type"] == "kr.koren.faas.invocation"
    assert await pod.post("entered") == 204
    big = {"text": "가" * 20_000}
    assert await pod.post("response", big) == 204
    answer = await call
    assert answer.status_code == 200 and answer.json() == big
    last = await lab.broker.receipt("succeeded")
    assert last.result is None


@pytest.mark.parametrize(
    ("content", "content_type", "data"),
    [
        ("text: 가".encode(), "text/plain; charset=utf-8", {"data": "text: 가"}),
        (b"\x00\x01", "application/octet-stream", {"data_base64": "AAE="}),
        (b"", "application/json", {"data": None}),
    ],
)
async def test_a_call_may_carry_anything(lab: Lab, content: bytes, content_type: str, data: dict[str, Any]) -> None:
    answer = await lab.admin(
        "POST",
        f"{INVOKE}?wait=false",
        content=content,
        headers={"Content-Type": content_type},
    )
    assert answer.status_code == 202 and answer.json()["id"]
    got = await lab.pod().next()
    assert {name: got.get(name) for name in data} == data


async def test_a_call_with_an_event_hands_it_on_as_it_is(lab: Lab) -> None:
    made = event(subject="incident-9")
    for _ in range(2):
        answer = await lab.admin(
            "POST",
            f"{INVOKE}?wait=false",
            content=json.dumps(made),
            headers={"Content-Type": "application/cloudevents+json"},
        )
        assert answer.status_code == 202
        pod = lab.pod()
        assert await pod.next() == made
        assert await pod.post("response", {}) == 204


async def test_a_call_that_fails_says_how_and_is_not_tried_again(lab: Lab) -> None:
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={"name": "Seoul"}))
    pod = lab.pod()
    await pod.next()
    await pod.post("error", {"type": "KeyError", "message": "'x'", "traceback": "line 1"})
    answer = await call
    assert answer.status_code == 502
    assert answer.json()["type"] == "KeyError" and answer.json()["traceback"] == "line 1"
    listed = (await lab.admin("GET", "/v1/dead-letters")).json()
    assert listed["dead_letters"] == []


async def forgotten(store: Store) -> bool:
    return not await store.command("EXISTS", "koren:fn:report-incident:init-error")


async def test_a_call_of_a_function_that_does_not_start_is_told_why(lab: Lab, store: Store) -> None:
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={}))
    await lab.queued(runnable=1)
    pod = lab.pod()
    error = {"type": "ImportError", "message": "no module named x", "traceback": "…"}
    assert (await pod.call("POST", "/v1/init/error", json=error)).status_code == 204
    answer = await call
    assert answer.status_code == 502 and "no module named x" in answer.json()["error"]
    listed = (await lab.admin("GET", "/v1/functions")).json()["functions"][0]
    assert listed["active"] is False
    # Its next pod starts: what was is forgotten.
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={}))
    assert (await call).status_code == 502
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    await until(lambda: forgotten(store), "the pod that did not start is forgotten")
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={}))
    pod = lab.pod("pod-b")
    assert await pod.next()
    await pod.post("response", 1)
    assert (await call).json() == 1


async def test_a_call_without_an_answer_ends_in_time_and_leaves_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_gateway.api.calls.START_S", 0.2)
    await lab.cluster.deployment_changes.put(Change("changed", [deployment("quick", timeout_s="0.2")]))
    await lab.known("quick")
    answer = await lab.admin("POST", "/v1/functions/quick/invoke", json={})
    assert answer.status_code == 504 and "had not started" in answer.json()["error"]
    its = await lab.function("quick")
    assert its and its["active"] is False


async def test_rbac_decides_who_may_use_the_function_api(lab: Lab) -> None:
    requests = [
        ("GET", "/v1/functions"),
        ("POST", INVOKE),
        ("GET", "/v1/dead-letters"),
        ("GET", "/v1/dead-letters/x"),
        ("POST", "/v1/dead-letters/x/redrive"),
        ("DELETE", "/v1/dead-letters/x"),
        ("DELETE", "/v1/dead-letters"),
        ("GET", "/v1/functions/report-incident/log"),
        ("GET", "/v1/held"),
        ("GET", "/v1/held/x"),
        ("POST", "/v1/held/x/release"),
        ("POST", "/v1/held/x/dismiss"),
    ]
    for method, path in requests:
        assert (await lab.admin(method, path, token="")).status_code == 401
        assert (await lab.admin(method, path, token="user/nobody")).status_code == 403
        pod = await lab.admin(method, path, token="pod/report-incident/pod-a")
        assert pod.status_code == 403 and "pods have no way in" in pod.json()["error"]
    assert (await lab.admin("POST", "/v1/functions/none/invoke", json=1)).status_code == 404
    assert (await lab.admin("GET", "/v1/dead-letters/x")).status_code == 404
    assert (await lab.admin("GET", "/v1/nothing")).status_code == 404


async def test_a_call_is_not_made_when_its_caller_has_hung_up(lab: Lab) -> None:
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={"name": "who hangs up"}))
    await lab.queued(runnable=1)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    await lab.queued(runnable=0)
    stays = asyncio.create_task(lab.admin("POST", INVOKE, json={"name": "who stays"}))
    pod = lab.pod()
    assert (await pod.next())["data"] == {"name": "who stays"}
    assert await pod.post("response", 1) == 204
    assert (await stays).json() == 1


async def test_the_result_of_a_call_is_for_the_caller_alone(lab: Lab) -> None:
    call = asyncio.create_task(lab.admin("POST", INVOKE, json={}))
    pod = lab.pod()
    assert await pod.next()
    assert await pod.post("response", {"secret": 1}) == 204
    assert (await call).json() == {"secret": 1}
    assert (await lab.admin("POST", f"{INVOKE}?wait=false", json={})).status_code == 202
    assert await pod.next()
    assert await pod.post("response", {"secret": 2}) == 204
    await lab.broker.receipt("succeeded", 2)
    assert [receipt.result for receipt in lab.broker.receipts] == [None] * len(lab.broker.receipts)
    # Of an event everybody may know what became of it.
    await lab.broker.publish()
    assert await pod.next()
    assert await pod.post("response", {"posted": 1}) == 204
    assert (await lab.broker.receipt("succeeded", 3)).result == {"posted": 1}


async def test_a_call_with_an_event_that_is_to_be_held_waits_for_nobody(lab: Lab) -> None:
    call = asyncio.create_task(
        lab.admin(
            "POST",
            INVOKE,
            content=json.dumps(event(hold=True)),
            headers={"Content-Type": "application/cloudevents+json"},
        )
    )
    pod = lab.pod()
    assert (await pod.next())["hold"] is True
    assert await pod.post("response", 1) == 204
    assert (await call).json() == 1
    assert (await lab.admin("GET", "/v1/held")).json()["held"] == []


async def test_dead_letters_are_read_by_page_and_by_function(lab: Lab) -> None:
    for number in range(5):
        await lab.broker.publish(body=b"rubbish %d" % number)
    await lab.broker.publish(subject="a")
    pod = lab.pod()
    assert await pod.next()
    assert await pod.post("error", {"type": "Reject", "message": "no", "reject": True}) == 204
    await lab.broker.receipt("dead-lettered")
    found: list[dict[str, Any]] = []
    query = "limit=2"
    for _ in range(3):
        page = (await lab.admin("GET", f"/v1/dead-letters?{query}")).json()
        assert len(page["dead_letters"]) == 2
        found += page["dead_letters"]
        query = f"limit=2&after={page['next']}"
    assert page["next"] is None
    assert len({letter["id"] for letter in found}) == 6
    assert [letter["time"] for letter in found] == sorted(letter["time"] for letter in found)
    assert all(letter["bytes"] > 0 for letter in found)
    [mine] = await lab.dead_letters("report-incident")
    assert mine["function"] == "report-incident" and mine["id"] == found[-1]["id"]
    for wrong in ("limit=0", "limit=1001", "limit=x", "after=x", "after=1_", f"after=1_{'9' * 20}", "after=١_0"):
        assert (await lab.admin("GET", f"/v1/dead-letters?{wrong}")).status_code == 400, wrong
