"""Events that a function is given several at a time."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from gateway_lab import Lab, Mosquitto, Pki, Pod, deployment, scaled, started, until

from koren_gateway.cluster.functions import function_of
from koren_gateway.cluster.interface import Change
from koren_gateway.queue.queue import event_key
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def lab(lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto) -> AsyncIterator[Lab]:
    """A gateway that tries again soon."""
    made = lab_settings.model_copy(update={"retry_base_s": 0.05})
    async with started(made, pki) as lab:
        yield lab


async def batched(lab: Lab, size: int, window_s: int = 0, **more: str) -> Pod:
    """A pod of a function that has batches and takes accidents."""
    made = deployment(
        "collect", topic="events/+/+/accident", batch_size=str(size), batch_window_s=str(window_s), **more
    )
    await lab.cluster.deployment_changes.put(Change("changed", [made]))
    await lab.known("collect")
    return lab.pod("pod-c", "collect")


async def published(lab: Lab, count: int, first: int = 0, **counts: int) -> None:
    for number in range(first, first + count):
        await lab.broker.publish(subject=f"incident-{number}")
    await lab.queued("collect", **(counts or {"runnable": count}))


def subjects(batch: Any) -> list[str]:
    assert batch["type"] == "kr.koren.batch" and batch["source"] == "/functions/collect"
    assert batch["datacontenttype"] == "application/cloudevents-batch+json"
    return [event["subject"] for event in batch["data"]]


async def receipts(lab: Lab, state: str, count: int) -> Counter[str]:
    def found() -> list[Any]:
        return [one for one in lab.broker.receipts if one.state == state and one.function == "collect"]

    await until(lambda: len(found()) >= count, lambda: f"{count} {state} among {lab.broker.receipts}")
    return Counter(one.subject for one in found())


async def test_what_is_due_is_handed_out_together_and_ends_together(lab: Lab) -> None:
    pod = await batched(lab, 3)
    await published(lab, 5)
    assert subjects(await pod.next()) == ["incident-0", "incident-1", "incident-2"]
    assert await pod.post("entered") == 204
    assert await pod.post("heartbeat") == 204
    assert await pod.post("response", {"rows": 3}) == 204
    assert await pod.post("response", {"rows": 3}) == 409
    assert await receipts(lab, "succeeded", 3) == {f"incident-{number}": 1 for number in range(3)}
    assert await receipts(lab, "started", 3) == {f"incident-{number}": 1 for number in range(3)}
    assert subjects(await pod.next()) == ["incident-3", "incident-4"]


async def test_a_full_batch_does_not_wait_for_its_window_and_another_does(lab: Lab) -> None:
    pod = await batched(lab, 3, window_s=2)
    await published(lab, 3)
    began = time.monotonic()
    assert len(subjects(await pod.next())) == 3
    assert time.monotonic() - began < 1
    await pod.post("response", None)
    began = time.monotonic()
    await lab.broker.publish(subject="late")
    assert subjects(await pod.next()) == ["late"]
    assert 1.5 < time.monotonic() - began < 4


async def test_no_pod_runs_while_events_wait_for_a_full_batch(lab: Lab) -> None:
    pod = await batched(lab, 3, window_s=300)
    async with lab.keda() as keda:
        told = keda.StreamIsActive(scaled("collect"))
        assert not (await told.read()).result
        await published(lab, 2, runnable=0, waiting=2)
        assert not (await keda.IsActive(scaled("collect"))).result
        await published(lab, 1, first=2, runnable=3, waiting=0)
        assert (await told.read()).result
        assert len(subjects(await pod.next())) == 3
        told.cancel()


async def test_a_pod_is_started_some_seconds_before_a_window_ends(lab: Lab) -> None:
    await batched(lab, 3, window_s=7)
    async with lab.keda() as keda:
        told = keda.StreamIsActive(scaled("collect"))
        assert not (await told.read()).result
        began = time.monotonic()
        await published(lab, 1, runnable=0, waiting=1)
        assert (await told.read()).result
        assert 1 < time.monotonic() - began < 5
        told.cancel()


async def test_a_call_waits_for_no_window_and_is_given_alone(lab: Lab) -> None:
    pod = await batched(lab, 3, window_s=300)
    await published(lab, 1, runnable=0, waiting=1)
    call = asyncio.create_task(lab.admin("POST", "/v1/functions/collect/invoke", json={"my": "data"}))
    [only] = (await pod.next())["data"]
    assert only["data"] == {"my": "data"}
    assert await pod.post("response", "mine") == 204
    assert (await call).json() == "mine"


async def test_a_batch_that_fails_is_split_so_that_one_event_takes_no_other_with_it(lab: Lab) -> None:
    pod = await batched(lab, 4, max_attempts="2")
    await published(lab, 4)
    assert len(subjects(await pod.next())) == 4
    assert await pod.post("entered") == 204
    # Whatever it says of a batch, it can't mean each of its events.
    assert await pod.post("error", {"type": "Reject", "message": "no", "traceback": "", "reject": True}) == 204
    for _ in range(4):
        [subject] = subjects(await pod.next())
        assert pod.attempt == "2" and await pod.post("entered") == 204
        if subject == "incident-2":
            assert await pod.post("error", {"type": "ValueError", "message": "no", "traceback": ""}) == 204
        else:
            assert await pod.post("response", None) == 204
    assert await receipts(lab, "dead-lettered", 1) == {"incident-2": 1}
    assert await receipts(lab, "succeeded", 3) == {f"incident-{number}": 1 for number in (0, 1, 3)}


async def test_a_lost_pod_gives_up_its_whole_batch(lab: Lab) -> None:
    pod = await batched(lab, 3)
    await published(lab, 3)
    batch = subjects(await pod.next())
    await lab.cluster.pod_changes.put(Change("removed", [{"metadata": {"name": "pod-c"}}]))
    second = lab.pod("pod-d", "collect")
    found: list[str] = []
    while len(found) < 3:
        found += subjects(await second.next())
        assert await second.post("response", None) == 204
    assert sorted(found) == batch
    assert await pod.post("response", None) == 409
    assert sum((await receipts(lab, "succeeded", 3)).values()) == 3


async def test_events_whose_attributes_cannot_be_read_leave_the_others_of_their_batch(lab: Lab, store: Store) -> None:
    pod = await batched(lab, 3)
    await published(lab, 3)
    key = event_key("cctv-seoul-01", "incident-1-detected-1")
    await store.command("HSET", f"koren:event:{key}", "meta", "not JSON")
    found = set()
    while len(found) < 2:
        found.update(subjects(await pod.next()))
        assert await pod.post("response", None) == 204
    assert await pod.next_now() is None
    [letter] = await lab.dead_letters("collect")
    assert letter["reason"].startswith("BrokenData")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("batch_size", "0"), ("batch_size", "101"), ("batch_size", "x"), ("batch_window_s", "301")],
)
async def test_a_batch_out_of_bounds_is_refused_by_its_annotation(annotation: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"annotation faas.koren.kr/{annotation.replace('_', '-')} is '{value}'"):
        function_of(deployment("collect", **{annotation: value}))
