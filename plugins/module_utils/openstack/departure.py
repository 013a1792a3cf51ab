# SPDX-License-Identifier: Apache-2.0
"""Which objects of a cloud are removed together with servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import KINDS, Plan, Thing


def departure(site: str, wanted: Thing, found: Mapping[str, Sequence[Thing]], servers: Iterable[str]) -> Plan:
    """Plan the removal of some servers and of their objects from one cloud.

    A server's floating IPs, ports and volumes are removed with it if they belong to the site and ``wanted`` does not
    name them. After a run that was interrupted once the server was gone, those that were its own are removed too.

    Args:
        site: name of the site.
        wanted: as for ``plan``, without these servers.
        found: as for ``plan``, with ``snapshot``.
        servers: names of the servers to remove.
    """
    c = Comparison(site, wanted, found)
    for name in servers:
        _leave(c, name)
    c.out.steps.sort(key=lambda step: -KINDS.index(step.kind))
    return c.out


def _leave(c: Comparison, name: str) -> None:
    server = c.own["server"].get(name)
    if server is None:
        c.not_of_others("server", name)
    elif server.get("is_locked"):
        c.error(f"server {name} is locked: unlock it (openstack server unlock {server['id']})")
    server_id = server["id"] if server is not None else None
    ports = _left_of(c, name, server_id, "port")
    volumes = _left_of(c, name, server_id, "volume")
    for volume in volumes:
        snapshots = sorted(s["id"] for s in c.found.get("snapshot", ()) if s["volume_id"] == volume["id"])
        if snapshots:
            c.error(
                f"volume {volume['name']} has snapshots ({', '.join(snapshots)}), which block its removal: remove them"
            )
    held = {port["id"] for port in ports} | {
        port["id"] for port in c.found.get("port", ()) if server_id and port.get("device_id") == server_id
    }
    addresses = [address for address in c.own["floating_ip"].values() if address.get("port_id") in held]
    for kind, things in (
        ("server", [server] if server is not None else []),
        ("port", ports),
        ("volume", volumes),
        ("floating_ip", addresses),
    ):
        for thing in things:
            called = str(thing["floating_ip_address"] if kind == "floating_ip" else thing["name"])
            c.step(kind, "delete", called, before={"there": True}, found=thing)


def _left_of(c: Comparison, server: str, server_id: str | None, kind: str) -> list[Thing]:
    """The ports or volumes that are removed with a server: its own, unless another server uses them."""
    keep = {str(one["name"]) for other in c.wanted.get("servers", ()) for one in other[f"{kind}s"]}
    out = []
    for name, thing in sorted(c.own[kind].items()):
        holders = [one["server_id"] for one in thing.get("attachments") or ()]
        holders += [thing["device_id"]] if thing.get("device_id") else []
        its_own = holders == [server_id] if holders else f"{name}-".startswith(f"{server}-")
        if its_own and name not in keep:
            out.append(thing)
    return out
