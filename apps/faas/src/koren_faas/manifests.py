# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes objects of a function, and a function read back from them. Nothing else is stored.

The gateway reads the Deployment's label and annotations: they are its registry of functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from koren_faas.egress import DEFAULT, rules_of
from koren_faas.function import RESERVED_ENV, Function

Manifest = dict[str, Any]

NAMESPACE = "functions"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CALLER = "faas-caller"
"""Service account in whose name the Function API is called."""
API_GROUP = "faas.koren.kr"
LABEL = f"{API_GROUP}/function"
SOURCE_LABEL = f"{API_GROUP}/mqtt-source"
TRIGGER_LABEL = f"{API_GROUP}/trigger"
PAUSED = f"{API_GROUP}/paused"
"""Annotation of a Deployment whose topic starts nothing for now."""
AUDIENCE = "gateway"
USER_ID = 65532
TMP = "tmp"
"""Volume that is /tmp in a function's pods."""

MANAGED = {"app.kubernetes.io/managed-by": "faas"}
# With every dot of it, so that the resolver asks once: see ndots below.
_GATEWAY_PORT = 8080
_GATEWAY = f"gateway.koren-faas.svc.cluster.local:{_GATEWAY_PORT}"
_SCALER = "gateway.koren-faas.svc:9090"
_TOKEN_PATH = "/var/run/secrets/koren"
_TOKEN_LIFE_S = 3600
_SETTLE_S = 1
_STOP_S = 5 + _SETTLE_S
_DELAY = f"{API_GROUP}/delay-s"
_CONCURRENCY = f"{API_GROUP}/concurrency"
_BATCH_SIZE = f"{API_GROUP}/batch-size"
_BATCH_WINDOW = f"{API_GROUP}/batch-window-s"
_MAX_IN_FLIGHT = f"{API_GROUP}/max-in-flight"
_RATE = f"{API_GROUP}/rate"
_HISTORY = f"{API_GROUP}/history"
_TOPIC = f"{API_GROUP}/topic"
_REQUIREMENTS = f"{API_GROUP}/dependencies"
_PACKAGES = f"{API_GROUP}/packages"
_EGRESS = f"{API_GROUP}/egress"
_PRIORITY_CLASS = "koren-function-"
"""What the names of the functions' PriorityClasses begin with; there is none of the priority `normal`."""


def for_namespace() -> list[Manifest]:
    """What the functions' namespace holds beside functions.

    Itself, the right to call them, and that a pod of no function reaches nothing and is not reached.
    """
    meta = {"name": CALLER, "namespace": NAMESPACE, "labels": MANAGED}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "default", "namespace": NAMESPACE, "labels": MANAGED},
            "spec": {
                "podSelector": {"matchExpressions": [{"key": LABEL, "operator": "DoesNotExist"}]},
                "policyTypes": ["Ingress", "Egress"],
            },
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
        | {"automountServiceAccountToken": False},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [
                {
                    "apiGroups": [API_GROUP],
                    "resources": ["functions"],
                    "verbs": ["invoke", "list", "logs"],
                },
                {
                    "apiGroups": [API_GROUP],
                    "resources": ["deadletters"],
                    "verbs": ["list", "get", "redrive", "delete"],
                },
                {
                    "apiGroups": [API_GROUP],
                    "resources": ["handledevents"],
                    "verbs": ["list", "replay"],
                },
                {
                    "apiGroups": [API_GROUP],
                    "resources": ["heldevents"],
                    "verbs": ["list", "get", "release", "dismiss"],
                },
                {"apiGroups": [API_GROUP], "resources": ["sources", "triggers"], "verbs": ["list"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": CALLER,
            },
            "subjects": [{"kind": "ServiceAccount", "name": CALLER, "namespace": NAMESPACE}],
        },
    ]


def for_function(function: Function, image: str, requirements: tuple[str, ...]) -> list[Manifest]:
    """The objects of one function in one region, in the order to apply them.

    Args:
        function: as it is in the region: its topic names the region.
        image: name with tag of its image.
        requirements: what is installed in it, to be shown.
    """
    return [
        _service_account(function),
        _network_policy(function),
        _deployment(function, image, requirements),
        _scaled_object(function),
    ]


def from_deployment(deployment: Mapping[str, Any]) -> Function:
    """The function that a Deployment made by `for_function` describes, without its source."""
    notes = deployment["metadata"]["annotations"]
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    return Function(
        name=deployment["metadata"]["name"],
        handler=notes[f"{API_GROUP}/handler"],
        runtime=notes[f"{API_GROUP}/runtime"],
        topic=notes.get(_TOPIC),
        trigger=notes.get(f"{API_GROUP}/trigger"),
        delay_s=int(notes.get(_DELAY, 0)),
        timeout_s=int(notes[f"{API_GROUP}/timeout-s"]),
        packages=tuple(notes.get(_PACKAGES, "").split()),
        memory=container["resources"]["limits"]["memory"],
        cpu=container["resources"]["requests"]["cpu"],
        tmp_size=next(v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == TMP),
        min_scale=int(notes.get(f"{API_GROUP}/min-scale", 0)),
        max_scale=int(notes[f"{API_GROUP}/max-scale"]),
        target=int(notes.get(f"{API_GROUP}/target", 1)),
        concurrency=int(notes.get(_CONCURRENCY, 1)),
        batch_size=int(notes.get(_BATCH_SIZE, 1)),
        batch_window_s=int(notes.get(_BATCH_WINDOW, 0)),
        max_attempts=int(notes[f"{API_GROUP}/max-attempts"]),
        max_in_flight=int(notes.get(_MAX_IN_FLIGHT, 0)),
        rate=notes.get(_RATE, ""),
        priority=pod.get("priorityClassName", "normal").removeprefix(_PRIORITY_CLASS),
        history=notes.get(_HISTORY, ""),
        secrets=tuple(v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v),
        env={
            variable["name"]: _expanded(variable.get("value", ""))
            for variable in container["env"]
            if not RESERVED_ENV.fullmatch(variable["name"])
        },
        egress=tuple(notes.get(_EGRESS, DEFAULT).split()),
        opens=notes.get(f"{API_GROUP}/opens"),
        closes=notes.get(f"{API_GROUP}/closes"),
        incident_limit_s=int(notes[f"{API_GROUP}/incident-limit-s"]),
    )


def priority_class(function: Function) -> str | None:
    """Name of the PriorityClass of a function's pods; None for what pods have without one."""
    return None if function.priority == "normal" else f"{_PRIORITY_CLASS}{function.priority}"


def image_of(deployment: Mapping[str, Any]) -> str:
    """Name with tag of a function's image."""
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def requirements_of(deployment: Mapping[str, Any]) -> tuple[str, ...]:
    """Requirement lines that are installed in a function's image."""
    return tuple(deployment["metadata"]["annotations"].get(_REQUIREMENTS, "").splitlines())


def _labels(function: Function) -> dict[str, str]:
    return {LABEL: function.name, **MANAGED}


def _meta(function: Function) -> dict[str, Any]:
    return {"name": function.name, "namespace": NAMESPACE, "labels": _labels(function)}


def _service_account(function: Function) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(function),
        "automountServiceAccountToken": False,
    }


def _network_policy(function: Function) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(function),
        "spec": {
            "podSelector": {"matchLabels": {LABEL: function.name}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [
                {
                    "to": [_pods("kube-system", "k8s-app", "kube-dns")],
                    "ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")],
                },
                {
                    "to": [_pods("koren-faas", "app.kubernetes.io/name", "gateway")],
                    "ports": [{"port": _GATEWAY_PORT, "protocol": "TCP"}],
                },
                *rules_of(function.egress),
            ],
        },
    }


def _pods(namespace: str, label: str, value: str) -> dict[str, Any]:
    """Pods as a peer of a NetworkPolicy."""
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {label: value}},
    }


def _annotations(function: Function, requirements: tuple[str, ...]) -> dict[str, str]:
    notes: dict[str, str | None] = {
        f"{API_GROUP}/handler": function.handler,
        f"{API_GROUP}/runtime": function.runtime,
        _TOPIC: function.topic,
        f"{API_GROUP}/trigger": function.trigger,
        _DELAY: str(function.delay_s) if function.delay_s else None,
        f"{API_GROUP}/timeout-s": str(function.timeout_s),
        f"{API_GROUP}/max-attempts": str(function.max_attempts),
        f"{API_GROUP}/min-scale": str(function.min_scale) if function.min_scale else None,
        f"{API_GROUP}/max-scale": str(function.max_scale),
        f"{API_GROUP}/target": str(function.target) if function.target != 1 else None,
        _CONCURRENCY: str(function.concurrency) if function.concurrency != 1 else None,
        _BATCH_SIZE: str(function.batch_size) if function.batch_size != 1 else None,
        _BATCH_WINDOW: str(function.batch_window_s) if function.batch_window_s else None,
        _MAX_IN_FLIGHT: str(function.max_in_flight) if function.max_in_flight else None,
        _RATE: function.rate or None,
        _HISTORY: function.history or None,
        f"{API_GROUP}/opens": function.opens,
        f"{API_GROUP}/closes": function.closes,
        f"{API_GROUP}/incident-limit-s": str(function.incident_limit_s),
        _REQUIREMENTS: "\n".join(requirements) or None,
        _PACKAGES: " ".join(sorted(set(function.packages))) or None,
        _EGRESS: " ".join(function.egress) if function.egress != (DEFAULT,) else None,
    }
    return {key: value for key, value in notes.items() if value is not None}


def _environment(function: Function) -> list[dict[str, str]]:
    values = {
        "MOD_NAME": function.module,
        "FUNC_HANDLER": function.entry,
        "FUNC_TIMEOUT": str(function.timeout_s),
        "FUNC_RUNTIME": function.runtime,
        "FUNC_MEMORY_LIMIT": function.memory,
        "KOREN_GATEWAY": _GATEWAY,
    }
    if function.concurrency != 1:
        # Without it for the others: a deploy must not replace their pods.
        values["FUNC_CONCURRENCY"] = str(function.concurrency)
    if function.batch_size != 1:
        # For handlers to read, and so that batches come to pods that were deployed for them.
        values["FUNC_BATCH_SIZE"] = str(function.batch_size)
    return [{"name": name, "value": value} for name, value in values.items()]


def _escaped(value: str) -> str:
    """A variable's value as it arrives unchanged: the kubelet expands `$(NAME)`, and `$$` to `$`."""
    return re.sub(r"\$(?=[$(])", "$$", value)


def _expanded(value: str) -> str:
    return value.replace("$$", "$")


def _deployment(function: Function, image: str, requirements: tuple[str, ...]) -> Manifest:
    # No replicas: their number is KEDA's.
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**_meta(function), "annotations": _annotations(function, requirements)},
        "spec": {
            # The one before, to go back to; its image stays on the nodes too.
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {LABEL: function.name}},
            "template": {
                "metadata": {"labels": _labels(function)},
                "spec": _pod(function, image),
            },
        },
    }


def _pod(function: Function, image: str) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": TMP, "emptyDir": {"sizeLimit": function.tmp_size}},
        {
            "name": "token",
            "projected": {
                "sources": [
                    {
                        "serviceAccountToken": {
                            "audience": AUDIENCE,
                            "expirationSeconds": _TOKEN_LIFE_S,
                            "path": "token",
                        }
                    }
                ]
            },
        },
    ]
    mounts: list[dict[str, Any]] = [
        {"name": TMP, "mountPath": "/tmp"},
        {"name": "token", "mountPath": _TOKEN_PATH, "readOnly": True},
    ]
    for secret in function.secrets:
        volumes.append({"name": f"secret-{secret}", "secret": {"secretName": secret}})
        mounts.append(
            {"name": f"secret-{secret}", "mountPath": f"/run/secrets/{secret}", "readOnly": True}
        )
    environment = _environment(function)
    environment += [
        {"name": key, "value": _escaped(function.env[key])} for key in sorted(function.env)
    ]
    priority = priority_class(function)
    return {
        **({} if priority is None else {"priorityClassName": priority}),
        "serviceAccountName": function.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # An idle pod ends at once; a busy one may bring its event to the end.
        "terminationGracePeriodSeconds": function.timeout_s + _STOP_S,
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "function",
                "image": image,
                # It is on the nodes before: a start asks no registry. A node that lost it pulls it
                # from its region's, which is slow, but better than no start.
                "imagePullPolicy": "IfNotPresent",
                "env": environment,
                "resources": {
                    "requests": {"cpu": function.cpu, "memory": function.memory},
                    "limits": {"memory": function.memory},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                # The first process gets no signal before it asks for it: that to end would be lost on
                # one that has just started, which would then stay until its grace period is over.
                "lifecycle": {"preStop": {"sleep": {"seconds": _SETTLE_S}}},
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _scaled_object(function: Function) -> Manifest:
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _meta(function),
        "spec": {
            "scaleTargetRef": {"name": function.name},
            "minReplicaCount": function.min_scale,
            "maxReplicaCount": function.max_scale,
            # How soon it goes back to zero; up is pushed, not polled.
            "pollingInterval": 5,
            "cooldownPeriod": 5,
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {
                        "scaleUp": {
                            "stabilizationWindowSeconds": 0,
                            "policies": [
                                {"type": "Pods", "value": function.max_scale, "periodSeconds": 1}
                            ],
                        },
                        "scaleDown": {
                            "stabilizationWindowSeconds": 5,
                            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}],
                        },
                    }
                }
            },
            "triggers": [
                {
                    "type": "external-push",
                    "metadata": {
                        "scalerAddress": _SCALER,
                        "function": function.name,
                        # What a pod can do side by side asks for no second one.
                        "target": str(max(function.target, function.concurrency * function.batch_size)),
                    },
                    "authenticationRef": {"name": "gateway-scaler"},
                }
            ],
        },
    }
