"""A running site, named by KOREN_SITE_DIR, and what tests do to it: publish, look at pods, kill."""

from __future__ import annotations

import json
import os
import shlex
import ssl
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from koren_events import Camera, Event, Publisher, SeenObject, Text, accident_detected

SITE_DIR = Path(os.environ.get("KOREN_SITE_DIR", ".state/local")).resolve()
PROBE = "e2e-probe"


@dataclass(frozen=True)
class Cluster:
    """One region's cluster, by its context."""

    region: str
    kubectl: str

    def run(self, *args: str) -> str:
        """kubectl's output; raises CalledProcessError with its words when it fails."""
        command = [self.kubectl, "--kubeconfig", str(SITE_DIR / "kubeconfig"), "--context", self.region, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

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


@pytest.fixture(scope="session")
def site() -> dict[str, Any]:
    """What the site's description says."""
    described: dict[str, Any] = json.loads((SITE_DIR / "site.json").read_text())
    return described


@pytest.fixture(scope="session")
def cluster(site: dict[str, Any]) -> Callable[[str], Cluster]:
    """The cluster of a region."""
    kubectl = str(Path(site["bundle"], "kubernetes", "bin", "kubectl"))
    return lambda region: Cluster(region, kubectl)


def faas(*command: str) -> str:
    """What the command prints; raises CalledProcessError when it fails."""
    program = str(Path(sys.executable).parent / "faas")
    whole = [program, "--site-dir", str(SITE_DIR), *command]
    return subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout


def on_host(host: str, *command: str) -> str:
    """What a command on a host prints; raises CalledProcessError when it fails."""
    ssh = ["ssh", "-F", str(SITE_DIR / "ssh_config"), host, shlex.join(command)]
    return subprocess.run(ssh, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


@pytest.fixture(scope="session")
def probe() -> Iterator[str]:
    """A deployed function that gets every drill of its region; taken away in the end."""
    faas(
        *("function", "deploy", PROBE, "--from-file", str(Path(__file__).parent / "probe")),
        *("--handler", "handler.handler", "--runtime", "python3.11"),
        *("--topic", "events/{region}/+/drill"),
        *("--opens", "kr.koren.test.drill.opened"),
        *("--closes", "kr.koren.test.drill.closed"),
    )
    yield PROBE
    faas("function", "delete", PROBE)


@pytest.fixture
def publisher(site: dict[str, Any], tmp_path: Path) -> Iterator[Publisher]:
    """A publisher at the centre's broker."""
    host, _, port = site["central_broker"].rpartition(":")
    pki = SITE_DIR / "pki"
    with Publisher(
        spool=tmp_path / "spool.sqlite",
        client_id=f"e2e-{os.getpid()}-{time.monotonic_ns()}",
        host=host,
        port=int(port),
        ca=pki / "ca.crt",
        cert=pki / "operator.crt",
        key=pki / "operator.key",
    ) as made:
        yield made


def drill(region: str, *, closes: Event | None = None) -> Event:
    """A new drill in a region, or the end of one: an incident that no function of the site wants."""
    return Event(
        id=str(uuid.uuid4()),
        source="e2e",
        type=f"kr.koren.test.drill.{'closed' if closes else 'opened'}",
        subject=closes.subject if closes else f"drill-{uuid.uuid4()}",
        time=datetime.now(UTC),
        region=region,
        sequence=closes.sequence + 1 if closes else 1,
    )


def accident(region: str) -> Event:
    """A new accident in a region."""
    name = Text(ko="시험 카메라", en="Test camera")
    return accident_detected(
        region=region,
        camera=Camera(
            id=f"cctv-{region}-e2e", name=name, latitude=37.5, longitude=127.0, road=name, direction=name
        ),
        severity="moderate",
        confidence=0.9,
        what="rear_end",
        started_at=datetime.now(UTC),
        objects=[SeenObject(object_class="car", track=1, box=(10, 10, 60, 40), involved=True)],
    )


def posts(region: str, url: str) -> list[dict[str, Any]]:
    """All posts of a region's account on the social server that ``url`` leads to."""
    scheme, _, server, *_ = url.split("/")
    query = f"repo={region}.koren.test&collection=app.bsky.feed.post&limit=100"
    tls = ssl.create_default_context(cafile=str(SITE_DIR / "pki" / "ca.crt"))
    ask = f"{scheme}//{server}/xrpc/com.atproto.repo.listRecords?{query}"
    with urllib.request.urlopen(ask, timeout=20, context=tls) as answer:
        records: list[dict[str, Any]] = json.load(answer)["records"]
    return records


def until(what: str, check: Callable[[], Any], timeout_s: float) -> Any:
    """What ``check`` returns once it is true; fails with ``what`` when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.5)
    return found
