# SPDX-License-Identifier: Apache-2.0
"""Filters that read a site's inventory."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleError
from ansible_collections.koren.faas.plugins.module_utils.preflight import CAMERA_LOGIN, REGION_VARIABLES
from jinja2.exceptions import UndefinedError

# The annotation of a node that is drained and whose host is being removed.
_LEAVING = "koren.faas/leaving"


def first_address(cidr: str) -> str:
    """The first host address of a network, ``10.0.0.1`` of ``10.0.0.0/24``; ValueError if it is not a CIDR."""
    return str(next(ipaddress.ip_network(cidr).hosts()))


def nth_address(cidr: str, place: int) -> str:
    """The address at a place in a network, ``10.0.0.20`` at 20 in ``10.0.0.0/24``; ValueError where there is none."""
    network = ipaddress.ip_network(cidr)
    if not 0 <= place < network.num_addresses:
        raise ValueError(f"{cidr} has no address at place {place}; give one from 0 to {network.num_addresses - 1}")
    return str(network[place])


def region_network(host: Mapping[str, Any]) -> dict[str, str]:
    """The name and CIDR of the LAN of a host's region."""
    return {"name": str(host["region_name"]), "cidr": str(host["region_lan_cidr"])}


def preflight_host(host: Mapping[str, Any], logins: bool = True) -> dict[str, Any]:
    """The variables of a host that the preflight checks; one without a value is kept with the reason.

    ``logins`` says whether to check the login of cameras. If the run creates it, reading it would already create it.
    """
    shown: dict[str, Callable[[Any], str]] = dict.fromkeys(
        ("ansible_host", "backbone_address", "host_base_package_set", "region_name", *REGION_VARIABLES), str
    )
    shown["host_base_ntp_servers"] = lambda value: ", ".join(map(str, value))
    variables, failed = {}, {}
    # The cameras may depend on other hosts' variables, which can't be read from here.
    if logins and "detector_cameras" in host:
        variables["detector_cameras"] = "set"
        # Only whether the login is set: arguments of modules can appear in logs.
        shown |= dict.fromkeys(CAMERA_LOGIN, lambda value: "set" if str(value) else "")
    for name, show in shown.items():
        if name not in host:
            continue
        try:
            variables[name] = show(host[name])
        except (AnsibleError, UndefinedError) as error:
            reason = str(error).splitlines()[0].partition(" Use -vvvvv")[0]
            failed[name] = reason.removeprefix("A captured exception marker was tripped: ").rstrip(".")
    return {
        "name": str(host["inventory_hostname"]),
        "groups": [str(group) for group in host["group_names"]],
        "variables": variables,
        "failed": failed,
    }


def preflight_function(function: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a function's entry that the preflight checks, without the contents of its secrets."""
    secrets = function.get("secrets") or {}
    files = function.get("secret_files") or {}
    reports = str(function["source"]).rstrip("/").rpartition("/")[2] == "report-incident"
    return {
        "name": str(function["name"]),
        "regions": [str(region) for region in function.get("regions") or []],
        "keys": {
            str(name): [str(key) for part in (secrets, files) for key in part.get(name) or {}]
            for name in {**secrets, **files}
        },
        "files": {str(name): {str(key): str(path) for key, path in one.items()} for name, one in files.items()},
        "provider": {str(name): str(one["provider"]) for name, one in secrets.items() if reports and "provider" in one},
    }


def region_route(host: Mapping[str, Any]) -> dict[str, str]:
    """The route to a region's LAN through its gateway host on the backbone."""
    return {"to": str(host["region_lan_cidr"]), "via": str(host["backbone_address"])}


def older_versions(found: Iterable[Mapping[str, Any]], current: Iterable[str]) -> list[str]:
    """Paths of versions that may go: in each folder all but those in use and the newest of the others.

    ``found`` are folders of versions as C(ansible.builtin.find) tells of them. What was not copied whole goes, too.
    """
    used = set(current)
    kept: set[str] = set()
    going = []
    for version in sorted(found, key=lambda version: float(version["ctime"]), reverse=True):
        path = str(version["path"])
        folder = path.rpartition("/")[0]
        if path in used:
            continue
        if path.endswith(".part") or folder in kept:
            going.append(path)
        else:
            kept.add(folder)
    return sorted(going)


def merge_kubeconfig(merged: Mapping[str, Any], admin: Mapping[str, Any], region: str, address: str) -> dict[str, Any]:
    """``merged`` with the one cluster of ``admin`` as the context ``region``, whatever it had under that name.

    The API server is called at ``address`` and known by the name that ``admin`` calls it by: who uses the merged
    kubeconfig need not resolve that name.
    """
    cluster = dict(admin["clusters"][0]["cluster"])
    server = urlsplit(cluster["server"])
    if server.hostname != address:
        cluster |= {"server": f"https://{address}:{server.port or 443}", "tls-server-name": server.hostname}
    parts = {
        "clusters": {"name": region, "cluster": cluster},
        "users": {"name": f"admin@{region}", "user": admin["users"][0]["user"]},
        "contexts": {"name": region, "context": {"cluster": region, "user": f"admin@{region}"}},
    }
    out: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "preferences": {}}
    for kind, entry in parts.items():
        others = [e for e in merged.get(kind) or [] if e["name"] != entry["name"]]
        out[kind] = sorted([*others, entry], key=lambda e: str(e["name"]))
    out["current-context"] = merged.get("current-context") or region
    return out


def site_regions(nodes: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Regions by name with their context and nodes' names, and the broker, registry and ingress of the first node."""
    regions: dict[str, dict[str, Any]] = {}
    for node in nodes:
        name = str(node["region_name"])
        address = str(node["ansible_host"])
        region = regions.setdefault(
            name, {"context": name, "broker": address, "registry": f"{address}:5000", "nodes": []}
        )
        if not region["nodes"] and node.get("ingress_enabled"):
            region["ingress"] = f"https://{address}"
        region["nodes"].append(str(node["inventory_hostname"]))
    return regions


def nodes_that_left(nodes: Iterable[Mapping[str, Any]], stay: Iterable[str]) -> list[dict[str, Any]]:
    """The nodes of a cluster that are not in ``stay``.

    Each with its name, its address, whether it is ready, whether the removal of its host has begun, and whether it is a
    control plane.
    """
    staying = set(stay)
    return [
        {
            "name": str(node["metadata"]["name"]),
            "address": next(
                (str(one["address"]) for one in node["status"].get("addresses", []) if one["type"] == "InternalIP"), ""
            ),
            "ready": any(
                one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", [])
            ),
            "begun": _LEAVING in node["metadata"].get("annotations", {}),
            "control_plane": "node-role.kubernetes.io/control-plane" in node["metadata"].get("labels", {}),
        }
        for node in nodes
        if node["metadata"]["name"] not in staying
    ]


class FilterModule:
    """Filters of the collection that read an inventory."""

    def filters(self) -> dict[str, Any]:
        """Names to functions."""
        return {
            "first_address": first_address,
            "nth_address": nth_address,
            "merge_kubeconfig": merge_kubeconfig,
            "nodes_that_left": nodes_that_left,
            "older_versions": older_versions,
            "preflight_function": preflight_function,
            "preflight_host": preflight_host,
            "region_network": region_network,
            "region_route": region_route,
            "site_regions": site_regions,
        }
