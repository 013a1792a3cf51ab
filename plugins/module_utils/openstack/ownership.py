# SPDX-License-Identifier: Apache-2.0
"""Which objects of a project belong to a site.

A site's objects have a mark that is set in the same call that creates them, so that a run that is interrupted leaves
nothing unmarked: the description (Neutron), metadata (servers, volumes, images) or, for objects that have neither (key
pairs, server groups), the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def mark(site: str) -> str:
    """The description of a site's Neutron objects, which marks them."""
    return f"koren.faas site {site}"


def server_group_prefix(site: str) -> str:
    """The prefix of the names of a site's server groups, which no other site has."""
    return f"koren.faas:{site}:"


def owned(kind: str, thing: Thing, site: str, key_pair: str) -> bool:
    """Whether a found object belongs to the site."""
    if kind == "key_pair":
        return bool(thing["name"] == key_pair)
    if kind == "server_group":
        return str(thing["name"]).startswith(server_group_prefix(site))
    if kind == "image":
        return bool(image_property(thing, "koren_site") == site)
    if kind in ("server", "volume"):
        return bool((thing.get("metadata") or {}).get("koren_site") == site)
    return bool(thing.get("description") == mark(site))


def find_port(found: Mapping[str, Sequence[Thing]], port: Thing, site: str) -> Thing | None:
    """The site's port of this name, or else a port of the project with its network and address.

    The owner of a shared network creates such ports for other projects, since only the owner may choose an address.
    """
    ports = found.get("port", ())
    networks = {n["id"] for n in found.get("network", ()) if port["network"] in (n["id"], n["name"])}
    own = [p for p in ports if p["name"] == port["name"] and owned("port", p, site, "")]
    given = [
        p
        for p in ports
        if p["network_id"] in networks and port["address"] in [f["ip_address"] for f in p.get("fixed_ips") or ()]
    ]
    return next(iter(own + given), None)


def image_property(image: Thing, name: str) -> Any:
    """A property of an image, which the SDK returns as an attribute if it knows it."""
    return (image.get("properties") or {}).get(name, image.get(name))
