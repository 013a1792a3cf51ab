"""An event's way in figures: from zero beside the floor and the old way, warm, under load, and back to zero.

KOREN_BENCH_RUNS starts from zero (30), KOREN_BENCH_EVENTS under load (20000). The result goes into the file that
KOREN_BENCH_OUT names, as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import DONE, SITE_DIR, Client, Cluster, Connect, drill, on_host, until

from koren_events import Event, Publisher, ReceiptState
from koren_faas.errors import RegionError
from koren_faas.function import Function
from koren_faas.kube import Kube
from koren_faas.manifests import NAMESPACE, for_function
from koren_faas.site import Site

RUNS = int(os.environ.get("KOREN_BENCH_RUNS", "30"))
EVENTS = int(os.environ.get("KOREN_BENCH_EVENTS", "20000"))
WARM = 5 * RUNS
WITH_IMAGE = EVENTS // 20
PUBLISHERS = 2
PHASES = ("received", "durable", "activated", "pod_started", "handler_entered")
FLOOR, OLD, SINK = "bench-floor", "bench-old", "bench-sink"

# What the first process of a container holds in memory, on the host that it runs on.
LOOK = """
import glob, os, sys
pids = []
for name in glob.glob("/proc/[0-9]*/cgroup"):
    try:
        pids += [int(name.split("/")[2])] if sys.argv[1] in open(name).read() else []
    except OSError:
        pass
stat = open(f"/proc/{min(pids)}/stat").read().rpartition(")")[2].split()
print(int(stat[21]) * os.sysconf("SC_PAGE_SIZE"))
"""

# What Kubeless had in a function's pod: a web server that imports the code beside it.
SERVER = """
import http.server, sys, time
sys.path.insert(0, "/kubeless")
import function
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = str(function.handler({}, {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
CODE = "import time\ndef handler(event, context):\n    return time.time()\n"


@dataclass
class Result:
    """What was measured so far."""

    line: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def row(self, what: str, figure: str) -> None:
        """A row of the table that is shown in the end."""
        self.rows.append((what, figure))


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent are not above."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


@pytest.fixture(scope="module")
def result() -> Iterator[Result]:
    """Collects, and shows and keeps it in the end."""
    found = Result()
    yield found
    if out := os.environ.get("KOREN_BENCH_OUT"):
        Path(out).write_text(json.dumps(found.line) + "\n")


@pytest.fixture(scope="module")
def kube() -> Kube:
    """Seoul's API server."""
    site = Site.load(SITE_DIR)
    return Kube(site.regions["seoul"], site.kubeconfig)


def pods_of(kube: Kube, selector: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    return kube.list(f"/api/v1/namespaces/{namespace}/pods", selector)


def gone(kube: Kube, selector: str, timeout_s: float = 90) -> float:
    """Waits until there is no such pod any more; when that was."""
    deadline = time.monotonic() + timeout_s
    while pods_of(kube, selector):
        assert time.monotonic() < deadline, f"pods of {selector} stay"
        time.sleep(0.1)
    return time.time()


def memory(pod: dict[str, Any]) -> float:
    """The bytes that the pod's process holds in memory."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    return float(on_host(pod["spec"]["nodeName"], "python3", "-c", LOOK, container))


def pod_spec(image: str, **container: Any) -> dict[str, Any]:
    """A pod as the functions' namespace lets it be."""
    return {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container_of("main", image, **container)],
    }


def container_of(name: str, image: str, **more: Any) -> dict[str, Any]:
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "securityContext": confined, **more}


def deployment(name: str, replicas: int, pod: dict[str, Any]) -> dict[str, Any]:
    labels = {"bench": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"


@pytest.fixture(scope="module")
def floor(kube: Kube) -> Iterator[Callable[[], float]]:
    """Seconds from scaling a Deployment by hand to the first word of its static process, which does nothing else."""
    version = (Path(Site.load(SITE_DIR).bundle) / "images" / "pause.version").read_text().strip()
    # When the kernel says that it began, it was still the container runtime's.
    said = pod_spec(f"bundle.koren.internal/pause:{version}", command=["/usr/local/bin/catatonit", "-V"])
    kube.request("POST", DEPLOYMENTS, body=deployment(FLOOR, 0, said))

    def scale(replicas: int) -> None:
        named = {"name": FLOOR, "namespace": NAMESPACE}
        body = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": named, "spec": {"replicas": replicas}}
        kube.request("PUT", f"{DEPLOYMENTS}/{FLOOR}/scale", body=body)

    def measured() -> float:
        began = time.time()
        scale(1)

        def first_word() -> str | None:
            for pod in pods_of(kube, f"bench={FLOOR}"):
                # Not before its container was there.
                with contextlib.suppress(RegionError):
                    log = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/log"
                    return kube.request("GET", log, query={"timestamps": "true"}).decode().partition(" ")[0]
            return None

        started = datetime.fromisoformat(until("the floor's pod speaks", first_word, 60)).timestamp()
        scale(0)
        gone(kube, f"bench={FLOOR}")
        return started - began

    yield measured
    kube.request("DELETE", f"{DEPLOYMENTS}/{FLOOR}")


@pytest.fixture
def old_way(kube: Kube, site: dict[str, Any], connect: Connect, probe: str) -> Callable[[], float]:
    """Seconds from a message at the centre to a handler whose Deployment the message had made, as Kubeless would."""
    operator = (SITE_DIR / "pki" / "operator.crt", SITE_DIR / "pki" / "operator.key")
    centre, seoul = connect("central", *operator), connect("seoul", *operator)
    topic = "events/seoul/bench/old"
    image = kube.list(DEPLOYMENTS, f"faas.koren.kr/function={probe}")[0]["spec"]["template"]["spec"]["containers"][0]
    came = threading.Event()
    seoul.mqtt.on_message = lambda *_: came.set()
    seoul.mqtt.subscribe(topic, 1)
    prepare = "import shutil; [shutil.copy('/from/' + f, '/kubeless') for f in ('function.py', 'server.py')]"
    code = {"name": "code", "mountPath": "/kubeless"}
    pod = pod_spec(image["image"], command=["python3", "/kubeless/server.py"], volumeMounts=[code])
    pod["initContainers"] = [
        container_of(
            "prepare",
            image["image"],
            command=["python3", "-c", prepare],
            volumeMounts=[code, {"name": "from", "mountPath": "/from"}],
        )
    ]
    pod["volumes"] = [{"name": "code", "emptyDir": {}}, {"name": "from", "configMap": {"name": OLD}}]
    named = {"name": OLD, "namespace": NAMESPACE}

    def measured() -> float:
        came.clear()
        began = time.time()
        centre.mqtt.publish(topic, b"{}", qos=1)
        assert came.wait(10)
        kube.request("POST", CONFIG_MAPS, body={"metadata": named, "data": {"function.py": CODE, "server.py": SERVER}})
        kube.request(
            "POST",
            SERVICES,
            body={"metadata": named, "spec": {"selector": {"bench": OLD}, "ports": [{"name": "http", "port": 8080}]}},
        )
        kube.request("POST", DEPLOYMENTS, body=deployment(OLD, 1, pod))
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    entered = float(kube.request("GET", f"{SERVICES}/{OLD}:8080/proxy/"))
                    break
                except Exception:
                    assert time.monotonic() < deadline, "the old way leads nowhere"
                    time.sleep(0.02)
        finally:
            for path in (DEPLOYMENTS, SERVICES, CONFIG_MAPS):
                kube.request("DELETE", f"{path}/{OLD}", query={"propagationPolicy": "Background"})
        gone(kube, f"bench={OLD}")
        return entered - began

    return measured


def handled(publisher: Publisher, event: Event) -> dict[str, float]:
    """Milliseconds from the event's time to each phase of its handling."""
    publisher.publish(event)
    last = list(publisher.receipts(event, timeout_s=120))[-1]
    assert last.state is ReceiptState.SUCCEEDED and last.attempt == 1
    return {phase: (moment - event.time).total_seconds() * 1000 for phase, moment in last.phases.items()}


def test_from_zero_and_back(
    result: Result,
    kube: Kube,
    probe: str,
    publisher: Publisher,
    floor: Callable[[], float],
    old_way: Callable[[], float],
) -> None:
    selector = f"faas.koren.kr/function={probe}"
    cold: list[dict[str, float]] = []
    floors, olds, backs = [], [], []
    for _ in range(RUNS):
        gone(kube, selector)
        opened = drill("seoul")
        cold.append(handled(publisher, opened))
        closed = drill("seoul", closes=opened)
        handled(publisher, closed)
        backs.append(gone(kube, selector) - closed.time.timestamp())
        floors.append(floor() * 1000)
        olds.append(old_way() * 1000)
    for phase in PHASES:
        values = [run[phase] for run in cold if phase in run]
        figures = " / ".join(f"{percentile(values, percent):.0f}" for percent in (50, 95, 99))
        result.row(f"from zero to {phase}, p50 / p95 / p99 of {len(values)}", f"{figures} ms")
    entered = [run["handler_entered"] for run in cold]
    result.line |= {f"cold_p{percent}_ms": round(percentile(entered, percent)) for percent in (50, 95, 99)}
    result.line["floor_p50_ms"] = round(statistics.median(floors))
    result.line["old_way_p50_ms"] = round(statistics.median(olds))
    result.line["zero_after_s"] = round(max(backs), 1)
    result.row("floor: a static process by a direct scale, p50", f"{statistics.median(floors):.0f} ms")
    result.row("old way: a Deployment made on the message, p50", f"{statistics.median(olds):.0f} ms")
    figures = f"{statistics.median(backs):.1f} / {max(backs):.1f}"
    result.row("last event of an incident to zero pods, p50 / worst", f"{figures} s")


def test_warm(result: Result, probe: str, publisher: Publisher) -> None:
    opened = drill("seoul")
    handled(publisher, opened)
    times = [handled(publisher, drill("seoul", type=DONE))["handler_entered"] for _ in range(WARM)]
    handled(publisher, drill("seoul", closes=opened))
    result.line |= {f"warm_p{percent}_ms": round(percentile(times, percent), 1) for percent in (50, 99)}
    figures = " / ".join(f"{percentile(times, percent):.1f}" for percent in (50, 99))
    result.row(f"warm: published to handler entered, p50 / p99 of {WARM}", f"{figures} ms")


@dataclass
class Sink:
    """A function without pods: what comes for it stays in Redis, to be counted."""

    redis: Any
    gateway: Callable[[], float]
    """Bytes that the gateway's process holds."""

    def queues(self) -> list[bytes]:
        return list(self.redis.scan_iter(f"koren:fn:{SINK}:queue:*", count=1000))

    def count(self, queues: list[bytes]) -> int:
        """How many events are on disk."""
        pipe = self.redis.pipeline(transaction=False)
        for queue in queues:
            pipe.llen(queue)
        return sum(pipe.execute())

    def empty(self) -> list[bytes]:
        """Takes all out; the keys of what was there."""
        keys = [key for queue in self.queues() for key in self.redis.lrange(queue, 0, -1)]
        names = [f"koren:{of}:{key.decode()}" for key in keys for of in ("event", "seen")]
        names += [name.decode() for name in self.redis.scan_iter(f"koren:fn:{SINK}:*", count=5000)]
        for start in range(0, len(names), 1000):
            self.redis.unlink(*names[start : start + 1000])
        return keys


@pytest.fixture
def sink(kube: Kube, site: dict[str, Any], cluster: Callable[[str], Cluster]) -> Iterator[Sink]:
    """Registered at the gateway meanwhile."""
    function = Function(name=SINK, handler="none.none", topic="events/seoul/+/sink")
    (made,) = [one for one in for_function(function, "none", ()) if one["kind"] == "Deployment"]
    made["spec"]["replicas"] = 0
    kube.request("POST", DEPLOYMENTS, body=made)
    holder = json.loads(cluster("seoul").run("get", "lease", "gateway-intake", "-n", "koren-faas", "-o", "json"))
    (pod,) = [
        one
        for one in pods_of(kube, "app.kubernetes.io/name=gateway", "koren-faas")
        if one["metadata"]["name"] == holder["spec"]["holderIdentity"]
    ]
    store = redis.Redis(
        host=site["regions"]["seoul"]["broker"],
        username="gateway",
        password=(SITE_DIR / "secrets" / "redis-seoul").read_text().strip(),
        ssl=True,
        ssl_ca_certs=str(SITE_DIR / "pki" / "ca.crt"),
    )
    made_sink = Sink(store, lambda: memory(pod))
    time.sleep(1)
    yield made_sink
    kube.request("DELETE", f"{DEPLOYMENTS}/{SINK}")
    made_sink.empty()
    store.close()


def messages(count: int, size: int) -> list[bytes]:
    """So many events of a hundred incidents, each of about so many bytes."""
    made = []
    for number in range(count):
        event = drill("seoul", type="kr.koren.test.sink.done").to_dict() | {"subject": f"sink-{number % 100}"}
        event["data"] = {"filler": "x" * max(0, size - len(json.dumps(event)) - 14)}
        made.append(json.dumps(event).encode())
    return made


def load(sink: Sink, clients: list[Client], sent: list[bytes]) -> tuple[float, list[bytes], list[float]]:
    """Publishes all as fast as it goes: seconds until all is on disk, keys found there, memory meanwhile."""
    held = [sink.gateway()]
    began = time.monotonic()

    def publish(client: Client, part: list[bytes]) -> None:
        for message in part:
            client.mqtt.publish("events/seoul/bench/sink", message, qos=1)

    threads = [
        threading.Thread(target=publish, args=(client, sent[number :: len(clients)]))
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    counted, moved = 0, began
    while counted < len(sent) and time.monotonic() - moved < 20:
        time.sleep(0.1)
        now = sink.count(sink.queues())
        if now != counted:
            counted, moved = now, time.monotonic()
            if len(held) < 1 + counted * 4 // len(sent):
                held.append(sink.gateway())
    for thread in threads:
        thread.join()
    held.append(sink.gateway())
    return moved - began, sink.empty(), held


def test_sustained(result: Result, sink: Sink, connect: Connect) -> None:
    operator = (SITE_DIR / "pki" / "operator.crt", SITE_DIR / "pki" / "operator.key")
    clients = [connect("seoul", *operator) for _ in range(PUBLISHERS)]
    took_s, keys, held = load(sink, clients, messages(EVENTS, 1024))
    result.line |= {
        "events_per_s": round(EVENTS / took_s),
        "lost": EVENTS - len(set(keys)),
        "duplicates": len(keys) - len(set(keys)),
    }
    result.row(f"{EVENTS} events of 1 KiB, published to on disk", f"{EVENTS / took_s:.0f} a second")
    result.row("the gateway's memory meanwhile", " → ".join(f"{value / 2**20:.0f}" for value in held) + " MiB")
    took_s, keys, _ = load(sink, clients, messages(WITH_IMAGE, 80 * 1024))
    assert len(set(keys)) == WITH_IMAGE
    result.row("an event with a picture of 60 KB (80 KiB of JSON)", f"{took_s / WITH_IMAGE * 1000:.1f} ms")


def test_show(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert result.rows
    with capsys.disabled():
        width = min(max(len(what) for what, _ in result.rows), shutil.get_terminal_size().columns)
        print()
        for what, figure in result.rows:
            print(f"  {what:<{width}}  {figure}")
