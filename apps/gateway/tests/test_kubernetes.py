"""The cluster's side against a real API server, with the rights that the role grants.

The programs are the bundle's: `.state/bundle`, or what KOREN_BUNDLE names. Skipped before it is
built.
"""

import asyncio
import base64
import contextlib
import json
import os
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_lab import REPORTER, Pki, declared, free_port, until
from kubernetes_asyncio import client

from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.interface import Change, LeaseRecord
from koren_gateway.cluster.kubernetes import Kubernetes
from koren_gateway.cluster.reviews import _expires_at
from koren_gateway.cluster.sources import Sources
from koren_gateway.errors import ClusterRefused, ClusterUnavailable

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = Path(os.environ.get("KOREN_BUNDLE", ROOT / ".state/bundle"))
PROGRAMS = (BUNDLE / "etcd/bin/etcd", BUNDLE / "kubernetes/bin/kube-apiserver")
OBJECTS = ROOT / "roles/gateway/templates/objects.yaml.j2"
ADMIN = "admin-token"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not all(program.is_file() for program in PROGRAMS), reason="the bundle is not built"),
]


class ApiServer:
    """etcd and an API server, with RBAC and nothing else of a cluster."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.port = free_port()
        self.ca = pki.ca
        self._folder = folder
        self._etcd_port = free_port()
        self._certificate, self._certificate_key = pki.issue("kube-apiserver")
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "tokens").write_text(f'{ADMIN},admin,admin,"system:masters"\n')
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )

    def start_etcd(self) -> None:
        peer = free_port()
        self._run(
            PROGRAMS[0],
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        )

    async def start(self) -> None:
        self._run(
            PROGRAMS[1],
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._certificate}",
            f"--tls-private-key-file={self._certificate_key}",
            f"--token-auth-file={self._folder}/tokens",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder}/sa.key",
            f"--service-account-signing-key-file={self._folder}/sa.key",
            "--service-cluster-ip-range=10.0.0.0/24",
        )
        async with self.admin() as admin:

            async def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await admin.get("/readyz")).status_code == 200
                return False

            await until(ready, "the API server is ready", 60)

    def stop_server(self) -> None:
        process = self._processes.pop()
        # Asked to end, it would wait a minute for those who watch.
        process.kill()
        process.wait()

    def stop(self) -> None:
        while self._processes:
            self.stop_server()

    def admin(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://localhost:{self.port}",
            verify=ssl.create_default_context(cafile=self.ca),
            headers={"Authorization": f"Bearer {ADMIN}"},
            timeout=10,
        )

    def _run(self, program: Path, *arguments: str) -> None:
        with (self._folder / f"{program.name}.log").open("ab") as log:
            self._processes.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log))


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path_factory.mktemp("kubernetes"), pki)
    server.start_etcd()
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(processes: ApiServer) -> ApiServer:
    await processes.start()
    async with processes.admin() as admin:
        for document in OBJECTS.read_text().split("\n---\n"):
            if "kind: NetworkPolicy" in document or "{{" in document or "{%" in document:
                continue
            made = yaml.safe_load(document)
            if made["kind"] not in ("Namespace", "ServiceAccount") and "rbac" not in made["apiVersion"]:
                continue
            await create(admin, made)
        for name in ("report-incident", "operator"):
            await create(
                admin,
                {"apiVersion": "v1", "kind": "ServiceAccount"} | {"metadata": {"name": name, "namespace": "functions"}},
            )
    return processes


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(server: ApiServer) -> AsyncIterator[Kubernetes]:
    configuration = client.Configuration()
    configuration.host = f"https://localhost:{server.port}"
    configuration.ssl_ca_cert = str(server.ca)
    token = await token_of(server, "koren-faas", "gateway", None)
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    made = Kubernetes(client.ApiClient(configuration), functions_in="functions", gateway_in="koren-faas")
    yield made
    await made.close()


PLURALS = {
    "ConfigMap": "configmaps",
    "ClusterRoleBinding": "clusterrolebindings",
    "Deployment": "deployments",
    "Namespace": "namespaces",
    "Pod": "pods",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ServiceAccount": "serviceaccounts",
}


def path_of(made: dict[str, Any]) -> str:
    group = made["apiVersion"]
    prefix = f"/api/{group}" if group == "v1" else f"/apis/{group}"
    namespace = made["metadata"].get("namespace")
    middle = f"/namespaces/{namespace}" if namespace else ""
    return f"{prefix}{middle}/{PLURALS[made['kind']]}"


async def create(admin: httpx.AsyncClient, made: dict[str, Any]) -> None:
    answer = await admin.post(path_of(made), json=made)
    assert answer.status_code == 201, answer.text


async def token_of(
    server: ApiServer, namespace: str, account: str, pod: str | None, audience: str | None = None
) -> str:
    spec: dict[str, Any] = {"expirationSeconds": 600}
    if audience is not None:
        spec["audiences"] = [audience]
    if pod is not None:
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
    async with server.admin() as admin:
        answer = await admin.post(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            json={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": spec,
            },
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["status"]["token"])


def pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "functions"},
        "spec": {
            "serviceAccountName": "report-incident",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "function",
                    "image": "none",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def deployment(**annotations: str) -> dict[str, Any]:
    labels = REPORTER["metadata"]["labels"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **REPORTER["metadata"],
            "namespace": "functions",
            "annotations": {**REPORTER["metadata"]["annotations"], **annotations},
        },
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": pod("x")["spec"],
            },
        },
    }


async def next_of(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(10):
        return await anext(changes)


async def test_functions_are_followed_also_through_an_outage(server: ApiServer, cluster: Kubernetes) -> None:
    functions = Functions()
    following = asyncio.create_task(functions.follow(cluster))
    await asyncio.wait_for(functions.wait_in_step(), 5)
    assert functions.all() == []
    made = deployment()

    async def seen(timeout_s: float) -> None:
        def is_so() -> bool:
            function = functions.get("report-incident")
            return function is not None and function.timeout_s == timeout_s

        await until(is_so, f"the function's timeout is {timeout_s}", 20)

    async with server.admin() as admin:
        await create(admin, made)
        await seen(20)
        path = f"{path_of(made)}/report-incident"
        patch = {"metadata": {"annotations": {"faas.koren.kr/timeout-s": "30"}}}
        answer = await admin.patch(
            path,
            content=json.dumps(patch),
            headers={"Content-Type": "application/merge-patch+json"},
        )
        assert answer.status_code == 200
        await seen(30)
        server.stop_server()
        with pytest.raises(ClusterUnavailable):
            await cluster.read_lease()
        assert functions.get("report-incident") is not None
        await server.start()
        # A second Deployment with the label is no function, until the first has gone.
        twin = deployment()
        twin["metadata"]["name"] = "canary"
        await create(admin, twin)
        await until(lambda: bool(functions.refused()), "the twin is refused", 20)
        assert [refusal.deployment for refusal in functions.refused()] == ["canary"]
        await admin.delete(path)
        await until(lambda: not functions.refused(), "the twin has the name", 20)
        await admin.delete(f"{path_of(made)}/canary")
        await until(lambda: not functions.all(), "no function is left", 20)
    following.cancel()


async def test_sources_are_followed(server: ApiServer, cluster: Kubernetes) -> None:
    sources = Sources()
    following = asyncio.create_task(sources.follow(cluster))
    await asyncio.wait_for(sources.wait_in_step(), 5)
    made = declared("common", "common")
    made |= {"apiVersion": "v1", "kind": "ConfigMap"}
    made["metadata"] = {"name": "mqtt-source-common", "namespace": "functions", "labels": made["metadata"]["labels"]}
    async with server.admin() as admin:
        await create(admin, made)
        await until(lambda: [source.topic for source in sources.all()] == ["common"], "the source is known", 20)
        await admin.delete(f"{path_of(made)}/mqtt-source-common")
        await until(lambda: not sources.all(), "the source has gone", 20)
    following.cancel()


async def test_a_pod_that_is_gone_is_said_to_be(server: ApiServer, cluster: Kubernetes) -> None:
    changes = cluster.pods()
    assert (await next_of(changes)).names == []
    async with server.admin() as admin:
        await create(admin, pod("pod-a"))
        assert (await next_of(changes)).kind == "changed"
        await admin.delete(f"{path_of(pod('pod-a'))}/pod-a?gracePeriodSeconds=0")
        # Before it is gone it is marked so.
        while (change := await next_of(changes)).kind != "removed":
            pass
        assert change.names == ["pod-a"]


async def test_a_failed_pod_says_why_and_is_removed(server: ApiServer, cluster: Kubernetes) -> None:
    changes = cluster.pods()
    await next_of(changes)
    async with server.admin() as admin:
        await create(admin, pod("pod-f"))
        path = f"{path_of(pod('pod-f'))}/pod-f"
        status = {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}
        answer = await admin.patch(
            f"{path}/status",
            content=json.dumps({"status": status}),
            headers={"Content-Type": "application/merge-patch+json"},
        )
        assert answer.status_code == 200, answer.text
        while (change := await next_of(changes)).objects[0]["status"].get("reason") != "Evicted":
            pass
        assert change.names == ["pod-f"]
        await cluster.delete_pod("pod-f")
        while (change := await next_of(changes)).kind != "removed":
            pass
        assert (await admin.get(path)).status_code == 404
        await cluster.delete_pod("pod-f")  # another gateway was first


async def test_a_token_tells_the_function_and_the_pod(server: ApiServer, cluster: Kubernetes) -> None:
    async with server.admin() as admin:
        await create(admin, pod("pod-b"))
        token = await token_of(server, "functions", "report-incident", "pod-b", "gateway")
        caller = await cluster.review(token)
        assert caller is not None
        assert caller.function("functions") == "report-incident" and caller.pod == "pod-b"
        header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
        assert header["alg"] == "ES256"
        # By this the gateway knows how long it may trust it while nobody can review.
        assert 0 < _expires_at(token) - time.time() <= 600
        other = await token_of(server, "functions", "report-incident", "pod-b")
        for wrong in (other, "nonsense", token[:-4] + "AAAA"):
            assert await cluster.review(wrong) is None


async def test_rbac_says_who_may(server: ApiServer, cluster: Kubernetes) -> None:
    rights: list[dict[str, Any]] = [
        {
            "kind": "Role",
            "rules": [
                {"apiGroups": ["faas.koren.kr"], "resources": ["functions"], "verbs": ["invoke"]},
                {"apiGroups": ["faas.koren.kr"], "resources": ["heldevents"], "verbs": ["list", "release"]},
            ],
        },
        {
            "kind": "RoleBinding",
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "may-invoke",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "functions"}],
        },
    ]
    async with server.admin() as admin:
        for right in rights:
            await create(
                admin,
                right
                | {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "metadata": {"name": "may-invoke", "namespace": "functions"},
                },
            )
    caller = await cluster.review(await token_of(server, "functions", "operator", None, "gateway"))
    assert caller is not None and caller.pod is None
    assert await cluster.may(caller, "invoke", "functions", "report-incident")
    assert not await cluster.may(caller, "list", "deadletters", None)
    assert await cluster.may(caller, "release", "heldevents", "0123")
    assert not await cluster.may(caller, "dismiss", "heldevents", "0123")


async def test_of_two_writers_of_the_lease_one_wins(cluster: Kubernetes) -> None:
    lease = await cluster.read_lease()
    assert lease == LeaseRecord(None, None, 0, None)
    record = LeaseRecord("gateway-0", None, 10, None)
    assert await cluster.write_lease(record)
    assert not await cluster.write_lease(record)
    lease = await cluster.read_lease()
    assert (lease.holder, lease.duration_s) == ("gateway-0", 10) and lease.renewed
    mine = LeaseRecord("gateway-0", None, 10, lease.version)
    assert sorted(await asyncio.gather(cluster.write_lease(mine), cluster.write_lease(mine))) == [
        False,
        True,
    ]
    released = LeaseRecord(None, None, 10, (await cluster.read_lease()).version)
    assert await cluster.write_lease(released)
    assert (await cluster.read_lease()).holder is None


async def test_it_has_no_more_rights_than_it_needs(server: ApiServer, cluster: Kubernetes) -> None:
    token = await token_of(server, "koren-faas", "gateway", None)
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{server.port}",
        verify=ssl.create_default_context(cafile=server.ca),
        headers={"Authorization": f"Bearer {token}"},
    ) as me:
        for path in (
            "/api/v1/namespaces/koren-faas/secrets",
            "/api/v1/namespaces/functions/secrets",
            "/api/v1/pods",
            "/apis/apps/v1/namespaces/koren-faas/deployments",
            "/apis/coordination.k8s.io/v1/namespaces/koren-faas/leases",
        ):
            assert (await me.get(path)).status_code == 403, path
    with pytest.raises(ClusterRefused):
        await cluster.secret("tokens")
