# SPDX-License-Identifier: Apache-2.0
"""A region to look at: a real API server with the rights that the role grants, a real gateway behind its proxy, a real
broker and Redis. What kubelets would do to pods, tests do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from gateway_lab import REPORTER, Lab, Mosquitto, Pki, RedisServer, settings, started
from jinja2 import Environment
from kubernetes_asyncio import client
from test_kubernetes import OBJECTS, ApiServer, create, pod, token_of

from koren_console.settings import Broker, RegionSettings, Settings, Text, Tls
from koren_gateway.cluster.kubernetes import Kubernetes

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/console"
LABELS = REPORTER["metadata"]["labels"]
PLURALS = {
    "Endpoints": "endpoints",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Node": "nodes",
    "ScaledObject": "scaledobjects",
    "Secret": "secrets",
    "Service": "services",
}


def own_address() -> str:
    """An address of this machine that is not the loopback: the API server's proxy reaches no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def role_objects(template: str) -> list[dict[str, Any]]:
    """The objects of a template of the role."""
    environment = Environment()
    environment.filters["to_json"] = json.dumps
    values = {name: value for name, value in yaml.safe_load((ROLE / "vars/main.yml").read_text()).items() if name in (
        "__console_viewer", "__console_operator")}  # fmt: skip
    text = environment.from_string((ROLE / "templates" / template).read_text()).render(**values)
    return [one for one in yaml.safe_load_all(text) if one]


@dataclass
class Region:
    """The region and how tests change it."""

    server: ApiServer
    lab: Lab
    broker_port: int
    pki: Pki
    folder: Path

    async def admin(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Ask the API server as its administrator."""
        async with self.server.admin() as admin:
            content = None if body is None else json.dumps(body)
            answer = await admin.request(method, path, content=content, headers={"Content-Type": kind})
            assert answer.is_success, answer.text
            return answer.json()

    async def start_pod(self, name: str, node: str = "seoul-w1") -> None:
        """A pod of the function comes up."""
        made = pod(name)
        made["metadata"]["labels"] = LABELS
        made["spec"]["nodeName"] = node
        await self.admin("POST", "/api/v1/namespaces/functions/pods", made)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        status = {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {
                    "name": "function",
                    "ready": True,
                    "restartCount": 0,
                    "image": "none",
                    "imageID": "",
                    "state": {"running": {"startedAt": now}},
                }
            ],
        }
        path = f"/api/v1/namespaces/functions/pods/{name}/status"
        await self.admin("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def end_pod(self, name: str) -> None:
        """The pod is gone."""
        await self.admin("DELETE", f"/api/v1/namespaces/functions/pods/{name}", {"gracePeriodSeconds": 0})

    async def pod_token(self, name: str) -> str:
        """The token by which the pod is known to the gateway."""
        return await token_of(self.server, "functions", "report-incident", name, "gateway")

    def settings(self, data: Path, **more: Any) -> Settings:
        """What the console is told."""
        certificate, key = self.pki.issue("console")
        title = Text(ko="서울", en="Seoul")
        seoul = RegionSettings(
            name="seoul",
            title=title,
            server=f"https://localhost:{self.server.port}",
            authority=self.server.ca,
            token=self.folder / "console.token",
        )
        values: dict[str, Any] = {
            "public_url": "https://localhost:30443",
            "data": data,
            "tls": Tls(ca=self.pki.ca, certificate=certificate, key=key),
            "broker": Broker(host="localhost", port=self.broker_port),
            "post_network": "bluesky",
            "regions": [seoul],
            "users": data / "users.json",
            **more,
        }
        return Settings(**values)


@contextlib.asynccontextmanager
async def region(folder: Path, pki: Pki) -> AsyncIterator[Region]:
    """A region that is up, with one function at zero."""
    server = ApiServer(folder, pki)
    redis, mosquitto = RedisServer(folder / "redis"), Mosquitto(folder / "mosquitto", pki)
    with (folder / "mosquitto" / "acl").open("a") as acl:
        acl.write("user console\ntopic read events/#\ntopic read receipts/#\ntopic read health/#\n")
    try:
        redis.start()
        mosquitto.start()
        server.start_etcd()
        await server.start()
        made = settings(pki, redis, mosquitto.port, bind="0.0.0.0")
        await _fill(server, made.functions_port)
        (folder / "console.token").write_text(await token_of(server, "koren-console", "console", None))
        configuration = client.Configuration()
        configuration.host = f"https://localhost:{server.port}"
        configuration.ssl_ca_cert = str(server.ca)
        configuration.api_key = {"BearerToken": f"Bearer {await token_of(server, 'koren-faas', 'gateway', None)}"}
        cluster = Kubernetes(client.ApiClient(configuration), functions_in="functions", gateway_in="koren-faas")
        async with started(made, pki, cluster) as lab:  # type: ignore[arg-type]
            yield Region(server, lab, mosquitto.port, pki, folder)
    finally:
        server.stop()
        mosquitto.stop()
        redis.stop()


async def _fill(server: ApiServer, functions_port: int) -> None:
    async with server.admin() as admin:
        for document in OBJECTS.read_text().split("\n---\n"):
            if "kind: NetworkPolicy" in document or "{{" in document or "{%" in document:
                continue
            made = yaml.safe_load(document)
            if made["kind"] in ("Namespace", "ServiceAccount") or "rbac" in made["apiVersion"]:
                await create(admin, made)
        for made in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keda"}},
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "report-incident", "namespace": "functions"},
            },
        ):
            await create(admin, made)
        for made in [*role_objects("region.yaml.j2"), *role_objects("namespace.yaml.j2")]:
            await put(admin, made)
        ports = [{"name": "functions", "port": 8443, "targetPort": functions_port}]
        where = {"name": "gateway", "namespace": "koren-faas"}
        await put(admin, {"apiVersion": "v1", "kind": "Service", "metadata": where, "spec": {"ports": ports}})
        # The proxy sends to addresses of pods only.
        gateway = pod("gateway-0")
        gateway["metadata"] = {**where, "name": "gateway-0", "labels": {"app.kubernetes.io/name": "gateway"}}
        gateway["spec"] |= {"serviceAccountName": "gateway", "nodeName": "seoul-cp"}
        await put(admin, gateway)
        ready = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": own_address(), "podIPs": [{"ip": own_address()}], "conditions": ready}
        await merge(admin, "/api/v1/namespaces/koren-faas/pods/gateway-0/status", {"status": status})
        target = {"kind": "Pod", "name": "gateway-0", "namespace": "koren-faas"}
        addresses = [{"ip": own_address(), "targetRef": target}]
        subsets = [{"addresses": addresses, "ports": [{"name": "functions", "port": functions_port}]}]
        await put(admin, {"apiVersion": "v1", "kind": "Endpoints", "metadata": where, "subsets": subsets})
        await put(admin, scaled_objects())
        conditions = [{"type": "Ready", "status": "True"}]
        for name in ("seoul-cp", "seoul-w1"):
            node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            await put(admin, node)
            status = {"status": {"conditions": conditions, "nodeInfo": {"kubeletVersion": "v1.36.3"}}}
            await merge(admin, f"/api/v1/nodes/{name}/status", status)
        await put(admin, deployment())

        async def watched() -> bool:
            return (await admin.get("/apis/keda.sh/v1alpha1/namespaces/functions/scaledobjects")).is_success

        while not await watched():
            await asyncio.sleep(0.1)


def deployment(name: str = "report-incident") -> dict[str, Any]:
    """A function as `faas` deploys it, as far as anybody here reads it."""
    labels = {**LABELS, "faas.koren.kr/function": name}
    annotations = {**REPORTER["metadata"]["annotations"], "faas.koren.kr/max-scale": "5"}
    spec = pod("x")["spec"]
    spec["containers"][0]["env"] = [{"name": "API_KEY", "value": "not-for-viewers"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "functions", "labels": labels, "annotations": annotations},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def scaled_objects() -> dict[str, Any]:
    """The kind ScaledObject, as far as the console reads it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh",
            "scope": "Namespaced",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"},
            "versions": [version],
        },
    }


async def merge(admin: httpx.AsyncClient, path: str, change: dict[str, Any]) -> None:
    """Change an object."""
    headers = {"Content-Type": "application/merge-patch+json"}
    answer = await admin.patch(path, content=json.dumps(change), headers=headers)
    assert answer.is_success, answer.text


async def put(admin: httpx.AsyncClient, made: dict[str, Any]) -> None:
    """Create an object; it may be there."""
    group, kind = made["apiVersion"], made["kind"]
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    namespace = made["metadata"].get("namespace")
    prefix = f"/api/{group}" if group == "v1" else f"/apis/{group}"
    answer = await admin.post(f"{prefix}{f'/namespaces/{namespace}' if namespace else ''}/{plural}", json=made)
    assert answer.status_code in (201, 409), answer.text
