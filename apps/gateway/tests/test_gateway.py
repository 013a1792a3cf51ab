"""A whole gateway over real sockets: broker, Redis, KEDA's protocol, pods, people."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from gateway_lab import (
    REGION,
    Mosquitto,
    Operator,
    Pki,
    Pod,
    RedisServer,
    TestCluster,
    deployment,
    event,
    settings,
    until,
)

from koren_gateway.app import Gateway
from koren_gateway.cluster.interface import Change
from koren_gateway.queue.store import Store
from koren_gateway.scaling.externalscaler import externalscaler_pb2 as pb
from koren_gateway.scaling.externalscaler import externalscaler_pb2_grpc as service
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio


@dataclass
class Lab:
    """A running gateway and who talks to it."""

    settings: Settings
    cluster: TestCluster
    gateway: Gateway
    broker: Operator
    pki: Pki

    def pod(self, name: str = "pod-a", function: str = "report-incident") -> Pod:
        return Pod(self.settings, function, name)

    async def admin(
        self, method: str, path: str, *, token: str = "user/admin", **more: Any
    ) -> httpx.Response:
        async with httpx.AsyncClient(
            base_url=f"https://localhost:{self.settings.functions_port}",
            verify=self.pki.client_context(),
            headers={"Koren-Token": token},
            timeout=30,
        ) as client:
            return await client.request(method, path, **more)

    @contextlib.asynccontextmanager
    async def keda(self, common_name: str = "keda") -> AsyncIterator[service.ExternalScalerStub]:
        certificate, key = self.pki.issue(common_name)
        credentials = grpc.ssl_channel_credentials(
            self.pki.ca.read_bytes(), key.read_bytes(), certificate.read_bytes()
        )
        address = f"localhost:{self.settings.scaler_port}"
        async with grpc.aio.secure_channel(address, credentials) as channel:
            yield stub(channel)

    async def metrics(self) -> str:
        async with httpx.AsyncClient(verify=False) as client:
            page = await client.get(f"http://127.0.0.1:{self.settings.metrics_port}/metrics")
            return page.text

    async def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(verify=False) as client:
                page = await client.get(f"http://127.0.0.1:{self.settings.metrics_port}/readyz")
                return page.status_code == 200
        return False


def stub(channel: grpc.aio.Channel) -> service.ExternalScalerStub:
    return service.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]


@contextlib.asynccontextmanager
async def running(settings: Settings, cluster: TestCluster) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings, cluster)
    task = asyncio.create_task(gateway.run())
    try:
        yield gateway
    finally:
        gateway.stop()
        await asyncio.wait_for(task, 15)


@pytest_asyncio.fixture
async def lab(
    store: Store, pki: Pki, shared_redis: RedisServer, shared_broker: Mosquitto
) -> AsyncIterator[Lab]:
    cluster = TestCluster()
    made = settings(pki, shared_redis, shared_broker.port)
    operator = await Operator.connect(pki, shared_broker.port)
    async with running(made, cluster) as gateway:
        lab = Lab(made, cluster, gateway, operator, pki)
        await wait_for_intake(lab)
        operator.receipts.clear()
        yield lab
    await operator.close()


async def wait_for_intake(lab: Lab) -> None:
    end = time.monotonic() + 10
    while not await lab.ready() or "koren_gateway_intake_connected 1.0" not in await lab.metrics():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def of(function: str = "report-incident", **metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(
        name=function, namespace="functions", scalerMetadata={"function": function, **metadata}
    )


async def test_an_event_goes_from_the_broker_to_its_function_and_the_result_comes_back(
    lab: Lab,
) -> None:
    pod = lab.pod()
    waiting = asyncio.create_task(pod.next(**{"Koren-Started-Ms": str(round(time.time() * 1000))}))
    await asyncio.sleep(0.1)
    await lab.broker.publish()
    got = await waiting
    assert got["id"] == "incident-1-detected-1" and got["data"] == {"severity": "minor"}
    assert await pod.post("entered") == 204
    assert await pod.post("heartbeat") == 204
    assert await pod.post("response", {"post": "at://1"}) == 204
    received = await lab.broker.receipt("received")
    assert set(received.phases) == {"event_time", "received", "durable"}
    assert (await lab.broker.receipt("started")).attempt == 1
    last = await lab.broker.receipt("succeeded")
    assert last.result == {"post": "at://1"} and last.function == "report-incident"
    order = ["received", "handler_entered", "handler_done"]
    assert [name for name in last.phases if name != "event_time"] == order
    assert sorted(last.phases.values()) == [last.phases[n] for n in ["event_time", *order]]
    assert await pod.post("response", {}) == 409
    page = await lab.metrics()
    assert 'koren_gateway_events_total{outcome="queued"} 1.0' in page
    assert (
        'koren_gateway_invocations_total{function="report-incident",outcome="succeeded"} 1.0'
        in page
    )
    assert (
        'koren_gateway_phase_seconds_count{function="report-incident",phase="handler_done"} 1.0'
        in page
    )
    assert 'koren_gateway_handler_seconds_count{function="report-incident"} 1.0' in page
    assert 'koren_gateway_open_incidents{function="report-incident"} 1.0' in page


async def test_a_repeat_gets_its_receipt_again_and_no_second_run(lab: Lab) -> None:
    await lab.broker.publish()
    await lab.broker.publish()
    await lab.broker.receipt("received", 2)
    pod = lab.pod()
    assert await pod.next()
    assert await pod.post("response", None) == 204
    backlog = (await lab.admin("GET", "/v1/functions")).json()["functions"][0]
    assert (backlog["runnable"], backlog["in_flight"]) == (0, 0)


async def test_keda_is_told_each_transition_once(lab: Lab) -> None:
    async with lab.keda() as keda:
        told: list[bool] = []

        async def listen() -> None:
            async for answer in keda.StreamIsActive(of()):
                told.append(answer.result)

        listening = asyncio.create_task(listen())
        await until(lambda: told == [False], "the state as the stream opens")
        await lab.broker.publish(happened="updated", sequence=1)
        await until(lambda: told == [False, True], "active")
        await lab.broker.publish(happened="updated", sequence=2)
        await lab.broker.publish(happened="updated", sequence=3, subject="incident-2")
        await lab.broker.receipt("received", 3)
        metrics = await keda.GetMetrics(
            pb.GetMetricsRequest(scaledObjectRef=of(), metricName="backlog")
        )
        assert metrics.metricValues[0].metricValueFloat == 2
        assert (await keda.IsActive(of())).result is True
        pod = lab.pod()
        for _ in range(3):
            assert await pod.next()
            assert await pod.post("response", {}) == 204
        await until(lambda: told == [False, True, False], "idle")
        metrics = await keda.GetMetrics(
            pb.GetMetricsRequest(scaledObjectRef=of(), metricName="backlog")
        )
        assert metrics.metricValues[0].metricValueFloat == 0
        lab.gateway.stop()
        # Ends cleanly, or KEDA would wait longer and longer before it comes again.
        await asyncio.wait_for(listening, 5)
    await lab.broker.receipt("succeeded", 3)
    activated = [
        r.id for r in lab.broker.receipts if r.state == "succeeded" and "activated" in r.phases
    ]
    assert activated == ["incident-1-updated-1"]


async def test_keda_gets_the_metric_and_its_target(lab: Lab) -> None:
    async with lab.keda() as keda:
        [spec] = (await keda.GetMetricSpec(of(target="2.5"))).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat) == ("backlog", 2.5)
        for wrong in ("0", "many"):
            with pytest.raises(grpc.aio.AioRpcError, match="number above 0"):
                await keda.GetMetricSpec(of(target=wrong))
        with pytest.raises(grpc.aio.AioRpcError, match="must name the function"):
            await keda.IsActive(pb.ScaledObjectRef(name="x", namespace="functions"))


async def test_only_keda_may_ask_the_scaler(lab: Lab) -> None:
    async with lab.keda("operator") as other:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await other.IsActive(of())
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    credentials = grpc.ssl_channel_credentials(lab.pki.ca.read_bytes())
    address = f"localhost:{lab.settings.scaler_port}"
    async with grpc.aio.secure_channel(address, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(channel).IsActive(of(), timeout=5)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_failing_handler_is_tried_again_and_then_dead_lettered(lab: Lab) -> None:
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
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    assert await waiting
    assert time.monotonic() - began < 1 and second.attempt == "2"
    assert await first.post("response", {}) == 409
    assert await second.post("response", {}) == 204


async def test_a_restarted_process_gets_the_event_it_lost(lab: Lab) -> None:
    await lab.broker.publish()
    pod = lab.pod()
    assert await pod.next() and pod.attempt == "1"
    assert await pod.next() and pod.attempt == "2"


async def test_a_poll_whose_pod_went_away_takes_nothing(lab: Lab) -> None:
    gone = asyncio.create_task(lab.pod("pod-a").next())
    await asyncio.sleep(0.2)
    gone.cancel()
    await asyncio.sleep(0.2)
    await lab.broker.publish()
    pod = lab.pod("pod-b")
    assert await pod.next()
    assert pod.attempt == "1"


async def test_what_is_no_event_is_a_dead_letter_and_acknowledged(lab: Lab) -> None:
    await lab.broker.publish(body=b"not JSON at all")
    await lab.broker.publish(region="busan")
    dead = await lab.broker.receipt("dead-lettered")
    assert "wrong region" in (dead.error or "")
    letters = (await lab.admin("GET", "/v1/dead-letters")).json()["dead_letters"]
    assert {letter["reason"][:8] for letter in letters} == {"not JSON", "wrong re"}
    for letter in letters:
        shown = (await lab.admin("GET", f"/v1/dead-letters/{letter['id']}")).json()
        assert "message" in shown or "message_base64" in shown
        answer = await lab.admin("POST", f"/v1/dead-letters/{letter['id']}/redrive")
        assert answer.status_code == 409
    assert (await lab.admin("DELETE", f"/v1/dead-letters/{letters[0]['id']}")).status_code == 200
    assert (await lab.admin("DELETE", "/v1/dead-letters")).json() == {"deleted": 1}


async def test_an_event_that_no_function_wants_says_so(lab: Lab) -> None:
    await lab.broker.publish(topic=f"events/{REGION}/cctv-seoul-01/speed")
    await lab.broker.receipt("no-function")


async def test_a_function_that_is_deployed_later_gets_what_comes_then(lab: Lab) -> None:
    later = deployment("count-cars", topic=f"events/{REGION}/+/speed")
    await lab.cluster.deployment_changes.put(Change("changed", [later]))
    pod = lab.pod(function="count-cars")
    await asyncio.sleep(0.1)
    await lab.broker.publish(topic=f"events/{REGION}/cctv-seoul-01/speed")
    assert await pod.next()
    await lab.cluster.deployment_changes.put(Change("removed", [later]))
    await asyncio.sleep(0.1)
    assert (await pod.call("GET", "/v1/invocation/next")).status_code == 403


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


async def test_a_call_waits_for_its_answer(lab: Lab) -> None:
    call = asyncio.create_task(
        lab.admin("POST", "/v1/functions/report-incident/invoke", json={"name": "Seoul"})
    )
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
async def test_a_call_may_carry_anything(
    lab: Lab, content: bytes, content_type: str, data: dict[str, Any]
) -> None:
    answer = await lab.admin(
        "POST",
        "/v1/functions/report-incident/invoke?wait=false",
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
            "/v1/functions/report-incident/invoke?wait=false",
            content=json.dumps(made),
            headers={"Content-Type": "application/cloudevents+json"},
        )
        assert answer.status_code == 202
        pod = lab.pod()
        assert await pod.next() == made
        assert await pod.post("response", {}) == 204


async def test_a_call_that_fails_says_how_and_is_not_tried_again(lab: Lab) -> None:
    call = asyncio.create_task(
        lab.admin("POST", "/v1/functions/report-incident/invoke", json={"name": "Seoul"})
    )
    pod = lab.pod()
    await pod.next()
    await pod.post("error", {"type": "KeyError", "message": "'x'", "traceback": "line 1"})
    answer = await call
    assert answer.status_code == 502
    assert answer.json()["type"] == "KeyError" and answer.json()["traceback"] == "line 1"
    listed = (await lab.admin("GET", "/v1/dead-letters")).json()
    assert listed["dead_letters"] == []


async def test_a_call_of_a_function_that_does_not_start_is_told_why(lab: Lab) -> None:
    call = asyncio.create_task(lab.admin("POST", "/v1/functions/report-incident/invoke", json={}))
    await asyncio.sleep(0.2)
    pod = lab.pod()
    error = {"type": "ImportError", "message": "no module named x", "traceback": "…"}
    assert (await pod.call("POST", "/v1/init/error", json=error)).status_code == 204
    answer = await call
    assert answer.status_code == 502 and "no module named x" in answer.json()["error"]
    listed = (await lab.admin("GET", "/v1/functions")).json()["functions"][0]
    assert listed["active"] is False
    # Its next pod starts: what was is forgotten.
    call = asyncio.create_task(lab.admin("POST", "/v1/functions/report-incident/invoke", json={}))
    assert (await call).status_code == 502
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-a"}}]))
    await asyncio.sleep(0.1)
    call = asyncio.create_task(lab.admin("POST", "/v1/functions/report-incident/invoke", json={}))
    pod = lab.pod("pod-b")
    assert await pod.next()
    await pod.post("response", 1)
    assert (await call).json() == 1


async def test_a_call_without_an_answer_ends_in_time_and_leaves_nothing(
    store: Store,
    pki: Pki,
    shared_redis: RedisServer,
    shared_broker: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("koren_gateway.api.functions._START_S", 0.2)
    quick = deployment("quick", timeout_s="0.2")
    made = settings(pki, shared_redis, shared_broker.port)
    cluster = TestCluster(functions=[quick])
    operator = await Operator.connect(pki, shared_broker.port)
    async with running(made, cluster) as gateway:
        lab = Lab(made, cluster, gateway, operator, pki)
        await wait_for_intake(lab)
        answer = await lab.admin("POST", "/v1/functions/quick/invoke", json={})
        assert answer.status_code == 504 and "had not started" in answer.json()["error"]
        listed = (await lab.admin("GET", "/v1/functions")).json()["functions"][0]
        assert listed["active"] is False
    await operator.close()


async def test_rbac_decides_who_may_use_the_function_api(lab: Lab) -> None:
    requests = [
        ("GET", "/v1/functions"),
        ("POST", "/v1/functions/report-incident/invoke"),
        ("GET", "/v1/dead-letters"),
        ("GET", "/v1/dead-letters/x"),
        ("POST", "/v1/dead-letters/x/redrive"),
        ("DELETE", "/v1/dead-letters/x"),
        ("DELETE", "/v1/dead-letters"),
    ]
    for method, path in requests:
        assert (await lab.admin(method, path, token="")).status_code == 401
        assert (await lab.admin(method, path, token="user/nobody")).status_code == 403
        pod = await lab.admin(method, path, token="pod/report-incident/pod-a")
        assert pod.status_code == 403 and "pods have no way in" in pod.json()["error"]
    assert (await lab.admin("POST", "/v1/functions/none/invoke", json=1)).status_code == 404
    assert (await lab.admin("GET", "/v1/dead-letters/x")).status_code == 404
    assert (await lab.admin("GET", "/v1/nothing")).status_code == 404


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
    await asyncio.sleep(0.1)
    foreign = lab.pod(function="another")
    assert (await foreign.call("GET", "/v1/state/posts/incident-1")).status_code == 404
    assert (await put(b"x" * 65537)).status_code == 413
    assert (await put(b"soon gone", **{"Koren-Expires-S": "1"})).status_code == 204
    await asyncio.sleep(1.1)
    assert (await pod.call("GET", "/v1/state/posts/incident-1")).status_code == 404
    assert (await put(b"x", **{"If-Match": second.headers["ETag"]})).status_code == 412


async def test_one_of_two_replicas_takes_in_and_the_other_takes_over(
    store: Store, pki: Pki, shared_redis: RedisServer, shared_broker: Mosquitto
) -> None:
    cluster = TestCluster()
    first = settings(pki, shared_redis, shared_broker.port, pod="gateway-0")
    second = settings(pki, shared_redis, shared_broker.port, pod="gateway-1")
    operator = await Operator.connect(pki, shared_broker.port)
    async with running(second, cluster) as two:
        lab_two = Lab(second, cluster, two, operator, pki)
        async with running(first, cluster) as one:
            lab_one = Lab(first, cluster, one, operator, pki)
            await until(lambda: cluster.lease.holder is not None, "a lease")
            leader, follower = lab_one, lab_two
            if cluster.lease.holder == "gateway-1":
                leader, follower = lab_two, lab_one
            await wait_for_intake(leader)
            assert "intake_connected 0.0" in await follower.metrics()
            # The one takes in, KEDA and the pod are at the other.
            async with follower.keda() as keda:
                stream = keda.StreamIsActive(of())
                assert (await stream.read()).result is False
                await operator.publish()
                assert (await stream.read()).result is True
                pod = follower.pod()
                assert await pod.next()
                assert await pod.post("response", {"by": "follower"}) == 204
            last = await operator.receipt("succeeded")
            assert last.result == {"by": "follower"} and "activated" in last.phases
            leader.gateway.stop()
            await wait_for_intake(follower)
            await operator.publish(subject="incident-2")
            await until(
                lambda: any(r.subject == "incident-2" for r in operator.receipts), "taken over"
            )
    await operator.close()


async def test_it_starts_with_nothing_there_and_goes_on_through_every_outage(
    pki: Pki, tmp_path: Path
) -> None:
    redis = RedisServer(tmp_path / "redis")
    broker = Mosquitto(tmp_path / "mosquitto", pki)
    cluster = TestCluster(there=False)
    made = settings(pki, redis, broker.port)
    try:
        async with running(made, cluster) as gateway:
            await asyncio.sleep(0.5)
            redis.start()
            broker.start()
            operator = await Operator.connect(pki, broker.port)
            lab = Lab(made, cluster, gateway, operator, pki)
            await asyncio.sleep(0.5)
            assert not await lab.ready()
            assert operator.health == []
            cluster.there = True
            await wait_for_intake(lab)
            await operator.publish(subject="before")
            await operator.receipt("received")

            redis.kill()
            await operator.publish(subject="while-down")
            await until(lambda: operator.health[-1]["state"] == "down", "paused")
            assert not await lab.ready()
            redis.start()
            await operator.receipt("received", 2)
            assert operator.health[-1]["state"] == "up"

            await operator.close()
            broker.stop()
            await asyncio.sleep(0.5)
            broker.start()
            operator = lab.broker = await Operator.connect(pki, broker.port)
            await wait_for_intake(lab)
            cluster.there = False
            await operator.publish(subject="after")
            await operator.receipt("received")
            cluster.there = True
            pod = lab.pod()
            subjects = set()
            for _ in range(3):
                subjects.add((await pod.next())["subject"])
                assert await pod.post("response", {}) == 204
            assert subjects == {"before", "while-down", "after"}
            await operator.close()
    finally:
        broker.stop()
        redis.stop()


async def test_a_full_redis_pauses_the_intake_and_draining_it_resumes(
    pki: Pki, tmp_path: Path
) -> None:
    redis = RedisServer(tmp_path / "redis", maxmemory="12mb")
    broker = Mosquitto(tmp_path / "mosquitto", pki)
    redis.start()
    broker.start()
    # Each within its own budget; together they are more than Redis holds.
    names = [f"camera-{number}" for number in range(4)]
    cluster = TestCluster(
        functions=[deployment(name, topic=f"events/{REGION}/{name}/accident") for name in names]
    )
    made = settings(pki, redis, broker.port, batch_bytes=1)
    try:
        async with running(made, cluster) as gateway:
            operator = await Operator.connect(pki, broker.port)
            lab = Lab(made, cluster, gateway, operator, pki)
            await wait_for_intake(lab)
            count = 32
            for number in range(count):
                await operator.publish(
                    topic=f"events/{REGION}/{names[number % 4]}/accident",
                    subject=f"s{number}",
                    data={"image": "x" * 400_000},
                )
            await until(lambda: operator.health[-1]["state"] == "down", "paused", 30)
            while "koren_gateway_intake_paused 1.0" not in await lab.metrics():
                await asyncio.sleep(0.05)
            assert 0 < len(operator.receipts) < count
            for number in range(count):
                pod = lab.pod(f"pod-{number}", names[number % 4])
                assert await pod.next()
                assert await pod.post("response", {}) == 204
            await operator.receipt("succeeded", count)
            subjects = {r.subject for r in operator.receipts if r.state == "succeeded"}
            assert len(subjects) == count
            await operator.close()
    finally:
        broker.stop()
        redis.stop()
