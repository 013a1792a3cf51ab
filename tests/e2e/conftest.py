"""A running site, named by KOREN_SITE_DIR, and what tests do to it: publish, look at pods, kill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from koren_events import (
    Camera,
    Event,
    Publisher,
    Receipt,
    ReceiptState,
    SeenObject,
    Text,
    accident_cleared,
    accident_detected,
)

ROOT = Path(__file__).parents[2]
SITE_DIR = Path(os.environ.get("KOREN_SITE_DIR", ".state/local")).resolve()
TESTED = "give the site what tests/e2e/site.yml has: make up ARGS='-e @tests/e2e/site.yml'"
PROBE = "e2e-probe"
OTHER = "e2e-other"
REPORT = "report-incident"
OPENED, CLOSED, DONE = (f"kr.koren.test.drill.{what}" for what in ("opened", "closed", "done"))

Publish = Callable[..., Publisher]
Play = Callable[..., str]


Record = Callable[[str, object], None]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what would begin after KOREN_TEST_ENDS (Unix time), and adds its name to the file KOREN_TEST_LATE."""
    if (ends := os.environ.get("KOREN_TEST_ENDS")) and time.time() > float(ends):
        with Path(os.environ["KOREN_TEST_LATE"]).open("a") as late:
            late.write(f"{item.name}\n")
        pytest.skip("no time is left")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes how each long test went, and the figures that it recorded, into the file that KOREN_LONG_TABLE names."""
    if not (table := os.environ.get("KOREN_LONG_TABLE")):
        return
    worst: dict[str, pytest.TestReport] = {}
    took_s: dict[str, float] = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            took_s[report.nodeid] = took_s.get(report.nodeid, 0) + report.duration
            if report.when == "call" or not report.passed:
                worst[report.nodeid] = report
    with Path(table).open("a") as rows:
        for name, report in worst.items():
            figures = ", ".join(f"{what} {value}" for what, value in report.user_properties)
            what = name.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            rows.write(f"{what:<80}  {report.outcome:<7}  {took_s[name]:>5.0f} s  {figures}\n")


@dataclass(frozen=True)
class Cluster:
    """One region's cluster, by its context."""

    region: str
    kubectl: str

    def run(self, *args: str, stdin: str | None = None) -> str:
        """kubectl's output; raises CalledProcessError with its words when it fails."""
        command = [self.kubectl, "--kubeconfig", str(SITE_DIR / "kubeconfig"), "--context", self.region, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, input=stdin).stdout

    def items(self, *args: str) -> list[dict[str, Any]]:
        """The objects that ``kubectl get`` finds."""
        found: list[dict[str, Any]] = json.loads(self.run("get", *args, "-o", "json"))["items"]
        return found

    def pods(self, function: str) -> list[str]:
        """Names of a function's pods, those that are going included."""
        pods = self.items("pods", "-n", "functions", "-l", f"faas.koren.kr/function={function}")
        return [pod["metadata"]["name"] for pod in pods]

    def pods_ever(self, function: str) -> list[str]:
        """Names of the function's pods that the cluster's events remember."""
        events = self.items("events", "-n", "functions", "--field-selector", "involvedObject.kind=Pod")
        names = {event["involvedObject"]["name"] for event in events}
        return sorted(name for name in names if name.startswith(f"{function}-"))

    def signal(self, number: str, namespace: str, pod: str, *, first_only: bool = False) -> None:
        """Send a signal to all processes of a pod's container, or to its first alone; no kubelet is told."""
        found = json.loads(self.run("get", "pod", pod, "-n", namespace, "-o", "json"))
        container = found["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        which = "sort -n | head -n 1" if first_only else "cat"
        script = f"grep -ls {container} /proc/[0-9]*/cgroup | cut -d / -f 3 | {which} | xargs -r kill -s {number}"
        # With a container's first process the kernel ends the others: they may be gone already.
        on_host(found["spec"]["nodeName"], "sh", "-c", f"{script} 2>/dev/null; true")


@pytest.fixture(scope="session")
def site() -> dict[str, Any]:
    """What the site's description says."""
    described: dict[str, Any] = json.loads((SITE_DIR / "site.json").read_text())
    return described


def run_playbook(*words: str, fails: bool = False, checkout: Path = ROOT, **variables: Any) -> str:
    """What a checkout's playbook prints, run with the variables of the tests' sites; it has to succeed, or to fail."""
    program = str(Path(checkout, ".venv", "bin", "ansible-playbook"))
    done = subprocess.run(
        [program, *words, "-e", f"@{Path(__file__).with_name('site.yml')}", "-e", json.dumps(variables)],
        cwd=checkout, capture_output=True, text=True, check=False, timeout=7200,
    )  # fmt: skip
    assert bool(done.returncode) is fails, f"{words}: {done.stdout[-6000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def play(site: dict[str, Any]) -> Play:
    """Runs a playbook on this site, with backups on the detector's host; what it prints."""
    net = ".".join(site["central_broker"].split(".")[:2])
    described = {"site_name": SITE_DIR.name, "site_net": net, "backup_server": "hpc-1"}
    return lambda *words: run_playbook(*words, **described)


@pytest.fixture(scope="session")
def cluster(site: dict[str, Any]) -> Callable[[str], Cluster]:
    """The cluster of a region."""
    kubectl = str(Path(site["bundle"], "kubernetes", "bin", "kubectl"))
    return lambda region: Cluster(region, kubectl)


def faas(*command: str, checkout: Path = ROOT) -> str:
    """What the command of a checkout prints; raises CalledProcessError when it fails."""
    whole = [str(checkout / ".venv" / "bin" / "faas"), "--site-dir", str(SITE_DIR), *command]
    return subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout


def on_host(host: str, *command: str) -> str:
    """What a command on a host prints; raises CalledProcessError when it fails."""
    ssh = ["ssh", "-F", str(SITE_DIR / "ssh_config"), host, shlex.join(command)]
    return subprocess.run(ssh, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


def changed(printed: str) -> set[str]:
    """The hosts that a run says it has changed."""
    return set(re.findall(r"^(\S+) +: ok=\d+ +changed=[1-9]", printed, re.MULTILINE))


def container(host: str) -> str:
    """Podman's name of a host of the local site."""
    return f"koren-{SITE_DIR.name}-{host}"


def podman(*command: str) -> list[str]:
    """The words that podman prints; raises CalledProcessError when it fails."""
    return subprocess.run(
        ["podman", *command], check=True, stdout=subprocess.PIPE, text=True, timeout=120
    ).stdout.split()


def lose(host: str) -> None:
    """Take a host of the local site away with all that was on it."""
    podman("rm", "--force", container(host))
    if volumes := podman("volume", "ls", "--quiet", "--filter", f"name=^{container(host)}-"):
        podman("volume", "rm", *volumes)


def deploy_probe(checkout: Path = ROOT) -> None:
    """Deploys a function that gets every drill of its region, by the command of a checkout."""
    faas(
        *("function", "deploy", PROBE, "--from-file", str(Path(__file__).parent / "probe")),
        *("--handler", "handler.handler", "--runtime", "python3.11", "--max-scale", "4"),
        *("--topic", "events/{region}/+/drill", "--opens", OPENED, "--closes", CLOSED),
        checkout=checkout,
    )


@pytest.fixture(scope="session")
def probe() -> Iterator[str]:
    """A deployed function that gets every drill of its region; taken away in the end."""
    deploy_probe()
    yield PROBE
    faas("function", "delete", PROBE)


@pytest.fixture(scope="session")
def other() -> Iterator[str]:
    """A second function, without a trigger: Kubeless's examples, and the probe's code; taken away in the end."""
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory() as source:
        shutil.copytree(folder / "kubeless", source, dirs_exist_ok=True)
        shutil.copy(folder / "probe" / "handler.py", source)
        faas(
            *("function", "deploy", OTHER, "--region", "seoul", "--from-file", source),
            *("--handler", "helloget.foo", "--runtime", "python3.11"),
            *("--dependencies", str(folder / "kubeless" / "requirements.txt")),
        )
    yield OTHER
    faas("function", "delete", OTHER)


@dataclass(frozen=True)
class Identity:
    """An operator's certificate and key. A broker keeps one connection of each."""

    name: str
    cert: Path
    key: Path


class Identities:
    """The operators whom the site knows besides the first: each client of a test is another."""

    def __init__(self) -> None:
        pki = SITE_DIR / "pki"
        self._free = [Identity(cert.stem, cert, cert.with_suffix(".key")) for cert in sorted(pki.glob("e2e-*.crt"))]

    def take(self) -> Identity:
        """One that no client has."""
        if not self._free:
            pytest.fail(f"the site has too few operators for the tests' clients; {TESTED}")
        return self._free.pop(0)

    def give_back(self, identity: Identity) -> None:
        """Its client has ended."""
        self._free.append(identity)


@pytest.fixture(scope="session")
def identities() -> Identities:
    """The operators."""
    return Identities()


class Heard(list[Receipt]):
    """Every receipt that a publisher's broker has delivered, other publishers' included."""

    def of(self, event: Event, *states: ReceiptState) -> list[Receipt]:
        """Those of an event that have one of the states, or any."""
        return [
            receipt
            for receipt in list(self)
            if (receipt.source, receipt.id) == (event.source, event.id) and (not states or receipt.state in states)
        ]


@pytest.fixture
def publish_at(tmp_path: Path, identities: Identities) -> Iterator[Publish]:
    """Makes publishers at a broker, each with its own spool and certificate."""
    with contextlib.ExitStack() as stack:

        def made(broker: str, on_receipt: Callable[[Receipt], None] | None = None) -> Publisher:
            host, _, port = broker.partition(":")
            number = time.monotonic_ns()
            identity = identities.take()
            stack.callback(identities.give_back, identity)
            return stack.enter_context(
                Publisher(
                    spool=tmp_path / f"spool-{number}.sqlite",
                    client_id=f"e2e-{os.getpid()}-{number}",
                    host=host,
                    port=int(port or 8883),
                    ca=SITE_DIR / "pki" / "ca.crt",
                    cert=identity.cert,
                    key=identity.key,
                    on_receipt=on_receipt,
                )
            )

        yield made


@pytest.fixture
def heard() -> Heard:
    """What `publisher` has heard."""
    return Heard()


@pytest.fixture
def publisher(site: dict[str, Any], publish_at: Publish, heard: Heard) -> Publisher:
    """A publisher at the centre's broker."""
    return publish_at(site["central_broker"], heard.append)


class Client:
    """An MQTT client that publishes whatever it is told, once."""

    def __init__(self, host: str, cert: Path, key: Path) -> None:
        self.ended = False
        self._refused: dict[int, str] = {}
        self._connected = threading.Event()
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, reconnect_on_failure=False)
        self.mqtt.tls_set(str(SITE_DIR / "pki" / "ca.crt"), str(cert), str(key))
        # What the brokers take from one client at a time.
        self.mqtt.max_inflight_messages_set(100)
        self.mqtt.on_connect = lambda *_: self._connected.set()
        self.mqtt.on_disconnect = lambda *_: setattr(self, "ended", True)
        self.mqtt.on_publish = self._published
        self.mqtt.connect(host, 8883)
        self.mqtt.loop_start()
        assert self._connected.wait(10), f"no answer from {host}"

    def _published(self, _c: object, _u: object, mid: int, code: ReasonCode, _p: object) -> None:
        if code.is_failure:
            self._refused[mid] = str(code)

    def publish(self, topic: str, message: bytes) -> str | None:
        """Publish and wait for the acknowledgement; the reason when it is a refusal."""
        sent = self.mqtt.publish(topic, message, qos=1)
        sent.wait_for_publish(10)
        assert sent.is_published(), f"{topic} was not acknowledged"
        return self._refused.get(sent.mid)


Connect = Callable[..., Client]


@pytest.fixture
def connect(site: dict[str, Any], identities: Identities) -> Iterator[Connect]:
    """Connects to a region's broker, as an operator or with a certificate and its key."""
    with contextlib.ExitStack() as stack:

        def connected(region: str, cert: Path | None = None, key: Path | None = None) -> Client:
            if cert is None or key is None:
                identity = identities.take()
                stack.callback(identities.give_back, identity)
                cert, key = identity.cert, identity.key
            client = Client(site["regions"][region]["broker"], cert, key)
            stack.callback(client.mqtt.loop_stop)
            stack.callback(client.mqtt.disconnect)
            return client

        yield connected


def drill(region: str, *, closes: Event | None = None, type: str = "", **data: Any) -> Event:
    """A new drill in a region, or the end of one: an incident that no function of the site wants.

    `type` is another than that of an incident's begin or end; `data` tell the probe what to do.
    """
    return Event(
        id=str(uuid.uuid4()),
        source="e2e",
        type=type or (CLOSED if closes else OPENED),
        subject=closes.subject if closes else f"drill-{uuid.uuid4()}",
        time=datetime.now(UTC),
        region=region,
        sequence=closes.sequence + 1 if closes else 1,
        data=data,
    )


def letters(region: str, function: str | None = None) -> list[dict[str, Any]]:
    """A region's dead letters, all or a function's."""
    of = ("--function", function) if function else ()
    found: list[dict[str, Any]] = json.loads(faas("dlq", "list", "--region", region, "-o", "json", *of))
    return found


def ask_centre(site: dict[str, Any], port: int, path: str) -> Any:
    """What a service of the centre answers an operator, as JSON."""
    pki = SITE_DIR / "pki"
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "operator.crt", pki / "operator.key")
    host = site["central_broker"].rpartition(":")[0]
    with urllib.request.urlopen(f"https://{host}:{port}{path}", timeout=10, context=tls) as answer:
        return json.load(answer)


@contextlib.contextmanager
def cut_off(region: str) -> Iterator[None]:
    """Meanwhile nothing passes the region's gateway host, in neither direction, and nobody is told."""
    gateway = f"{region}-gw"
    rules = "table inet koren_e2e { chain cut { type filter hook forward priority -10; policy drop; }; }"
    on_host(gateway, "nft", rules)
    try:
        yield
    finally:
        on_host(gateway, "nft", "delete", "table", "inet", "koren_e2e")


TEST_ROAD = Text(ko="시험 카메라", en="Test camera")


def accident(region: str, name: Text = TEST_ROAD, **more: Any) -> Event:
    """A new accident in a region, on a road of that name; `more` is for `accident_detected`."""
    return accident_detected(
        region=region,
        camera=Camera(id=f"cctv-{region}-e2e", name=name, latitude=37.5, longitude=127.0, road=name, direction=name),
        severity="moderate",
        confidence=0.9,
        what="rear_end",
        started_at=datetime.now(UTC),
        objects=[SeenObject(object_class="car", track=1, box=(10, 10, 60, 40), involved=True)],
        **more,
    )


def posts(region: str, subject: str | None = None) -> list[dict[str, Any]]:
    """The posts of a region's account on the site's social server: all, or those about an incident."""
    server = on_host("sns-1", "hostname", "-I").split()[0]
    query = f"repo={region}.koren.test&collection=app.bsky.feed.post&limit=100"
    tls = ssl.create_default_context(cafile=str(SITE_DIR / "pki" / "ca.crt"))
    ask = f"https://{server}/xrpc/com.atproto.repo.listRecords?{query}"
    with urllib.request.urlopen(ask, timeout=20, context=tls) as answer:
        records: list[dict[str, Any]] = json.load(answer)["records"]
    return [one for one in records if subject in (None, one["value"]["kr.koren.incident"]["subject"])]


def clear(publisher: Publisher, detected: Event) -> str:
    """End an accident and see that it was posted once, with one reply that says so; the first post's address."""
    cleared = accident_cleared(detected, cleared_at=datetime.now(UTC))
    publisher.publish(cleared)
    closing = list(publisher.receipts(cleared, timeout_s=90))[-1]
    assert closing.state is ReceiptState.SUCCEEDED
    of_incident = posts(detected.region, detected.subject)
    (first,) = [post["uri"] for post in of_incident if "reply" not in post["value"]]
    (end,) = [post["value"]["reply"]["root"]["uri"] for post in of_incident if "reply" in post["value"]]
    assert first == end
    return str(first)


def until(what: str, check: Callable[[], Any], timeout_s: float) -> Any:
    """What ``check`` returns once it is true; fails with ``what`` when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.5)
    return found
