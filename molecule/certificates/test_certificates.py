# SPDX-License-Identifier: Apache-2.0
"""Renewal and revocation by the playbook, as the clients of running brokers meet them."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from conftest import Site

PORT = 8883
Wait = Callable[[Callable[[], bool], float], None]


def _certificates(site: Site, *args: str) -> str:
    return site.playbook("playbooks/certificates.yml", "--tags=mosquitto", *args)


class Client:
    """A client that stays connected as long as the broker has it."""

    def __init__(self, site: Site, host: str, name: str) -> None:
        self.lost = 0
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"test-{name}")
        self.mqtt.tls_set(*site.client_files(name))
        self.mqtt.reconnect_delay_set(1, 1)
        self.mqtt.on_disconnect = self._lost
        self.mqtt.connect(site.hosts[host], PORT)
        self.mqtt.loop_start()

    def _lost(self, *_: object) -> None:
        self.lost += 1

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


Connect = Callable[[str, str], Client]


@pytest.fixture
def connect(site: Site, eventually: Wait) -> Iterator[Connect]:
    """Connects a client by the name of its certificate."""
    made: list[Client] = []

    def opened(host: str, name: str) -> Client:
        client = Client(site, host, name)
        made.append(client)
        eventually(client.mqtt.is_connected, 10)
        return client

    yield opened
    for client in made:
        client.close()


def _process(site: Site, host: str) -> str:
    return site.run(host, "systemctl show --property=MainPID,ActiveEnterTimestamp mosquitto")


def _served(site: Site, host: str) -> str:
    return ssl.get_server_certificate((site.hosts[host], PORT), timeout=5)


def test_a_renewed_certificate_is_served_and_nobody_is_cut_off(site: Site, connect: Connect) -> None:
    before = {host: (_process(site, host), _served(site, host)) for host in ("central-cp", "seoul-cp")}
    client = connect("seoul-cp", "operator")
    _certificates(site, "--extra-vars=certificates_renew_days=100000")
    for host, (process, served) in before.items():
        assert _served(site, host) != served, f"{host} serves the certificate of before"
        assert _process(site, host) == process, f"{host}'s broker was restarted"
    assert client.mqtt.is_connected() and client.lost == 0
    connect("seoul-cp", "gateway.seoul")


def test_without_anything_near_its_end_nothing_changes(site: Site) -> None:
    output = _certificates(site)
    assert not re.search("changed=[1-9]", output), output


def test_a_revoked_client_is_out_at_once_and_nobody_else(site: Site, connect: Connect, eventually: Wait) -> None:
    revoked, other = connect("central-cp", "detector"), connect("central-cp", "operator")
    processes = {host: _process(site, host) for host in ("central-cp", "seoul-cp")}
    _certificates(site, "--extra-vars=certificates_revoke=detector")
    eventually(lambda: revoked.lost > 0, 10)
    time.sleep(3)
    assert not revoked.mqtt.is_connected()
    for host in ("central-cp", "seoul-cp"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _handshake(site, host, "detector")
        # Not the operator: this would take its session over.
        assert _handshake(site, host, "gateway.busan") == b"\x20"
        assert _process(site, host) == processes[host], f"{host}'s broker was restarted"
    assert other.mqtt.is_connected() and other.lost == 0


def test_a_new_certificate_lets_the_name_in_again(site: Site, connect: Connect) -> None:
    for file in site.client_files("detector")[1:]:
        Path(file).unlink()
    site.playbook("molecule/default/clients.yml")
    connect("central-cp", "detector")
    # What was revoked stays so when another is added.
    listed = subprocess.run(
        ["openssl", "crl", "-in", str(site.folder / "pki/ca.crl"), "-noout", "-text"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Serial Number" in listed.stdout


def test_a_name_that_was_never_issued_is_refused(site: Site) -> None:
    with pytest.raises(AssertionError, match=r"issued no certificate to nobody.* certificates to .*detector"):
        _certificates(site, "--extra-vars=certificates_revoke=nobody")


def _handshake(site: Site, host: str, name: str) -> bytes:
    """The first byte that the broker answers to an MQTT CONNECT."""
    authority, certificate, key = site.client_files(name)
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    address = site.hosts[host]
    with (
        socket.create_connection((address, PORT), 5) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
    ):
        secured.sendall(bytes.fromhex("101000044d5154540502003c000003414243"))
        return secured.recv(1)
