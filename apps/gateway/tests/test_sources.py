"""Plain MQTT messages of declared sources: each becomes one event, and none of them stops anything."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import (
    PLAIN,
    REGION,
    Lab,
    Pki,
    TestCluster,
    declared,
    deployment,
    message,
    until,
    world,
)

from koren_events import MAX_EVENT_BYTES
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.sources import Source, Sources, overlap, source_of
from koren_gateway.intake.judge import judge
from koren_gateway.intake.mqtt import Arrival, Connection
from koren_gateway.intake.repeats import Repeats
from koren_gateway.queue.queue import Entry

TOPIC = f"{PLAIN}/press/3"
COUNTER = deployment("count", topic="events/+/press/mqtt")


def judged(body: bytes, topic: str = TOPIC, content_type: str | None = None, id: str = "n-1", **its: str) -> Entry:
    source = Source(name="press", topic=f"{PLAIN}/#", **its)
    arrival = Arrival(mid=1, topic=topic, message=body, received_ms=1000, content_type=content_type)
    return judge(arrival, REGION, lambda _: (), source=source, id=id)


def event_in(entry: Entry) -> dict[str, Any]:
    assert not entry.reason, entry.reason
    made: dict[str, Any] = json.loads(entry.message)
    return made


@pytest.mark.parametrize(
    ("body", "content_type", "its"),
    [
        (b'{"success": "ok"}', None, {"datacontenttype": "application/json", "data": {"success": "ok"}}),
        (b"17.5", None, {"datacontenttype": "application/json", "data": 17.5}),
        ("문 열림".encode(), None, {"datacontenttype": "text/plain; charset=utf-8", "data": "문 열림"}),
        (b"{not JSON", "application/json", {"datacontenttype": "text/plain; charset=utf-8", "data": "{not JSON"}),
        (b"NaN", None, {"datacontenttype": "text/plain; charset=utf-8", "data": "NaN"}),
        (b"17", "text/plain", {"datacontenttype": "text/plain", "data": "17"}),
        (b"\xff\xd8", None, {"datacontenttype": "application/octet-stream", "data_base64": "/9g="}),
        (b"\xff\xd8", "image/jpeg", {"datacontenttype": "image/jpeg", "data_base64": "/9g="}),
        (b"[" * 100_000, None, {"datacontenttype": "text/plain; charset=utf-8", "data": "[" * 100_000}),
        (b"", None, {}),
    ],
    ids=["object", "number", "text", "wrong type", "NaN", "number as text", "bytes", "picture", "deep", "nothing"],
)
def test_any_payload_becomes_an_event(body: bytes, content_type: str | None, its: dict[str, Any]) -> None:
    made = event_in(judged(body, content_type=content_type))
    assert {name: made.get(name) for name in its} == its
    assert (made["type"], made["source"], made["region"]) == ("kr.koren.mqtt.message", "mqtt/press", REGION)
    assert (made["id"], made["mqtttopic"], made["time"]) == ("n-1", TOPIC, "1970-01-01T00:00:01.000Z")
    assert "subject" not in made and ("data" in made) is ("data" in its)


@pytest.mark.parametrize(
    ("subject_from", "subject"),
    [
        ("topic", TOPIC),
        ("topic.3", "3"),
        ("payload.device", "p-3"),
        ("payload.at.line", "7"),
    ],
)
def test_subject_and_id_come_from_where_the_source_says(subject_from: str, subject: str) -> None:
    body = b'{"device": "p-3", "at": {"line": 7}, "n": 12}'
    made = event_in(judged(body, subject_from=subject_from, id_from="payload.n"))
    assert (made["subject"], made["id"]) == (subject, "12")


@pytest.mark.parametrize(
    ("its", "reason"),
    [
        ({"id_from": "payload.n"}, "id: payload.n, which the source names, is not a text or a number"),
        ({"subject_from": "payload.at"}, "subject: payload.at, which the source names, is not"),
        ({"subject_from": "payload.at.line.x"}, "subject: payload.at.line.x"),
        ({"subject_from": "topic.9"}, "has no level 9"),
    ],
)
def test_a_message_without_what_its_source_names_is_a_dead_letter_that_says_so(its: Any, reason: str) -> None:
    entry = judged(b'{"at": {"line": true}}', **its)
    assert reason in entry.reason and entry.event is None and entry.source == "press"


def test_a_cloud_event_stays_as_it_is() -> None:
    for content_type in ("application/cloudevents+json", None):
        entry = judged(message(), content_type=content_type)
        assert entry.message == message() or json.loads(entry.message)["id"] == json.loads(message())["id"]
        assert entry.event is not None and entry.event.source == "cctv-seoul-01" and not entry.reason
    assert "specversion must be" in judged(b'{"specversion": "2.0"}').reason
    assert "wrong region" in judged(message(region="busan")).reason
    assert "releasedby" in judged(message(releasedby="x")).reason


def test_what_grows_beyond_the_limit_as_an_event_is_a_dead_letter() -> None:
    body = b"\xff" * (MAX_EVENT_BYTES - 1000)
    assert "more than" in judged(body).reason and judged(body).message == body
    assert not judged(b"\xff" * (MAX_EVENT_BYTES // 2)).reason


def test_an_undeclared_topic_is_named() -> None:
    arrival = Arrival(mid=1, topic="common", message=b"{}", received_ms=1)
    assert "no source declares the topic common" in judge(arrival, REGION, lambda _: ()).reason


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/#", "a", True),
        ("a/#", "a/+/c", True),
        ("a/+/c", "a/b/+", True),
        ("a/b", "a/c", False),
        ("a", "a/b", False),
        ("a/+", "a", False),
        ("a/+/c", "a/b/d", False),
        ("", "+", True),
    ],
)
def test_filters_meet_where_a_topic_matches_both(one: str, other: str, meet: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is meet


@pytest.mark.parametrize(
    ("its", "problem"),
    [
        ({"topic": ""}, "1 to 512 bytes"),
        ({"topic": "a\nuser gateway"}, "MQTT topic filter"),
        ({"topic": "a/b+"}, "whole level"),
        ({"topic": "a/#/b"}, "last level"),
        ({"topic": "#"}, "first level"),
        ({"topic": "+/state"}, "first level"),
        ({"topic": "events/seoul/x/y"}, "the platform's"),
        ({"topic": "$SYS/broker"}, "the platform's"),
        ({"topic": "a", "subject_from": "payload"}, "subject-from"),
        ({"topic": "a", "subject_from": "topic.0"}, "subject-from"),
        ({"topic": "a", "id_from": "topic"}, "id-from"),
    ],
)
def test_a_declaration_that_is_wrong_says_what_it_should_be(its: dict[str, str], problem: str) -> None:
    topic = its.pop("topic")
    with pytest.raises(ValueError, match=problem):
        source_of(declared("press", topic, **its))


def test_of_two_sources_of_one_topic_the_older_has_it() -> None:
    sources = Sources()
    younger, older = declared("a", "plant/#", "2026-02-01"), declared("b", "plant/x", "2026-01-01")
    sources.apply(Change("listed", [younger, older, declared("c", "other")]))
    assert [source.name for source in sources.all()] == ["b", "c"]
    [refused] = sources.refused()
    assert refused.name == "a" and "source b takes messages of plant/x already" in refused.problem
    sources.apply(Change("removed", [older]))
    assert [source.name for source in sources.all()] == ["a", "c"] and not sources.refused()


def test_a_wrong_change_does_not_lose_the_source() -> None:
    sources = Sources()
    sources.apply(Change("listed", [declared("a", "plant/#")]))
    for kind in ("changed", "listed"):
        sources.apply(Change(kind, [declared("a", "#"), {"metadata": {"name": "odd"}}]))  # type: ignore[arg-type]
        assert sources.of("plant/x") == source_of(declared("a", "plant/#"))
        assert {refused.name for refused in sources.refused()} == {"a", ""}


def plant(*more: Any, **its: str) -> TestCluster:
    return TestCluster(functions=[COUNTER], declared=[declared("press", f"{PLAIN}/press/#", **its), *more])


async def open_sources(lab: Lab, *topics: str) -> None:
    """Waits until the broker has these subscriptions, and no others of sources."""

    async def so() -> bool:
        listed = (await lab.admin("GET", "/v1/sources")).json()["sources"]
        return {one["topic"] for one in listed if one["subscribed"]} == set(topics)

    await until(so, f"sources listen to {topics}")


async def counted(lab: Lab, outcome: str, count: int = 1, source: str = "press") -> None:
    async def so() -> bool:
        return await lab.metric("source_messages_total", outcome=outcome, source=source) == count

    await until(so, f"{count} messages are {outcome}")


@pytest.mark.asyncio
async def test_a_plain_message_reaches_the_function_that_names_its_source(tmp_path: Path, pki: Pki) -> None:
    async with world(tmp_path, pki, plant()) as made:
        lab = made.lab
        await open_sources(lab, f"{PLAIN}/press/#")
        pod = lab.pod(function="count")
        for body in (b'{"success": "ok"}', b"\xff\x00", b'{"success": "ok"}'):
            await lab.broker.publish(f"{PLAIN}/press/common", body)
        got = []
        for _ in range(3):
            got.append(await pod.next())
            assert await pod.post("response") == 204
        # What says the same twice was said twice.
        assert sorted(str(one.get("data")) for one in got) == ["None"] + ["{'success': 'ok'}"] * 2
        [binary] = [one for one in got if "data_base64" in one]
        assert base64.b64decode(binary["data_base64"]) == b"\xff\x00"
        assert len({one["id"] for one in got}) == 3
        await lab.broker.receipt("succeeded", 3)
        await counted(lab, "queued", 3)


@pytest.mark.asyncio
async def test_an_id_of_the_payload_is_known_again_and_events_of_one_subject_keep_their_order(
    tmp_path: Path, pki: Pki
) -> None:
    cluster = plant(subject_from="payload.device", id_from="payload.n")
    async with world(tmp_path, pki, cluster) as made:
        lab = made.lab
        await open_sources(lab, f"{PLAIN}/press/#")
        for number in (1, 2, 2, 1, 3):
            body = json.dumps({"device": "p-3", "n": number}).encode()
            await lab.broker.publish(TOPIC, body)
        await lab.broker.publish(TOPIC, b"no field at all")
        await counted(lab, "duplicate", 2)
        await counted(lab, "dead-lettered")
        pod = lab.pod(function="count")
        for number in (1, 2, 3):
            assert (await pod.next())["data"]["n"] == number
            assert await lab.pod("pod-b", "count").next_now() is None, "the next of a subject waits"
            assert await pod.post("response") == 204
        [letter] = await lab.dead_letters()
        shown = (await lab.admin("GET", f"/v1/dead-letters/{letter['id']}")).json()
        assert "payload.n" in letter["reason"]
        assert base64.b64decode(shown["message_base64"]) == b"no field at all"


@pytest.mark.asyncio
async def test_what_the_broker_sends_again_is_one_event(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A gateway that ends after the commit, and before the broker has its acknowledgement.
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "forget", lambda *_: None)
        async with world(tmp_path, pki, plant()) as made:
            await open_sources(made.lab, f"{PLAIN}/press/#")
            for _ in range(2):
                await made.lab.broker.publish(TOPIC, b"the same")
            await counted(made.lab, "queued", 2)
    async with world(tmp_path, pki, plant()) as made:
        await counted(made.lab, "duplicate", 2)
        await made.lab.broker.publish(TOPIC, b"the same")
        await counted(made.lab, "queued")
        pod = made.lab.pod(function="count")
        for _ in range(3):
            assert (await pod.next())["data"] == "the same"
            assert await pod.post("response") == 204
        assert await pod.next_now() is None


@pytest.mark.asyncio
async def test_a_source_that_was_deleted_while_no_gateway_ran_is_listened_to_no_more(tmp_path: Path, pki: Pki) -> None:
    async with world(tmp_path, pki, plant()) as made:
        await open_sources(made.lab, f"{PLAIN}/press/#")
    async with world(tmp_path, pki, TestCluster(functions=[COUNTER])) as made:

        async def closed() -> bool:
            return await made.store.command("HLEN", "koren:mqtt-topics") == 0

        await until(closed, "the subscription has ended")
        await made.lab.broker.publish(TOPIC, b"unheard")
        await made.lab.broker.publish()
        await made.lab.broker.receipt("no-function")
        assert not await made.lab.dead_letters()


@pytest.mark.asyncio
async def test_sources_come_and_go_and_events_do_not_notice(tmp_path: Path, pki: Pki) -> None:
    async with world(tmp_path, pki, plant()) as made:
        lab = made.lab
        await open_sources(lab, f"{PLAIN}/press/#")
        other = declared("other", f"{PLAIN}/other")
        await lab.cluster.source_changes.put(Change("changed", [other, declared("twin", f"{PLAIN}/+")]))
        await open_sources(lab, f"{PLAIN}/press/#", f"{PLAIN}/other")
        listed = (await lab.admin("GET", "/v1/sources")).json()["sources"]
        assert [one["name"] for one in listed if one["problem"]] == ["twin"]
        assert (await lab.admin("GET", "/v1/sources", token="user/nobody")).status_code == 403
        await lab.broker.publish(f"{PLAIN}/other", b"1")
        await counted(lab, "no-function", source="other")
        await lab.cluster.source_changes.put(Change("removed", [other]))

        async def closed() -> bool:
            return await made.store.command("HKEYS", "koren:mqtt-topics") == [f"{PLAIN}/press/#".encode()]

        await lab.cluster.source_changes.put(Change("removed", [declared("twin", f"{PLAIN}/+")]))
        await until(closed, "the subscription has ended")
        await lab.broker.publish(f"{PLAIN}/other", b"2")
        await lab.broker.publish()
        await lab.broker.receipt("no-function", 2)
        assert not await lab.dead_letters()


@pytest.mark.asyncio
async def test_a_flood_of_messages_waits_at_the_broker_and_events_pass_it(tmp_path: Path, pki: Pki) -> None:
    async with world(tmp_path, pki, plant(), sources_rate=20) as made:
        lab = made.lab
        await open_sources(lab, f"{PLAIN}/press/#")
        for number in range(400):
            lab.broker.publish_at_qos_0(b"%d" % number, TOPIC)
        await lab.broker.publish(subject="ordinary")
        await lab.broker.receipt("no-function", subject="ordinary")
        page = await lab.metric("source_messages_total", outcome="queued", source="press")
        assert page is None or page < 400, "the flood was taken in first"


@pytest.mark.asyncio
async def test_a_session_of_sources_that_ends_does_not_end_that_of_events(tmp_path: Path, pki: Pki) -> None:
    async with world(tmp_path, pki, plant()) as made:
        lab = made.lab
        await open_sources(lab, f"{PLAIN}/press/#")
        held = lab.cluster.lease.version
        other = replace(lab.gateway._intake._sources_link(), session_expiry_s=60)
        await (await Connection.open(other)).close()
        await lab.broker.publish(TOPIC, b"while nobody listens, or after")
        await counted(lab, "queued")
        assert lab.cluster.lease.holder == "gateway-0" and held is not None
        assert await lab.metric("intake_connected") == 1


@pytest.mark.asyncio
async def test_what_is_wrong_with_sources_keeps_no_event(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(Repeats, "load", broken)
    async with world(tmp_path, pki, plant()) as made:
        lab = made.lab

        async def failed() -> bool:
            return (await lab.metric("faults_total", part="sources") or 0) > 0

        await until(failed, "it failed")
        await lab.broker.publish()
        await lab.broker.receipt("no-function")
        assert await lab.metric("intake_connected") == 1
