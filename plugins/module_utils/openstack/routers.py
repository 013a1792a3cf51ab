# SPDX-License-Identifier: Apache-2.0
"""Routers from a network of the site to one outside."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, name: str, external: str, network: Thing) -> None:
    """Compare the router of a network."""
    outside = c.reference("network", external)
    if outside is not None and not outside.get("is_router_external"):
        c.error(f"network {external} is not an external network: name one that is, or leave it out")
    there = c.own["router"].get(name)
    after = {"external": external, "network": network["name"]}
    wanted = {**after, "name": name}
    if there is None:
        c.step("router", "create", name, after=after, wanted=wanted)
        return
    gateway = (there.get("external_gateway_info") or {}).get("network_id")
    subnets = {s["id"]: s for s in c.found.get("subnet", ())}
    joined = {
        subnets[fixed["subnet_id"]]["network_id"]
        for port in c.found.get("port", ())
        if port.get("device_id") == there["id"]
        for fixed in port.get("fixed_ips") or ()
        if fixed["subnet_id"] in subnets
    }
    inside = c.own["network"].get(network["name"])
    before = {
        "external": external if outside is not None and gateway == outside["id"] else gateway,
        "network": network["name"] if inside is not None and inside["id"] in joined else None,
    }
    c.update("router", name, before, after, wanted, there)
