"""One connection to a real broker."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from gateway_lab import REGION, TOPIC, Mosquitto, Operator, Pki, message

from koren_gateway.errors import ConnectionLost
from koren_gateway.intake.mqtt import Arrival, Connection, Link

pytestmark = pytest.mark.asyncio


@pytest.fixture
def link(pki: Pki, shared_broker: Mosquitto, request: pytest.FixtureRequest) -> Link:
    certificate, key = pki.issue(f"gateway.{REGION}")
    return Link(
        host="localhost",
        port=shared_broker.port,
        client_id=f"test-{request.node.name}",
        ca=pki.ca,
        certificate=certificate,
        key=key,
        session_expiry_s=60,
        buffer_bytes=100_000,
        will_topic=f"health/{REGION}/test",
        will_message=b"{}",
    )


async def open_and_subscribe(link: Link) -> Connection:
    connection = await Connection.open(link)
    await connection.subscribe(f"events/{REGION}/#")
    return connection


async def publish(pki: Pki, broker: Mosquitto, count: int, size: int = 10) -> None:
    operator = await Operator.connect(pki, broker.port)
    for number in range(count):
        await operator.publish(body=message(sequence=number, data="x" * size))
    await operator.close()


async def fetch(connection: Connection, count: int) -> list[Arrival]:
    arrivals: list[Arrival] = []
    async with asyncio.timeout(10):
        while len(arrivals) < count:
            batch = await connection.fetch(50_000)
            connection.acknowledge(batch)
            arrivals += batch
    return arrivals


async def test_what_is_not_acknowledged_comes_again_on_the_next_connection(
    link: Link, pki: Pki, shared_broker: Mosquitto
) -> None:
    first = await open_and_subscribe(link)
    await publish(pki, shared_broker, 5)
    arrivals: list[Arrival] = []
    while len(arrivals) < 5:
        arrivals += await first.fetch(1)
    first.acknowledge(arrivals[:2])
    await first.close()
    first.acknowledge(arrivals[2:])
    second = await open_and_subscribe(link)
    again = await fetch(second, 3)
    assert [a.message for a in again] == [a.message for a in arrivals[2:]]
    await second.close()


async def test_a_backlog_is_not_read_into_memory(
    link: Link, pki: Pki, shared_broker: Mosquitto
) -> None:
    connection = await open_and_subscribe(link)
    await publish(pki, shared_broker, 60, size=20_000)
    await asyncio.sleep(0.5)
    buffered = sum(len(arrival.message) for arrival in connection._arrivals)
    assert 100_000 <= buffered < 130_000
    arrivals = await fetch(connection, 60)
    sequences = [int(a.message.split(b'"sequence": ')[1].split(b",")[0]) for a in arrivals]
    assert sequences == list(range(60))
    assert {a.topic for a in arrivals} == {TOPIC}
    await connection.close()


async def test_a_second_client_of_the_same_id_takes_the_session_over(link: Link) -> None:
    first = await open_and_subscribe(link)
    waiting = asyncio.create_task(first.fetch(1))
    second = await Connection.open(link)
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(waiting, 5)
    await second.close()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"port": 1}, "refused"),
        ({"host": "127.0.0.2"}, "refused|mismatch"),
    ],
)
async def test_a_broker_that_is_not_the_right_one_is_an_error_that_says_why(
    link: Link, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConnectionLost, match=problem):
        await Connection.open(replace(link, **change))
