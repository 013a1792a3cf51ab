"""What arrives at a region's broker without being an event: each ends as it should, and the gateway stays up."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import DONE, Client, Cluster, Connect, Heard, drill, faas, letters, until
from test_faults import entries

from koren_events import Event, Publisher, ReceiptState, event_topic

TOPIC = "events/seoul/e2e/drill"


@pytest.fixture
def seoul_stays_up(cluster: Callable[[str], Cluster]) -> Iterator[None]:
    """No container of the region's gateway ends meanwhile, and no dead letter is left."""

    def restarts() -> dict[str, int]:
        pods = cluster("seoul").items("pods", "-n", "koren-faas", "-l", "app.kubernetes.io/name=gateway")
        return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}

    before, known = restarts(), {letter["id"] for letter in letters("seoul")}
    yield
    assert restarts() == before
    mine = [letter["id"] for letter in letters("seoul") if letter["id"] not in known]
    if mine:
        faas("dlq", "purge", "--region", "seoul", *mine)


@pytest.fixture
def client(connect: Connect) -> Client:
    """An operator at Seoul's broker, who publishes what he likes."""
    return connect("seoul")


def message(**changes: Any) -> bytes:
    """An event's message with some of its attributes changed."""
    return json.dumps(drill("seoul", type=DONE).to_dict() | changes).encode()


def nested(size: int) -> bytes:
    depth = size // 2
    return message(data="HERE").replace(b'"HERE"', b"[" * depth + b"]" * depth)


@pytest.mark.usefixtures("seoul_stays_up", "probe")
def test_what_is_no_event_is_a_dead_letter_that_says_why(client: Client) -> None:
    mark = secrets.token_hex(4)
    wrong = {
        "not JSON: Expecting property name": b"{" + mark.encode(),
        "not a CloudEvent: the JSON is not an object": json.dumps([mark]).encode(),
        "not a CloudEvent: specversion": json.dumps({"hello": mark}).encode(),
        "'yesterday' is not an RFC 3339 time": message(time="yesterday"),
        "wrong region": message(region="busan"),
        "more than 524288": message(data={"image": "x" * 600_000}),
        "nested too deep": nested(100_000),
        "sequence must be an integer": message(sequence="9" * 5000),
        "integer string conversion": message(data="HERE").replace(b'"HERE"', b"9" * 5000),
        "is outside the years 1 to 9999": message(time="9999-12-31T23:59:59-23:59"),
        "begins with a byte order mark": b"\xef\xbb\xbf" + message(),
        "not UTF-8": json.dumps({"hello": mark}).encode("utf-16"),
        "not a CloudEvent: id has the character U+000A": message(id=f"{mark}\n[forged] a line"),
        "NaN is not JSON": message(data=math.nan),
    }
    known = {letter["id"] for letter in letters("seoul")}
    for sent in wrong.values():
        assert client.publish(TOPIC, sent) is None

    def reasons() -> list[str]:
        return [letter["reason"] for letter in letters("seoul") if letter["id"] not in known]

    until("each is a dead letter", lambda: len(reasons()) == len(wrong), 30)
    assert [part for part in wrong if sum(part in reason for reason in reasons()) != 1] == [], reasons()


@pytest.mark.usefixtures("seoul_stays_up")
def test_more_than_the_broker_takes_ends_the_connection_only(client: Client, probe: str, publisher: Publisher) -> None:
    client.mqtt.publish(TOPIC, message(data={"image": "x" * 2**21}), qos=1)
    until("the broker ends the connection", lambda: client.ended, 20)
    event = drill("seoul", type=DONE)
    publisher.publish(event)
    assert list(publisher.receipts(event, timeout_s=60))[-1].state is ReceiptState.SUCCEEDED


@pytest.mark.usefixtures("seoul_stays_up")
def test_the_same_event_again_is_handled_once(client: Client, probe: str, publisher: Publisher, heard: Heard) -> None:
    # Receipts are heard by who is connected: what this one publishes before says that it is.
    first = drill("seoul", type=DONE)
    publisher.publish(first)
    publisher.wait(first, 60)
    event = drill("seoul", type=DONE, do="note")
    for _ in range(3):
        assert client.publish(event_topic(event), event.to_json()) is None
    until("it is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)
    assert client.publish(event_topic(event), event.to_json()) is None
    # Whoever publishes it is told each time that the region has it.
    until("each has its receipt", lambda: len(heard.of(event, ReceiptState.RECEIVED)) >= 4, 30)
    assert len(entries(probe, [event.id])[event.id]) == 1


@pytest.mark.usefixtures("seoul_stays_up")
def test_nobody_answers_for_an_event_of_quality_0_and_it_is_handled(
    client: Client, probe: str, publisher: Publisher, heard: Heard
) -> None:
    first = drill("seoul", type=DONE)
    publisher.publish(first)
    publisher.wait(first, 60)
    event = drill("seoul", type=DONE)
    client.mqtt.publish(event_topic(event), event.to_json(), qos=0)
    until("it is handled", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)


@pytest.mark.usefixtures("seoul_stays_up")
def test_odd_ids_are_ids(probe: str, publisher: Publisher) -> None:
    mark = secrets.token_hex(4)
    ids = ["../../etc/passwd", "가 나 다", "'; DEL *", "{}{function}%s%00", "x" * 240, "\u202e🚒", "a/b#+$SYS"]
    events = [
        Event(**{name: getattr(made, name) for name in Event.__slots__} | {"id": f"{mark}{id}"})
        for id in ids
        for made in (drill("seoul", type=DONE),)
    ]
    for event in events:
        publisher.publish(event)
    for event in events:
        last = list(publisher.receipts(event, timeout_s=60))[-1]
        assert last.state is ReceiptState.SUCCEEDED
        assert last.result["event"] == event.id
