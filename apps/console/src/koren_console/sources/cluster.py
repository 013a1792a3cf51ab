# SPDX-License-Identifier: Apache-2.0
"""What a region's cluster holds: functions, their pods, nodes and the services that run in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from koren_console.model import Health, Node, Part, Pod, Topic
from koren_console.sources.apiserver import ApiServer, Object

FUNCTIONS = "functions"
LABEL = "faas.koren.kr/function"

_NOTE = "faas.koren.kr/"
_SERVICES = (("gateway", "koren-faas", "app.kubernetes.io/name=gateway"), ("keda", "keda", ""))
_PLAIN_NOTES = ("handler", "runtime", "topic", "trigger", "opens", "closes")
_NUMBER_NOTES = ("timeout-s", "max-attempts", "min-scale", "max-scale", "target", "incident-limit-s")


@dataclass
class Placed:
    """A function's Deployment."""

    name: str
    topic: str
    maximum: int | None
    timeout_s: int
    description: dict[str, Any]
    scaled: dict[str, str] = field(default_factory=dict)
    """Conditions of its ScaledObject."""


class Cluster:
    """A region's cluster, kept in step by watches.

    Args:
        on_change: told which part has changed.
        on_pods: told of a function whose pods have changed.
    """

    def __init__(self, server: ApiServer, on_change: Callable[[Topic], None], on_pods: Callable[[str], None]) -> None:
        self.server = server
        self.functions: dict[str, Placed] = {}
        self.pods: dict[str, dict[str, Pod]] = {}
        """By function, then by name."""
        self.nodes: dict[str, Node] = {}
        self.services: dict[str, dict[str, Part]] = {kind: {} for kind, _, _ in _SERVICES}
        self._scaled: dict[str, dict[str, str]] = {}
        self._function_of: dict[str, str] = {}
        self._on_change, self._on_pods = on_change, on_pods

    async def run(self) -> None:
        """Watch for ever."""
        watch, there = self.server.watch, f"namespaces/{FUNCTIONS}"
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(f"/api/v1/{there}/pods", self._list_pods, self._pod, selector=LABEL))
            group.create_task(
                watch(f"/apis/apps/v1/{there}/deployments", self._list_placed, self._placed, selector=LABEL)
            )
            group.create_task(
                watch(f"/apis/keda.sh/v1alpha1/{there}/scaledobjects", self._list_scaled, self._scale, selector=LABEL)
            )
            group.create_task(watch("/api/v1/nodes", self._list_nodes, self._node))
            for kind, namespace, selector in _SERVICES:
                group.create_task(
                    watch(
                        f"/api/v1/namespaces/{namespace}/pods",
                        lambda items, kind=kind: self._list_services(kind, items),  # type: ignore[misc]
                        lambda what, pod, kind=kind: self._service(kind, what, pod),  # type: ignore[misc]
                        selector=selector,
                    )
                )

    def count(self, function: str) -> int:
        """Pods of a function that are there and not failed."""
        return sum(1 for pod in self.pods.get(function, {}).values() if pod.state not in ("Failed", "Succeeded"))

    def _list_pods(self, items: list[Object]) -> None:
        before = set(self.pods)
        self.pods, self._function_of = {}, {}
        for item in items:
            self._add_pod(item)
        for function in before | set(self.pods):
            self._on_pods(function)
        self._on_change(Topic.FUNCTIONS)

    def _pod(self, what: str, item: Object) -> None:
        name = item["metadata"]["name"]
        if what == "DELETED":
            function = self._function_of.pop(name, "")
            there = self.pods.get(function, {})
            there.pop(name, None)
            if not there:
                self.pods.pop(function, None)
        else:
            function = self._add_pod(item)
        if function:
            self._on_pods(function)
            self._on_change(Topic.FUNCTIONS)

    def _add_pod(self, item: Object) -> str:
        function = str(item["metadata"].get("labels", {}).get(LABEL, ""))
        pod = pod_of(item)
        self._function_of[pod.name] = function
        self.pods.setdefault(function, {})[pod.name] = pod
        return function

    def _list_placed(self, items: list[Object]) -> None:
        self.functions = {}
        for item in items:
            self._placed("ADDED", item, tell=False)
        self._on_change(Topic.FUNCTIONS)

    def _placed(self, what: str, item: Object, tell: bool = True) -> None:
        name = item["metadata"]["name"]
        if what == "DELETED":
            self.functions.pop(name, None)
        else:
            placed = placed_of(item)
            placed.scaled = self._scaled.get(name, {})
            before = self.functions.get(name)
            self.functions[name] = placed
            tell = tell and placed != before
        if tell:
            self._on_change(Topic.FUNCTIONS)

    def _list_scaled(self, items: list[Object]) -> None:
        self._scaled = {}
        for item in items:
            self._scale("ADDED", item)

    def _scale(self, what: str, item: Object) -> None:
        target = str(item["spec"].get("scaleTargetRef", {}).get("name", item["metadata"]["name"]))
        conditions = item.get("status", {}).get("conditions") or []
        found = {str(one["type"]): str(one["status"]) for one in conditions} if what != "DELETED" else {}
        changed = self._scaled.get(target) != found
        self._scaled[target] = found
        placed = self.functions.get(target)
        if placed is not None and changed:
            placed.scaled = found
            self._on_change(Topic.FUNCTIONS)

    def _list_nodes(self, items: list[Object]) -> None:
        self.nodes = {item["metadata"]["name"]: node_of(item) for item in items}
        self._on_change(Topic.REGIONS)

    def _node(self, what: str, item: Object) -> None:
        name = item["metadata"]["name"]
        if what == "DELETED":
            self.nodes.pop(name, None)
        else:
            node = node_of(item)
            if self.nodes.get(name) == node:
                return
            self.nodes[name] = node
        self._on_change(Topic.REGIONS)

    def _list_services(self, kind: str, items: list[Object]) -> None:
        self.services[kind] = {item["metadata"]["name"]: service_of(kind, item) for item in items}
        self._on_change(Topic.REGIONS)

    def _service(self, kind: str, what: str, item: Object) -> None:
        name = item["metadata"]["name"]
        if what == "DELETED":
            self.services[kind].pop(name, None)
        else:
            part = service_of(kind, item)
            if self.services[kind].get(name) == part:
                return
            self.services[kind][name] = part
        self._on_change(Topic.REGIONS)


def pod_of(item: Object) -> Pod:
    """A function's pod."""
    meta, status = item["metadata"], item.get("status", {})
    containers = status.get("containerStatuses") or [{}]
    running = containers[0].get("state", {}).get("running") or {}
    return Pod(
        name=meta["name"],
        node=item.get("spec", {}).get("nodeName", ""),
        state=state_of(item),
        since=time_of(meta["creationTimestamp"]),
        started=time_of(running["startedAt"]) if running.get("startedAt") else None,
    )


def state_of(item: Object) -> str:
    """Pending, Starting, Ready, Ending, or what Kubernetes says of its failure."""
    status = item.get("status", {})
    phase = status.get("phase", "Pending")
    if item["metadata"].get("deletionTimestamp"):
        return "Ending"
    if phase in ("Failed", "Succeeded"):
        return str(status.get("reason") or phase)
    for one in status.get("containerStatuses") or ():
        why = one.get("state", {}).get("waiting", {}).get("reason", "")
        if why and why not in ("ContainerCreating", "PodInitializing"):
            return str(why)
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return "Ready"
    if conditions.get("PodScheduled", {}).get("status") == "True":
        return "Starting"
    return str(conditions.get("PodScheduled", {}).get("reason") or "Pending")


def placed_of(item: Object) -> Placed:
    """A function's Deployment."""
    meta = item["metadata"]
    notes: Mapping[str, str] = meta.get("annotations") or {}
    spec = item.get("spec", {}).get("template", {}).get("spec", {})
    container = (spec.get("containers") or [{}])[0]
    resources = container.get("resources", {})
    description: dict[str, Any] = {
        "image": container.get("image", ""),
        "memory": resources.get("limits", {}).get("memory", ""),
        "cpu": resources.get("requests", {}).get("cpu", ""),
        # Names only: a value may be somebody's secret.
        "env": sorted(one.get("name", "") for one in container.get("env") or ()),
        "secrets": sorted(one["secret"]["secretName"] for one in spec.get("volumes") or () if "secret" in one),
        "dependencies": notes.get(f"{_NOTE}dependencies", "").splitlines(),
        "deployed": meta.get("creationTimestamp", ""),
        **{name: notes.get(_NOTE + name, "") for name in _PLAIN_NOTES},
        **{name.replace("-", "_"): _whole(notes.get(_NOTE + name)) for name in _NUMBER_NOTES},
    }
    return Placed(
        name=meta["name"],
        topic=description["topic"],
        maximum=description["max_scale"],
        timeout_s=description["timeout_s"] or 60,
        description=description,
    )


def node_of(item: Object) -> Node:
    """A node as its cluster sees it."""
    status = item.get("status", {})
    ready: Object = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), {})
    if ready.get("status") == "True":
        closed = bool(item.get("spec", {}).get("unschedulable"))
        health, why = (Health.WATCH, "unschedulable") if closed else (Health.OK, "")
    else:
        health, why = Health.ACT, str(ready.get("message") or ready.get("reason") or "not ready")
    return Node(
        name=item["metadata"]["name"],
        health=health,
        reason=why,
        version=str(status.get("nodeInfo", {}).get("kubeletVersion", "")),
    )


def service_of(kind: str, item: Object) -> Part:
    """A pod of a service as a part of its region."""
    pod = pod_of(item)
    image = str((item.get("spec", {}).get("containers") or [{}])[0].get("image", ""))
    restarts = sum(int(one.get("restartCount", 0)) for one in item.get("status", {}).get("containerStatuses") or ())
    starting = pod.state in ("Pending", "Starting", "Ending")
    health = Health.OK if pod.state == "Ready" else Health.WATCH if starting else Health.ACT
    detail = "" if pod.state == "Ready" else pod.state
    if restarts:
        detail = f"{detail}, {restarts} restarts" if detail else f"{restarts} restarts"
    version = re.sub(r"-[0-9a-f]{12}$", "", image.rsplit("/", 1)[-1].partition(":")[2])
    return Part(kind, pod.name, health, detail, version, pod.started or pod.since)


def time_of(text: str) -> datetime:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
