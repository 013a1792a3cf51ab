# SPDX-License-Identifier: Apache-2.0
"""Problems of a running cluster, found from what its API server reports. Each says where to look."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMESPACE = "koren-verify"
PORT = 8080


@dataclass(frozen=True)
class Problem:
    """One problem of a cluster.

    Attributes:
        what: what was found, and what was expected.
        look: where to look for the reason.
        passing: whether it may disappear by itself, as with a component that is still starting.
    """

    what: str
    look: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.what}; look at: {self.look}"


def node_problems(
    nodes: Iterable[Mapping[str, Any]], wanted: Sequence[str], kubernetes: str | None, containerd: str | None
) -> list[Problem]:
    """Nodes that are missing, not Ready, not in the inventory, or run another version than the pinned, if one is."""
    found = {str(node["metadata"]["name"]): node for node in nodes}
    problems = []
    for name in wanted:
        if name not in found:
            problems.append(Problem(f"{name} is not a node of the cluster", f"on {name}: journalctl -u kubelet"))
            continue
        status = found[name]["status"]
        ready: Mapping[str, Any] = next((one for one in status.get("conditions", []) if one["type"] == "Ready"), {})
        if ready.get("status") != "True":
            why = ready.get("message") or "it has never reported its state"
            problems.append(
                Problem(
                    f"{name} is not Ready: {why}", f"kubectl describe node {name}; journalctl -u kubelet there", True
                )
            )
        info = status["nodeInfo"]
        for program, version, pinned in (
            ("kubelet", info["kubeletVersion"], kubernetes),
            ("containerd", info["containerRuntimeVersion"].rpartition("/")[2], containerd),
        ):
            if pinned is not None and version.lstrip("v") != pinned.lstrip("v"):
                problems.append(
                    Problem(
                        f"{name} runs {program} {version}, pinned is {pinned}",
                        f"systemctl status {program} on {name}; a run of site.yml restarts what changed",
                    )
                )
    for name in sorted(set(found) - set(wanted)):
        problems.append(
            Problem(f"{name} is a node of the cluster but not of the inventory", "playbooks/scale.yml removes it")
        )
    return problems


def image_problems(pods: Iterable[Mapping[str, Any]], pinned: Sequence[str], versions: bool = True) -> list[Problem]:
    """Containers with another version of a pinned image (if `versions` matter), and such pods that are not ready."""
    known = {image.rpartition(":")[0]: image for image in pinned}
    problems = []
    for pod in pods:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") == "Succeeded":
            continue
        asked = {one["name"]: str(one["image"]) for one in pod["spec"]["containers"]}
        told = {one["name"]: one for one in pod["status"].get("containerStatuses", [])}
        for container, image in asked.items():
            repository = image.rpartition(":")[0]
            if repository not in known:
                continue
            running = str(told.get(container, {}).get("image", image))
            # A runtime that has several names for the image may report its digest.
            if ":" not in running or "sha256:" in running:
                running = image
            if versions and running != known[repository]:
                problems.append(
                    Problem(
                        f"{namespace}/{name} runs {running}, pinned is {known[repository]}",
                        f"kubectl -n {namespace} describe pod {name}; a run of site.yml applies the pinned one",
                    )
                )
            if not told.get(container, {}).get("ready"):
                problems.append(
                    Problem(
                        f"{namespace}/{name} is not ready",
                        f"kubectl -n {namespace} describe pod {name}; kubectl -n {namespace} logs {name}",
                        True,
                    )
                )
    return problems


def api_problems(services: Iterable[Mapping[str, Any]], wanted: Sequence[str]) -> list[Problem]:
    """Aggregated APIs that are missing or not Available."""
    found = {str(one["metadata"]["name"]): one for one in services}
    problems = []
    for name in wanted:
        conditions = found.get(name, {}).get("status", {}).get("conditions", [])
        available: Mapping[str, Any] = next((one for one in conditions if one["type"] == "Available"), {})
        if available.get("status") != "True":
            why = available.get("message") or "the cluster has no such API"
            problems.append(
                Problem(
                    f"{name} is not Available: {why}",
                    f"kubectl describe apiservice {name}, and the pods behind it",
                    True,
                )
            )
    return problems


def metric_problems(metrics: Iterable[Mapping[str, Any]], nodes: Sequence[str]) -> list[Problem]:
    """Nodes without metrics, which an HPA needs to scale."""
    told = {str(one["metadata"]["name"]) for one in metrics}
    return [
        Problem(f"there are no metrics for {name}", "kubectl -n kube-system logs deploy/metrics-server", True)
        for name in nodes
        if name not in told
    ]


def scaler_problems(scaled: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """ScaledObjects whose scaler does not work: their functions would not start."""
    problems = []
    for one in scaled:
        name = one["metadata"]["name"]
        ready: Mapping[str, Any] = next(
            (c for c in one.get("status", {}).get("conditions", []) if c["type"] == "Ready"), {}
        )
        if ready.get("status") != "True":
            why = ready.get("message") or "KEDA has not processed it"
            problems.append(
                Problem(
                    f"function {name} can't be scaled: {why}",
                    f"kubectl -n functions describe scaledobject {name}; kubectl -n keda logs deploy/keda-operator",
                    True,
                )
            )
    return problems


def rule_problems(rules: Mapping[str, str]) -> list[Problem]:
    """Packet rules that nodes lack.

    Args:
        rules: output of ``koren-rules check`` by node, with a line for each chain that is missing or empty.
    """
    return [
        Problem(
            f"{node} lacks the packet rules of {line}",
            f"journalctl -u koren-rules on {node}, which has them loaded again; nft list tables there",
        )
        for node, told in rules.items()
        for line in told.splitlines()
    ]


def probe_problems(reports: Mapping[str, Mapping[str, Any] | None], why: Mapping[str, str]) -> list[Problem]:
    """Problems that the pods on the nodes found.

    Args:
        reports: report of the pod by node, None if it reported nothing.
        why: state by node of a pod that reported nothing.
    """
    problems = []
    for node, report in reports.items():
        pod = f"kubectl describe node {node}; journalctl -u kubelet -u containerd there"
        if report is None:
            problems.append(Problem(f"no pod runs on {node}: {why.get(node, 'it did not start')}", pod))
            continue
        if not report["resolved"]:
            problems.append(
                Problem(
                    f"a pod on {node} gets no answer from the cluster's DNS: {report['error']}",
                    "kubectl -n kube-system get pods -l k8s-app=kube-dns -o wide;"
                    " kubectl -n kube-flannel get pods -o wide",
                )
            )
            continue
        if not report["service"]:
            problems.append(
                Problem(
                    f"a pod on {node} cannot reach the API server by its Service: {report['error']}",
                    "kubectl -n kube-system get pods -l k8s-app=kube-proxy -o wide;"
                    f" nft list table ip kube-proxy on {node}",
                )
            )
        for other in sorted(set(reports) - set(report["reached"])):
            if reports[other] is not None:
                problems.append(
                    Problem(
                        f"a pod on {node} cannot reach one on {other}: {report['error']}",
                        f"kubectl -n kube-flannel get pods -o wide; ip -d link show flannel.1 on {node} and {other};"
                        " UDP 8472 between them",
                    )
                )
    return problems


def version_in_use(pods: Iterable[Mapping[str, Any]], image: str) -> str:
    """The version of an image that a pod runs; the image itself if no pod runs it."""
    repository = image.rpartition(":")[0]
    asked = (str(one["image"]) for pod in pods for one in pod["spec"]["containers"])
    return next((one for one in asked if one.rpartition(":")[0] == repository), image)


def function_image(deployments: Iterable[Mapping[str, Any]], registry: str) -> str | None:
    """An image of a function that comes from ``registry``; None if no function is deployed."""
    images = (
        str(one["image"]) for each in deployments for one in each["spec"]["template"]["spec"].get("containers", [])
    )
    return next((image for image in images if image.startswith(f"{registry}/")), None)


def pull_problem(node: str, pod: Mapping[str, Any]) -> Problem | None:
    """Why a node could not pull an image, from the pod that uses it; None if it was pulled."""
    for status in pod.get("status", {}).get("containerStatuses", []):
        waiting = status.get("state", {}).get("waiting") or {}
        if status.get("imageID") and waiting.get("reason") not in ("ErrImagePull", "ImagePullBackOff"):
            return None
        if waiting:
            return Problem(
                f"{node} can't pull {status['image']}: {waiting.get('message') or waiting.get('reason')}",
                f"systemctl status docker-registry on the region's control plane; /etc/containerd/certs.d on {node}",
            )
    return Problem(f"{node} has not pulled its image", f"kubectl describe node {node}; journalctl -u containerd there")


def _pod(name: str, node: str, container: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "probe"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
                    **container,
                }
            ],
        },
    }


def probe_pod(node: str, image: str, nodes: int, seconds: int) -> dict[str, Any]:
    """A pod on ``node`` that answers the other probes and logs which of them it can reach."""
    return _pod(
        f"probe-{node}",
        node,
        {
            "image": image,
            "imagePullPolicy": "Never",
            "command": ["/usr/bin/python3", "-S", "-c", PROBE],
            "env": [
                {"name": "NODE", "value": node},
                {"name": "NODES", "value": str(nodes)},
                {"name": "SECONDS", "value": str(seconds)},
                {"name": "PORT", "value": str(PORT)},
                {"name": "PEERS", "value": f"probe.{NAMESPACE}.svc.cluster.local"},
            ],
        },
    )


def pull_pod(node: str, image: str) -> dict[str, Any]:
    """A pod on ``node`` whose image is always pulled from its registry."""
    return _pod(f"pull-{node}", node, {"image": image, "imagePullPolicy": "Always"})


def namespace() -> dict[str, Any]:
    """The namespace of all objects that a check creates."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def service() -> dict[str, Any]:
    """The headless Service whose name resolves to the addresses of all probes."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "probe"},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"app": "probe"},
            "ports": [{"name": "probe", "port": PORT}],
        },
    }


def report_of(log: str) -> dict[str, Any] | None:
    """The report in a probe's log; None if there is none yet."""
    for line in log.splitlines():
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return None


#: Runs in the probe's pod, with Python's standard library only.
PROBE = """
import json, os, socket, threading, time

node, wanted, port = os.environ["NODE"], int(os.environ["NODES"]), int(os.environ["PORT"])
end = time.monotonic() + int(os.environ["SECONDS"])
server = socket.create_server(("", port))

def answer():
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(node.encode())

threading.Thread(target=answer, daemon=True).start()
report = {"resolved": False, "service": False, "reached": [node], "error": ""}

def reach(host, port):
    try:
        with socket.create_connection((host, port), 2) as peer:
            return peer if port == 443 else peer.recv(100).decode()
    except OSError as error:
        report["error"] = str(error)

def peers():
    try:
        found = socket.getaddrinfo(os.environ["PEERS"], port, socket.AF_INET, socket.SOCK_STREAM)
        report["resolved"] = True
        return {one[4][0] for one in found}
    except OSError as error:
        report["error"] = str(error)
        return ()

def whole():
    return report["service"] and report["resolved"] and len(report["reached"]) >= wanted

while time.monotonic() < end and not whole():
    report["service"] = report["service"] or bool(reach("kubernetes.default.svc.cluster.local", 443))
    for address in peers():
        name = reach(address, port)
        if name and name not in report["reached"]:
            report["reached"].append(name)
    time.sleep(0.2)
print(json.dumps(report), flush=True)
time.sleep(600)
"""
