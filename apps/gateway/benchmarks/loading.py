"""Load for a broker that takes little of the measured processor, and what the machine gives without a gateway."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import Any

AT_ONCE = 50  # messages that are sent before their acknowledgements are read
STUCK_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker, and the certificate of one client: it may keep one connection of each."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path


class Camera:
    """An MQTT 3.1.1 client that sends packets made beforehand, many with one call."""

    def __init__(self, broker: Broker) -> None:
        tls = ssl.create_default_context(cafile=broker.ca)
        tls.load_cert_chain(broker.certificate, broker.key)
        plain = socket.create_connection((broker.host, broker.port), STUCK_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls.wrap_socket(plain, server_hostname=broker.host)
        name = f"camera-{os.getpid()}-{time.monotonic_ns()}".encode()
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + _text(name)
        self._socket.sendall(b"\x10" + _length(len(body)) + body)
        assert self._read(4) == b"\x20\x02\x00\x00", "the broker refuses the publisher"

    def publish(self, packets: Sequence[bytes]) -> None:
        """Sends the packets; returns when the broker has acknowledged them all."""
        for start in range(0, len(packets), AT_ONCE):
            some = packets[start : start + AT_ONCE]
            self._socket.sendall(b"".join(some))
            self._read(4 * len(some))

    def close(self) -> None:
        """Takes leave of the broker."""
        self._socket.sendall(b"\xe0\x00")
        self._socket.close()

    def _read(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            part = self._socket.recv(count - len(got))
            assert part, "the broker ended the publisher's connection"
            got += part
        return got


def packets(topic: str, messages: Sequence[bytes]) -> list[bytes]:
    """The messages as PUBLISH packets at QoS 1."""
    made = []
    for number, message in enumerate(messages):
        body = _text(topic.encode()) + (number % 65535 + 1).to_bytes(2, "big") + message
        made.append(b"\x32" + _length(len(body)) + body)
    return made


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _length(value: int) -> bytes:
    written = bytearray()
    while True:
        value, digit = divmod(value, 128)
        written.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(written)


@contextlib.contextmanager
def publishing(brokers: Sequence[Broker], sent: Sequence[bytes]) -> Iterator[Callable[[], float]]:
    """Processes, one a client, that are connected and publish all packets once the function is called.

    It returns the monotonic time of that. The end of the context waits until all is acknowledged.
    """
    # Not forked: this process may have threads, each with a lock in hand.
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    processes = [
        context.Process(target=_publish, args=(broker, sent[number :: len(brokers)], ready, go), daemon=True)
        for number, broker in enumerate(brokers)
    ]
    for process in processes:
        process.start()

    def begin() -> float:
        for _ in processes:
            assert ready.acquire(timeout=30), "a publisher does not reach the broker"
        began = time.monotonic()
        go.set()
        return began

    try:
        yield begin
        for process in processes:
            process.join(STUCK_S)
            assert process.exitcode == 0, "a publisher did not get through"
    finally:
        for process in processes:
            process.kill()


def _publish(broker: Broker, sent: Sequence[bytes], ready: Any, go: Signal) -> None:
    camera = Camera(broker)
    ready.release()
    go.wait()
    camera.publish(sent)
    camera.close()


def bare_subscriber(publishers: Sequence[Broker], subscriber: Broker, topic: str, messages: Sequence[bytes]) -> float:
    """Messages a second to a paho client over TLS at QoS 1 that does nothing but acknowledge each by hand."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"bare-{os.getpid()}-{time.monotonic_ns()}",
        protocol=mqtt.MQTTv5,
        manual_ack=True,
    )
    client.tls_set(str(subscriber.ca), str(subscriber.certificate), str(subscriber.key))
    ready, finished = threading.Event(), threading.Event()
    counted = 0

    def came(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        nonlocal counted
        client.ack(message.mid, message.qos)
        counted += 1
        if counted == len(messages):
            finished.set()

    def connected(*_: object) -> None:
        client.subscribe(topic, qos=1)

    client.on_connect = connected
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = came
    with publishing(publishers, packets(topic, messages)) as begin:
        client.connect(subscriber.host, subscriber.port)
        client.loop_start()
        assert ready.wait(STUCK_S), "the broker does not answer the bare subscriber"
        began = begin()
        assert finished.wait(STUCK_S + len(messages) / 100), f"{counted} of {len(messages)} messages came"
        took_s = time.monotonic() - began
    client.disconnect()
    client.loop_stop()
    return len(messages) / took_s


def fsyncs(store: Any, size: int, seconds: float = 2.0) -> float:
    """Values of so many bytes that Redis puts on disk one after the other, a second."""
    value, count, began = b"x" * size, 0, time.monotonic()
    while time.monotonic() - began < seconds:
        store.set("koren:bench", value)
        count += 1
    rate = count / (time.monotonic() - began)
    store.delete("koren:bench")
    return rate
