"""Knative Serving in Seoul's cluster, to be measured there, and away again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from conftest import SITE_DIR, Cluster, until
from ways import Courier, gone, pods_of

from koren_faas.kube import Kube
from koren_faas.nodes import Node
from koren_faas.site import Site

SOURCE = Path(__file__).parent / "knative"
CACHE = Path.home() / ".cache" / "koren-faas" / "peers"
SYSTEM, WORK, NAME = "knative-serving", "bench-peers", "peer"
SELECTOR = f"serving.knative.dev/configuration={NAME}"
ACTIVATOR = f"/api/v1/namespaces/{SYSTEM}/services/activator-service:http/proxy/"
RUNNING = ("activator", "autoscaler", "controller", "webhook")
PROGRAMS = (*RUNNING, "queue")
IMAGE = "peers.koren.internal/knative-{}"
KINDS = "customresourcedefinitions,clusterroles,clusterrolebindings,validatingwebhookconfigurations,"
KINDS += "mutatingwebhookconfigurations"
FILES = ("crds", "core", "webhooks")

# Back to zero as soon as it can be told to be, and images that are on the node already.
TUNED = {
    "config-autoscaler": {"scale-to-zero-grace-period": "6s", "stable-window": "6s"},
    "config-deployment": {"registries-skipping-tag-resolving": "functions.koren.internal"},
}

# A handler's web server, as small as Python's can be: what is compared is the platform.
SERVER = """
import socket, time
listener = socket.create_server(("", 8080))
while True:
    connection, _ = listener.accept()
    request = b""
    while b"\\r\\n\\r\\n" not in request:
        part = connection.recv(65536)
        if not part:
            break
        request += part
    else:
        entered = time.time()
        head, _, body = request.partition(b"\\r\\n\\r\\n")
        for line in head.lower().split(b"\\r\\n"):
            if line.startswith(b"content-length:"):
                while len(body) < int(line[15:]):
                    body += connection.recv(65536)
        said = str(entered).encode()
        length = b"Content-Length: %d" % len(said)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n" + length + b"\\r\\n\\r\\n" + said)
    connection.close()
"""


def built() -> Path:
    """Folder with Knative's images, manifests and version; made if it is not there, which takes minutes."""
    sources = sorted(SOURCE.iterdir())
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    folder = CACHE / f"knative-{key}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="part-") as scratch:
        part = Path(scratch) / "made"
        # The virtual environment has a Go toolchain that is new enough.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["nice", "-n", "10", "bash", str(SOURCE / "build.sh"), str(part), key]
        subprocess.run(command, check=True, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL)
        part.rename(folder)
    return folder


class Knative:
    """Knative Serving with one function, which is at zero until a message comes."""

    def __init__(self, folder: Path, cluster: Cluster, kube: Kube, site: Site, courier: Courier) -> None:
        self._folder = folder
        self._cluster = cluster
        self._kube = kube
        self._nodes = [Node(name, site.ssh_config) for name in site.regions[cluster.region].nodes]
        self._courier = courier
        self._revision = ""

    @property
    def version(self) -> str:
        """Of Knative Serving."""
        return (self._folder / "version").read_text().strip()

    def install(self, image: str) -> None:
        """Has it run, and its function, whose image has a `python3`, come up once."""
        for node in self._nodes:
            for archive in sorted((self._folder / "images").iterdir()):
                bring(archive, node)
        for file in FILES:
            self._apply(file)
            if file == "crds":
                self._cluster.run("wait", "--for=condition=Established", "--timeout=50s", "crd", *self._crds())
            if file == "core":
                until("Knative runs", self._runs, 300)
        self._cluster.run("create", "namespace", WORK)
        # Its webhooks let nothing pass until they have their certificates.
        until("Knative takes a function", lambda: self._take(configuration(image)), 120)
        self._revision = until("the function was up", self._ready_revision, 300)

    def measured(self) -> float:
        """Seconds from a message at the centre to the handler, which nothing runs for."""
        self.wait_for_zero()
        began = self._courier.bring()
        headers = {"Knative-Serving-Namespace": WORK, "Knative-Serving-Revision": self._revision}
        return float(self._kube.request("POST", ACTIVATOR, body={}, headers=headers, read_timeout_s=60)) - began

    def wait_for_zero(self) -> None:
        """Waits until its function has no pod."""
        gone(self._kube, SELECTOR, 180, WORK)

    def remove(self) -> None:
        """Takes all of it away; it need not be whole."""
        # First what lets nothing pass when it is not there itself.
        self._delete(*self._file("webhooks"))
        if "configurations.serving.knative.dev" in self._crds():
            self._delete("configurations.serving.knative.dev", "--all", "-n", WORK)
            until("its function's pods are gone", lambda: not pods_of(self._kube, SELECTOR, WORK), 120)
        self._delete(*self._file("core"))
        self._delete(*self._file("crds"))
        self._delete("namespace", WORK)
        # The activator would drain for minutes.
        self._delete("pods", "--all", "-n", SYSTEM, "--grace-period=1")
        until("Knative is gone", lambda: not self.left(), 180)
        for node in self._nodes:
            node.remove([name for program in PROGRAMS for name in node.images(IMAGE.format(program))])

    def left(self) -> list[str]:
        """What there is of it in the cluster."""
        names = self._cluster.run("get", KINDS, "-o", "name").splitlines()
        places = self._cluster.run("get", "namespaces", "-o", "name").splitlines()
        ours = {f"namespace/{SYSTEM}", f"namespace/{WORK}"}
        return [name for name in names if "knative" in name] + [place for place in places if place in ours]

    def _crds(self) -> list[str]:
        found = self._cluster.run("get", "customresourcedefinitions", "-o", "name").splitlines()
        return [name.partition("/")[2] for name in found if name.endswith(".knative.dev")]

    def _apply(self, file: str) -> None:
        documents = yaml.safe_load_all((self._folder / "manifests" / f"{file}.yaml").read_text())
        made = [tuned(document) for document in documents if document]
        self._cluster.run("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(made))

    def _file(self, name: str) -> tuple[str, str]:
        return "-f", str(self._folder / "manifests" / f"{name}.yaml")

    def _delete(self, *what: str) -> None:
        self._cluster.run("delete", *what, "--ignore-not-found", "--wait=false")

    def _runs(self) -> bool:
        deployments = self._cluster.items("deployments", "-n", SYSTEM)
        ready = {one["metadata"]["name"] for one in deployments if one["status"].get("availableReplicas")}
        return ready >= set(RUNNING)

    def _take(self, manifest: dict[str, Any]) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._cluster.run("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
            return True
        return False

    def _ready_revision(self) -> str | None:
        (found,) = self._cluster.items("configurations.serving.knative.dev", "-n", WORK)
        name: str | None = found.get("status", {}).get("latestReadyRevisionName")
        return name


def bring(archive: Path, node: Node) -> None:
    """Have an OCI archive's image on a node."""
    script = "cat >/tmp/peer.tar && koren-image import /tmp/peer.tar; code=$?; rm /tmp/peer.tar; exit $code"
    with open(archive, "rb") as given:
        command = ["ssh", "-F", str(node.ssh_config), node.name, script]
        subprocess.run(command, check=True, stdin=given, stdout=subprocess.DEVNULL, timeout=300)


def configuration(image: str) -> dict[str, Any]:
    """A Knative function without a route: requests name its revision to the activator, as an ingress would."""
    container = {
        "image": image,
        "command": ["python3", "-I", "-S", "-c", SERVER],
        "ports": [{"containerPort": 8080}],
    }
    pod = {"enableServiceLinks": False, "automountServiceAccountToken": False, "timeoutSeconds": 30}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Configuration",
        "metadata": {"name": NAME, "namespace": WORK},
        "spec": {"template": {"spec": {**pod, "containers": [container]}}},
    }


def tuned(document: dict[str, Any]) -> dict[str, Any]:
    """A manifest with what is set for the measurement."""
    if document["kind"] == "ConfigMap":
        document["data"] = document.get("data", {}) | TUNED.get(document["metadata"]["name"], {})
    return document


@contextlib.contextmanager
def knative(cluster: Cluster, kube: Kube, courier: Courier, image: str) -> Iterator[Knative]:
    """Knative in the region's cluster meanwhile."""
    peer = Knative(built(), cluster, kube, Site.load(SITE_DIR), courier)
    peer.remove()  # what a run that was killed has left
    try:
        began = time.monotonic()
        peer.install(image)
        print(f"Knative {peer.version} was there after {time.monotonic() - began:.0f} s")
        yield peer
    finally:
        peer.remove()
