# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.cluster_check import (
    PROBE,
    api_problems,
    function_image,
    image_problems,
    metric_problems,
    node_problems,
    probe_problems,
    pull_problem,
    report_of,
    rule_problems,
    scaler_problems,
    version_in_use,
)

OPERATOR = "bundle.koren.internal/keda-operator"


def _node(name: str, ready: str = "True", kubelet: str = "v1.36.3", containerd: str = "v2.4.2") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "message": "no network"}],
            "nodeInfo": {"kubeletVersion": kubelet, "containerRuntimeVersion": f"containerd://{containerd}"},
        },
    }


def _pod(image: str, running: str | None = None, ready: bool = True, **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "operator", "namespace": "keda"} | metadata,
        "spec": {"containers": [{"name": "main", "image": image}]},
        "status": {"containerStatuses": [{"name": "main", "image": running or image, "ready": ready}]},
    }


def test_nodes_that_are_as_they_should_be() -> None:
    nodes = [_node("a"), _node("b", containerd="2.4.2")]
    assert node_problems(nodes, ["a", "b"], "v1.36.3", "v2.4.2") == []


def test_before_an_upgrade_any_version_will_do() -> None:
    assert node_problems([_node("a", kubelet="v1.35.0", containerd="2.3.0")], ["a"], None, None) == []
    old = _pod(f"{OPERATOR}:v1")
    assert image_problems([old], [f"{OPERATOR}:v2"], versions=False) == []
    (starting,) = image_problems([_pod(f"{OPERATOR}:v1", ready=False)], [f"{OPERATOR}:v2"], versions=False)
    assert "not ready" in str(starting)
    assert version_in_use([old], f"{OPERATOR}:v2") == f"{OPERATOR}:v1"
    assert version_in_use([], f"{OPERATOR}:v2") == f"{OPERATOR}:v2"


def test_each_nodes_mistake_is_named_with_where_to_look() -> None:
    nodes = [_node("a", ready="False"), _node("b", kubelet="v1.35.0"), _node("stray")]
    found = [str(one) for one in node_problems(nodes, ["a", "b", "c"], "v1.36.3", "v2.4.2")]
    assert len(found) == 4
    for text, words in zip(
        found,
        (["a is not Ready: no network"], ["b runs kubelet v1.35.0", "v1.36.3"], ["c is not a"], ["stray", "scale"]),
        strict=True,
    ):
        assert all(word in text for word in [*words, "look at: "])


def test_what_runs_counts_not_what_was_asked_for() -> None:
    pinned = [f"{OPERATOR}:v2.20.1"]
    assert image_problems([_pod(f"{OPERATOR}:v2.20.1"), _pod("elsewhere/x:1")], pinned) == []
    assert image_problems([_pod(f"{OPERATOR}:v2.20.1", running="sha256:ab")], pinned) == []
    (old,) = image_problems([_pod(f"{OPERATOR}:v2.20.1", running=f"{OPERATOR}:v2.19.0")], pinned)
    assert "runs bundle.koren.internal/keda-operator:v2.19.0" in str(old) and not old.passing
    (starting,) = image_problems([_pod(f"{OPERATOR}:v2.20.1", ready=False)], pinned)
    assert starting.passing
    assert image_problems([_pod(f"{OPERATOR}:v1", deletionTimestamp="now")], pinned) == []


def test_metrics_and_scalers_that_are_missing() -> None:
    available = {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Available", "status": "True"}]}}
    assert api_problems([available], ["a"]) == []
    assert "no such API" in str(api_problems([available], ["b"])[0])
    assert metric_problems([{"metadata": {"name": "n1"}}], ["n1"]) == []
    assert "no metrics for n2" in str(metric_problems([{"metadata": {"name": "n1"}}], ["n1", "n2"])[0])
    broken = {
        "metadata": {"name": "report"},
        "status": {"conditions": [{"type": "Ready", "status": "False", "message": "no gateway"}]},
    }
    assert "function report can't be scaled: no gateway" in str(scaler_problems([broken])[0])


def _report(*reached: str, resolved: bool = True, service: bool = True) -> dict[str, Any]:
    return {"resolved": resolved, "service": service, "reached": list(reached), "error": "timed out"}


def test_a_way_between_nodes_that_is_cut_is_told_once_a_direction() -> None:
    assert probe_problems({"a": _report("a", "b"), "b": _report("a", "b")}, {}) == []
    (cut,) = probe_problems({"a": _report("a"), "b": _report("a", "b")}, {})
    assert "a pod on a cannot reach one on b" in str(cut) and "8472" in str(cut)
    # Where no pod runs, nothing can be reached: one mistake, not three.
    (silent,) = probe_problems({"a": _report("a"), "b": None}, {"b": "no image"})
    assert "no pod runs on b: no image" in str(silent)
    (dns,) = probe_problems({"a": _report("a", resolved=False, service=False)}, {})
    assert "DNS" in str(dns)


def test_rules_that_a_node_lacks_are_named() -> None:
    told = {"a": "", "b": "kube-proxy: chain ip kube-proxy nat-prerouting\nkoren-pods: chain inet koren_pods forward"}
    proxy, pods = (str(one) for one in rule_problems(told))
    assert "b lacks the packet rules of kube-proxy: chain ip kube-proxy nat-prerouting; look at:" in proxy
    assert "koren-pods" in pods and "koren-rules on b" in pods


def test_an_image_to_pull_is_a_functions() -> None:
    placed = [
        {"spec": {"template": {"spec": {"containers": [{"image": image}]}}}}
        for image in ("elsewhere/x:1", "functions.koren.internal/report:1")
    ]
    assert function_image(placed, "functions.koren.internal") == "functions.koren.internal/report:1"
    assert function_image([], "functions.koren.internal") is None


def test_a_pull_counts_once_the_image_is_there() -> None:
    pulled = {"status": {"containerStatuses": [{"image": "r/x:1", "imageID": "sha256:1", "state": {"running": {}}}]}}
    refused = {
        "status": {
            "containerStatuses": [
                {"image": "r/x:1", "imageID": "", "state": {"waiting": {"reason": "ErrImagePull", "message": "401"}}}
            ]
        }
    }
    assert pull_problem("a", pulled) is None
    assert "a can't pull r/x:1: 401" in str(pull_problem("a", refused))
    assert "has not pulled" in str(pull_problem("a", {}))


def test_the_probe_tells_what_it_reached() -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    settings = {"NODE": "a", "NODES": "2", "SECONDS": "1", "PORT": str(port), "PEERS": "localhost"}
    with subprocess.Popen(
        [sys.executable, "-S", "-c", PROBE], env=os.environ | settings, stdout=subprocess.PIPE, text=True
    ) as probe:
        assert probe.stdout is not None
        line = probe.stdout.readline()
        probe.kill()
    report = report_of(f"noise\n{line}")
    assert report is not None
    assert report["resolved"] and not report["service"] and report["reached"] == ["a"]
    assert json.loads(line) == report
