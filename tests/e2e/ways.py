"""The ways from a message at the centre to a handler in Seoul that nothing runs for: ours, the floor, the old way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import SITE_DIR, Connect, drill, until

from koren_events import Event, Publisher, ReceiptState
from koren_faas.errors import RegionError
from koren_faas.kube import Kube
from koren_faas.manifests import NAMESPACE
from koren_faas.site import Site

FLOOR, OLD = "bench-floor", "bench-old"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"

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


@pytest.fixture(scope="module")
def kube() -> Kube:
    """Seoul's API server."""
    site = Site.load(SITE_DIR)
    return Kube(site.regions["seoul"], site.kubeconfig)


def pods_of(kube: Kube, selector: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """The pods with a label, those that are going included."""
    return kube.list(f"/api/v1/namespaces/{namespace}/pods", selector)


def gone(kube: Kube, selector: str, timeout_s: float = 90, namespace: str = NAMESPACE) -> float:
    """Waits until there is no such pod any more; when that was."""
    deadline = time.monotonic() + timeout_s
    while pods_of(kube, selector, namespace):
        assert time.monotonic() < deadline, f"pods of {selector} stay"
        time.sleep(0.1)
    return time.time()


def handled(publisher: Publisher, event: Event) -> dict[str, float]:
    """Milliseconds from the event's time to each phase of its handling."""
    publisher.publish(event)
    receipts = list(publisher.receipts(event, timeout_s=120))
    last = receipts[-1]
    assert last.state is ReceiptState.SUCCEEDED and last.attempt == 1
    moments = {phase: moment for receipt in receipts for phase, moment in receipt.phases.items()}
    return {phase: (moment - event.time).total_seconds() * 1000 for phase, moment in moments.items()}


def from_zero_and_back(kube: Kube, publisher: Publisher, probe: str) -> tuple[dict[str, float], float]:
    """Our way: milliseconds to each phase, and seconds from the incident's last event until no pod is left."""
    selector = f"faas.koren.kr/function={probe}"
    gone(kube, selector)
    opened = drill("seoul")
    phases = handled(publisher, opened)
    closed = drill("seoul", closes=opened)
    handled(publisher, closed)
    return phases, gone(kube, selector) - closed.time.timestamp()


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
    """A container as the functions' namespace lets it be."""
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "securityContext": confined, **more}


def deployment(name: str, replicas: int, pod: dict[str, Any]) -> dict[str, Any]:
    """A Deployment that the bench knows by its label."""
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


def image_of(kube: Kube, function: str) -> str:
    """A deployed function's image, which is on every node."""
    (found,) = kube.list(DEPLOYMENTS, f"faas.koren.kr/function={function}")
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


class Courier:
    """Brings a message from the centre's broker to Seoul's."""

    def __init__(self, connect: Connect, kind: str) -> None:
        self._centre, self._seoul = connect("central"), connect("seoul")
        self._topic = f"events/seoul/bench/{kind}"
        self._came, subscribed = threading.Event(), threading.Event()
        self._seoul.mqtt.on_subscribe = lambda *_: subscribed.set()
        self._seoul.mqtt.on_message = lambda *_: self._came.set()
        self._seoul.mqtt.subscribe(self._topic, 1)
        assert subscribed.wait(10), "Seoul's broker does not answer"

    def bring(self) -> float:
        """Returns once the message is there; when it was sent."""
        # No function wants it, and it is no dead letter either.
        message = drill("seoul", type="kr.koren.test.bench.done").to_json()
        self._came.clear()
        began = time.time()
        self._centre.mqtt.publish(self._topic, message, qos=1)
        assert self._came.wait(10), "the message does not come through the bridge"
        return began


@pytest.fixture(scope="module")
def floor(kube: Kube) -> Iterator[Callable[[], float]]:
    """Seconds from scaling a Deployment by hand to the first word of its static process, which does nothing else."""
    version = (Path(Site.load(SITE_DIR).bundle) / "images" / "pause.version").read_text().strip()
    # When the kernel says that it began, it was still the container runtime's.
    said = pod_spec(f"bundle.koren.internal/pause:{version}", command=["/usr/local/bin/catatonit", "-V"])
    # A run that was cut may have left it.
    kube.apply(deployment(FLOOR, 0, said))

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
def old_way(kube: Kube, connect: Connect, probe: str) -> Callable[[], float]:
    """Seconds from a message at the centre to a handler whose Deployment the message had made, as Kubeless would."""
    courier = Courier(connect, "old")
    image = image_of(kube, probe)
    prepare = "import shutil; [shutil.copy('/from/' + f, '/kubeless') for f in ('function.py', 'server.py')]"
    code = {"name": "code", "mountPath": "/kubeless"}
    pod = pod_spec(image, command=["python3", "/kubeless/server.py"], volumeMounts=[code])
    pod["initContainers"] = [
        container_of(
            "prepare",
            image,
            command=["python3", "-c", prepare],
            volumeMounts=[code, {"name": "from", "mountPath": "/from"}],
        )
    ]
    pod["volumes"] = [{"name": "code", "emptyDir": {}}, {"name": "from", "configMap": {"name": OLD}}]
    named = {"name": OLD, "namespace": NAMESPACE}

    def measured() -> float:
        began = courier.bring()
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
