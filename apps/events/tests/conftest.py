"""A real Mosquitto with TLS and client certificates, and the smallest region behind it."""

import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
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


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
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


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    now = datetime.datetime.now(datetime.UTC)

    def write(name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        (folder / f"{name}.crt").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def start(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = (
        start("test-ca", ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write("ca", ca, ca_key)
    for name in ("broker", "detector", "gateway.seoul", "gateway.busan", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID
        builder = start(name, key).add_extension(
            x509.ExtendedKeyUsage([usage.SERVER_AUTH if name == "broker" else usage.CLIENT_AUTH]),
            critical=False,
        )
        if name == "broker":
            builder = builder.add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.DNSName("localhost"),
                        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    ]
                ),
                critical=False,
            )
        write(name, builder.sign(ca_key, hashes.SHA256()), key)
    return Pki(folder)


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


@pytest.fixture
def stopped_broker(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker", pki)
    yield broker
    broker.kill()


@pytest.fixture
def broker(stopped_broker: Broker) -> Broker:
    stopped_broker.start()
    return stopped_broker


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
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self.name, protocol=mqtt.MQTTv5
        )
        files = self.pki.of(self.name)
        self._client.tls_set(str(files["ca"]), str(files["cert"]), str(files["key"]))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("events/seoul/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self._take(message.payload)

    def start(self) -> None:
        self._client.connect("127.0.0.1", self.broker.port, clean_start=True)
        self._client.loop_start()
        assert self._ready.wait(10)

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

    def say_up(self) -> None:
        health = Health(region="seoul", part="gateway", state="up", since=utc_now())
        self._client.publish(
            health_topic("seoul", "gateway"), health.to_json(), qos=1, retain=True
        ).wait_for_publish(5)


@pytest.fixture
def region(broker: Broker, pki: Pki) -> Iterator[Region]:
    region = Region(broker, pki)
    region.start()
    yield region
    region.stop()


@pytest.fixture
def settings(tmp_path: Path, stopped_broker: Broker, pki: Pki) -> dict[str, Any]:
    """What a publisher of these tests is made with."""
    return {
        "spool": tmp_path / "spool.sqlite",
        "host": "127.0.0.1",
        "port": stopped_broker.port,
        "client_id": "detector",
        **pki.of("detector"),
    }
