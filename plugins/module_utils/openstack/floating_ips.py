# SPDX-License-Identifier: Apache-2.0
"""Floating IPs."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import find_port


def compare(c: Comparison) -> set[str]:
    """Compare the floating IPs; return the addresses in use."""
    used: set[str] = set()
    every = {str(f["floating_ip_address"]): f for f in c.found.get("floating_ip", ())}
    for server in c.wanted.get("servers", ()):
        asked = server["floating_ip"]
        if not asked:
            continue
        port = find_port(c.found, server["ports"][0], c.site)
        held = [f for f in every.values() if port is not None and f.get("port_id") == port["id"]]
        used |= {str(f["floating_ip_address"]) for f in held}
        if not server["chosen"]:
            continue
        if asked == "any":
            if not held:
                c.reference("network", server["external"])
                c.step("floating_ip", "create", server["name"], wanted=server)
            continue
        there = every.get(asked)
        if there is None:
            c.error(
                f"host {server['host']} needs the floating IP {asked}, which the project does not have:"
                " allocate it, or set 'any'"
            )
        elif there.get("port_id") and (port is None or there["port_id"] != port["id"]):
            c.error(
                f"host {server['host']} needs the floating IP {asked}, which another port has:"
                " detach it from that port, or set 'any'"
            )
        elif not there.get("port_id"):
            c.update("floating_ip", asked, {"server": None}, {"server": server["name"]}, wanted=server, found=there)
        used.add(asked)
    return used
