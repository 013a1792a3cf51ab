# SPDX-License-Identifier: Apache-2.0
"""How regions are by the word of their own API servers, where the console can't say it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from koren_faas import manifests
from koren_faas.errors import FaasError
from koren_faas.kube import Kube
from koren_faas.regions import attempt
from koren_faas.site import Region, Site

_NODES = "/api/v1/nodes"
_OVER = ("Succeeded", "Failed")


def region_states(
    site: Site, names: Iterable[str] = ()
) -> tuple[list[dict[str, Any]], Mapping[str, FaasError]]:
    """Regions as the console's records of them, by name; and those that did not answer, with the reason.

    What an API server does not know of its region is None, or empty. A region that does not answer has a record too,
    whose health is `unknown`.

    Raises:
        SiteError: a region does not exist.
    """

    def one(region: Region) -> dict[str, Any]:
        kube = Kube(region, site.kubeconfig)
        nodes = [_node(node) for node in json.loads(kube.request("GET", _NODES))["items"]]
        pods = kube.list(manifests.PODS, manifests.LABEL)
        living = sum(pod.get("status", {}).get("phase") not in _OVER for pod in pods)
        bad = [node["name"] for node in nodes if node["health"] != "ok"]
        if not bad:
            return _region(region.name, "ok", "", "", nodes, living)
        count = f"{len(bad)} of {len(nodes)} nodes not ready"
        ko = f"노드 {len(nodes)}개 중 {len(bad)}개가 준비되지 않았습니다."
        return _region(region.name, "act", ko, count, nodes, living)

    picked = site.pick(names)
    done, errors = attempt(picked, one)
    for name in errors:
        ko, en = "API 서버에서 상태를 알 수 없습니다.", "Its API server does not tell"
        done[name] = _region(name, "unknown", ko, en, [], None)
    return [done[region.name] for region in picked], errors


def _region(
    name: str, health: str, ko: str, en: str, nodes: list[dict[str, Any]], pods: int | None
) -> dict[str, Any]:
    return {
        "name": name,
        "title": None,
        "place": None,
        "health": health,
        "reason": {"ko": ko, "en": en},
        "since": None,
        "last_word": None,
        "open_incidents": None,
        "pods": pods,
        "queued": None,
        "held": None,
        "dead_letters": None,
        "nodes": nodes,
        "parts": [],
        "certificates": [],
        "links": [],
    }


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    status = node.get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    well = ready.get("status") == "True"
    return {
        "name": node["metadata"]["name"],
        "health": "ok" if well else "act",
        "reason": "" if well else ready.get("message") or ready.get("reason") or "",
        "version": status.get("nodeInfo", {}).get("kubeletVersion", ""),
        "cpu": None,
        "memory": None,
        "disk": None,
    }
