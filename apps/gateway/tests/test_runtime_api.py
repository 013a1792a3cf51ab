"""What function pods see: events with leases, attempts that count, state, and how a pod's end is told."""

import asyncio
import base64
import datetime
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateway_lab import REPORTER, Lab, Mosquitto, Pki, Pod, deployment, scaled, started, until

from koren_gateway.cluster import reviews
from koren_gateway.cluster.interface import Change
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def quick(lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto) -> AsyncIterator[Lab]:
    """A gateway that tries again soon, and hands an event out six times at most."""
    made = lab_settings.model_copy(update={"retry_base_s": 0.05, "max_deliveries": 6})
    async with started(made, pki) as lab:
        yield lab


async def test_a_failing_handler_is_tried_again_and_then_dead_lettered(quick: Lab) -> None:
    lab = quick
    await lab.broker.publish()
    pod = lab.pod()
    for attempt in ("1", "2", "3"):
        assert await pod.next()
        assert pod.attempt == attempt
        assert await pod.post("entered") == 204
        error = {"type": "ValueError", "message": "no caption", "traceback": "…"}
        assert await pod.post("error", error) == 204
    failed = await lab.broker.receipt("failed", 2)
    assert failed.error == "ValueError: no caption" and failed.attempt == 2
    dead = await lab.broker.receipt("dead-lettered")
    assert dead.attempt == 3
    listed = (await lab.admin("GET", "/v1/dead-letters?function=report-incident")).json()
    [letter] = listed["dead_letters"]
    assert letter["reason"] == "ValueError: no caption" and letter["attempts"] == 3
    shown = (await lab.admin("GET", f"/v1/dead-letters/{letter['id']}")).json()
    assert shown["message"]["subject"] == "incident-1"
    assert (await lab.admin("POST", f"/v1/dead-letters/{letter['id']}/redrive")).status_code == 202
    assert (await lab.admin("POST", f"/v1/dead-letters/{letter['id']}/redrive")).status_code == 404
    assert (await pod.next())["id"] == "incident-1-detected-1"
    assert await pod.post("response", {}) == 204


async def test_a_lost_pod_gives_its_event_to_another_at_once(lab: Lab) -> None:
    await lab.broker.publish()
    first, second = lab.pod("pod-a"), lab.pod("pod-b")
    assert await first.next()
    waiting = asyncio.create_task(second.next())
    await lab.polling()
    began = time.monotonic()
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    assert await waiting
    assert time.monotonic() - began < 1 and second.attempt == "2"
    assert await first.post("response", {}) == 409
    assert await second.post("response", {}) == 204


async def test_a_lost_pod_gives_up_the_events_of_all_its_slots_and_no_other_does(lab: Lab) -> None:
    first, other = lab.pod("pod-a"), lab.pod("pod-b")
    subjects = set()
    for slot in range(3):
        await lab.broker.publish(subject=f"incident-{slot}")
        subjects.add((await first.next(**{"Koren-Slot": str(slot)}))["subject"])
    await lab.broker.publish(subject="another")
    assert (await other.next())["subject"] == "another"
    assert subjects == {"incident-0", "incident-1", "incident-2"}
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    second = lab.pod("pod-c")
    for slot in range(3):
        event = await second.next(**{"Koren-Slot": str(slot)})
        subjects.remove(event["subject"])
        assert second.attempt == "2"
    assert await other.post("response", {}) == 204
    assert await first.post("response", {}) == 409


async def test_a_slot_gives_back_its_own_event_alone(lab: Lab) -> None:
    pods = [lab.pod("pod-a") for _ in range(2)]
    for slot, pod in enumerate(pods):
        await lab.broker.publish(subject=f"incident-{slot}")
        assert await pod.next(**{"Koren-Slot": str(slot)})
    first, second = pods
    assert await second.next(**{"Koren-Slot": "1"}) and second.attempt == "2"
    assert await first.post("response", {}) == 204
    assert await second.post("response", {}) == 204
    refused = await first.call("GET", "/v1/invocation/next", headers={"Koren-Slot": "32"})
    assert refused.status_code == 400
    assert refused.json()["error"] == "header Koren-Slot is 32; give a number from 0 to 31"


async def test_a_gateway_that_starts_again_leaves_each_slot_its_event(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto
) -> None:
    pods = []
    async with started(lab_settings, pki) as lab:
        for slot in range(3):
            await lab.broker.publish(subject=f"incident-{slot}")
            pods.append(lab.pod("pod-a"))
            assert await pods[-1].next(**{"Koren-Slot": str(slot)})
    async with started(lab_settings, pki) as lab:
        await lab.cluster.pod_changes.put(Change("listed", [{"metadata": {"name": "pod-a"}}]))
        assert await lab.pod("pod-b").next_now() is None
        for pod in pods:
            assert pod.attempt == "1" and await pod.post("heartbeat") == 204
            assert await pod.post("response", {}) == 204
        await lab.broker.receipt("succeeded", 3)


async def test_a_restarted_process_gets_the_event_it_lost(lab: Lab) -> None:
    await lab.broker.publish()
    pod = lab.pod()
    assert await pod.next() and pod.attempt == "1"
    assert await pod.next() and pod.attempt == "2"


async def test_a_poll_whose_pod_went_away_takes_nothing(lab: Lab) -> None:
    gone = asyncio.create_task(lab.pod("pod-a").next())
    await lab.polling()
    gone.cancel()
    await lab.polling(pods=0)
    await lab.broker.publish()
    pod = lab.pod("pod-b")
    assert await pod.next()
    assert pod.attempt == "1"


async def test_who_may_use_the_runtime_api(lab: Lab) -> None:
    async with httpx.AsyncClient(verify=False) as client:
        url = f"http://127.0.0.1:{lab.settings.runtime_port}/v1/invocation/next"
        assert (await client.get(url)).status_code == 401
        for token, status in (
            ("nonsense", 401),
            ("user/admin", 403),
            ("pod/another/pod-a", 403),
        ):
            answer = await client.get(url, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status and answer.json()["error"]


async def test_a_token_is_reviewed_once_for_all_calls_of_a_minute(lab: Lab) -> None:
    pod = lab.pod()
    await asyncio.gather(*(pod.call("GET", "/v1/state/a") for _ in range(5)))
    await pod.call("GET", "/v1/state/a")
    assert lab.cluster.reviews == 1


async def test_state_is_kept_compared_and_set_and_expires(lab: Lab) -> None:
    pod = lab.pod()

    async def put(value: bytes, **headers: str) -> httpx.Response:
        return await pod.call("PUT", "/v1/state/posts/incident-1", content=value, headers=headers)

    assert (await pod.call("GET", "/v1/state/posts/incident-1")).status_code == 404
    first = await put(b"\x00one", **{"If-None-Match": "*"})
    assert first.status_code == 204
    assert (await put(b"two", **{"If-None-Match": "*"})).status_code == 412
    got = await pod.call("GET", "/v1/state/posts/incident-1")
    assert got.content == b"\x00one" and got.headers["ETag"] == first.headers["ETag"]
    second = await put(b"two", **{"If-Match": first.headers["ETag"]})
    assert second.status_code == 204
    assert (await put(b"three", **{"If-Match": first.headers["ETag"]})).status_code == 412
    other = deployment("another")
    await lab.cluster.deployment_changes.put(Change("changed", [other]))
    await lab.known("another")
    foreign = lab.pod(function="another")
    assert (await foreign.call("GET", "/v1/state/posts/incident-1")).status_code == 404
    assert (await put(b"x" * 65537)).status_code == 413
    assert (await put(b"soon gone", **{"Koren-Expires-S": "1"})).status_code == 204

    async def gone() -> bool:
        return (await pod.call("GET", "/v1/state/posts/incident-1")).status_code == 404

    await until(gone, "it expires")
    assert (await put(b"x", **{"If-Match": second.headers["ETag"]})).status_code == 412


async def test_the_lease_is_told_with_the_event_and_with_each_heartbeat(lab: Lab) -> None:
    await lab.broker.publish()
    pod = lab.pod()
    assert await pod.next()
    for what in ("entered", "heartbeat"):
        answer = await pod.say(what)
        assert (answer.status_code, answer.headers["Koren-Lease-Ms"]) == (204, "10000")


async def test_an_answer_that_was_lost_is_no_attempt(quick: Lab) -> None:
    await quick.broker.publish()
    pod = quick.pod()
    for delivery in range(1, 6):  # more than the function's 3 attempts
        assert await pod.next()
        assert pod.attempt == str(delivery)
    assert await pod.post("entered") == 204
    assert (await quick.broker.receipt("started")).attempt == 1
    assert await pod.post("entered") == 204  # its answer was lost
    assert await pod.post("response", {}) == 204
    assert (await quick.broker.receipt("succeeded")).attempt == 1
    assert quick.broker.states("incident-1").count("started") == 1


async def test_an_event_that_nobody_enters_is_not_handed_out_for_ever(quick: Lab) -> None:
    await quick.broker.publish(subject="a", sequence=1)
    await quick.broker.publish(subject="a", sequence=2, happened="updated")
    pod = quick.pod()
    for _ in range(6):
        assert (await pod.next())["sequence"] == 1
    assert (await pod.next())["sequence"] == 2
    dead = await quick.broker.receipt("dead-lettered", subject="a")
    assert "asked for another event" in (dead.error or "")
    # No handler was entered, so that there was no attempt.
    assert {receipt.attempt for receipt in quick.broker.receipts if receipt.state == "failed"} == {None}
    assert dead.attempt is None
    [letter] = await quick.dead_letters()
    assert letter["attempts"] == 0


async def test_an_error_of_a_handler_that_was_never_said_to_be_entered_counts(quick: Lab) -> None:
    await quick.broker.publish()
    pod = quick.pod()
    for _ in range(3):
        assert await pod.next()
        assert await pod.post("error", {"type": "ValueError", "message": "no"}) == 204
    assert (await quick.broker.receipt("dead-lettered")).attempt == 3


async def test_a_handler_declines_retries_or_says_when(lab: Lab) -> None:
    await lab.broker.publish(subject="wrong")
    pod = lab.pod()
    assert await pod.next()
    assert await pod.post("error", {"type": "Reject", "message": "no camera 7", "reject": True}) == 204
    dead = await lab.broker.receipt("dead-lettered", subject="wrong")
    assert dead.error == "Reject: no camera 7" and dead.attempt == 1
    await lab.broker.publish(subject="later")
    assert await pod.next()
    began = time.monotonic()
    later = {"type": "RetryAfter", "message": "limit", "retry_after_s": 0.3}
    assert await pod.post("error", later) == 204
    assert (await pod.next())["subject"] == "later"
    assert time.monotonic() - began >= 0.3
    for wrong in (-1, "soon", True, float("nan")):
        answer = await pod.call(
            "POST",
            f"/v1/invocation/{pod.key}/error",
            content=json.dumps(later | {"retry_after_s": wrong}),
            headers={"Koren-Attempt": pod.attempt},
        )
        assert answer.status_code == 400, wrong
    assert await pod.post("response", {}) == 204


async def test_a_result_that_is_no_json_is_refused_and_the_lease_goes_on(lab: Lab) -> None:
    await lab.broker.publish()
    pod = lab.pod()
    assert await pod.next()
    for body in (b"{", b"NaN", b'{"speed": 1e999}'):
        answer = await pod.call(
            "POST",
            f"/v1/invocation/{pod.key}/response",
            content=body,
            headers={"Koren-Attempt": pod.attempt},
        )
        assert answer.status_code == 400 and "not JSON" in answer.json()["error"]
    assert await pod.post("response", {"speed": 1}) == 204
    assert (await lab.broker.receipt("succeeded")).result == {"speed": 1}


async def test_a_pod_that_lies_about_its_start_still_has_its_event_answered(lab: Lab) -> None:
    await lab.broker.publish()
    pod = lab.pod()
    assert await pod.next(**{"Koren-Started-Ms": "9" * 15})
    assert await pod.post("response", {}) == 204
    await lab.broker.receipt("succeeded")


async def test_tokens_that_nobody_could_have_are_refused(lab: Lab) -> None:
    url = f"http://127.0.0.1:{lab.settings.runtime_port}/v1/invocation/next"
    async with httpx.AsyncClient(verify=False) as client:
        for header in (b"Bearer \xff\xfe", b"Bearer", b"Basic eDp5", "Bearer 가".encode()):
            assert (await client.get(url, headers=[(b"Authorization", header)])).status_code == 401


async def test_a_late_write_of_state_is_refused(lab: Lab) -> None:
    await lab.broker.publish()
    first, second = lab.pod("pod-a"), lab.pod("pod-b")
    assert await first.next()

    async def put(pod: Pod, value: bytes) -> int:
        headers = {"Koren-Invocation-Id": pod.key, "Koren-Attempt": pod.attempt}
        return (await pod.call("PUT", "/v1/state/post", content=value, headers=headers)).status_code

    assert await put(first, b"1") == 204
    waiting = asyncio.create_task(second.next())
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    assert await waiting
    assert await put(first, b"late") == 409
    assert await put(second, b"2") == 204
    assert (await second.call("GET", "/v1/state/post")).content == b"2"


async def test_state_may_be_kept_for_as_long_as_a_header_can_say(lab: Lab, store: Store) -> None:
    pod = lab.pod()
    answer = await pod.call("PUT", "/v1/state/a", content=b"1", headers={"Koren-Expires-S": "9" * 15})
    assert answer.status_code == 204
    assert (await pod.call("GET", "/v1/state/a")).content == b"1"
    assert await store.command("ZSCORE", "koren:fn:report-incident:states", "a") is not None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            {"phase": "Failed", "reason": "Evicted", "message": "node was low on ephemeral-storage"},
            "Evicted: pod pod-a was evicted: node was low on ephemeral-storage",
        ),
        (
            {"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]},
            "OutOfMemory: out of memory, limit 64Mi",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {}}, "lastState": {"terminated": {"reason": "OOMKilled"}}}]},
            "OutOfMemory: out of memory, limit 64Mi",
        ),
    ],
)
async def test_what_ended_a_pod_is_told(quick: Lab, status: dict[str, Any], error: str) -> None:
    await quick.broker.publish()
    pod = quick.pod()
    assert await pod.next()
    assert await pod.post("entered") == 204
    limits = {"containers": [{"resources": {"limits": {"memory": "64Mi"}}}]}
    item = {"metadata": {"name": "pod-a"}, "spec": limits, "status": status}
    odd: list[Any] = ["?", {"phase": "Failed", "containerStatuses": ["?"]}, {"containerStatuses": 7}]
    pods = [{"metadata": {"name": f"odd-{number}"}, "status": one} for number, one in enumerate(odd)]
    await quick.cluster.pod_changes.put(Change("changed", [*pods, item]))
    assert (await quick.broker.receipt("failed")).error == error
    if status.get("phase") == "Failed":
        await until(lambda: "pod-a" in quick.cluster.deleted_pods, "the failed pod is removed")
    assert await quick.pod("pod-b").next()
    assert await quick.metric("faults_total", part="pods") is None


async def test_a_container_that_was_replaced_at_once_says_why_its_event_comes_again(lab: Lab) -> None:
    def replaced(at_s: float) -> Change:
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        last = {"terminated": {"reason": "OOMKilled", "finishedAt": at}}
        status = {"containerStatuses": [{"state": {"running": {}}, "lastState": last}]}
        limits = {"containers": [{"resources": {"limits": {"memory": "64Mi"}}}]}
        return Change("changed", [{"metadata": {"name": "pod-a"}, "spec": limits, "status": status}])

    await lab.broker.publish(subject="a")
    pod = lab.pod()
    assert await pod.next()
    ends = lab.gateway._leases._ends
    for at_s, error in (
        (time.time() - 60, "Abandoned: pod pod-a asked for another event"),  # of the event before
        (time.time() + 1, "OutOfMemory: out of memory, limit 64Mi"),
    ):
        before = ends.get("pod-a")
        await lab.cluster.pod_changes.put(replaced(at_s))
        await until(lambda before=before: ends.get("pod-a") != before, "its end is known")
        lab.broker.receipts.clear()
        assert (await pod.next())["subject"] == "a"
        assert (await lab.broker.receipt("failed")).error == error


async def test_the_end_of_a_container_that_is_told_late_takes_nothing_from_its_successor(lab: Lab) -> None:
    def ended(at_s: float) -> Change:
        at = datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = {"terminated": {"reason": "OOMKilled", "finishedAt": at}}
        return Change("changed", [{"metadata": {"name": "pod-a"}, "status": {"containerStatuses": [{"state": state}]}}])

    await lab.broker.publish(subject="a")
    await lab.broker.publish(subject="b")
    pod, other = lab.pod("pod-a"), lab.pod("pod-b")
    assert (await pod.next())["subject"] == "a"
    assert (await other.next())["subject"] == "b"
    await lab.cluster.pod_changes.put(ended(time.time() - 5))
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-b"}}]))
    await lab.broker.receipt("failed", subject="b")
    assert await pod.post("heartbeat") == 204
    await lab.cluster.pod_changes.put(ended(time.time() + 2))
    await lab.broker.receipt("failed", subject="a")
    assert await pod.post("heartbeat") == 409


def token(pod: str, expires_at: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at}).encode()).decode().rstrip("=")
    return f"pod/report-incident/{pod}.{claims}.signature"


async def test_a_reviewed_token_stays_good_without_an_api_server_until_it_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "KEPT_S", 0.0)
    monkeypatch.setattr(reviews, "REFUSAL_KEPT_S", 0.0)
    ends_at = time.time() + 3
    good, ending = (
        lab.pod("pod-a", token=token("pod-a", ends_at + 600)),
        lab.pod("pod-b", token=token("pod-b", ends_at)),
    )
    for number, pod in enumerate((good, ending)):
        await lab.broker.publish(subject=f"s{number}")
        assert await pod.next()
    lab.cluster.there = False
    assert (await good.post("heartbeat"), await ending.post("heartbeat")) == (204, 204)
    unknown = lab.pod("pod-c")
    unknown.key, unknown.attempt = good.key, good.attempt
    assert await unknown.post("heartbeat") == 503  # never reviewed

    async def refused() -> bool:
        return await ending.post("heartbeat") == 503

    await until(refused, "the token has ended")
    assert time.time() >= ends_at
    assert await good.post("response", {}) == 204
    lab.cluster.there = True
    assert await ending.post("response", {}) == 204
    await lab.broker.receipt("succeeded", 2)


async def test_what_pods_wrote_is_kept_within_a_limit_and_read_by_who_may(lab: Lab, store: Store) -> None:
    pod = lab.pod()
    for number in range(6):
        text = f"{number}\n" + "가" * 20_000
        assert (await pod.call("POST", "/v1/log", json={"text": text})).status_code == 204
    assert (await pod.call("POST", "/v1/log", json=["?"])).status_code == 400
    path = "/v1/functions/report-incident/log"
    assert (await lab.admin("GET", path, token="user/reader")).status_code == 403
    lab.cluster.rights.add(("reader", "logs", "functions"))
    kept = (await lab.admin("GET", path, token="user/reader")).json()["log"]
    assert [entry["text"][0] for entry in kept] == ["2", "3", "4", "5"]
    assert {entry["pod"] for entry in kept} == {"pod-a"}


async def test_a_key_of_a_wrong_type_in_redis_stops_no_other_function(lab: Lab, store: Store) -> None:
    other = deployment("other", topic=REPORTER["metadata"]["annotations"]["faas.koren.kr/topic"])
    await lab.cluster.deployment_changes.put(Change("changed", [other]))
    await lab.known("other")
    for part in ("ready", "leased", "queue:s/a", "incidents"):
        await store.command("SET", f"koren:fn:other:{part}", "broken")
    await lab.broker.publish(subject="a")
    for function in ("report-incident", "other"):
        pod = lab.pod(f"pod-{function}", function)
        assert (await pod.next())["subject"] == "a"
        assert await pod.post("response", {}) == 204
    assert (await lab.metric("dropped", what="broken") or 0) >= 1
    async with lab.keda() as keda:
        assert (await keda.IsActive(scaled("other"))).result is False


async def test_starts_crashes_and_times_from_zero_are_told_by_function(lab: Lab) -> None:
    # What begins with its first event has no increase then.
    for labels in ({"phase": "handler_entered", "start": "zero"}, {"phase": "handler_done", "start": "warm"}):
        assert await lab.metric("phase_seconds_count", function="report-incident", **labels) == 0
    assert await lab.metric("invocations_total", function="report-incident", outcome="failed") == 0
    pod = lab.pod()
    await lab.broker.publish(subject="cold")
    await lab.broker.receipt("received")
    now_ms = str(round(time.time() * 1000))
    assert await pod.next(**{"Koren-Started-Ms": now_ms, "Koren-Cold-Start": "1"})
    await pod.post("entered")
    await pod.post("response", {})
    await lab.broker.publish(subject="warm")
    assert await pod.next(**{"Koren-Started-Ms": now_ms})
    await pod.post("entered")
    await pod.post("error", {"type": "WorkerEnded", "message": "signal 11", "reject": True})
    await pod.call("POST", "/v1/init/error", json={"type": "ImportError", "message": "no"})
    function = {"function": "report-incident"}
    for start in ("zero", "warm"):
        assert await lab.metric("phase_seconds_count", **function, phase="handler_entered", start=start) == 1
    assert await lab.metric("phase_seconds_count", **function, phase="pod_started", start="zero") == 1
    assert await lab.metric("starts_total", **function) == 1
    assert await lab.metric("crashes_total", **function, reason="WorkerEnded") == 1
    assert await lab.metric("crashes_total", **function, reason="InitError") == 1
    assert await lab.metric("handler_seconds_count", **function) == 2


async def test_a_pod_is_told_the_events_id_before_it_reads_the_event(lab: Lab) -> None:
    await lab.broker.publish(id="사고 1")
    answer = await lab.pod().call("GET", "/v1/invocation/next")
    assert answer.headers["Koren-Event-Id"] == "%EC%82%AC%EA%B3%A0%201"
