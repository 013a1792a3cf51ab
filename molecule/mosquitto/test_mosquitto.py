# SPDX-License-Identifier: Apache-2.0
"""The brokers of a centre and one edge, used over the network by their clients."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import paho.mqtt.client as mqtt
import pytest
from conftest import Site
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT = 8883
Wait = Callable[[Callable[[], bool], float], None]


class Client:
    """An MQTT 5 client with a persistent session that remembers what it received."""

    def __init__(self, site: Site, host: str, name: str, topics: list[str], client_id: str, clean: bool) -> None:
        self.received: list[tuple[str, bytes, bool]] = []
        self.lost = 0
        self.refused: dict[int, str] = {}
        self.answered = threading.Event()
        self._topics = topics
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        self.mqtt.tls_set(*site.client_files(name))
        self.mqtt.on_connect = self._connected
        self.mqtt.on_subscribe = lambda *_: self.answered.set()
        self.mqtt.on_message = lambda _c, _u, message: self.received.append(
            (message.topic, message.payload, message.retain)
        )
        self.mqtt.on_publish = self._published
        self.mqtt.on_disconnect = self._lost
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 600
        start = mqtt.MQTT_CLEAN_START_FIRST_ONLY if clean else False
        self.mqtt.connect(site.hosts[host], PORT, clean_start=start, properties=session)
        self.mqtt.loop_start()
        assert self.answered.wait(10), f"{name} got no answer from {host}"

    def _connected(self, *_: object) -> None:
        if self._topics:
            self.mqtt.subscribe([(topic, 1) for topic in self._topics])
        else:
            self.answered.set()

    def _lost(self, *_: object) -> None:
        self.lost += 1

    def _published(self, _c: object, _u: object, mid: int, code: mqtt.ReasonCode, _p: object) -> None:
        if code.is_failure:
            self.refused[mid] = str(code)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str | None:
        """Publish at QoS 1 and wait for the acknowledgement; the reason when it is a refusal."""
        sent = self.mqtt.publish(topic, payload, qos=1, retain=retain)
        sent.wait_for_publish(10)
        assert sent.is_published(), f"{topic} was not acknowledged"
        time.sleep(0.05)
        return self.refused.get(sent.mid)

    def payloads(self, topic: str) -> list[bytes]:
        """What came on a topic so far."""
        return [payload for name, payload, _ in self.received if name == topic]

    def close(self) -> None:
        """Leave; the session stays."""
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


Connect = Callable[..., Client]


def _kept(connect: Connect) -> Client:
    """The gateway of Seoul with a session that is new, and that its broker keeps over a restart.

    Mosquitto forgets those of clients whose last connection began them anew.
    """
    connect("seoul-cp", "gateway.seoul")
    return connect("seoul-cp", "gateway.seoul", "events/seoul/#", clean=False)


@pytest.fixture
def connect(site: Site) -> Iterator[Connect]:
    """Connects a client to a host's broker by the name of its certificate, which has one session there."""
    made: dict[tuple[str, str, str], Client] = {}

    def opened(host: str, name: str, *topics: str, client_id: str = "", clean: bool = True) -> Client:
        if before := made.pop((host, name, client_id), None):
            before.close()
        client = Client(site, host, name, list(topics), client_id, clean)
        made[host, name, client_id] = client
        return client

    yield opened
    for client in made.values():
        client.close()


@pytest.fixture(autouse=True)
def bridges_stand(connect: Connect, eventually: Wait) -> None:
    """Each test starts with both bridges up, as the brokers themselves tell."""
    for host, bridge in (("central-cp", "central.seoul"), ("seoul-cp", "seoul.central")):
        topic = f"$SYS/broker/connection/bridge.{bridge}/state"
        watch = connect(host, "operator", topic)
        eventually(lambda w=watch, t=topic: w.payloads(t)[-1:] == [b"1"], 20)  # type: ignore[misc]
        watch.close()


def _handshake(site: Site, name: str | None, version: ssl.TLSVersion) -> bytes:
    authority = site.client_files("operator")[0]
    context = ssl.create_default_context(cafile=authority)
    context.maximum_version = version
    if name:
        context.load_cert_chain(*site.client_files(name)[1:])
    address = site.hosts["central-cp"]
    with (
        socket.create_connection((address, PORT), 5) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
    ):
        secured.sendall(bytes.fromhex("101000044d5154540502003c000003414243"))
        return secured.recv(1)


def test_a_client_needs_a_certificate_and_tls_1_3(site: Site) -> None:
    assert _handshake(site, "operator", ssl.TLSVersion.TLSv1_3) == b"\x20"
    for name, version in ((None, ssl.TLSVersion.TLSv1_3), ("operator", ssl.TLSVersion.TLSv1_2)):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            _handshake(site, name, version)


def test_nothing_else_listens(site: Site) -> None:
    listening = site.run("seoul-cp", "ss -Hltnp | grep mosquitto").split()
    assert [word for word in listening if word.endswith(":8883")] == [f"{site.hosts['seoul-cp']}:8883"]
    assert site.run("seoul-cp", "ss -Hltnup | grep -c mosquitto").strip() == "1"


def test_a_broker_tells_its_figures_to_its_own_host(site: Site, connect: Connect, eventually: Wait) -> None:
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9641/metrics').read().decode())"

    def figures() -> dict[str, float]:
        lines = site.run("central-cp", f'python3 -c "{ask}"').splitlines()
        found = [line.split() for line in lines if line.startswith("mosquitto_")]
        return {name: float(value) for name, value, *_ in found}

    def of(name: str) -> list[float]:
        return [value for series, value in figures().items() if series.startswith(f"mosquitto_{name}{{")]

    eventually(lambda: set(of("bridge_up")) == {1.0} and of("messages_dropped_total") == [0.0], 60)
    assert of("clients_connected") > [1.0]
    connect("central-cp", "operator").publish("events/nowhere/cam/accident", bytes(50_000))
    eventually(lambda: of("received_bytes_total") > [50_000.0], 40)
    site.run("central-cp", "systemctl kill --kill-who=all --signal=KILL mosquitto")
    # What it tells then is the new broker's, which has received next to nothing.
    eventually(lambda: [0.0] < of("received_bytes_total") < [50_000.0] and set(of("bridge_up")) == {1.0}, 40)


def test_a_gateway_has_its_own_region_only(connect: Connect, eventually: Wait) -> None:
    gateway = connect("seoul-cp", "gateway.seoul", "events/#", "events/seoul/#")
    stranger = connect("seoul-cp", "gateway.busan", "events/#", "receipts/#")
    operator = connect("seoul-cp", "operator")
    assert operator.publish("events/busan/cam/accident", b"not yours") is None
    assert operator.publish("events/seoul/cam/accident", b"yours") is None
    eventually(lambda: gateway.payloads("events/seoul/cam/accident") != [], 5)
    assert gateway.payloads("events/busan/cam/accident") == []
    assert gateway.publish("receipts/seoul/1", b"mine") is None
    assert gateway.publish("receipts/busan/1", b"forged") == "Not authorized"
    assert gateway.publish("events/seoul/cam/accident", b"made up") == "Not authorized"
    assert stranger.received == []


def test_a_detector_reads_receipts_and_forges_none(connect: Connect) -> None:
    detector = connect("central-cp", "detector", "receipts/#", "events/#")
    assert detector.publish("events/seoul/cam/accident", b"seen") is None
    assert detector.publish("receipts/seoul/1", b"forged") == "Not authorized"
    assert detector.publish("health/seoul/gateway", b"forged") == "Not authorized"
    time.sleep(0.5)
    assert detector.payloads("events/seoul/cam/accident") == []


def test_bridges_carry_events_out_and_receipts_home(connect: Connect, eventually: Wait) -> None:
    centre = connect("central-cp", "operator", "receipts/#", "health/#")
    edge = connect("seoul-cp", "gateway.seoul", "events/seoul/#")
    operator = connect("seoul-cp", "operator", "receipts/#", "health/#")
    centre.publish("events/busan/cam/accident", b"elsewhere")
    centre.publish("events/seoul/cam/accident", b"from the centre")
    eventually(lambda: edge.payloads("events/seoul/cam/accident") == [b"from the centre"], 5)
    edge.publish("receipts/seoul/2", b"done")
    edge.publish("health/seoul/gateway", b"up", retain=True)
    eventually(lambda: centre.payloads("receipts/seoul/2") == [b"done"], 5)
    late = connect("central-cp", "operator", "health/#")
    eventually(lambda: ("health/seoul/gateway", b"up", True) in late.received, 5)
    time.sleep(1)
    assert operator.payloads("receipts/seoul/2") == [b"done"], "a receipt came back"
    assert edge.payloads("events/seoul/cam/accident") == [b"from the centre"], "an event came back"
    edge.publish("health/seoul/gateway", b"", retain=True)


def test_a_bridge_writes_what_its_region_may_tell(site: Site, connect: Connect) -> None:
    forged = ["receipts/busan/3", "health/busan/gateway", "$SYS/broker/connection/bridge.busan.central/state"]
    for away, host, name, fine, wrong in (
        ("seoul-cp", "central-cp", "bridge.seoul", "receipts/seoul/3", forged),
        ("central-cp", "seoul-cp", "bridge.central", "events/seoul/cam/drill", ["events/busan/cam/accident"]),
    ):
        # The session is the bridge's own.
        site.run(away, "systemctl stop mosquitto")
        try:
            bridge = connect(host, name, "events/#", "receipts/#")
            assert bridge.publish(fine, b"done") is None
            for topic in (*wrong, "receipts/central/3", "events/central/cam/accident"):
                assert bridge.publish(topic, b"forged") == "Not authorized"
            assert bridge.received == []
            bridge.close()
        finally:
            site.run(away, "systemctl start mosquitto")


@pytest.mark.parametrize("client_id", ["gateway.seoul", "bridge.central", "local.bridge.seoul.central", "exporter"])
def test_nobody_takes_anothers_session_over(connect: Connect, eventually: Wait, client_id: str) -> None:
    gateway = connect("seoul-cp", "gateway.seoul", "events/seoul/#")
    centre = connect("central-cp", "operator", "receipts/seoul/#")
    operator = connect("seoul-cp", "operator", "$SYS/broker/connection/#")
    stranger = connect("seoul-cp", "gateway.busan", client_id=client_id, clean=False)
    assert gateway.publish("receipts/seoul/4", b"sent on") is None
    eventually(lambda: centre.payloads("receipts/seoul/4") == [b"sent on"], 5)
    assert gateway.lost == 0
    states = operator.payloads("$SYS/broker/connection/bridge.seoul.central/state")
    assert states == [b"1"]
    # What waits for the gateway waits for the gateway.
    gateway.close()
    stranger.close()
    operator.publish("events/seoul/cam/accident", b"waits")
    stranger = connect("seoul-cp", "gateway.busan", client_id=client_id, clean=False)
    gateway = connect("seoul-cp", "gateway.seoul", clean=False)
    eventually(lambda: gateway.payloads("events/seoul/cam/accident") == [b"waits"], 5)
    assert stranger.received == []


@pytest.mark.parametrize("broken", ["head -c $size /dev/zero", "head -c $((size / 2)) $db.good"])
def test_a_broken_store_is_set_aside_and_the_broker_serves(
    connect: Connect, site: Site, eventually: Wait, broken: str
) -> None:
    gateway = connect("seoul-cp", "gateway.seoul", "events/seoul/#")
    gateway.close()
    connect("seoul-cp", "operator").publish("events/seoul/cam/accident", bytes(10_000))
    db = "/var/lib/mosquitto/mosquitto.db"
    site.run(
        "seoul-cp",
        f"systemctl stop mosquitto && db={db} && size=$(stat -c %s $db) && cp $db $db.good && {broken} >$db"
        " && rm $db.good && systemctl start mosquitto",
    )
    told = site.run("seoul-cp", "journalctl --unit=mosquitto --grep='set aside as' --output=cat --lines=1")
    kept = told.split("set aside as ")[1].split(",")[0]
    assert kept.startswith(f"{db}.2")
    assert site.run("seoul-cp", f"stat -c %U {kept} && rm {kept}").strip() == "mosquitto"
    gateway = connect("seoul-cp", "gateway.seoul", "events/seoul/#")
    connect("central-cp", "detector").publish("events/seoul/cam/accident", b"goes on")
    eventually(lambda: gateway.payloads("events/seoul/cam/accident") == [b"goes on"], 20)


def test_a_restart_and_a_kill_keep_what_waits(connect: Connect, site: Site, eventually: Wait) -> None:
    gateway = _kept(connect)
    gateway.close()
    operator = connect("seoul-cp", "operator")
    operator.publish("events/seoul/cam/accident", b"before the restart")
    site.run("seoul-cp", "systemctl restart mosquitto")
    eventually(lambda: operator.mqtt.is_connected(), 20)
    operator.publish("events/seoul/cam/accident", b"before the kill")
    time.sleep(7)  # autosave
    site.run("seoul-cp", "systemctl kill --signal=KILL mosquitto")
    back: list[Client] = []

    def returned() -> bool:
        with contextlib.suppress(OSError):
            back.append(connect("seoul-cp", "gateway.seoul", clean=False))
        return bool(back)

    eventually(returned, 20)
    expected = [b"before the restart", b"before the kill"]
    eventually(lambda: back[0].payloads("events/seoul/cam/accident") == expected, 5)


def test_what_is_sent_to_a_region_that_is_away_arrives_later(connect: Connect, site: Site, eventually: Wait) -> None:
    gateway = _kept(connect)
    centre = connect("central-cp", "detector")
    site.run("seoul-cp", "systemctl stop mosquitto")
    state = "$SYS/broker/connection/bridge.central.seoul/state"
    operator = connect("central-cp", "operator", state)
    eventually(lambda: operator.payloads(state)[-1:] == [b"0"], 20)
    sent = [b"%d" % number for number in range(200)]
    for payload in sent:
        assert centre.publish("events/seoul/cam/accident", payload) is None
    site.run("central-cp", "systemctl restart mosquitto")
    site.run("seoul-cp", "systemctl start mosquitto")
    eventually(lambda: len(gateway.payloads("events/seoul/cam/accident")) >= len(sent), 30)
    assert gateway.payloads("events/seoul/cam/accident") == sent


def test_a_bridge_whose_packets_are_dropped_is_told_as_down(connect: Connect, site: Site, eventually: Wait) -> None:
    state = "$SYS/broker/connection/bridge.central.seoul/state"
    operator = connect("seoul-cp", "operator", state)
    with site.cut_off("seoul-cp", "central-cp", PORT):
        eventually(lambda: operator.payloads(state)[-1:] == [b"0"], 30)
    eventually(lambda: operator.payloads(state)[-1:] == [b"1"], 30)


def test_a_packet_over_the_limit_is_refused(connect: Connect, eventually: Wait) -> None:
    operator = connect("central-cp", "operator")
    lost = threading.Event()
    operator.mqtt.on_disconnect = lambda *_: lost.set()
    operator.publish("events/seoul/cam/accident", b"x" * (1 << 19))
    assert not lost.is_set()
    operator.mqtt.publish("events/seoul/cam/accident", b"x" * (1 << 20), qos=1)
    assert lost.wait(10)
