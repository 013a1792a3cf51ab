# SPDX-License-Identifier: Apache-2.0
"""How much of a project's quotas steps need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Step


def needs(steps: Iterable[Step]) -> dict[str, int]:
    """How much of a project's quotas steps need, by Nova's, Neutron's and Cinder's names."""
    out: dict[str, int] = {}

    def take(name: str, amount: int = 1) -> None:
        out[name] = out.get(name, 0) + amount

    for step in steps:
        flavor = step.wanted.get("flavor") or {}
        match (step.verb, step.kind):
            case ("create", "server") if not step.found:
                take("instances")
                take("cores", flavor.get("vcpus", 0))
                take("ram", flavor.get("ram", 0))
            case ("create", "network"):
                take("networks")
                take("subnets")
            case ("create", "router"):
                take("routers")
                take("ports")
            case ("create", "security_group"):
                take("security_groups")
                # Each new group has two outgoing rules.
                take("security_group_rules", len(step.after["rules"]) + 2)
            case ("create", "volume"):
                take("volumes")
                take("gigabytes", step.wanted["size_gb"])
            case ("create", "port" | "floating_ip" | "server_group"):
                take(f"{step.kind}s")
            case ("update", "security_group"):
                take("security_group_rules", len(set(step.after["rules"]) - set(step.before["rules"])))
            case ("update", "server") if "flavor" in step.after:
                now = step.found.get("flavor") or {}
                take("cores", max(0, flavor.get("vcpus", 0) - (now.get("vcpus") or 0)))
                take("ram", max(0, flavor.get("ram", 0) - (now.get("ram") or 0)))
    return {name: amount for name, amount in out.items() if amount}


def exceeded(needed: Mapping[str, int], free: Mapping[str, int]) -> list[str]:
    """The quotas that the needs exceed; a quota that is not in ``free`` is unlimited."""
    units = {"ram": " MiB", "gigabytes": " GB"}
    return [
        f"quota of {name.replace('_', ' ')}: {amount}{units.get(name, '')} more are needed,"
        f" {max(0, free[name])}{units.get(name, '')} are left; ask for a higher quota, or reduce the inventory"
        for name, amount in sorted(needed.items())
        if name in free and amount > free[name]
    ]
