"""What the tests need around a gateway: a real Redis, a real Mosquitto, certificates, a cluster, pods,
people."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import random
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from koren_events import Receipt
from koren_gateway.app import Gateway
from koren_gateway.cluster.functions import FUNCTION_LABEL
from koren_gateway.cluster.interface import Caller, Change, LeaseRecord
from koren_gateway.cluster.sources import SOURCE_LABEL
from koren_gateway.cluster.triggers import TRIGGER_LABEL
from koren_gateway.errors import ClusterRefused, ClusterUnavailable
from koren_gateway.intake.mqtt import Connection, Link
from koren_gateway.queue.store import Store, connect
from koren_gateway.scaling.externalscaler import externalscaler_pb2 as pb
from koren_gateway.scaling.externalscaler import externalscaler_pb2_grpc as service
from koren_gateway.settings import Settings

REGION = "seoul"
TOPIC = f"events/{REGION}/cctv-seoul-01/accident"
PLAIN = "plant"
"""First level of the topics of plain messages that the broker lets through."""
REDIS_USER = "gateway"
REDIS_PASSWORD = "only-for-tests"
CLOCK = Path(__file__).parents[3] / "tests/clock/clock.c"


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to clients."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Pki:
    """A certificate authority and what it issues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.ca = folder / "ca.crt"
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, common_name: str, *names: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("localhost"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    *(x509.DNSName(name) for name in names),
                ]
            ),
            critical=False,
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        cert_path = self.folder / f"{common_name}.crt"
        key_path = self.folder / f"{common_name}.key"
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_path, key_path

    def client_context(self, common_name: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if common_name is not None:
            context.load_cert_chain(*self.issue(common_name))
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


class RedisServer:
    """As the regions run it: append-only, every write on disk before its answer, one ACL user."""

    def __init__(self, folder: Path, maxmemory: str = "0", *, own_clock: bool = False) -> None:
        self.folder = folder
        self.clock = folder / "clock" if own_clock else None
        self.port = free_port()
        self.maxmemory = maxmemory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        config.write_text(
            f'port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nsave ""\n'
            "appendonly yes\nappendfsync always\n"
            f"maxmemory {self.maxmemory}\nmaxmemory-policy noeviction\n"
            # The default user can't log in, but must be allowed everything: in its name Redis 7.0
            # loads the append-only file, and drops every transaction that it may not do.
            "user default off allkeys allchannels allcommands\n"
            f"user {REDIS_USER} on >{REDIS_PASSWORD} ~koren:* &koren:* +@read +@write +@connection "
            "+@transaction +@scripting +@pubsub -@admin -@dangerous +info +time\n"
            f"user keeper on >{REDIS_PASSWORD} +@admin\n"
        )
        its = {}
        if self.clock is not None:
            library = self.folder / "clock.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, CLOCK], check=True)
            self.set_clock(0)
            its = {"LD_PRELOAD": str(library), "KOREN_CLOCK": str(self.clock)}
        self._process = subprocess.Popen(
            ["redis-server", str(config)],
            env=os.environ | its,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_port(self.port, self._process)

    def set_clock(self, off_s: int) -> None:
        """Sets the server's own clock to so many seconds away from the machine's."""
        assert self.clock is not None
        # Over what is there: the server has the file mapped.
        with open(os.open(self.clock, os.O_WRONLY | os.O_CREAT), "wb") as clock:
            clock.write(struct.pack("=q", off_s))

    def rewrite(self) -> None:
        """Begins to rewrite the append-only file."""
        words = ["--user", "keeper", "--pass", REDIS_PASSWORD, "--no-auth-warning", "BGREWRITEAOF"]
        subprocess.run(["redis-cli", "-p", str(self.port), *words], check=True, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


class Mosquitto:
    """As the regions run it: TLS 1.3, a certificate a client, ACL by its name."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / "data"
        data.mkdir(exist_ok=True)
        certificate, key = pki.issue("broker")
        acl = folder / "acl"
        acl.write_text(
            f"user gateway.{REGION}\n"
            f"topic read events/{REGION}/#\n"
            f"topic write receipts/{REGION}/#\n"
            f"topic write health/{REGION}/#\n"
            f"user sources.{REGION}\n"
            f"topic read {PLAIN}/#\n"
            f"topic write receipts/{REGION}/#\n"
            "user operator\n"
            f"topic write {PLAIN}/#\n"
            "topic write events/#\ntopic read receipts/#\ntopic read health/#\n"
        )
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            "user root\nper_listener_settings false\nallow_anonymous false\n"
            f"persistence true\npersistence_location {data}/\nautosave_interval 1\n"
            "set_tcp_nodelay true\nmax_queued_messages 100000\n"
            "max_inflight_messages 20\nmax_packet_size 1048576\n"
            f"log_dest file {folder}/log\nacl_file {acl}\n"
            f"listener {self.port} 127.0.0.1\n"
            f"cafile {pki.ca}\ncertfile {certificate}\nkeyfile {key}\n"
            "require_certificate true\nuse_identity_as_username true\ntls_version tlsv1.3\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        assert program, "mosquitto is not installed"
        self._process = subprocess.Popen(
            [program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_port(self.port, self._process)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}")


def deployment(name: str, function: str | None = None, **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "labels": {FUNCTION_LABEL: function or name},
            "annotations": {f"faas.koren.kr/{key.replace('_', '-')}": value for key, value in annotations.items()},
        }
    }


def declared(name: str, topic: str, made: str = "", **more: str) -> dict[str, Any]:
    """The ConfigMap of a source; `more` are its other keys, with _ for -."""
    return {
        "metadata": {"name": f"mqtt-source-{name}", "labels": {SOURCE_LABEL: name}, "creationTimestamp": made},
        "data": {"topic": topic, **{key.replace("_", "-"): value for key, value in more.items()}},
    }


def trigger(name: str, function: str, kind: str = "mqtt", **more: str) -> dict[str, Any]:
    """The ConfigMap of a trigger; `more` are its other keys, with _ for -."""
    return {
        "metadata": {"name": f"trigger-{name}", "labels": {TRIGGER_LABEL: name}},
        "data": {"kind": kind, "function": function, **{key.replace("_", "-"): value for key, value in more.items()}},
    }


REPORTER = deployment(
    "report-incident",
    topic="events/+/+/accident",
    timeout_s="20",
    max_attempts="3",
    opens="kr.koren.traffic.accident.detected",
    closes="kr.koren.traffic.accident.cleared",
    incident_limit_s="3600",
    handler="handler.handler",
    runtime="python3.11",
)


@dataclass
class TestCluster:
    """A `Cluster` in memory. Tokens: `pod/<function>/<pod>` and `user/<name>`, what follows a dot is
    not looked at; `admin` may all, others what `rights` has of them."""

    __test__ = False

    functions: list[Mapping[str, Any]] = field(default_factory=lambda: [REPORTER])
    declared: list[Mapping[str, Any]] = field(default_factory=list)
    """ConfigMaps of sources."""
    triggers_declared: list[Mapping[str, Any]] = field(default_factory=list)
    """ConfigMaps of triggers."""
    secrets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    secrets_refused: set[str] = field(default_factory=set)
    """Those that the gateway has no right to read."""
    secrets_slow: set[str] = field(default_factory=set)
    """Those for which no answer comes."""
    there: bool = True
    reviews: int = 0
    rights: set[tuple[str, str, str]] = field(default_factory=set)
    """User, verb, resource."""
    deleted_pods: list[str] = field(default_factory=list)
    lease: LeaseRecord = field(default_factory=lambda: LeaseRecord(None, None, 0, None))
    deployment_changes: "asyncio.Queue[Change]" = field(default_factory=asyncio.Queue)
    source_changes: "asyncio.Queue[Change]" = field(default_factory=asyncio.Queue)
    trigger_changes: "asyncio.Queue[Change]" = field(default_factory=asyncio.Queue)
    pod_changes: "asyncio.Queue[Change]" = field(default_factory=asyncio.Queue)

    async def deployments(self) -> AsyncIterator[Change]:
        while not self.there:
            await asyncio.sleep(0.05)
        yield Change("listed", self.functions)
        while True:
            yield await self.deployment_changes.get()

    async def sources(self) -> AsyncIterator[Change]:
        while not self.there:
            await asyncio.sleep(0.05)
        yield Change("listed", self.declared)
        while True:
            yield await self.source_changes.get()

    async def triggers(self) -> AsyncIterator[Change]:
        while not self.there:
            await asyncio.sleep(0.05)
        yield Change("listed", self.triggers_declared)
        while True:
            yield await self.trigger_changes.get()

    async def secret(self, name: str) -> dict[str, bytes] | None:
        self._check()
        if name in self.secrets_refused:
            raise ClusterRefused(f"403 {name}")
        if name in self.secrets_slow:
            await asyncio.Event().wait()
        return self.secrets.get(name)

    async def pods(self) -> AsyncIterator[Change]:
        while True:
            yield await self.pod_changes.get()

    async def delete_pod(self, name: str) -> None:
        self._check()
        self.deleted_pods.append(name)

    async def review(self, token: str) -> Caller | None:
        self._check()
        self.reviews += 1
        match token.partition(".")[0].split("/"):
            case ["pod", function, pod]:
                return Caller(
                    user=f"system:serviceaccount:functions:{function}",
                    extra={"authentication.kubernetes.io/pod-name": (pod,)},
                )
            case ["user", name]:
                return Caller(user=name)
        return None

    async def may(self, caller: Caller, verb: str, resource: str, name: str | None) -> bool:
        self._check()
        return caller.user == "admin" or (caller.user, verb, resource) in self.rights

    async def read_lease(self) -> LeaseRecord:
        self._check()
        return self.lease

    async def write_lease(self, record: LeaseRecord) -> bool:
        self._check()
        if record.version != self.lease.version:
            return False
        version = str(int(self.lease.version or 0) + 1)
        self.lease = LeaseRecord(record.holder, version, record.duration_s, version)
        return True

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if not self.there:
            raise ClusterUnavailable("no API server")


def settings(pki: Pki, redis: RedisServer, broker_port: int, **more: Any) -> Settings:
    certificate, key = pki.issue(f"gateway.{REGION}", "gateway.koren-faas.svc", "gateway.koren-faas.svc.cluster.local")
    sources = pki.issue(f"sources.{REGION}")
    return Settings(
        **{
            "region": REGION,
            "pod": "gateway-0",
            "tls_certificate": certificate,
            "tls_key": key,
            "tls_ca": pki.ca,
            "sources_certificate": sources[0],
            "sources_key": sources[1],
            "broker_host": "localhost",
            "broker_port": broker_port,
            "redis_host": "127.0.0.1",
            "redis_port": redis.port,
            "redis_user": REDIS_USER,
            "redis_password": REDIS_PASSWORD,
            "bind": "127.0.0.1",
            "runtime_port": free_port(),
            "functions_port": free_port(),
            "http_port": free_port(),
            "scaler_port": free_port(),
            "metrics_port": free_port(),
            "stop_delay_s": 0.1,
            "pause_after_s": 0.5,
            **more,
        }
    )


def environment(settings: Settings) -> dict[str, str]:
    values = settings.model_dump(exclude_defaults=True)
    values["redis_password"] = REDIS_PASSWORD
    return {f"KOREN_GATEWAY_{name.upper()}": str(value) for name, value in values.items() if value is not None}


def event(
    subject: str | None = "incident-1",
    happened: str = "detected",
    sequence: int = 1,
    **more: Any,
) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    made = {
        "specversion": "1.0",
        "id": f"{subject}-{happened}-{sequence}",
        "source": "cctv-seoul-01",
        "type": f"kr.koren.traffic.accident.{happened}",
        "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "region": REGION,
        "sequence": sequence,
        "data": {"severity": "minor"},
        **more,
    }
    if subject is not None:
        made["subject"] = subject
    return made


def message(**more: Any) -> bytes:
    return json.dumps(event(**more)).encode()


class Pod:
    """A runtime: what it sends is what a function's pod sends."""

    def __init__(self, settings: Settings, function: str, name: str, token: str = "") -> None:
        self._token = token or f"pod/{function}/{name}"
        self._base = f"http://127.0.0.1:{settings.runtime_port}"
        self.attempt = ""
        self.key = ""

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token}", **more.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self._base, timeout=40, verify=False) as client:
            return await client.request(method, path, headers=headers, **more)

    async def next(self, **headers: str) -> Any:
        """The next event, or None."""
        answer = await self.call("GET", "/v1/invocation/next", headers=headers)
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200, answer.text
        self.key = answer.headers["Koren-Invocation-Id"]
        self.attempt = answer.headers["Koren-Attempt"]
        assert int(answer.headers["Koren-Deadline-Ms"]) > time.time() * 1000
        return answer.json()

    async def next_now(self) -> Any:
        """The next event if there is one, or None; the poll is given up then."""
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.next(), 1)
        return None

    async def say(self, what: str, body: Any = None) -> httpx.Response:
        """Of the event in hand: entered, heartbeat, response or error."""
        return await self.call(
            "POST",
            f"/v1/invocation/{self.key}/{what}",
            json=body if body is not None else {},
            headers={"Koren-Attempt": self.attempt},
        )

    async def post(self, what: str, body: Any = None) -> int:
        return (await self.say(what, body)).status_code


class Operator:
    """Publishes events and reads receipts, as `operator`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.receipts: list[Receipt] = []
        self.health: list[Any] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, pki: Pki, port: int) -> "Operator":
        certificate, key = pki.issue("operator")
        connection = await Connection.open(
            Link(
                host="localhost",
                port=port,
                client_id=f"operator-{time.monotonic_ns()}",
                ca=pki.ca,
                certificate=certificate,
                key=key,
                session_expiry_s=0,
                buffer_bytes=2**20,
                will_topic="health/none",
                will_message=b"",
            )
        )
        await connection.subscribe("receipts/#")
        await connection.subscribe("health/#")
        return cls(connection)

    async def publish(
        self, topic: str = TOPIC, body: bytes | None = None, *, retain: bool = False, **more: Any
    ) -> None:
        await self._connection.publish(topic, body or json.dumps(event(**more)).encode(), retain=retain)

    def publish_at_qos_0(
        self, body: bytes, topic: str = TOPIC, content_type: str = "", attributes: Mapping[str, str] | None = None
    ) -> None:
        """Sent as it is, without a word from the broker; `attributes` are user properties."""
        properties = b"\x03" + _text(content_type) if content_type else b""
        for name, value in (attributes or {}).items():
            properties += b"\x26" + _text(name) + _text(value)
        rest = _text(topic) + _length(len(properties)) + properties + body
        self._connection._write(b"\x30" + _length(len(rest)) + rest)

    async def receipt(self, state: str, count: int = 1, subject: str | None = None) -> Receipt:
        """The last of `count` receipts of that state, and subject if given."""

        def found() -> list[Receipt]:
            return [r for r in self.receipts if r.state == state and subject in (None, r.subject)]

        await until(lambda: len(found()) >= count, lambda: f"{state} among {self.receipts}")
        return found()[-1]

    def states(self, subject: str) -> list[str]:
        """The states of the receipts of that subject, in the order they came."""
        return [receipt.state.value for receipt in self.receipts if receipt.subject == subject]

    async def close(self) -> None:
        self._reading.cancel()
        await self._connection.close()

    async def _read(self) -> None:
        while True:
            arrivals = await self._connection.fetch(2**20)
            self._connection.acknowledge(arrivals)
            for arrival in arrivals:
                if arrival.topic.startswith("health/"):
                    self.health.append(json.loads(arrival.message))
                else:
                    self.receipts.append(Receipt.from_json(arrival.message))


def _text(value: str) -> bytes:
    """A text in an MQTT packet."""
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(value: int) -> bytes:
    """A variable byte integer in an MQTT packet."""
    encoded = b""
    while True:
        value, low = divmod(value, 128)
        encoded += bytes([low | (0x80 if value else 0)])
        if not value:
            return encoded


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str | Callable[[], str], timeout_s: float = 15
) -> None:
    """Waits for the condition, which may be a coroutine."""
    end = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        told = what if isinstance(what, str) else what()
        assert time.monotonic() < end, f"not within {timeout_s} s: {told}"
        await asyncio.sleep(0.01)


class Proxy:
    """A TCP proxy on a port of its own, which can be cut as a network is."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def cut(self) -> None:
        """Ends all connections, and takes none."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to_port)
        self._writers += [writer, to_server]
        await asyncio.gather(_pass(reader, to_server), _pass(from_server, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while some := await reader.read(65536):
            writer.write(some)
    writer.close()


@dataclass
class Lab:
    """A running gateway and who talks to it."""

    settings: Settings
    cluster: TestCluster
    gateway: Gateway
    broker: Operator
    pki: Pki

    def pod(self, name: str = "pod-a", function: str = "report-incident", token: str = "") -> Pod:
        return Pod(self.settings, function, name, token)

    async def admin(self, method: str, path: str, *, token: str = "user/admin", **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(
            base_url=f"https://localhost:{self.settings.functions_port}",
            verify=self.pki.client_context(),
            headers={"Koren-Token": token},
            timeout=30,
        ) as client:
            return await client.request(method, path, **more)

    async def function(self, name: str = "report-incident") -> Mapping[str, Any] | None:
        """The function as the gateway lists it; none when it does not know it."""
        listed = (await self.admin("GET", "/v1/functions")).json()["functions"]
        return next((one for one in listed if one["name"] == name), None)

    async def dead_letters(self, function: str | None = None) -> Sequence[Mapping[str, Any]]:
        query = f"?function={function}" if function else ""
        letters: Sequence[Mapping[str, Any]] = (await self.admin("GET", f"/v1/dead-letters{query}")).json()[
            "dead_letters"
        ]
        return letters

    async def known(self, name: str, there: bool = True) -> None:
        """Waits until the gateway knows the function, or does not any more."""

        async def is_so() -> bool:
            return (await self.function(name) is not None) is there

        await until(is_so, f"function {name}: {there}")

    async def queued(self, name: str = "report-incident", **counts: int) -> None:
        """Waits until the function's counts are these, e.g. runnable=1."""

        async def is_so() -> bool:
            its = await self.function(name) or {}
            return {count: its.get(count) for count in counts} == counts

        await until(is_so, f"{name}: {counts}")

    async def polling(self, name: str = "report-incident", pods: int = 1) -> None:
        """Waits until so many pods of the function wait for an event."""
        workers = self.gateway._bell._workers
        await until(lambda: len(workers.get(f"f:{name}", ())) == pods, f"{pods} pods of {name} wait")

    @contextlib.asynccontextmanager
    async def keda(self, common_name: str = "keda") -> AsyncIterator[service.ExternalScalerStub]:
        certificate, key = self.pki.issue(common_name)
        credentials = grpc.ssl_channel_credentials(self.pki.ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
        address = f"localhost:{self.settings.scaler_port}"
        async with grpc.aio.secure_channel(address, credentials) as channel:
            yield stub(channel)

    async def metrics(self) -> str:
        async with httpx.AsyncClient(verify=False) as client:
            page = await client.get(f"http://127.0.0.1:{self.settings.metrics_port}/metrics")
            return page.text

    async def metric(self, name: str, /, **labels: str) -> float | None:
        """The value of one series; none when there is none."""
        inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
        series = f"koren_gateway_{name}{{{inner}}} " if labels else f"koren_gateway_{name} "
        found = [line for line in (await self.metrics()).splitlines() if line.startswith(series)]
        return float(found[0].removeprefix(series)) if found else None

    async def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(verify=False) as client:
                page = await client.get(f"http://127.0.0.1:{self.settings.metrics_port}/readyz")
                return page.status_code == 200
        return False

    async def open(self) -> None:
        """Waits until the gateway is ready and takes events in."""

        async def is_open() -> bool:
            return await self.ready() and await self.metric("intake_connected") == 1

        await until(is_open, "the intake is open")


def stub(channel: grpc.aio.Channel) -> service.ExternalScalerStub:
    return service.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]


def scaled(function: str = "report-incident", **metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name=function, namespace="functions", scalerMetadata={"function": function, **metadata})


@contextlib.asynccontextmanager
async def running(settings: Settings, cluster: TestCluster) -> AsyncIterator[Gateway]:
    gateway = Gateway(settings, cluster)
    task = asyncio.create_task(gateway.run())
    try:
        yield gateway
    finally:
        gateway.stop()
        await asyncio.wait_for(task, 15)


@contextlib.asynccontextmanager
async def started(settings: Settings, pki: Pki, cluster: TestCluster | None = None) -> AsyncIterator[Lab]:
    """A gateway whose intake is open."""
    cluster = cluster or TestCluster()
    operator = await Operator.connect(pki, settings.broker_port)
    try:
        async with running(settings, cluster) as gateway:
            lab = Lab(settings, cluster, gateway, operator, pki)
            await lab.open()
            operator.receipts.clear()
            yield lab
    finally:
        await operator.close()


@dataclass
class World:
    """A gateway with a Redis and a broker of its own."""

    lab: Lab
    redis: RedisServer
    mosquitto: Mosquitto
    store: Store


@contextlib.asynccontextmanager
async def world(
    folder: Path, pki: Pki, cluster: TestCluster | None = None, maxmemory: str = "0", **more: Any
) -> AsyncIterator[World]:
    """A gateway whose intake is open, and neighbours that can be stopped; `more` are settings."""
    redis, mosquitto = RedisServer(folder / "redis", maxmemory=maxmemory), Mosquitto(folder / "mosquitto", pki)
    redis.start()
    mosquitto.start()
    try:
        made = settings(pki, redis, mosquitto.port, **more)
        store = Store(connect(made))
        async with started(made, pki, cluster) as lab:
            yield World(lab, redis, mosquitto, store)
        await store.redis.aclose()
    finally:
        mosquitto.stop()
        redis.stop()
