# SPDX-License-Identifier: Apache-2.0
"""Why pods of a function were ended: what Kubernetes says of it, in the words of a function's options."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from koren_faas import manifests
from koren_faas.kube import Kube

_EVENTS = f"/api/v1/namespaces/{manifests.NAMESPACE}/events"
_MOST = 10


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a pod, or of its process, that neither the function nor its user wanted.

    Attributes:
        region: the region's name.
        pod: the pod's name.
        time: when, as Kubernetes writes it; empty when it does not say.
        why: what ended it, with the option that would help.
    """

    region: str
    pod: str
    time: str
    why: str

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return asdict(self)


def endings(kube: Kube, name: str) -> tuple[Ending, ...]:
    """The last endings of the function's pods in a region, oldest first, as far as it remembers them.

    Raises:
        RegionError: the region refused or did not answer.
    """
    found: dict[tuple[str, str], Ending] = {}
    query = {"fieldSelector": "involvedObject.kind=Pod,reason=Evicted"}
    # Events outlive their pods, for an hour.
    for event in json.loads(kube.request("GET", _EVENTS, query=query))["items"]:
        pod = event["involvedObject"]["name"]
        if _is_of(pod, name):
            time = event.get("lastTimestamp") or event.get("eventTime") or ""
            found[pod, ""] = Ending(kube.region, pod, time, evicted(event.get("message", "")))
    for item in kube.list(manifests.PODS, f"{manifests.LABEL}={name}"):
        pod, status = item["metadata"]["name"], item["status"]
        if status.get("reason") == "Evicted":
            time = status.get("startTime") or ""
            why = evicted(status.get("message", ""))
            found.setdefault((pod, ""), Ending(kube.region, pod, time, why))
        for container in status.get("containerStatuses", ()):
            for state in (container.get("lastState", {}), container.get("state", {})):
                ended = state.get("terminated") or {}
                if ended.get("reason") == "OOMKilled":
                    limit = item["spec"]["containers"][0]["resources"]["limits"]["memory"]
                    time = ended.get("finishedAt") or ""
                    found[pod, time] = Ending(kube.region, pod, time, out_of_memory(limit))
    return tuple(sorted(found.values(), key=lambda one: (one.time, one.pod))[-_MOST:])


def evicted(message: str) -> str:
    """Why a node evicted a pod, from Kubernetes' own message."""
    why = f"evicted: {message.strip() or 'the node gave no reason'}"
    volume = f'EmptyDir volume "{manifests.TMP}"'
    return f"{why.rstrip('. ')}; --tmp-size sets what /tmp may hold" if volume in message else why


def out_of_memory(limit: str) -> str:
    """Why a process of a pod with this limit was killed."""
    return f"out of memory, limit {limit}; --memory sets it"


def _is_of(pod: str, name: str) -> bool:
    """Whether a pod has the name that a function's Deployment gives."""
    return re.fullmatch(rf"{re.escape(name)}-[a-z0-9]+-[a-z0-9]+", pod) is not None
