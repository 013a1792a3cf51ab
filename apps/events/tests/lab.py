"""A real Mosquitto with TLS and client certificates, and the smallest region behind it."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from koren_events import Health, Receipt, ReceiptState, health_topic, receipt_topic
from koren_events.times import utc_now

ACL = """\
user detector
topic write events/#
topic write health/central/detector
topic read receipts/#
topic read health/#
user gateway.seoul
topic read events/seoul/#
topic write receipts/seoul/#
topic write health/seoul/#
user gateway.busan
topic write receipts/busan/#
user stranger
topic read receipts/#
"""


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@dataclass(frozen=True)
class Pki:
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def of(self, name: str) -> dict[str, Path]:
        return {
            "ca": self.ca,
            "cert": self.folder / f"{name}.crt",
            "key": self.folder / f"{name}.key",
        }


class Broker:
    """One Mosquitto; `kill` is kill -9, `start` starts it anew on the same port and data."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        (folder / "acl").write_text(ACL)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"""\
user root
persistence true
set_tcp_nodelay true
persistence_location {self._data}/
autosave_interval 1800
max_queued_messages 100000
allow_anonymous false
acl_file {folder}/acl
log_dest file {folder}/log
listener {self.port} 127.0.0.1
cafile {pki.ca}
certfile {pki.folder}/broker.crt
keyfile {pki.folder}/broker.key
require_certificate true
use_identity_as_username true
tls_version tlsv1.3
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen([program, "-c", str(self._config)])

        def listening() -> bool:
            assert self._process is not None and self._process.poll() is None, "mosquitto ended"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(listening)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ends it in order: it saves its state."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@dataclass
class Region:
    """What the gateway of seoul does for a publisher: it takes events in and answers them."""

    broker: Broker
    pki: Pki
    states: tuple[ReceiptState, ...] = (ReceiptState.RECEIVED,)
    name: str = "gateway.seoul"
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.name, protocol=mqtt.MQTTv5)
        files = self.pki.of(self.name)
        self._client.tls_set(str(files["ca"]), str(files["cert"]), str(files["key"]))
        self._client.reconnect_delay_set(0.1, 0.1)
        self._client.on_connect = lambda client, *_: client.subscribe("events/seoul/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed()
        self._client.on_message = lambda _client, _data, message: self._take(bytes(message.payload))

    def start(self) -> None:
        self._client.connect("127.0.0.1", self.broker.port, clean_start=True)
        self._client.loop_start()
        assert self._ready.wait(60)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, payload: bytes) -> None:
        event = json.loads(payload)
        self.seen.append(event["id"])
        for state in self.states:
            self.answer(event["source"], event["id"], state)

    def answer(self, source: str, id: str, state: ReceiptState, region: str = "seoul") -> None:
        receipt = Receipt(
            id=id,
            source=source,
            region=region,
            subject=None,
            state=state,
            time=utc_now(),
            function=None if state is ReceiptState.RECEIVED else "report-incident",
            result={"post": 1} if state is ReceiptState.SUCCEEDED else None,
        )
        self._client.publish(receipt_topic(region, source, id), receipt.to_json(), qos=1)

    def _subscribed(self) -> None:
        self.say_up()
        self._ready.set()

    def say_up(self) -> None:
        """On every new connection, as a gateway does: publishers send again what may be lost."""
        health = Health(region="seoul", part="gateway", state="up", since=utc_now())
        topic = health_topic("seoul", "gateway")
        self._client.publish(topic, health.to_json(), qos=1, retain=True)


class SenselessBroker:
    """A listener with the broker's certificate: accepts a client's CONNECT, then sends `packets`.

    Each connection gets the next of them and is closed once the client has had it.
    """

    def __init__(self, port: int, pki: Pki, packets: list[bytes]) -> None:
        self._packets = packets
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = pki.of("broker")
        self._context.load_cert_chain(files["cert"], files["key"])
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for packet in self._packets:
            plain, _ = self._listener.accept()
            with plain, self._context.wrap_socket(plain, server_side=True) as client:
                client.settimeout(5)
                with contextlib.suppress(OSError):
                    client.recv(4096)
                    client.sendall(packet)
                    # Until the client has hung up, or has had the time to read what it got.
                    client.settimeout(0.3)
                    while client.recv(4096):
                        pass
        self._listener.close()

    def wait(self, timeout_s: float) -> None:
        """Waits until every packet was sent."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the client did not come back for the next packet"
