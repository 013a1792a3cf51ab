# SPDX-License-Identifier: Apache-2.0
"""A real Mosquitto with the role's own configuration: who gets in where, and what a source's rights let them do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import paho.mqtt.client as mqtt
import pytest
from ansible_collections.koren.faas.plugins.filter.mqtt import mosquitto_password, mqtt_bridged

ROLE = Path(__file__).parents[2] / "roles" / "mosquitto"
PASSWORD = "sixteen characters"
RIGHTS = "user gateway.seoul\ntopic read plant/#\nuser {0}\ntopic write plant/#\n"


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.02)


def rendered(template: str, **values: Any) -> str:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["koren.faas.mosquitto_password"] = mosquitto_password
    return environment.from_string((ROLE / "templates" / template).read_text()).render(ansible_managed="", **values)


def issue(folder: Path, name: str) -> None:
    """A certificate of the authority in that folder, which is made with the first."""
    if not (folder / "ca.crt").exists():
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        openssl("req", "-x509", *key, "-keyout", folder / "ca.key", "-out", folder / "ca.crt", "-subj", "/CN=test")
    request = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    openssl("req", *request, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    authority = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "2"]
    openssl("x509", "-req", "-in", folder / f"{name}.csr", *authority, "-extfile", folder / "names",
            "-out", folder / f"{name}.crt")  # fmt: skip


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Broker:
    """The broker of a region with one source of events, whose publishers are `sensor` and `meter`."""

    def __init__(self, folder: Path) -> None:
        self.pki, self.etc = folder / "pki", folder / "etc"
        self.pki.mkdir()
        (self.etc / "acl.d").mkdir(parents=True)
        for name in ("broker", "gateway.seoul", "sensor"):
            issue(self.pki, name)
        values = {
            "mosquitto_address": "127.0.0.1",
            "mosquitto_certificate": {"name": "broker", "common_name": "bridge.seoul"},
            "mosquitto_passwords": [{"user": "meter", "password": PASSWORD}],
            "mosquitto_plaintext": [{"network": "hall", "address": "127.0.0.1"}],
            "mosquitto_acl": [{"user": "gateway.seoul", "read": ["events/seoul/#"], "write": []}],
            "mosquitto_bridges": [],
            "mosquitto_packet_bytes": 1048576,
            "mosquitto_queued_messages": 1000,
            "mosquitto_queued_bytes": 1000000,
            "mosquitto_inflight_messages": 20,
            "mosquitto_autosave_s": 5,
        }
        (self.etc / "acl.d/site.acl").write_text(rendered("acl.j2", **values))
        (self.etc / "koren.passwd").write_text(rendered("passwd.j2", **values))
        self.ports: dict[str, int] = {}
        conf = f"user root\n{rendered('mosquitto.conf.j2', **values)}"
        # No list of revoked certificates here, and ports that nobody has.
        conf = conf.replace("crlfile /etc/koren/pki/ca.crl\n", "").replace("/var/lib/mosquitto", str(folder))
        conf = conf.replace("/etc/koren/pki", str(self.pki)).replace("/etc/mosquitto", str(self.etc))
        for port in ("8883", "8884", "1883"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[port] = probe.getsockname()[1]
            assert conf.count(f"listener {port} ") == 1
            conf = conf.replace(f"listener {port} ", f"listener {self.ports[port]} ")
        (self.etc / "mosquitto.conf").write_text(conf)
        self.process: subprocess.Popen[bytes] | None = None
        self.rights()

    def rights(self, *words: str, given: str = "") -> str:
        """What the role's program for rights says."""
        program = (ROLE / "files/koren-mosquitto-acl").read_text().replace("/etc/mosquitto", str(self.etc))
        program = program.replace("chown mosquitto", "true")
        pid = self.process.pid if self.process else os.getpid()
        program = program.replace("systemctl reload mosquitto", f"kill -HUP {pid}")
        command = ["sh", "-c", program, "koren-mosquitto-acl", *words]
        return subprocess.run(command, check=True, input=given, capture_output=True, text=True).stdout

    def start(self) -> None:
        log = (self.etc / "log").open("wb")
        self.process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", self.etc / "mosquitto.conf"], stderr=log)

        def listens() -> bool:
            assert self.process is not None and self.process.poll() is None, (self.etc / "log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.ports["1883"])) == 0

        until("the broker listens", listens)


class Client:
    """An MQTT client, and what became of what it did."""

    def __init__(self, broker: Broker, port: str, version: int = mqtt.MQTTv5, **who: str) -> None:
        self.answer: str | None = None
        self.refused: dict[int, str] = {}
        self.got: list[tuple[str, bytes]] = []
        self.lost = False
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, who.get("id", "any"), protocol=version)
        self.mqtt.on_connect = lambda *its: setattr(self, "answer", str(its[3]))
        self.mqtt.on_connect_fail = lambda *_: setattr(self, "answer", "no connection")
        self.mqtt.on_disconnect = lambda *_: setattr(self, "lost", True)
        self.mqtt.on_message = lambda _c, _u, message: self.got.append((message.topic, message.payload))
        self.mqtt.on_publish = self._published
        if port != "1883":
            files = (str(broker.pki / f"{who['certificate']}.{end}") for end in ("crt", "key"))
            self.mqtt.tls_set(str(broker.pki / "ca.crt"), *(files if "certificate" in who else ()))
        if "user" in who:
            self.mqtt.username_pw_set(who["user"], who.get("password", PASSWORD))
        self.mqtt.connect("127.0.0.1", broker.ports[port])
        self.mqtt.loop_start()

    def _published(self, _c: object, _u: object, mid: int, code: mqtt.ReasonCode, _p: object) -> None:
        if code.is_failure:
            self.refused[mid] = str(code)

    def connected(self) -> str:
        """The broker's answer to the log-in."""
        until("an answer", lambda: self.answer is not None)
        return str(self.answer)

    def publish(self, topic: str, payload: bytes = b"1") -> str | None:
        """Published at QoS 1; the reason when it is refused."""
        sent = self.mqtt.publish(topic, payload, qos=1)
        sent.wait_for_publish(30)
        assert sent.is_published()
        until("it is told", lambda: sent.mid not in self.mqtt._out_messages)  # type: ignore[attr-defined]
        return self.refused.get(sent.mid)

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


Connect = Callable[..., Client]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    assert made.process is not None
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(30)


@pytest.fixture
def connect(broker: Broker) -> Iterator[Connect]:
    made: list[Client] = []

    def opened(*its: Any, **who: Any) -> Client:
        made.append(Client(broker, *its, **who))
        return made[-1]

    yield opened
    for client in made:
        client.close()


@pytest.fixture
def gateway(connect: Connect) -> Client:
    client = connect("8883", certificate="gateway.seoul")
    assert client.connected() == "Success"
    client.mqtt.subscribe([("plant/#", 1), ("events/seoul/#", 1)])
    return client


@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5], ids=["3.1.1", "5"])
@pytest.mark.parametrize(
    ("port", "who"),
    [("8883", {"certificate": "sensor"}), ("8884", {"user": "meter"}), ("1883", {"user": "meter"})],
    ids=["certificate", "password", "plaintext"],
)
def test_publishers_of_a_source_reach_the_gateway_and_nothing_else(
    broker: Broker, connect: Connect, gateway: Client, version: int, port: str, who: dict[str, str]
) -> None:
    name = who.get("user") or who["certificate"]
    broker.rights("put", "plant", given=RIGHTS.format(name))
    client = connect(port, version, **who)
    assert client.connected() == "Success"
    mark = f"{name} {port} {version}".encode()
    until("the rights hold", lambda: not client.publish("plant/press", mark) and ("plant/press", mark) in gateway.got)
    client.mqtt.subscribe("#", 1)
    client.publish("events/seoul/cctv/accident", mark)
    client.publish("plant/end", mark)
    until("the last has come", lambda: ("plant/end", mark) in gateway.got)
    assert ("events/seoul/cctv/accident", mark) not in gateway.got
    assert not client.got
    if version == mqtt.MQTTv5:
        assert client.publish("receipts/seoul/x") == "Not authorized"


@pytest.mark.parametrize(
    ("port", "who"),
    [
        ("8884", {"user": "meter", "password": "wrong password too"}),
        ("8884", {"user": "gateway.seoul"}),
        ("8884", {}),
        ("1883", {"user": "meter", "password": ""}),
        ("1883", {}),
    ],
    ids=["wrong password", "a certificate's name", "nobody", "plaintext without password", "plaintext nobody"],
)
def test_who_has_no_right_password_does_not_get_in(connect: Connect, port: str, who: dict[str, str]) -> None:
    assert connect(port, **who).connected() in ("Not authorized", "Bad user name or password")


def test_a_password_is_no_key_to_the_listener_of_certificates(connect: Connect) -> None:
    client = connect("8883", user="meter")
    until("the broker ends the connection", lambda: client.lost or client.answer is not None)
    assert client.answer != "Success"


def test_no_publisher_takes_over_the_session_of_a_gateway(connect: Connect, gateway: Client) -> None:
    assert connect("1883", user="meter", id="gateway.seoul").connected() == "Success"
    client = connect("8884", user="meter", id="gateway.seoul")
    assert client.connected() == "Success"
    time.sleep(0.2)
    assert not gateway.lost


def test_rights_that_were_taken_away_hold_no_more_for_who_is_connected(
    broker: Broker, connect: Connect, gateway: Client
) -> None:
    broker.rights("put", "plant", given=RIGHTS.format("meter"))
    client = connect("8884", user="meter")
    assert client.connected() == "Success"
    until("it may publish", lambda: client.publish("plant/a") is None)
    assert broker.rights("put", "plant", given=RIGHTS.format("meter")) == ""
    assert broker.rights("put", "plant") == "changed\n"
    until("it may not any more", lambda: client.publish("plant/a") == "Not authorized")
    assert broker.rights("show", "plant") == ""
    assert "gateway.seoul" in (broker.etc / "koren.acl").read_text()


@pytest.mark.parametrize("words", [("put", "../site"), ("put", ""), ("show",), ("drop", "plant")])
def test_the_program_for_rights_refuses_what_is_no_source(broker: Broker, words: tuple[str, ...]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        broker.rights(*words)


def test_the_hash_of_a_password_is_mosquittos(tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    subprocess.run(["mosquitto_passwd", "-c", "-b", file, "meter", PASSWORD], check=True, capture_output=True)
    theirs, mine = file.read_text().strip().split(":")[1], mosquitto_password(PASSWORD, "meter")
    assert [len(part) for part in mine.split("$")] == [len(part) for part in theirs.split("$")]
    assert mine == mosquitto_password(PASSWORD, "meter") != mosquitto_password(PASSWORD, "other")


def test_the_centre_sends_on_what_its_sources_say() -> None:
    sources = [
        {"name": "a", "topic": "factory/{region}/+", "at": "centre"},
        {"name": "b", "topic": "tower", "at": "centre", "regions": ["busan"]},
        {"name": "c", "topic": "common"},
    ]
    assert mqtt_bridged(sources, "seoul") == ["factory/seoul/+"]
    assert mqtt_bridged(sources, "busan") == ["factory/busan/+", "tower"]
