"""What benches look at inside Seoul: the gateway's processes, and Redis."""

from __future__ import annotations

import json
from typing import Any

import redis
from conftest import SITE_DIR, on_host

from koren_faas.kube import Kube

NAMESPACE = "koren-faas"

# The first process of a container, by the host that it runs on.
FIRST_PROCESS = """
import glob, sys
pids = []
for name in glob.glob("/proc/[0-9]*/cgroup"):
    try:
        pids += [int(name.split("/")[2])] if sys.argv[1] in open(name).read() else []
    except OSError:
        pass
print(min(pids))
"""


class Process:
    """The first process of a pod's container, on its node."""

    def __init__(self, pod: dict[str, Any]) -> None:
        self._node = pod["spec"]["nodeName"]
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        self._pid = int(on_host(self._node, "python3", "-c", FIRST_PROCESS, container))
        self._page = int(on_host(self._node, "getconf", "PAGE_SIZE"))

    def memory_mib(self) -> float:
        """What it holds in memory."""
        return int(on_host(self._node, "cat", f"/proc/{self._pid}/statm").split()[1]) * self._page / 2**20


def gateway_pods(kube: Kube) -> list[dict[str, Any]]:
    """The gateway's pods."""
    return kube.list(f"/api/v1/namespaces/{NAMESPACE}/pods", "app.kubernetes.io/name=gateway")


def lease_holder(kube: Kube) -> dict[str, Any]:
    """The gateway's pod that takes events in."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/gateway-intake"
    holder = json.loads(kube.request("GET", path))["spec"]["holderIdentity"]
    (pod,) = [one for one in gateway_pods(kube) if one["metadata"]["name"] == holder]
    return pod


def seoul_redis(site: dict[str, Any]) -> Any:
    """A client of Seoul's Redis, as the gateway's user."""
    return redis.Redis(
        host=site["regions"]["seoul"]["broker"],
        username="gateway",
        password=(SITE_DIR / "secrets" / "redis-seoul").read_text().strip(),
        ssl=True,
        ssl_ca_certs=str(SITE_DIR / "pki" / "ca.crt"),
        socket_timeout=10,
    )
