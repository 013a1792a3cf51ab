# SPDX-License-Identifier: Apache-2.0
"""What of a site's part in one cloud is to be made, changed or removed, told from what is there.

Nothing here speaks to a cloud: ``plan`` compares what is wanted with what was found and returns steps and errors.
Found objects are mappings with the names that openstacksdk gives to their attributes.

What the site owns is known by a mark that is set in the same call that makes an object, so that a run cut at any
point leaves nothing unmarked: the description (Neutron), metadata (servers, volumes, images) or, where an object has
neither (key pairs, server groups), the name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Thing = Mapping[str, Any]

# The kinds in the order in which they are made; removal goes the other way round.
KINDS = (
    "key_pair",
    "image",
    "server_group",
    "network",
    "router",
    "security_group",
    "port",
    "volume",
    "server",
    "floating_ip",
)
# Kinds of which two with one name can't be told apart by who looks for one.
_NAMED = ("network", "router", "security_group", "port", "volume", "server")


@dataclass(frozen=True)
class Step:
    """One change: ``verb`` is create, update or delete; ``before`` and ``after`` are what a diff shows."""

    kind: str
    verb: str
    name: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    # The wanted object, and the found one.
    wanted: Thing = field(default_factory=dict)
    found: Thing = field(default_factory=dict)

    def __str__(self) -> str:
        """The step in words, as ``update server koren-local-seoul-cp: size 2x4096 -> 4x8192``."""
        text = f"{self.verb} {self.kind.replace('_', ' ')} {self.name}"
        if self.verb != "update":
            return text
        return f"{text}: {', '.join(_change(key, self.before.get(key), now) for key, now in self.after.items())}"


def _change(key: str, before: Any, after: Any) -> str:
    """A change in words, of a list just what comes and goes: ``rules +tcp 22-22 from 10.0.0.0/8``."""
    if not isinstance(after, list):
        return f"{key} {before} -> {after}"
    before = before or []
    words = [f"+{one}" for one in after if one not in before] + [f"-{one}" for one in before if one not in after]
    return f"{key} {' '.join(words)}"


@dataclass
class Plan:
    """Steps in the order in which they are to be taken, and what keeps them from being taken."""

    steps: list[Step] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    # What carries the site's mark and is not in the inventory, when it is not to be removed.
    surplus: list[str] = field(default_factory=list)


def mark(site: str) -> str:
    """The description that Neutron's objects of a site have."""
    return f"koren.faas site {site}"


def server_group_prefix(site: str) -> str:
    """What the names of a site's server groups begin with; no other site's do."""
    return f"koren.faas:{site}:"


def size(server: Thing) -> str:
    """What a server was asked to have: cores and MiB of memory."""
    return f"{server['cores']}x{server['memory_mb']}"


def owned(kind: str, thing: Thing, site: str, key_pair: str) -> bool:
    """Whether a found object is the site's."""
    if kind == "key_pair":
        return bool(thing["name"] == key_pair)
    if kind == "server_group":
        return str(thing["name"]).startswith(server_group_prefix(site))
    if kind == "image":
        return bool(_image_property(thing, "koren_site") == site)
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


def _image_property(image: Thing, name: str) -> Any:
    return (image.get("properties") or {}).get(name, image.get(name))


def plan(site: str, wanted: Thing, found: Mapping[str, Sequence[Thing]], *, prune: bool) -> Plan:
    """Compare one cloud with what is wanted of it.

    Args:
        site: name of the site.
        wanted: ``key_pair``, ``public_key``, and a list of each of ``images``, ``networks``, ``security_groups``,
            ``server_groups`` and ``servers``; ``whole`` says that these are all that the site has there.
        found: the objects of the project by kind, besides ``flavor``, ``zone`` and ``subnet``.
        prune: remove what the site has and ``wanted`` does not name.
    """
    return _Comparison(site, wanted, found).run(prune)


def departure(site: str, wanted: Thing, found: Mapping[str, Sequence[Thing]], servers: Iterable[str]) -> Plan:
    """Compare one cloud with what is left of it once some servers have gone.

    With a server go its floating IPs, ports and volumes, as far as they are the site's and ``wanted`` does not name
    them: those that are attached to it and, when a run was cut after it removed the server, those that were its own.

    Args:
        site: name of the site.
        wanted: as for ``plan``; the servers are not in it any more.
        found: as for ``plan``, besides ``snapshot``.
        servers: names of the servers that go.
    """
    return _Comparison(site, wanted, found).leave(servers)


class _Comparison:
    def __init__(self, site: str, wanted: Thing, found: Mapping[str, Sequence[Thing]]) -> None:
        self.site = site
        self.wanted = wanted
        self.found = found
        self.out = Plan()
        self.own: dict[str, dict[str, Thing]] = {}
        for kind in KINDS:
            mine = [t for t in found.get(kind, ()) if owned(kind, t, site, wanted["key_pair"])]
            if kind == "floating_ip":
                self.own[kind] = {str(t["floating_ip_address"]): t for t in mine}
                continue
            self.own[kind] = {str(t["name"]): t for t in mine}
            for name in sorted({str(t["name"]) for t in mine}):
                ids = sorted(str(t["id"]) for t in mine if t["name"] == name)
                if len(ids) > 1 and kind in _NAMED:
                    self._error(
                        f"{kind.replace('_', ' ')} {name} is there {len(ids)} times: {', '.join(ids)};"
                        " remove all but one"
                    )

    def run(self, prune: bool) -> Plan:
        keep: dict[str, set[str]] = {kind: set() for kind in KINDS}
        if self.wanted.get("servers") or self.wanted.get("networks"):
            keep["key_pair"].add(self.wanted["key_pair"])
            self._key_pair()
        for kind, list_name, compare in (
            ("image", "images", self._image),
            ("server_group", "server_groups", self._server_group),
            ("network", "networks", self._network),
            ("security_group", "security_groups", self._security_group),
            ("server", "servers", self._server),
        ):
            for thing in self.wanted.get(list_name, ()):
                keep[kind].add(thing["name"])
                compare(thing)
                if kind == "network" and thing.get("external"):
                    keep["router"].add(thing["name"])
                if kind == "server":
                    keep["port"] |= {p["name"] for p in thing["ports"]}
                    keep["volume"] |= {v["name"] for v in thing["volumes"]}
        keep["floating_ip"] = self._floating_ips()
        self.out.steps.sort(key=lambda step: KINDS.index(step.kind))
        if self.wanted["whole"]:
            self._surplus(keep, prune)
        return self.out

    # What is not wanted any more

    def leave(self, servers: Iterable[str]) -> Plan:
        for name in servers:
            self._leave(name)
        self.out.steps.sort(key=lambda step: -KINDS.index(step.kind))
        return self.out

    def _leave(self, name: str) -> None:
        server = self.own["server"].get(name)
        if server is None:
            self._not_of_others("server", name)
        elif server.get("is_locked"):
            self._error(f"server {name} is locked: unlock it (openstack server unlock {server['id']})")
        server_id = server["id"] if server is not None else None
        ports = self._left_of(name, server_id, "port")
        volumes = self._left_of(name, server_id, "volume")
        for volume in volumes:
            snapshots = sorted(s["id"] for s in self.found.get("snapshot", ()) if s["volume_id"] == volume["id"])
            if snapshots:
                self._error(
                    f"volume {volume['name']} has snapshots ({', '.join(snapshots)}), and can't go before them:"
                    " remove them"
                )
        held = {port["id"] for port in ports} | {
            port["id"] for port in self.found.get("port", ()) if server_id and port.get("device_id") == server_id
        }
        addresses = [address for address in self.own["floating_ip"].values() if address.get("port_id") in held]
        for kind, things in (
            ("server", [server] if server is not None else []),
            ("port", ports),
            ("volume", volumes),
            ("floating_ip", addresses),
        ):
            for thing in things:
                called = str(thing["floating_ip_address"] if kind == "floating_ip" else thing["name"])
                self._step(kind, "delete", called, before={"there": True}, found=thing)

    def _left_of(self, server: str, server_id: str | None, kind: str) -> list[Thing]:
        """The ports or volumes that go with a server: its own, as long as no other has them."""
        keep = {str(one["name"]) for other in self.wanted.get("servers", ()) for one in other[f"{kind}s"]}
        out = []
        for name, thing in sorted(self.own[kind].items()):
            holders = [one["server_id"] for one in thing.get("attachments") or ()]
            holders += [thing["device_id"]] if thing.get("device_id") else []
            its_own = holders == [server_id] if holders else f"{name}-".startswith(f"{server}-")
            if its_own and name not in keep:
                out.append(thing)
        return out

    def _surplus(self, keep: Mapping[str, set[str]], prune: bool) -> None:
        for kind in reversed(KINDS):
            for name, thing in sorted(self.own[kind].items()):
                if name in keep[kind] or (kind == "key_pair" and not self._same_key(thing)):
                    continue
                step = Step(kind, "delete", name, before={"there": True}, found=thing)
                if prune:
                    self.out.steps.append(step)
                else:
                    self.out.surplus.append(f"{kind.replace('_', ' ')} {name}")

    # Each kind

    def _key_pair(self) -> None:
        name = self.wanted["key_pair"]
        there = self.own["key_pair"].get(name)
        if there is None:
            self._step("key_pair", "create", name, wanted={"name": name, "public_key": self.wanted["public_key"]})
        elif self.wanted["public_key"] and not self._same_key(there):
            self._error(
                f"key pair {name} is there with another public key than the site's: remove it when it is of no use"
                " any more, or give this site another site_name"
            )

    def _same_key(self, there: Thing) -> bool:
        wanted = str(self.wanted["public_key"]).split()[:2]
        return not wanted or str(there["public_key"]).split()[:2] == wanted

    def _image(self, image: Thing) -> None:
        there = self._reference("image", image["name"], missing_ok=bool(image.get("file")))
        cut = there is not None and there["status"] != "active" and owned("image", there, self.site, "")
        if image.get("file") and (there is None or cut):
            self._step("image", "create", image["name"], after={"file": image["file"]}, wanted=image, found=there or {})
        elif there is not None and there["status"] != "active":
            self._error(
                f"image {image['name']} is {there['status']}, not active: wait until its upload is over, or remove it"
            )

    def _server_group(self, group: Thing) -> None:
        there = self.own["server_group"].get(group["name"])
        if there is None:
            self._step("server_group", "create", group["name"], after={"policy": group["policy"]}, wanted=group)
            return
        policy = there.get("policy") or (there.get("policies") or [""])[0]
        if policy != group["policy"]:
            self._error(
                f"server group {group['name']} has the policy {policy}, not {group['policy']}, and can't change it:"
                " go back to that, or remove the group and its servers"
            )

    def _network(self, network: Thing) -> None:
        name, external = network["name"], network.get("external") or ""
        there = self.own["network"].get(name)
        subnet = {"cidr": network["cidr"], "gateway": network.get("gateway"), "dns": list(network.get("dns") or ())}
        if there is None:
            self._step("network", "create", name, after=subnet, wanted=network)
        else:
            own = [s for s in self.found.get("subnet", ()) if s["network_id"] == there["id"]]
            if not own:
                self._step("network", "update", name, {"subnet": None}, {"subnet": network["cidr"]}, network, there)
            elif own[0]["cidr"] != network["cidr"]:
                self._error(
                    f"network {name} has the range {own[0]['cidr']}, the inventory says {network['cidr']}:"
                    " a range can't change; go back to it, or remove the region first"
                )
            else:
                now = {"gateway": own[0].get("gateway_ip"), "dns": list(own[0].get("dns_nameservers") or ())}
                self._update("network", name, now, {k: subnet[k] for k in now}, network, {**there, "subnet": own[0]})
        if external:
            self._router(name, external, network)

    def _router(self, name: str, external: str, network: Thing) -> None:
        outside = self._reference("network", external)
        if outside is not None and not outside.get("is_router_external"):
            self._error(f"network {external} is no external network: name one that is, or leave it out")
        there = self.own["router"].get(name)
        after = {"external": external, "network": network["name"]}
        wanted = {**after, "name": name}
        if there is None:
            self._step("router", "create", name, after=after, wanted=wanted)
            return
        gateway = (there.get("external_gateway_info") or {}).get("network_id")
        subnets = {s["id"]: s for s in self.found.get("subnet", ())}
        joined = {
            subnets[fixed["subnet_id"]]["network_id"]
            for port in self.found.get("port", ())
            if port.get("device_id") == there["id"]
            for fixed in port.get("fixed_ips") or ()
            if fixed["subnet_id"] in subnets
        }
        inside = self.own["network"].get(network["name"])
        before = {
            "external": external if outside is not None and gateway == outside["id"] else gateway,
            "network": network["name"] if inside is not None and inside["id"] in joined else None,
        }
        self._update("router", name, before, after, wanted, there)

    def _security_group(self, group: Thing) -> None:
        rules = sorted({_rule_text(rule) for rule in group["rules"]})
        there = self.own["security_group"].get(group["name"])
        if there is None:
            self._step("security_group", "create", group["name"], after={"rules": rules}, wanted=group)
            return
        now = sorted(
            _rule_text(_found_rule(rule))
            for rule in there.get("security_group_rules") or ()
            if rule["direction"] == "ingress"
        )
        self._update("security_group", group["name"], {"rules": now}, {"rules": rules}, group, there)

    def _port(self, server: Thing, port: Thing) -> None:
        allowed = sorted(port.get("allowed") or ())
        after = {
            "address": port["address"],
            "groups": sorted(port["security_groups"]),
            "allowed": allowed,
        }
        there = find_port(self.found, port, self.site)
        if there is None:
            self._step("port", "create", port["name"], after=after, wanted={**port, "allowed": allowed})
            return
        if not owned("port", there, self.site, ""):
            return
        names = {group["id"]: str(group["name"]) for group in self.found.get("security_group", ())}
        before = {
            "address": next((f["ip_address"] for f in there.get("fixed_ips") or ()), None),
            "groups": sorted(names.get(i, i) for i in there.get("security_group_ids") or ()),
            "allowed": sorted(p["ip_address"] for p in there.get("allowed_address_pairs") or ()),
        }
        if before["address"] != after["address"] and there.get("device_id"):
            self._error(
                f"host {server['host']} has the address {before['address']}, the inventory says {after['address']}:"
                f" go back to it, or remove server {server['name']} first"
            )
            return
        self._update("port", port["name"], before, after, {**port, "allowed": allowed}, there)

    def _volume(self, volume: Thing) -> None:
        there = self.own["volume"].get(volume["name"])
        if there is None:
            self._step("volume", "create", volume["name"], after={"size_gb": volume["size_gb"]}, wanted=volume)
        elif there["size"] > volume["size_gb"]:
            self._error(
                f"volume {volume['name']} has {there['size']} GB, the inventory says {volume['size_gb']}:"
                " a volume can't shrink"
            )
        elif there["size"] < volume["size_gb"]:
            self._update(
                "volume", volume["name"], {"size_gb": there["size"]}, {"size_gb": volume["size_gb"]}, volume, there
            )

    def _server(self, server: Thing) -> None:
        if not server["chosen"]:
            return
        for port in server["ports"]:
            if port["network"] not in {n["name"] for n in self.wanted["networks"]}:
                self._reference("network", port["network"])
            self._port(server, port)
        for volume in server["volumes"]:
            self._volume(volume)
        name = server["name"]
        there = self.own["server"].get(name)
        # It never ran: what was made of it is in the way, no more.
        failed = there is not None and there["status"] == "ERROR" and not there.get("launched_at")
        flavor = self._flavor(server, there)
        after = {"size": size(server), "flavor": flavor and flavor["name"], "image": server["image"]}
        if there is None or failed:
            self._zone(server)
            wanted = {**server, "flavor": flavor or {}}
            self._step("server", "create", name, after=after, wanted=wanted, found=there or {})
            return
        if there["status"] not in ("ACTIVE", "BUILD", "SHUTOFF", "VERIFY_RESIZE", "RESIZE", "REBOOT", "HARD_REBOOT"):
            reason = (there.get("fault") or {}).get("message")
            self._error(
                f"server {name} is {there['status']}{f' ({reason})' if reason else ''}: bring it back to ACTIVE,"
                " or remove it so that the next run makes it anew"
            )
            return
        before: dict[str, Any] = {"flavor": _flavor_name(there)}
        wanted_state: dict[str, Any] = {"flavor": flavor["name"] if flavor else before["flavor"]}
        if (there.get("metadata") or {}).get("koren_size") != size(server):
            before["size"] = (there.get("metadata") or {}).get("koren_size")
            wanted_state["size"] = size(server)
        for key, states in (("stopped", ("SHUTOFF",)), ("resized, not confirmed", ("VERIFY_RESIZE",))):
            if there["status"] in states:
                before[key], wanted_state[key] = True, False
        attached = {p["id"] for p in self.found.get("port", ()) if p.get("device_id") == there["id"]}
        ports = {p["name"]: find_port(self.found, p, self.site) for p in server["ports"]}
        loose = sorted(n for n, p in ports.items() if p is None or p["id"] not in attached)
        volumes = {v["id"] for v in there.get("attached_volumes") or ()}
        loose += sorted(
            v["name"]
            for v in server["volumes"]
            if v["name"] not in self.own["volume"] or self.own["volume"][v["name"]]["id"] not in volumes
        )
        if loose:
            before["attached"], wanted_state["attached"] = [], loose
        self._update("server", name, before, wanted_state, {**server, "flavor": flavor or {}}, there)

    def _floating_ips(self) -> set[str]:
        """Compare the floating IPs; returns the addresses that are of use."""
        used: set[str] = set()
        every = {str(f["floating_ip_address"]): f for f in self.found.get("floating_ip", ())}
        for server in self.wanted.get("servers", ()):
            asked = server["floating_ip"]
            if not asked:
                continue
            port = find_port(self.found, server["ports"][0], self.site)
            held = [f for f in every.values() if port is not None and f.get("port_id") == port["id"]]
            used |= {str(f["floating_ip_address"]) for f in held}
            if not server["chosen"]:
                continue
            if asked == "any":
                if not held:
                    self._reference("network", server["external"])
                    self._step("floating_ip", "create", server["name"], wanted=server)
                continue
            there = every.get(asked)
            if there is None:
                self._error(
                    f"host {server['host']} asks for the floating IP {asked}, which the project does not have:"
                    " allocate it, or write 'any'"
                )
            elif there.get("port_id") and (port is None or there["port_id"] != port["id"]):
                self._error(
                    f"host {server['host']} asks for the floating IP {asked}, which is another's:"
                    " take it from that, or write 'any'"
                )
            elif not there.get("port_id"):
                self._update(
                    "floating_ip", asked, {"server": None}, {"server": server["name"]}, wanted=server, found=there
                )
            used.add(asked)
        return used

    # What is looked up

    def _reference(self, kind: str, name: str, *, missing_ok: bool = False) -> Thing | None:
        """The one object with this name or id; notes an error when there is none, or more than one."""
        there = [t for t in self.found.get(kind, ()) if name in (t["id"], t["name"])]
        if len(there) == 1:
            return there[0]
        if there:
            ids = ", ".join(sorted(str(t["id"]) for t in there))
            self._error(f"{kind} {name} is there {len(there)} times ({ids}): write the id of the one that is meant")
        elif not missing_ok:
            names = sorted({str(t["name"]) for t in self.found.get(kind, ())})
            self._error(f"{kind} {name} is not there; there are: {', '.join(names[:20]) or 'none'}")
        return None

    def _flavor(self, server: Thing, there: Thing | None) -> Thing | None:
        """The smallest flavor that has what is asked; a server keeps its own while that is asked of it."""
        flavors = self.found.get("flavor", ())
        if there is not None and (there.get("metadata") or {}).get("koren_size") == size(server):
            now = next((f for f in flavors if f["name"] == _flavor_name(there)), None)
            if now is None or (now["vcpus"] >= server["cores"] and now["ram"] >= server["memory_mb"]):
                return now
        image: Thing = next((i for i in self.found.get("image", ()) if server["image"] in (i["id"], i["name"])), {})
        memory = max(server["memory_mb"], image.get("min_ram") or 0)
        disk = max(server["disk_gb"], image.get("min_disk") or 0)
        enough = [f for f in flavors if f["vcpus"] >= server["cores"] and f["ram"] >= memory and f["disk"] >= disk]
        if enough:
            return min(enough, key=lambda f: (f["ram"], f["vcpus"], f["disk"], f["name"]))
        sizes = [f"{f['name']} ({f['vcpus']}, {f['ram']}, {f['disk']})" for f in flavors]
        self._error(
            f"no flavor has the {server['cores']} cores, {memory} MiB and {disk} GB that host {server['host']}"
            f" asks for; there are: {', '.join(sorted(sizes)) or 'none'}"
        )
        return None

    def _zone(self, server: Thing) -> None:
        zones = sorted(str(z["name"]) for z in self.found.get("zone", ()))
        if server["zone"] and server["zone"] not in zones:
            self._error(
                f"availability zone {server['zone']} of host {server['host']} is not there;"
                f" there are: {', '.join(zones) or 'none'}"
            )

    # What comes of it

    def _update(
        self,
        kind: str,
        name: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        wanted: Thing,
        found: Thing,
    ) -> None:
        changed = [key for key in after if before.get(key) != after[key]]
        if changed:
            self._step(
                kind, "update", name, {k: before.get(k) for k in changed}, {k: after[k] for k in changed}, wanted, found
            )

    def _step(
        self,
        kind: str,
        verb: str,
        name: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        wanted: Thing | None = None,
        found: Thing | None = None,
    ) -> None:
        if verb == "create" and kind in _NAMED:
            self._not_of_others(kind, name, but=(found or {}).get("id"))
        self.out.steps.append(Step(kind, verb, name, before or {}, after or {}, wanted or {}, found or {}))

    def _not_of_others(self, kind: str, name: str, but: str | None = None) -> None:
        """Note an error when something that is not the site's has the name."""
        others = [t for t in self.found.get(kind, ()) if t["name"] == name and t["id"] != but]
        if others:
            self._error(
                f"{kind.replace('_', ' ')} {name} is there and not of this site"
                f" ({', '.join(sorted(str(t['id']) for t in others))}): rename or remove it, or give the site"
                " another site_name"
            )

    def _error(self, text: str) -> None:
        if text not in self.out.errors:
            self.out.errors.append(text)


def _flavor_name(server: Thing) -> str:
    flavor = server.get("flavor") or {}
    return str(flavor.get("original_name") or flavor.get("name") or flavor.get("id"))


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
    """What Neutron wants of the rule that ``_rule_text`` wrote."""
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


def console_key(text: str) -> str:
    """The Ed25519 host key that cloud-init wrote on a server's console; empty while it is not there."""
    blocks = re.findall(r"BEGIN SSH HOST KEY KEYS(.*?)END SSH HOST KEY KEYS", text, re.DOTALL)
    keys = re.findall(r"ssh-ed25519 [A-Za-z0-9+/=]{68}", blocks[-1]) if blocks else []
    return str(keys[-1]) if keys else ""


def known_servers(known_hosts: str) -> dict[str, tuple[str, str]]:
    """Host key and server id by address, of the lines that ``merge_known_hosts`` wrote."""
    out: dict[str, tuple[str, str]] = {}
    for line in known_hosts.splitlines():
        parts = line.split()
        if len(parts) == 4:
            out |= {name: (f"{parts[1]} {parts[2]}", parts[3]) for name in parts[0].split(",")}
    return out


def merge_known_hosts(known_hosts: str, servers: Iterable[Thing]) -> str:
    """The file with a line for each server: ``addresses``, ``host_key`` and, as the comment, ``id``.

    The id tells the next run that a server was replaced and has another key. Lines of other hosts stay.
    """
    servers = [s for s in servers if s["host_key"]]
    names = {name for s in servers for name in s["addresses"]}
    lines = [line for line in known_hosts.splitlines() if not names & set(line.split(" ")[0].split(","))]
    lines += [f"{','.join(s['addresses'])} {s['host_key']} {s['id']}" for s in servers]
    return "".join(f"{line}\n" for line in sorted(lines))


def surplus_rules(group: Thing, rules: Iterable[str]) -> list[str]:
    """Ids of a group's incoming rules that are not among ``rules``."""
    wanted = set(rules)
    return [
        str(rule["id"])
        for rule in group.get("security_group_rules") or ()
        if rule["direction"] == "ingress" and _rule_text(_found_rule(rule)) not in wanted
    ]


def needs(steps: Iterable[Step]) -> dict[str, int]:
    """What steps take of a project's quotas, by Nova's, Neutron's and Cinder's names."""
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
                # Each new group comes with two outgoing ones.
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
    """What a project's quotas do not allow; a quota that ``free`` does not have is without limit."""
    units = {"ram": " MiB", "gigabytes": " GB"}
    return [
        f"quota of {name.replace('_', ' ')}: {amount}{units.get(name, '')} more are needed,"
        f" {max(0, free[name])}{units.get(name, '')} are left; have the quota raised, or ask for less"
        for name, amount in sorted(needed.items())
        if name in free and amount > free[name]
    ]
