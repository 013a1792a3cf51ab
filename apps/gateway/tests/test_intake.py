"""What comes from the broker: taken in, or set aside with its reason, and nothing behind it waits."""

import asyncio
import signal
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import (
    REGION,
    REPORTER,
    Lab,
    Mosquitto,
    Operator,
    Pki,
    deployment,
    event,
    message,
    until,
    world,
)

from koren_events.cloudevent import CloudEvent
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.sources import Sources
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.intake import judge, mqtt
from koren_gateway.intake.intake import Intake
from koren_gateway.intake.mqtt import Connection
from koren_gateway.intake.receipts import Outbox
from koren_gateway.metrics import Metrics
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import Entry, Queue, TakenIn, event_key
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio


async def test_an_event_goes_from_the_broker_to_its_function_and_the_result_comes_back(
    lab: Lab,
) -> None:
    pod = lab.pod()
    waiting = asyncio.create_task(pod.next(**{"Koren-Started-Ms": str(round(time.time() * 1000))}))
    await lab.polling()
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
    assert 'koren_gateway_invocations_total{function="report-incident",outcome="succeeded"} 1.0' in page
    assert 'koren_gateway_phase_seconds_count{function="report-incident",phase="handler_done",start="warm"} 1.0' in page
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


async def test_an_event_that_was_refused_comes_in_when_it_has_been_set_right(lab: Lab) -> None:
    for _ in range(2):
        await lab.broker.publish(region="busan")
    await lab.broker.receipt("dead-lettered", 2)
    assert len(await lab.dead_letters()) == 1
    await lab.broker.publish()
    await lab.broker.receipt("received")
    assert (await lab.pod().next())["region"] == REGION


async def test_an_event_that_no_function_wants_says_so(lab: Lab) -> None:
    await lab.broker.publish(topic=f"events/{REGION}/cctv-seoul-01/speed")
    await lab.broker.receipt("no-function")


async def test_a_function_that_is_deployed_later_gets_what_comes_then(lab: Lab) -> None:
    later = deployment("count-cars", topic=f"events/{REGION}/+/speed")
    await lab.cluster.deployment_changes.put(Change("changed", [later]))
    pod = lab.pod(function="count-cars")
    await lab.known("count-cars")
    await lab.broker.publish(topic=f"events/{REGION}/cctv-seoul-01/speed")
    assert await pod.next()
    await lab.cluster.deployment_changes.put(Change("removed", [later]))
    await lab.known("count-cars", there=False)
    assert (await pod.call("GET", "/v1/invocation/next")).status_code == 403


async def test_whatever_a_message_holds_the_gateway_goes_on(lab: Lab) -> None:
    poison = {
        "9999-12-31T23:59:59-12:00": message(subject="time", time="9999-12-31T23:59:59-12:00"),
        "sequence must be": message(id="long", sequence="9" * 5000),
        "byte order mark": b"\xef\xbb\xbf" + message(subject="bom"),
        "not UTF-8": message(subject="utf-16").decode().encode("utf-16"),
        "U+000A": message(subject="line", id="1\n2026-01-01 all is well"),
        "nested too deep": b"[" * 100_000,
        "NaN is not JSON": message(subject="nan", data=float("nan")),
    }
    for body in poison.values():
        await lab.broker.publish(body=body)
    await lab.broker.publish(subject="good")
    await lab.broker.receipt("received", subject="good")
    reasons = [letter["reason"] for letter in await lab.dead_letters()]
    assert len(reasons) == len(poison)
    for wanted in poison:
        assert any(wanted in reason for reason in reasons), (wanted, reasons)
    assert [h["state"] for h in lab.broker.health].count("down") == 0
    pod = lab.pod()
    assert (await pod.next())["subject"] == "good"


async def test_an_error_that_nobody_foresaw_makes_one_dead_letter(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = judge.parse

    def failing(body: bytes) -> tuple[CloudEvent, bytes]:
        if b"odd" in body:
            raise ZeroDivisionError("never thought of")
        return parse(body)

    monkeypatch.setattr(judge, "parse", failing)
    await lab.broker.publish(subject="odd")
    await lab.broker.publish(subject="good")
    await lab.broker.receipt("received", subject="good")
    [letter] = await lab.dead_letters()
    assert "could not be judged: ZeroDivisionError: never thought of" in letter["reason"]
    [shown] = [(await lab.admin("GET", f"/v1/dead-letters/{letter['id']}")).json()]
    assert shown["message"]["subject"] == "odd"


async def test_an_event_that_spoils_its_batch_is_the_only_one_that_suffers(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = Queue.enqueue

    async def failing(self: Queue, entries: Sequence[Entry]) -> list[TakenIn]:
        if any(entry.event and entry.event.subject == "odd" and not entry.reason for entry in entries):
            raise ValueError("can't be packed")
        return await enqueue(self, entries)

    monkeypatch.setattr(Queue, "enqueue", failing)
    await asyncio.gather(*(lab.broker.publish(subject=subject) for subject in ("a", "odd", "b")))
    for subject in ("a", "b"):
        await lab.broker.receipt("received", subject=subject)
    # Who published it is told, or would publish it for ever.
    dead = await lab.broker.receipt("dead-lettered", subject="odd")
    assert "can't be packed" in (dead.error or "")
    assert await lab.metric("faults_total", part="intake") == 2


async def test_an_event_at_qos_0_is_taken_in_and_the_connection_stays(lab: Lab) -> None:
    health = len(lab.broker.health)
    lab.broker.publish_at_qos_0(message(subject="qos-0"))
    await lab.broker.publish(subject="qos-1")
    await lab.broker.receipt("received", subject="qos-0")
    await lab.broker.receipt("received", subject="qos-1")
    pod = lab.pod()
    for subject in ("qos-0", "qos-1"):
        assert (await pod.next())["subject"] == subject
        assert await pod.post("response", {}) == 204
    await lab.broker.receipt("succeeded", 2)
    assert lab.broker.health[health:] == []


@pytest.mark.parametrize(
    ("content_type", "payload", "data"),
    [
        ("application/json", b'{"severity":"minor"}', {"data": {"severity": "minor"}}),
        ("text/plain", "사고".encode(), {"data": "사고"}),
        ("image/jpeg", b"\xff\xd8", {"data_base64": "/9g="}),
    ],
)
async def test_an_event_in_binary_mode_is_one_like_any_other(
    lab: Lab, content_type: str, payload: bytes, data: dict[str, Any]
) -> None:
    made = event(subject="binary")
    del made["data"]
    attributes = {name: str(value) for name, value in made.items()}
    lab.broker.publish_at_qos_0(payload, content_type=content_type, attributes=attributes)
    await lab.broker.receipt("received", subject="binary")
    assert await lab.pod().next() == made | {"datacontenttype": content_type} | data


async def test_a_structured_event_says_so_however_its_type_is_written(lab: Lab) -> None:
    # The user properties are then not the event.
    lab.broker.publish_at_qos_0(
        message(subject="structured"),
        content_type="Application/CloudEvents+JSON",
        attributes={"specversion": "1.0", "id": "other"},
    )
    assert (await lab.broker.receipt("received", subject="structured")).id == "structured-detected-1"


async def test_decomposed_hangul_is_the_same_subject_as_composed(lab: Lab) -> None:
    for form in ("NFD", "NFC"):
        await lab.broker.publish(subject=unicodedata.normalize(form, "강남"), id="1")
    await lab.broker.receipt("received", 2, subject="강남")
    pod = lab.pod()
    assert (await pod.next())["subject"] == unicodedata.normalize("NFC", "강남")
    assert await pod.post("response", {}) == 204
    await lab.queued(runnable=0, in_flight=0)


async def test_two_deployments_with_one_label_are_one_function(lab: Lab) -> None:
    first = {**REPORTER, "metadata": {**REPORTER["metadata"], "creationTimestamp": "2026-01-01T00:00:00Z"}}
    twin = deployment("report-incident-canary", "report-incident", topic="events/+/+/accident")
    twin["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    await lab.cluster.deployment_changes.put(Change("listed", [twin, first]))

    async def refused() -> list[dict[str, str]]:
        its: list[dict[str, str]] = (await lab.admin("GET", "/v1/functions")).json()["refused"]
        return its

    async def is_refused() -> bool:
        return bool(await refused())

    await until(is_refused, "the twin is refused")
    [said] = await refused()
    assert said["deployment"] == "report-incident-canary" and "report-incident already" in said["problem"]
    assert await lab.metric("refused_deployments") == 1
    await lab.broker.publish(subject="a")
    pod = lab.pod()
    assert (await pod.next())["subject"] == "a"
    assert await pod.post("response", {}) == 204
    await lab.queued(runnable=0, in_flight=0)
    # The name is free when the first has gone.
    await lab.cluster.deployment_changes.put(Change("removed", [first]))

    async def is_accepted() -> bool:
        return await lab.function() is not None and not await refused()

    await until(is_accepted, "the twin has the name")
    await lab.broker.publish(subject="b")
    assert (await pod.next())["subject"] == "b"


async def test_what_the_broker_retains_comes_once(pki: Pki, tmp_path: Path) -> None:
    async with world(tmp_path, pki) as there:
        lab = there.lab
        await lab.broker.publish(body=b"rubbish", retain=True)
        await lab.broker.publish(topic=f"events/{REGION}/cctv-seoul-02/accident", subject="retained", retain=True)
        await lab.broker.receipt("received", subject="retained")
        pod = lab.pod()
        assert (await pod.next())["subject"] == "retained"
        assert await pod.post("response", {}) == 204
        assert (await lab.admin("DELETE", "/v1/dead-letters")).json() == {"deleted": 1}
        await there.store.command("DEL", "koren:seen")  # a week later
        await lab.broker.close()
        there.mosquitto.stop()

        async def is_lost() -> bool:
            return await lab.metric("intake_connected") == 0

        await until(is_lost, "the broker is lost")
        there.mosquitto.start()
        lab.broker = await type(lab.broker).connect(pki, there.mosquitto.port)
        await lab.open()
        await lab.broker.publish(subject="later")
        await lab.broker.receipt("received", subject="later")
        assert (await pod.next())["subject"] == "later"
        assert await lab.dead_letters() == []
        await lab.broker.close()


async def test_receipts_that_a_silent_broker_does_not_confirm_take_little_memory_and_none_is_lost(
    lab_settings: Settings, queue: Queue, store: Store, pki: Pki, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path / "mosquitto", pki)
    broker.start()
    operator = await Operator.connect(pki, broker.port)
    settings = lab_settings.model_copy(update={"broker_port": broker.port})
    memory = Memory(store, settings.batch_bytes)
    outbox = Outbox(store, REGION)
    functions = Functions()
    intake = Intake(settings, store, queue, functions, Sources(), Triggers(functions), outbox, memory, Metrics())
    connection, turn = await Connection.open(intake._link()), asyncio.Lock()
    batches, size = 30, 256
    now_ms = round(time.time() * 1000)

    def batch(number: int) -> list[Entry]:
        events = [CloudEvent(id=f"e{number * size + place}", source="cctv", type="t") for place in range(size)]
        return [Entry(key=event_key(its.source, its.id), event=its, message=b"", received_ms=now_ms) for its in events]

    assert broker._process is not None
    broker._process.send_signal(signal.SIGSTOP)
    try:
        tasks = [
            asyncio.create_task(
                intake._answer(connection, turn, [], batch(number), [TakenIn("seen", now_ms, "held")] * size, now_ms)
            )
            for number in range(batches)
        ]
        await asyncio.sleep(0)
        assert 0 < len(connection._waiting) < mqtt._WAITING_MAX + size
    finally:
        broker._process.send_signal(signal.SIGCONT)
    await asyncio.gather(*tasks)
    await operator.receipt("held", batches * size)
    assert len({receipt.id for receipt in operator.receipts}) == batches * size
    await connection.close()
    await operator.close()
    broker.stop()
