#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Check that a cluster runs as it should."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_check
short_description: Check that a cluster runs as it should
description:
  - Asks the API server whether each node is Ready, whether the pinned versions are running, and whether the metrics
    that autoscaling needs are available.
  - Starts a pod on each node, which resolves a name, calls the API server by its Service and connects to the pods on
    all other nodes. Removes the pods afterwards in any case.
  - Makes no lasting changes, and reports all problems at once, each with where to look.
options:
  kubeconfig:
    description: Kubeconfig with the cluster.
    type: path
    required: true
  context:
    description: The cluster's context in it.
    type: str
    required: true
  nodes:
    description: Names of the nodes that the cluster must have.
    type: list
    elements: str
    required: true
  kubernetes_version:
    description: Pinned version of API server and kubelet.
    type: str
    required: true
  containerd_version:
    description: Pinned version of containerd.
    type: str
    required: true
  images:
    description: Pinned images with their tags; no pod may run another version of them.
    type: list
    elements: str
    required: true
  apis:
    description: Aggregated APIs that must be Available.
    type: list
    elements: str
    default: [v1beta1.metrics.k8s.io, v1beta1.external.metrics.k8s.io]
  probe_image:
    description: Image that all nodes have, with C(/usr/bin/python3) in it.
    type: str
    required: true
  registry:
    description:
      - Name of the registry of the functions' images. If a function is deployed, each node must be able to pull one.
      - Without it no image is pulled.
    type: str
  rules:
    description:
      - Output of C(koren-rules check) by node. Each line is a chain that is missing.
    type: dict
    default: {}
  pinned:
    description:
      - Whether everything must run the given versions. Otherwise any version is accepted, as before an upgrade, and the
        probes use the version of I(probe_image) that a pod of the cluster runs.
    type: bool
    default: true
  timeout_s:
    description: Seconds to wait for components that may still be starting, and for the pods.
    type: int
    default: 60
attributes:
  check_mode:
    support: partial
    description: Starts no pods, but checks everything else.
  diff_mode:
    support: none
    description: Nothing is changed.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Check the cluster of Seoul
  koren.faas.cluster_check:
    kubeconfig: .state/local/kubeconfig
    context: seoul
    nodes: [seoul-cp, seoul-w1]
    kubernetes_version: v1.36.3
    containerd_version: v2.4.2
    images: ["bundle.koren.internal/keda-operator:v2.20.1"]
    probe_image: "bundle.koren.internal/gateway:0.1.0-0123456789ab"
"""

RETURN = r"""
nodes:
  description: Number of nodes that were checked.
  returned: success
  type: int
problems:
  description: All problems that were found.
  returned: failure
  type: list
  elements: str
"""

import time
from collections.abc import Mapping
from json import loads
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.cluster_check import (
    NAMESPACE,
    Problem,
    api_problems,
    function_image,
    image_problems,
    metric_problems,
    namespace,
    node_problems,
    probe_pod,
    probe_problems,
    pull_pod,
    pull_problem,
    report_of,
    rule_problems,
    scaler_problems,
    service,
    version_in_use,
)
from ansible_collections.koren.faas.plugins.module_utils.faas import need_library

INSIDE = f"/api/v1/namespaces/{NAMESPACE}"


class Cluster:
    """The cluster under check, by its API server."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        from koren_faas.kube import Kube
        from koren_faas.site import Region

        self.params = params
        region = Region(name=params["context"], context=params["context"], registry="", nodes=tuple(params["nodes"]))
        self._kube = Kube(region, params["kubeconfig"])

    def get(self, path: str) -> Any:
        """The object at `path`; None if there is none."""
        from koren_faas.errors import RegionError

        try:
            return loads(self._kube.request("GET", path))
        except RegionError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects at `path`; empty if there is no such kind, or it does not answer."""
        from koren_faas.errors import RegionError

        try:
            found = self.get(path)
        except RegionError as error:
            if error.status is None or error.status < 500:
                raise
            found = None
        return list(found["items"]) if found else []

    def look(self) -> list[Problem]:
        """The problems of the cluster as its API server reports it."""
        params = self.params
        version = self.get("/version")["gitVersion"]
        problems = []
        pinned = params["pinned"]
        if pinned and version.lstrip("v") != params["kubernetes_version"].lstrip("v"):
            problems.append(
                Problem(
                    f"the API server runs {version}, pinned is {params['kubernetes_version']}",
                    "/etc/kubernetes/manifests/kube-apiserver.yaml on the control plane",
                )
            )
        return (
            problems
            + node_problems(
                self.items("/api/v1/nodes"),
                params["nodes"],
                params["kubernetes_version"] if pinned else None,
                params["containerd_version"] if pinned else None,
            )
            + image_problems(self.items("/api/v1/pods"), params["images"], pinned)
            + api_problems(self.items("/apis/apiregistration.k8s.io/v1/apiservices"), params["apis"])
            + metric_problems(self.items("/apis/metrics.k8s.io/v1beta1/nodes"), params["nodes"])
            + rule_problems(params["rules"])
            + scaler_problems(self.items("/apis/keda.sh/v1alpha1/namespaces/functions/scaledobjects"))
        )

    def probe(self) -> list[Problem]:
        """The problems that probe pods on the nodes find. Leaves nothing behind."""
        nodes = self.params["nodes"]
        seconds = self.params["timeout_s"]
        placed = self.items("/apis/apps/v1/namespaces/functions/deployments")
        pulled = function_image(placed, self.params["registry"]) if self.params["registry"] else None
        image = self.params["probe_image"]
        if not self.params["pinned"]:
            image = version_in_use(self.items("/api/v1/pods"), image)
        self._remove()
        try:
            self._make("/api/v1/namespaces", namespace())
            self._make(f"{INSIDE}/services", service())
            for node in nodes:
                self._make(f"{INSIDE}/pods", probe_pod(node, image, len(nodes), seconds // 2))
                if pulled:
                    self._make(f"{INSIDE}/pods", pull_pod(node, pulled))
            return self._wait(nodes, bool(pulled), time.monotonic() + seconds)
        finally:
            self._remove()

    def _wait(self, nodes: list[str], pulling: bool, end: float) -> list[Problem]:
        while True:
            pods = {str(pod["metadata"]["name"]): pod for pod in self.items(f"{INSIDE}/pods")}
            reports = {node: self._report(pods.get(f"probe-{node}")) for node in nodes}
            asked = {node: pods.get(f"pull-{node}", {}) for node in nodes if pulling}
            pulls = [problem for node, pod in asked.items() if (problem := pull_problem(node, pod))]
            if (all(reports.values()) and not pulls) or time.monotonic() > end:
                why = {node: _state(pods.get(f"probe-{node}", {})) for node in nodes}
                return probe_problems(reports, why) + pulls
            time.sleep(0.5)

    def _report(self, pod: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if pod is None or pod["status"].get("phase") != "Running":
            return None
        return report_of(self._kube.request("GET", f"{INSIDE}/pods/{pod['metadata']['name']}/log").decode())

    def _make(self, path: str, manifest: Mapping[str, Any]) -> None:
        self._kube.request("POST", path, body=manifest)

    def _remove(self) -> None:
        """Delete the namespace, and wait until it is gone."""
        from koren_faas.errors import RegionError

        if self.get(INSIDE) is None:
            return
        self._kube.request("DELETE", INSIDE)
        end = time.monotonic() + 60
        while self.get(INSIDE) is not None:
            if time.monotonic() > end:
                raise RegionError(
                    f"namespace {NAMESPACE} is still there; look at: kubectl describe namespace {NAMESPACE}", None
                )
            time.sleep(0.5)


def _state(pod: Mapping[str, Any]) -> str:
    """In a few words, why a pod has reported nothing."""
    status = pod.get("status", {})
    for one in status.get("containerStatuses", []):
        for state in one.get("state", {}).values():
            if state.get("reason") or state.get("message"):
                return f"{state.get('reason', '')} {state.get('message', '')}".strip()
    for one in status.get("conditions", []):
        if one["status"] != "True" and one.get("message"):
            return str(one["message"])
    return str(status.get("phase", "it does not exist"))


def _look_until(cluster: Cluster, end: float) -> list[Problem]:
    while True:
        problems = cluster.look()
        if not any(problem.passing for problem in problems) or time.monotonic() > end:
            return problems
        time.sleep(2)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path", "required": True},
            "context": {"type": "str", "required": True},
            "nodes": {"type": "list", "elements": "str", "required": True},
            "kubernetes_version": {"type": "str", "required": True},
            "containerd_version": {"type": "str", "required": True},
            "images": {"type": "list", "elements": "str", "required": True},
            "apis": {
                "type": "list",
                "elements": "str",
                "default": ["v1beta1.metrics.k8s.io", "v1beta1.external.metrics.k8s.io"],
            },
            "probe_image": {"type": "str", "required": True},
            "registry": {"type": "str"},
            "rules": {"type": "dict", "default": {}},
            "pinned": {"type": "bool", "default": True},
            "timeout_s": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    faas = need_library(module)
    params = module.params
    try:
        cluster = Cluster(params)
        problems = _look_until(cluster, time.monotonic() + params["timeout_s"])
        if not module.check_mode:
            problems += cluster.probe()
    except faas.FaasError as error:
        lacking = [str(problem) for problem in rule_problems(params["rules"])]
        module.fail_json(
            msg="\n- ".join(
                [f"{params['context']}: {error}; look at: systemctl status kubelet on the control plane", *lacking]
            ),
            problems=[str(error), *lacking],
        )
    if problems:
        told = [str(problem) for problem in problems]
        module.fail_json(msg=f"{params['context']} has these problems:\n- " + "\n- ".join(told), problems=told)
    module.exit_json(changed=False, nodes=len(params["nodes"]))


if __name__ == "__main__":
    main()
