# SPDX-License-Identifier: Apache-2.0
"""Server groups."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, group: Thing) -> None:
    """Compare a server group, which can't be changed."""
    there = c.own["server_group"].get(group["name"])
    if there is None:
        c.step("server_group", "create", group["name"], after={"policy": group["policy"]}, wanted=group)
        return
    policy = there.get("policy") or (there.get("policies") or [""])[0]
    if policy != group["policy"]:
        c.error(
            f"server group {group['name']} has the policy {policy}, not {group['policy']}, and can't change it:"
            " restore that policy in the inventory, or remove the group and its servers"
        )
