# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from koren_faas import Function, FunctionError
from koren_faas.manifests import for_function, for_namespace, from_deployment, image_of

FUNCTION = Function(
    name="report",
    handler="handler.run",
    topic="events/seoul/+/accident",
    timeout_s=30,
    memory="512Mi",
    cpu="250m",
    max_scale=4,
    secrets=("sns",),
    env={"LANG": "ko", "API": "https://example.org"},
    opens="kr.koren.traffic.accident.detected",
    closes="kr.koren.traffic.accident.cleared",
    incident_limit_s=900,
)
IMAGE = "functions.koren.internal/report:0123"


def _objects(function: Function = FUNCTION) -> dict[str, Any]:
    return {one["kind"]: one for one in for_function(function, IMAGE, ("idna==3.10",))}


def test_the_same_function_gives_the_same_objects() -> None:
    turned = Function(name="a", handler="a.b", env={"X": "1", "A": "2"}, topic="events/seoul/#")
    same = Function(name="a", handler="a.b", env={"A": "2", "X": "1"}, topic="events/seoul/#")
    assert json.dumps(_objects(turned)) == json.dumps(_objects(same))


def test_a_function_is_read_back_from_its_deployment() -> None:
    deployment = _objects()["Deployment"]
    assert from_deployment(deployment) == FUNCTION
    assert image_of(deployment) == IMAGE
    plain = Function(name="a", handler="a.b")
    program = Function(name="a", runtime="image")
    side_by_side = Function(name="a", handler="a.b", concurrency=8)
    batches = Function(name="a", handler="a.b", batch_size=50, batch_window_s=5)
    for one in (plain, program, side_by_side, batches):
        assert from_deployment(_objects(one)["Deployment"]) == one


def test_a_priority_is_a_class_and_none_is_the_pod_as_it_was() -> None:
    plain = Function(name="a", handler="a.b")
    template = _objects(plain)["Deployment"]["spec"]["template"]
    assert "priorityClassName" not in template["spec"]
    for priority in ("high", "low"):
        urgent = replace(plain, priority=priority, topic="events/seoul/#", delay_s=90)
        deployment = _objects(urgent)["Deployment"]
        assert deployment["spec"]["template"]["spec"]["priorityClassName"] == f"koren-function-{priority}"
        assert deployment["metadata"]["annotations"]["faas.koren.kr/delay-s"] == "90"
        assert from_deployment(deployment) == urgent
    delayed = replace(plain, topic="events/seoul/#", delay_s=90)
    assert _objects(delayed)["Deployment"]["spec"]["template"] == template, "another delay restarts nothing"
    for wrong, problem in (
        ({"priority": "urgent"}, "priority is 'urgent'; give high, normal or low"),
        ({"delay_s": 30}, "a delay without topic"),
        ({"delay_s": 604801, "topic": "events/seoul/#"}, "delay is 604801s; give 7d at most"),
    ):
        with pytest.raises(FunctionError, match=problem):
            Function(name="a", handler="a.b", **wrong)


def test_the_number_of_pods_is_not_ours() -> None:
    assert "replicas" not in _objects()["Deployment"]["spec"]


def test_the_gateway_finds_the_function() -> None:
    meta = _objects()["Deployment"]["metadata"]
    assert meta["labels"]["faas.koren.kr/function"] == "report"
    assert meta["annotations"]["faas.koren.kr/topic"] == "events/seoul/+/accident"
    assert meta["annotations"]["faas.koren.kr/timeout-s"] == "30"
    assert meta["annotations"]["faas.koren.kr/incident-limit-s"] == "900"
    without = _objects(Function(name="a", handler="a.b"))["Deployment"]["metadata"]
    assert "faas.koren.kr/topic" not in without["annotations"]


def test_a_changed_topic_does_not_restart_pods() -> None:
    other = Function(name="report", handler="handler.run", topic="events/seoul/#")
    same = Function(name="report", handler="handler.run", topic="events/seoul/cam/#")
    templates = [_objects(f)["Deployment"]["spec"]["template"] for f in (other, same)]
    assert templates[0] == templates[1]


def test_the_handler_gets_the_known_environment() -> None:
    container = _objects()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env.pop("KOREN_GATEWAY").endswith(":8080")
    assert env == {
        "MOD_NAME": "handler",
        "FUNC_HANDLER": "run",
        "FUNC_TIMEOUT": "30",
        "FUNC_RUNTIME": "python3.11",
        "FUNC_MEMORY_LIMIT": "512Mi",
        "LANG": "ko",
        "API": "https://example.org",
    }


def test_a_pod_has_no_more_rights_than_it_needs() -> None:
    pod = _objects()["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    token = next(v for v in pod["volumes"] if v["name"] == "token")
    (source,) = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "gateway"
    policy = _objects()["NetworkPolicy"]["spec"]
    assert "Ingress" in policy["policyTypes"]
    assert "ingress" not in policy


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("$(HOME)", "$$(HOME)"),
        ("$$", "$$$"),
        ("a$b$", "a$b$"),
        ("$$$(A) $$(B", "$$$$$$(A) $$$$(B"),
        ("$$$x", "$$$$$x"),
    ],
)
def test_dollars_in_the_environment_arrive_unchanged(value: str, written: str) -> None:
    function = Function(name="a", handler="a.b", env={"WORD": value})
    deployment = _objects(function)["Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "WORD", "value": written} in container["env"]
    assert _as_kubelet(written) == value
    assert from_deployment(deployment) == function


def _as_kubelet(value: str) -> str:
    """What a container gets of a value, of which no `$(NAME)` names a variable."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda m: "$" if m[1] == "$" else "expanded", value)


def test_the_size_of_tmp_and_packages_are_kept() -> None:
    function = Function(
        name="a", handler="a.b", tmp_size="1Gi", packages=("libgl1", "libmagic1=1:5.44-3")
    )
    deployment = _objects(function)["Deployment"]
    (tmp,) = (v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "tmp")
    assert tmp["emptyDir"] == {"sizeLimit": "1Gi"}
    assert from_deployment(deployment) == function


def test_secrets_are_files_below_run_secrets() -> None:
    pod = _objects()["Deployment"]["spec"]["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/run/secrets/sns"]]["secret"] == {"secretName": "sns"}


def test_a_busy_pod_has_time_to_end() -> None:
    pod = _objects()["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > FUNCTION.timeout_s


def test_keda_scales_from_zero_to_the_limit() -> None:
    spec = _objects()["ScaledObject"]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 4)
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "external-push"
    assert trigger["metadata"]["function"] == "report"


@pytest.mark.parametrize(
    ("target", "concurrency", "batch_size", "told"),
    [(1, 1, 1, "1"), (1, 8, 1, "8"), (20, 8, 1, "20"), (1, 4, 50, "200")],
)
def test_events_that_a_pod_handles_side_by_side_are_the_work_of_one_pod(
    target: int, concurrency: int, batch_size: int, told: str
) -> None:
    function = Function(name="a", handler="a.b", target=target, concurrency=concurrency, batch_size=batch_size)
    objects = _objects(function)
    [trigger] = objects["ScaledObject"]["spec"]["triggers"]
    assert trigger["metadata"]["target"] == told
    [container] = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    # A pod of a function that says nothing of it stays as it was.
    assert env.get("FUNC_CONCURRENCY") == (None if concurrency == 1 else str(concurrency))
    # Pods that were deployed for single events are replaced.
    assert env.get("FUNC_BATCH_SIZE") == (None if batch_size == 1 else str(batch_size))


def test_callers_may_call_and_nothing_else_of_kubernetes() -> None:
    role = next(one for one in for_namespace() if one["kind"] == "Role")
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {"faas.koren.kr"}
    allowed = {resource: rule["verbs"] for rule in role["rules"] for resource in rule["resources"]}
    assert "logs" in allowed["functions"]
    assert allowed["heldevents"] == ["list", "get", "release", "dismiss"]


def _egress(*egress: str) -> list[Any]:
    function = Function(name="a", handler="a.b", egress=egress)
    return list(_objects(function)["NetworkPolicy"]["spec"]["egress"])


def test_every_function_reaches_dns_and_the_runtime_port_alone() -> None:
    dns, gateway = _egress("none")
    ports = {port["port"] for rule in (dns, gateway) for port in rule["ports"]}
    assert ports == {53, 8080}
    peers = [peer for rule in (dns, gateway) for peer in rule["to"]]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in peers] == [
        {"kubernetes.io/metadata.name": "kube-system"},
        {"kubernetes.io/metadata.name": "koren-faas"},
    ]
    assert all(peer["podSelector"]["matchLabels"] for peer in peers)


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        *[("8.8.8.8", True), ("203.0.113.9", True), ("172.32.0.1", True)],
        *[("10.10.0.1", False), ("172.31.255.255", False), ("192.168.1.1", False)],
        *[("169.254.169.254", False), ("100.64.0.1", False), ("127.0.0.1", False), ("224.0.0.1", False)],
    ],
)
def test_the_default_is_the_world_without_private_addresses(address: str, reached: bool) -> None:
    assert _objects()["NetworkPolicy"]["spec"]["egress"] == _egress("default")
    *_, world = _egress("default")
    (block,) = (peer["ipBlock"] for peer in world["to"])
    inside = [ip_network(cidr) for cidr in block["except"]]
    assert ip_address(address) in ip_network(block["cidr"])
    assert any(ip_address(address) in cidr for cidr in inside) is not reached


def test_declared_destinations_are_the_only_ones() -> None:
    *_, host, net = _egress("192.0.2.7:443", "198.51.100.0/24")
    assert host == {
        "to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}],
        "ports": [{"port": 443, "protocol": "TCP"}],
    }
    assert net == {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}


def test_egress_is_read_back_from_the_deployment() -> None:
    for egress in (("none",), ("default", "192.0.2.7:443")):
        function = Function(name="a", handler="a.b", egress=egress)
        assert from_deployment(_objects(function)["Deployment"]) == function
        template = _objects(function)["Deployment"]["spec"]["template"]
        plain = _objects(Function(name="a", handler="a.b"))["Deployment"]["spec"]["template"]
        # A change restarts no pod.
        assert template == plain


def test_a_pod_of_no_function_reaches_nothing() -> None:
    policy = next(one for one in for_namespace() if one["kind"] == "NetworkPolicy")
    (needed,) = policy["spec"]["podSelector"]["matchExpressions"]
    label = next(iter(_objects()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]))
    assert needed == {"key": label, "operator": "DoesNotExist"}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(policy["spec"])
