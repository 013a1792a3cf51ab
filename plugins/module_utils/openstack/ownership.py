# SPDX-License-Identifier: Apache-2.0
"""What of a project is a site's.

What the site owns is known by a mark that is set in the same call that makes an object, so that a run cut at any
point leaves nothing unmarked: the description (Neutron), metadata (servers, volumes, images) or, where an object has
neither (key pairs, server groups), the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def mark(site: str) -> str:
    """The description that Neutron's objects of a site have."""
    return f"koren.faas site {site}"


def server_group_prefix(site: str) -> str:
    """What the names of a site's server groups begin with; no other site's do."""
    return f"koren.faas:{site}:"


def owned(kind: str, thing: Thing, site: str, key_pair: str) -> bool:
    """Whether a found object is the site's."""
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
    """The site's port of this name, or else one of the project that has its network and address.

    Who shares a network with other projects makes such ports for them: only a network's owner may choose an address.
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
    """A property of an image, which the SDK gives as an attribute of its own when it knows it."""
    return (image.get("properties") or {}).get(name, image.get(name))
