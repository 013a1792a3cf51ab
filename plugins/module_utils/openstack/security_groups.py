# SPDX-License-Identifier: Apache-2.0
"""Security groups and their incoming rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, group: Thing) -> None:
    """Compare a security group with its incoming rules."""
    rules = sorted({_rule_text(rule) for rule in group["rules"]})
    there = c.own["security_group"].get(group["name"])
    if there is None:
        c.step("security_group", "create", group["name"], after={"rules": rules}, wanted=group)
        return
    now = sorted(
        _rule_text(_found_rule(rule))
        for rule in there.get("security_group_rules") or ()
        if rule["direction"] == "ingress"
    )
    c.update("security_group", group["name"], {"rules": now}, {"rules": rules}, group, there)


def _found_rule(rule: Thing) -> dict[str, Any]:
    return {
        "protocol": rule.get("protocol"),
        "first_port": rule.get("port_range_min"),
        "last_port": rule.get("port_range_max"),
        "cidr": rule.get("remote_ip_prefix") or rule.get("remote_group_id") or "0.0.0.0/0",
        "ipv6": rule.get("ether_type") == "IPv6",
    }


def _rule_text(rule: Thing) -> str:
    """A rule as ``tcp 6443-6443 from 10.0.0.0/24``; equal rules have equal texts."""
    source = str(rule["cidr"])
    if "/" in source or source.count(".") == 3:
        source = str(ipaddress.ip_network(source))
    ports = f" {rule['first_port']}-{rule['last_port']}" if rule.get("first_port") is not None else ""
    return f"{rule.get('protocol') or 'any'}{ports} from {source}" + (" (IPv6)" if rule.get("ipv6") else "")


def rule_parts(text: str) -> dict[str, Any]:
    """Neutron's arguments for a rule that ``_rule_text`` wrote."""
    what, cidr = text.split(" from ")
    protocol, _, ports = what.partition(" ")
    first, _, last = ports.partition("-")
    return {
        "direction": "ingress",
        "ether_type": "IPv4",
        "protocol": protocol,
        "port_range_min": int(first) if first else None,
        "port_range_max": int(last) if last else None,
        "remote_ip_prefix": cidr,
    }


def surplus_rules(group: Thing, rules: Iterable[str]) -> list[str]:
    """IDs of a group's incoming rules that are not among ``rules``."""
    wanted = set(rules)
    return [
        str(rule["id"])
        for rule in group.get("security_group_rules") or ()
        if rule["direction"] == "ingress" and _rule_text(_found_rule(rule)) not in wanted
    ]
