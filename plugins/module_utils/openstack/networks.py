# SPDX-License-Identifier: Apache-2.0
"""Networks, each with one subnet."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack import routers
from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, network: Thing) -> None:
    """Compare a network with its subnet, and its router."""
    name, external = network["name"], network.get("external") or ""
    there = c.own["network"].get(name)
    subnet = {"cidr": network["cidr"], "gateway": network.get("gateway"), "dns": list(network.get("dns") or ())}
    if there is None:
        c.step("network", "create", name, after=subnet, wanted=network)
    else:
        own = [s for s in c.found.get("subnet", ()) if s["network_id"] == there["id"]]
        if not own:
            c.step("network", "update", name, {"subnet": None}, {"subnet": network["cidr"]}, network, there)
        elif own[0]["cidr"] != network["cidr"]:
            c.error(
                f"network {name} has the range {own[0]['cidr']}, but the inventory says {network['cidr']}:"
                " a range can't change; restore it in the inventory, or remove the region first"
            )
        else:
            now = {"gateway": own[0].get("gateway_ip"), "dns": list(own[0].get("dns_nameservers") or ())}
            c.update("network", name, now, {k: subnet[k] for k in now}, network, {**there, "subnet": own[0]})
    if external:
        routers.compare(c, name, external, network)
