"""Fixtures: certificates, a broker, a region behind it, a publisher's settings."""

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from lab import Broker, Pki, Region


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    now = datetime.datetime.now(datetime.UTC)

    def write(name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
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


@pytest.fixture(autouse=True)
def quick_to_connect_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second at each lost connection would be most of what the tests take."""
    monkeypatch.setattr("koren_events.link._RECONNECT_S", (0.1, 0.1))


@pytest.fixture
def stopped_broker(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker", pki)
    yield broker
    broker.kill()


@pytest.fixture
def broker(stopped_broker: Broker) -> Broker:
    stopped_broker.start()
    return stopped_broker


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
