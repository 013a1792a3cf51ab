"""Packets, and one connection to a real broker."""

import asyncio
import contextlib
import json
import sys
from dataclasses import replace
from typing import Any, Self

import pytest
from gateway_lab import REGION, TOPIC, Mosquitto, Operator, Pki, message, until

from koren_gateway.errors import ConnectionLost
from koren_gateway.intake import mqtt, wire
from koren_gateway.intake.mqtt import Arrival, Connection, Link


def lengths(topic: str = "t") -> bytes:
    return len(topic).to_bytes(2, "big") + topic.encode()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 65536])
def test_packets_are_the_same_however_the_bytes_come(step: int) -> None:
    sizes = (0, 1, 118, 119, 120, 16_376, 16_377, 200_000)
    stream = b"".join(wire.publish(n + 1, "t", bytes([n]) * size, retain=False) for n, size in enumerate(sizes))
    packets, found = wire.Packets(), []
    for start in range(0, len(stream), step):
        packets.feed(stream[start : start + step])
        found += [wire.message_of(first, body) for first, body in packets]
    assert [(m.id, m.topic, m.body) for m in found] == [(n + 1, "t", bytes([n]) * size) for n, size in enumerate(sizes)]


def test_what_is_not_asked_for_waits() -> None:
    packets = wire.Packets()
    packets.feed(wire.PING + wire.acknowledge(7) + wire.FAREWELL)
    for first, _ in packets:
        assert first == 0xC0
        break
    assert [first for first, _ in packets] == [0x40, 0xE0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00\x05ab",
        b"\x00\x01t\x00\x01",
        b"\x00\x01t\x00\x01\x05\x26",
        b"\x00\x01t\x00\x01\x03\x26\x00\x09",
    ],
)
def test_a_message_that_ends_too_early_is_malformed(body: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.message_of(0x32, body)


def test_a_length_of_five_bytes_is_malformed() -> None:
    packets = wire.Packets()
    packets.feed(b"\x32\xff\xff\xff\xff\x01")
    with pytest.raises(wire.Malformed):
        list(packets)


def test_properties_are_read_and_those_nobody_needs_passed_over() -> None:
    properties = (
        b"\x01\x01\x02\x00\x00\x00\x09\x0b\xff\x01\x08"
        + lengths("back")
        + b"\x03"
        + lengths("text/plain")
        + b"\x26"
        + lengths("a")
        + lengths("1")
        + b"\x26"
        + lengths("a")
        + lengths("2")
    )
    message = wire.message_of(0x30, lengths() + bytes([len(properties)]) + properties + b"body")
    assert (message.id, message.topic, message.body) == (None, "t", b"body")
    assert (message.content_type, message.attributes) == ("text/plain", {"a": "2"})


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


@pytest.mark.asyncio
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


@pytest.mark.asyncio
async def test_a_backlog_is_not_read_into_memory(link: Link, pki: Pki, shared_broker: Mosquitto) -> None:
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


@pytest.mark.asyncio
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
@pytest.mark.asyncio
async def test_a_broker_that_is_not_the_right_one_is_an_error_that_says_why(
    link: Link, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConnectionLost, match=problem):
        await Connection.open(replace(link, **change))


@pytest.mark.asyncio
async def test_messages_of_every_size_come_whole(link: Link, pki: Pki, shared_broker: Mosquitto) -> None:
    connection = await open_and_subscribe(replace(link, buffer_bytes=4 * 2**20))
    operator = await Operator.connect(pki, shared_broker.port)
    bodies = [bytes([n % 251]) * size for n, size in enumerate((1, 900_000, 0, 65_536, 65_535, 16_384, 300_000, 7))]
    bodies += [b"%d" % n for n in range(2_000)]
    sending = [operator.publish(body=body or b" ") for body in bodies]
    await asyncio.gather(*sending)
    arrivals = await fetch(connection, len(bodies))
    assert [a.message for a in arrivals] == [body or b" " for body in bodies]
    await operator.close()
    await connection.close()


@pytest.mark.asyncio
async def test_more_than_the_broker_takes_at_once_is_sent_as_it_confirms(
    link: Link, pki: Pki, shared_broker: Mosquitto
) -> None:
    operator = await Operator.connect(pki, shared_broker.port)
    connection = await Connection.open(link)
    body = json.dumps({"pad": "x" * 2000}).encode()
    confirmations = [connection.publish(f"health/{REGION}/{n}", body) for n in range(500)]
    async with asyncio.timeout(20):
        await asyncio.gather(*confirmations)
    await until(lambda: len(operator.health) >= 500, "all of them")
    await connection.close()
    await operator.close()


class Tap:
    """Between a client and the broker: carries the bytes, or holds them back, or cuts the line."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.to_broker = asyncio.Event()
        self.to_client = asyncio.Event()
        self.to_broker.set()
        self.to_client.set()
        self.cut_after = sys.maxsize
        """Bytes to the client, from when it is set, after which the line is cut."""
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, broker_writer]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(
                self._pump(reader, broker_writer, self.to_broker),
                self._pump(broker_reader, writer, self.to_client, counted=True),
            )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open: asyncio.Event, counted: bool = False
    ) -> None:
        while some := await reader.read(4096):
            await open.wait()
            if counted:
                self.cut_after -= len(some)
                if self.cut_after < 0:
                    self.cut()
                    return
            writer.write(some)
            await writer.drain()
        writer.close()


@pytest.mark.asyncio
async def test_a_line_that_is_cut_amid_a_message_ends_the_connection_and_nothing_is_lost(
    link: Link, pki: Pki, shared_broker: Mosquitto
) -> None:
    async with Tap(shared_broker.port) as tap:
        first = await open_and_subscribe(replace(link, port=tap.port))
        tap.cut_after = 100_000
        operator = await Operator.connect(pki, shared_broker.port)
        await operator.publish(body=b"x" * 300_000)
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(first.fetch(1), 5)
        assert first.publish(f"health/{REGION}/test", b"{}").exception() is not None
    # It is more than the buffer holds, and comes before the answer to the subscription.
    second = await Connection.open(link)
    _, arrivals = await asyncio.gather(second.subscribe(f"events/{REGION}/#"), fetch(second, 1))
    assert [a.message for a in arrivals] == [b"x" * 300_000]
    await second.close()
    await operator.close()


@pytest.mark.asyncio
async def test_a_broker_that_does_not_read_gets_what_is_written_once_it_does(
    link: Link, pki: Pki, shared_broker: Mosquitto
) -> None:
    operator = await Operator.connect(pki, shared_broker.port)
    async with Tap(shared_broker.port) as tap:
        connection = await open_and_subscribe(replace(link, port=tap.port))
        tap.to_broker.clear()
        body = json.dumps({"pad": "x" * 50_000}).encode()
        confirmations = [connection.publish(f"health/{REGION}/{n}", body) for n in range(200)]
        await publish(pki, shared_broker, 5)
        arrivals: list[Arrival] = []
        while len(arrivals) < 5:
            arrivals += await asyncio.wait_for(connection.fetch(50_000), 5)
        connection.acknowledge(arrivals)
        # No more is written than the broker's window holds, however much waits.
        assert not all(done.done() for done in confirmations)
        assert tap_backlog(connection) <= 20 * 51_000
        tap.to_broker.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*confirmations)
        await connection.close()
    again = await open_and_subscribe(link)
    await publish(pki, shared_broker, 1)
    assert len(await fetch(again, 1)) == 1
    await again.close()
    await operator.close()


def tap_backlog(connection: Connection) -> int:
    transport = connection._line._transport
    assert transport is not None
    return transport.get_write_buffer_size()


@pytest.mark.asyncio
async def test_a_broker_that_falls_silent_is_noticed(
    link: Link, shared_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_KEEPALIVE_S", 2.0)
    async with Tap(shared_broker.port) as tap:
        connection = await open_and_subscribe(replace(link, port=tap.port))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.fetch(1), 5)  # pings are answered meanwhile
        tap.to_client.clear()
        with pytest.raises(ConnectionLost, match="said nothing"):
            await asyncio.wait_for(connection.fetch(1), 10)
