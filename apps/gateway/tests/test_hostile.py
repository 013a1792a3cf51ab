"""What one publisher, function or person with bad intent can do to a region, and must not."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_lab import REPORTER, Lab, Pki, RedisServer, deployment, event, settings, until

from koren_events.cloudevent import parse
from koren_gateway.cluster.functions import function_of
from koren_gateway.cluster.interface import Change
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import End, Entry, Queue, Taken, event_key
from koren_gateway.queue.store import Store, connect

pytestmark = pytest.mark.asyncio

FN = function_of(REPORTER)
LONG = "가" * 900


@pytest_asyncio.fixture
async def small(tmp_path: Path, pki: Pki) -> AsyncIterator[tuple[Queue, Memory, Store]]:
    """The queue in a Redis of 6 MB."""
    redis = RedisServer(tmp_path / "redis", maxmemory="6mb")
    redis.start()
    made = settings(pki, redis, 1)
    store = Store(connect(made))
    memory = Memory(store, made.batch_bytes)
    await memory.refresh()
    yield Queue(store, made, memory), memory, store
    await store.redis.aclose()
    redis.stop()


def entry(number: int, **more: object) -> Entry:
    made = {"subject": f"{LONG}{number}", "id": f"e{number}", **more}
    its, message = parse(json.dumps(event(**made), ensure_ascii=False).encode())  # type: ignore[arg-type]
    return Entry(key=event_key("s", its.id), event=its, message=message, received_ms=1, functions=[FN])


@pytest.mark.parametrize("happened", ["detected", "cleared"])
async def test_incidents_without_number_leave_room_for_events(
    small: tuple[Queue, Memory, Store], happened: str
) -> None:
    queue, memory, store = small
    for number in range(1500):
        await queue.enqueue([entry(number, happened=happened)])
        taken = await queue.take(FN, "pod-a", None)
        assert isinstance(taken, Taken)
        await queue.succeed(End(function=FN.name, key=taken.key, delivery=taken.delivery), b"1")
        await store.command("DEL", "koren:receipts")  # published
    limit = memory.budgets.incidents_function
    assert 0 < (await queue.backlog(FN)).open_incidents <= limit or happened == "cleared"
    assert await store.command("ZCARD", "koren:marks") <= memory.budgets.marks
    assert await store.command("HGETALL", "koren:dropped")


async def test_dismissed_subjects_without_number_leave_room_for_events(
    small: tuple[Queue, Memory, Store],
) -> None:
    queue, memory, store = small
    for number in range(1500):
        made = entry(number, hold=True)
        await queue.enqueue([made])
        await queue.dismiss(made.subject, "somebody")
        await store.command("DEL", "koren:receipts")  # published
    assert await store.command("ZCARD", "koren:marks") <= memory.budgets.marks


async def test_open_incidents_end_without_another_event(
    small: tuple[Queue, Memory, Store],
) -> None:
    queue, _, store = small
    brief = replace(FN, incident_limit_s=0.001)
    await queue.enqueue([replace(entry(1), functions=[brief])])
    await asyncio.sleep(0.01)
    await queue.tidy()
    assert await store.command("ZCARD", f"koren:fn:{FN.name}:incidents") == 0


async def test_an_older_opening_opens_nothing_whatever_the_length_of_its_subject(
    small: tuple[Queue, Memory, Store],
) -> None:
    queue, _, _ = small
    await queue.enqueue([entry(1, happened="cleared", sequence=5)])
    taken = await queue.take(FN, "pod-a", None)
    assert isinstance(taken, Taken)
    await queue.succeed(End(function=FN.name, key=taken.key, delivery=taken.delivery), b"1")
    await queue.enqueue([entry(1, id="late", sequence=4)])
    assert (await queue.backlog(FN)).open_incidents == 0
    await queue.enqueue([entry(1, id="new", sequence=6)])
    assert (await queue.backlog(FN)).open_incidents == 1


@pytest.mark.parametrize(("character", "length"), [("x", 1), ("x", 900), ("🚗", 1000)])
async def test_a_full_queue_takes_no_more_than_its_share(
    small: tuple[Queue, Memory, Store], character: str, length: int
) -> None:
    queue, memory, store = small

    async def used() -> int:
        return int((await store.command("INFO", "memory"))["used_memory"])

    text, number = character * length, 0
    await queue.enqueue([entry(number, subject=text, source=text, type=text)])
    before = await used()
    while not await store.command("ZCARD", "koren:dead"):
        number += 1
        await queue.enqueue([entry(number, subject=f"{text}{number}", id=f"{text}{number}", source=text, type=text)])
    # Beside its own share a seen event has one, and a kilobyte or two is noise.
    assert await used() - before <= 1.1 * memory.budgets.queue_function + number * 140 + 100_000


async def test_answers_that_nobody_waits_for_are_not_kept(lab: Lab, store: Store) -> None:
    pod = lab.pod()

    async def kept() -> list[bytes]:
        return [key async for key in store.redis.scan_iter("koren:outcome:*")]

    async def call() -> int:
        return (
            await lab.admin(
                "POST",
                "/v1/functions/report-incident/invoke",
                content=b"1",
                headers={"Content-Type": "application/json"},
            )
        ).status_code

    told = asyncio.create_task(call())
    assert await pod.next()
    assert await pod.post("response", "x" * 1_000_000) == 204
    assert await told == 200
    assert not await kept()
    gone = asyncio.create_task(call())
    assert await pod.next()
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gone

    async def withdrawn() -> bool:
        key = f"koren:fn:report-incident:invocation:{pod.key}"
        return bool(await store.command("HGET", key, "once") == b"2")

    await until(withdrawn, "the caller is known to have gone")
    assert await pod.post("error", {"type": "E", "message": "m"}) == 204
    # One attempt, for which nobody waits: it is no dead letter either.
    assert not await kept() and not await lab.dead_letters()
    assert await lab.function() is not None and not (await lab.function() or {})["active"]


async def test_a_name_that_is_no_functions_reaches_no_other_data(lab: Lab) -> None:
    pod = lab.pod()
    for key in ("mine:log", "mine:dead"):
        assert (await pod.call("PUT", f"/v1/state/{key}", content=b"v")).status_code == 204
    name = "report-incident:state:mine"
    assert (await lab.admin("GET", f"/v1/functions/{name}/log")).status_code == 404
    for method in ("GET", "DELETE"):
        refused = await lab.admin(method, f"/v1/dead-letters?function={name}")
        assert refused.status_code == 400 and "function" in refused.json()["error"]
    for key in ("mine:log", "mine:dead"):
        assert (await pod.call("GET", f"/v1/state/{key}")).text == "v"


async def test_a_function_that_sends_many_large_bodies_slowly_is_refused(lab: Lab) -> None:
    head = (
        b"POST /v1/log HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pod/report-incident/pod-a\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
    )
    opened = []
    for _ in range(40):
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.settings.runtime_port)
        writer.write(head)
        opened.append((reader, writer))

    async def answered(reader: asyncio.StreamReader) -> bool:
        with contextlib.suppress(TimeoutError):
            return b" 503 " in await asyncio.wait_for(reader.readline(), 1)
        return False

    assert sum(await asyncio.gather(*(answered(reader) for reader, _ in opened))) >= 36
    # Whoever sends so much harms no other function, and itself no longer than it does.
    other = lab.pod("pod-b", "other")
    await lab.cluster.deployment_changes.put(Change("changed", [deployment("other")]))
    await lab.known("other")
    assert (await other.call("PUT", "/v1/state/k", content=b"x" * 60_000)).status_code == 204
    for _, writer in opened:
        writer.close()
    pod = lab.pod()

    async def taken() -> bool:
        return (await pod.call("POST", "/v1/log", json={"text": "x" * 60_000})).status_code == 204

    await until(taken, "what the pod wrote is taken")


async def test_a_dismissal_that_comes_after_the_release_changes_nothing(lab: Lab) -> None:
    await lab.broker.publish(subject="both", id="b1", hold=True)
    await lab.broker.receipt("held")
    [held] = (await lab.admin("GET", "/v1/held")).json()["held"]
    release, dismiss = await asyncio.gather(
        *(lab.admin("POST", f"/v1/held/{held['id']}/{what}") for what in ("release", "dismiss"))
    )
    released = release.status_code == 202
    assert released != (dismiss.status_code == 200), (release.text, dismiss.text)
    # What follows goes the way that the first one said.
    await lab.broker.publish(subject="both", id="b2", sequence=2, hold=True)
    await lab.broker.receipt("received" if released else "dismissed", 2)
    await lab.queued(runnable=1 if released else 0)


async def test_nothing_is_dismissed_that_does_not_wait(queue: Queue, store: Store) -> None:
    made = entry(1, hold=True, subject="both")
    await queue.enqueue([made])
    assert await queue.release(made.subject, "one", [(made.key, [FN], made.event)])  # type: ignore[list-item]
    assert await queue.dismiss(made.subject, "other") == 0
    later = entry(2, hold=True, subject="both")
    assert [taken.outcome for taken in await queue.enqueue([later])] == ["new"]


async def test_large_results_do_not_pile_up_while_the_broker_is_away(
    small: tuple[Queue, Memory, Store],
) -> None:
    queue, _, store = small
    queue._receipts_kept = 100
    for number in range(60):
        await queue.enqueue([entry(number, subject="one")])
        taken = await queue.take(FN, "pod-a", None)
        assert isinstance(taken, Taken)
        end = End(function=FN.name, key=taken.key, delivery=taken.delivery)
        await queue.succeed(end, b'"' + b"x" * 16_000 + b'"')
    receipts = await store.command("XRANGE", "koren:receipts", "-", "+")
    assert len(receipts) == 60
    assert sum(len(fields[b"result"]) > 0 for _, fields in receipts) == 11
