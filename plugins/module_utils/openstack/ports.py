# SPDX-License-Identifier: Apache-2.0
"""Ports."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import find_port, owned
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, server: Thing, port: Thing) -> None:
    """Compare a port of a server."""
    allowed = sorted(port.get("allowed") or ())
    after = {
        "address": port["address"],
        "groups": sorted(port["security_groups"]),
        "allowed": allowed,
    }
    there = find_port(c.found, port, c.site)
    if there is None:
        c.step("port", "create", port["name"], after=after, wanted={**port, "allowed": allowed})
        return
    if not owned("port", there, c.site, ""):
        return
    names = {group["id"]: str(group["name"]) for group in c.found.get("security_group", ())}
    before = {
        "address": next((f["ip_address"] for f in there.get("fixed_ips") or ()), None),
        "groups": sorted(names.get(i, i) for i in there.get("security_group_ids") or ()),
        "allowed": sorted(p["ip_address"] for p in there.get("allowed_address_pairs") or ()),
    }
    if before["address"] != after["address"] and there.get("device_id"):
        c.error(
            f"host {server['host']} has the address {before['address']}, but the inventory says {after['address']}:"
            f" restore it in the inventory, or remove server {server['name']} first"
        )
        return
    c.update("port", port["name"], before, after, {**port, "allowed": allowed}, there)
