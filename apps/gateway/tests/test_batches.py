"""Events that a function is given several at a time."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from gateway_lab import Lab, Mosquitto, Pki, Pod, deployment, message, scaled, started, until

from koren_events.cloudevent import parse
from koren_gateway.cluster.functions import Function, Functions, function_of
from koren_gateway.cluster.interface import Change
from koren_gateway.errors import LeaseLost
from koren_gateway.metrics import Metrics
from koren_gateway.queue.attempts import Attempts, Failure
from koren_gateway.queue.queue import End, Entry, Kept, Nothing, Queue, Taken, event_key
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


FN = Function(name="collect", topic="events/#", batch_size=4)


def entries(count: int, function: Function = FN, subject: str = "") -> list[Entry]:
    """New events, each of a subject of its own, or all of one."""
    made = []
    for number in range(count):
        event, body = parse(message(subject=subject or f"incident-{number}", id=f"{subject}{number}"))
        key = event_key(event.source, event.id)
        made.append(
            Entry(key=key, event=event, message=body, received_ms=round(time.time() * 1000), functions=(function,))
        )
    return made


async def taken(queue: Queue, function: Function = FN, pod: str = "pod-a") -> Taken:
    found = await queue.take(function, pod, None)
    assert isinstance(found, Taken), found
    return found


def end(one: Taken) -> End:
    return End(function="collect", key=one.key, delivery=one.delivery)


async def test_the_window_runs_from_an_events_arrival_also_behind_its_subject(queue: Queue) -> None:
    function = replace(FN, batch_window_s=1)
    await queue.enqueue(entries(4, function, subject="one"))
    began, waited = time.monotonic(), 0
    for _ in range(4):
        while isinstance(found := await queue.take(function, "pod-a", None), Nothing):
            assert found.next_due_s is not None
            waited += 1
            await asyncio.sleep(found.next_due_s + 0.005)
        assert isinstance(found, Taken)
        await queue.succeed(end(found), b"1")
    assert waited and time.monotonic() - began < 3


@pytest.mark.parametrize("part", ["queue:s/incident-0", "invocation:{key}"])
async def test_a_key_of_another_type_leaves_a_functions_work_known(queue: Queue, store: Store, part: str) -> None:
    function = replace(FN, batch_window_s=60)
    first, second = entries(2, function)
    await queue.enqueue([first, second])
    key = f"koren:fn:collect:{part.format(key=first.key)}"
    await store.command("DEL", key)
    await store.command("SET", key, "x")
    assert (await queue.backlog(function)).active
    assert (await taken(queue, function)).key == second.key


async def test_a_batch_of_which_an_event_was_lost_is_lost_to_its_pod(queue: Queue) -> None:
    await queue.enqueue(entries(3))
    batch = await taken(queue)
    await queue.retry(end(batch.others[0]), "the gateway died after this", 0)
    await taken(queue, pod="pod-b")
    with pytest.raises(LeaseLost):
        await queue.extend("collect", batch.key, batch.delivery)


async def test_an_event_that_cannot_be_read_costs_the_others_no_attempt(
    queue: Queue, store: Store, lab_settings: Settings
) -> None:
    function = replace(FN, max_attempts=1)
    made = entries(3, function)
    await queue.enqueue(made)
    await store.command("HSET", f"koren:event:{made[1].key}", "meta", "rubbish")
    attempts = Attempts(lab_settings, queue, Functions(), Metrics())
    await attempts.set_aside(function, await taken(queue, function))
    assert await store.command("ZCARD", "koren:fn:collect:dead") == 1
    batch = await taken(queue, function)
    assert {one.key for one in (batch, *batch.others)} == {made[0].key, made[2].key}


async def test_an_event_that_ends_its_pods_before_a_handler_is_entered_becomes_a_dead_letter_alone(
    queue: Queue, store: Store, lab_settings: Settings
) -> None:
    made = entries(4)
    await queue.enqueue(made)
    attempts = Attempts(lab_settings, queue, Functions(), Metrics())
    while True:
        for subject in await store.command("ZRANGE", "koren:fn:collect:ready", 0, -1):
            await store.command("ZADD", "koren:fn:collect:ready", 1, subject)
        batch = await queue.take(FN, "pod-a", None)
        if not isinstance(batch, Taken):
            break
        if made[2].key in {one.key for one in (batch, *batch.others)}:
            await attempts.release(Kept("collect", batch.key, batch.delivery), Failure("PodLost", "gone"))
        else:
            await queue.succeed(end(batch), b"1")
    [letter] = await store.command("ZRANGE", "koren:fn:collect:dead", 0, -1)
    assert letter.decode() == f"collect.{made[2].key}"


async def test_members_that_name_the_first_event_end_it_once(queue: Queue, store: Store) -> None:
    await queue.enqueue(entries(1))
    one = await taken(queue)
    await store.command("HSET", f"koren:fn:collect:invocation:{one.key}", "members", f"{one.key} {one.delivery}")
    await queue.succeed(end(one), b"1")
    assert len(await store.command("XRANGE", "koren:receipts", "-", "+")) == 1


async def test_an_overdue_retry_is_told_of_while_others_wait_for_a_full_batch(queue: Queue, store: Store) -> None:
    function = replace(FN, batch_window_s=300)
    first, second = entries(2, function)
    await queue.enqueue([first, second])
    await store.command("HSET", f"koren:fn:collect:invocation:{first.key}", "attempts", 1)
    await store.command("ZADD", "koren:fn:collect:ready", round(time.time() * 1000) - 200_000, "s/incident-0")
    backlog = await queue.backlog(function)
    assert (backlog.runnable, backlog.waiting) == (1, 1) and backlog.longest_due_s > 100


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("batch_size", "0"), ("batch_size", "101"), ("batch_size", "x"), ("batch_window_s", "301")],
)
async def test_a_batch_out_of_bounds_is_refused_by_its_annotation(annotation: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"annotation faas.koren.kr/{annotation.replace('_', '-')} is '{value}'"):
        function_of(deployment("collect", **{annotation: value}))
