# SPDX-License-Identifier: Apache-2.0
"""Servers."""

from __future__ import annotations

from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.openstack import ports, volumes
from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import find_port
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, server: Thing) -> None:
    """Compare a server, with its ports and volumes."""
    if not server["chosen"]:
        return
    for port in server["ports"]:
        if port["network"] not in {n["name"] for n in c.wanted["networks"]}:
            c.reference("network", port["network"])
        ports.compare(c, server, port)
    for volume in server["volumes"]:
        volumes.compare(c, volume)
    name = server["name"]
    there = c.own["server"].get(name)
    # The server never ran, so it is deleted and created again.
    failed = there is not None and there["status"] == "ERROR" and not there.get("launched_at")
    flavor = _flavor(c, server, there)
    after = {"size": size(server), "flavor": flavor and flavor["name"], "image": server["image"]}
    if there is None or failed:
        _zone(c, server)
        wanted = {**server, "flavor": flavor or {}}
        c.step("server", "create", name, after=after, wanted=wanted, found=there or {})
        return
    if there["status"] not in ("ACTIVE", "BUILD", "SHUTOFF", "VERIFY_RESIZE", "RESIZE", "REBOOT", "HARD_REBOOT"):
        reason = (there.get("fault") or {}).get("message")
        c.error(
            f"server {name} is {there['status']}{f' ({reason})' if reason else ''}: bring it back to ACTIVE,"
            " or remove it so that the next run creates it again"
        )
        return
    before: dict[str, Any] = {"flavor": _flavor_name(there)}
    wanted_state: dict[str, Any] = {"flavor": flavor["name"] if flavor else before["flavor"]}
    if (there.get("metadata") or {}).get("koren_size") != size(server):
        before["size"] = (there.get("metadata") or {}).get("koren_size")
        wanted_state["size"] = size(server)
    for key, states in (("stopped", ("SHUTOFF",)), ("resized, not confirmed", ("VERIFY_RESIZE",))):
        if there["status"] in states:
            before[key], wanted_state[key] = True, False
    attached = {p["id"] for p in c.found.get("port", ()) if p.get("device_id") == there["id"]}
    found_ports = {p["name"]: find_port(c.found, p, c.site) for p in server["ports"]}
    loose = sorted(n for n, p in found_ports.items() if p is None or p["id"] not in attached)
    attached_volumes = {v["id"] for v in there.get("attached_volumes") or ()}
    loose += sorted(
        v["name"]
        for v in server["volumes"]
        if v["name"] not in c.own["volume"] or c.own["volume"][v["name"]]["id"] not in attached_volumes
    )
    if loose:
        before["attached"], wanted_state["attached"] = [], loose
    c.update("server", name, before, wanted_state, {**server, "flavor": flavor or {}}, there)


def size(server: Thing) -> str:
    """The requested size of a server: cores and MiB of memory."""
    return f"{server['cores']}x{server['memory_mb']}"


def _flavor(c: Comparison, server: Thing, there: Thing | None) -> Thing | None:
    """The smallest flavor that is large enough; a server keeps its flavor while the requested size is unchanged."""
    flavors = c.found.get("flavor", ())
    if there is not None and (there.get("metadata") or {}).get("koren_size") == size(server):
        now = next((f for f in flavors if f["name"] == _flavor_name(there)), None)
        if now is None or (now["vcpus"] >= server["cores"] and now["ram"] >= server["memory_mb"]):
            return now
    image: Thing = next((i for i in c.found.get("image", ()) if server["image"] in (i["id"], i["name"])), {})
    memory = max(server["memory_mb"], image.get("min_ram") or 0)
    disk = max(server["disk_gb"], image.get("min_disk") or 0)
    enough = [f for f in flavors if f["vcpus"] >= server["cores"] and f["ram"] >= memory and f["disk"] >= disk]
    if enough:
        return min(enough, key=lambda f: (f["ram"], f["vcpus"], f["disk"], f["name"]))
    sizes = [f"{f['name']} ({f['vcpus']}, {f['ram']}, {f['disk']})" for f in flavors]
    c.error(
        f"no flavor has the {server['cores']} cores, {memory} MiB and {disk} GB that host {server['host']}"
        f" needs; there are: {', '.join(sorted(sizes)) or 'none'}"
    )
    return None


def _zone(c: Comparison, server: Thing) -> None:
    zones = sorted(str(z["name"]) for z in c.found.get("zone", ()))
    if server["zone"] and server["zone"] not in zones:
        c.error(
            f"availability zone {server['zone']} of host {server['host']} does not exist;"
            f" there are: {', '.join(zones) or 'none'}"
        )


def _flavor_name(server: Thing) -> str:
    flavor = server.get("flavor") or {}
    return str(flavor.get("original_name") or flavor.get("name") or flavor.get("id"))
