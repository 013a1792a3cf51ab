# SPDX-License-Identifier: Apache-2.0
"""Which of a site's objects in one cloud are to be created, changed or removed.

``plan`` compares the wanted with the found objects and returns steps and errors; it does not contact a cloud. Found
objects are mappings with openstacksdk's attribute names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.koren.faas.plugins.module_utils.openstack import (
    floating_ips,
    images,
    key_pairs,
    networks,
    security_groups,
    server_groups,
    servers,
)
from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import KINDS, Plan, Step, Thing


def plan(site: str, wanted: Thing, found: Mapping[str, Sequence[Thing]], *, prune: bool) -> Plan:
    """Compare one cloud with the wanted objects.

    Args:
        site: name of the site.
        wanted: ``key_pair``, ``public_key``, and a list of each of ``images``, ``networks``, ``security_groups``,
            ``server_groups`` and ``servers``; ``whole`` says that these are all that the site has there.
        found: the objects of the project by kind, and ``flavor``, ``zone`` and ``subnet``.
        prune: remove the site's objects that ``wanted`` does not name.
    """
    c = Comparison(site, wanted, found)
    keep: dict[str, set[str]] = {kind: set() for kind in KINDS}
    if c.wanted.get("servers") or c.wanted.get("networks"):
        keep["key_pair"].add(c.wanted["key_pair"])
        key_pairs.compare(c)
    for kind, list_name, compare in (
        ("image", "images", images.compare),
        ("server_group", "server_groups", server_groups.compare),
        ("network", "networks", networks.compare),
        ("security_group", "security_groups", security_groups.compare),
        ("server", "servers", servers.compare),
    ):
        for thing in c.wanted.get(list_name, ()):
            keep[kind].add(thing["name"])
            compare(c, thing)
            if kind == "network" and thing.get("external"):
                keep["router"].add(thing["name"])
            if kind == "server":
                keep["port"] |= {p["name"] for p in thing["ports"]}
                keep["volume"] |= {v["name"] for v in thing["volumes"]}
    keep["floating_ip"] = floating_ips.compare(c)
    c.out.steps.sort(key=lambda step: KINDS.index(step.kind))
    if c.wanted["whole"]:
        _surplus(c, keep, prune)
    return c.out


def _surplus(c: Comparison, keep: Mapping[str, set[str]], prune: bool) -> None:
    for kind in reversed(KINDS):
        for name, thing in sorted(c.own[kind].items()):
            if name in keep[kind] or (kind == "key_pair" and not key_pairs.same_key(c, thing)):
                continue
            step = Step(kind, "delete", name, before={"there": True}, found=thing)
            if prune:
                c.out.steps.append(step)
            else:
                c.out.surplus.append(f"{kind.replace('_', ' ')} {name}")
