# SPDX-License-Identifier: Apache-2.0
"""Filters that turn an inventory's table of flows into what one gateway forwards."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

Network = ipaddress.IPv4Network
Pair = tuple[list[Network], list[Network]]

ANY = Network("0.0.0.0/0")
# All addresses outside the regions: a flow to the world leaves its region, but enters no other.
WORLD = "world"
PROTOCOLS = ("tcp", "udp", "icmp")
KEYS = {"name", "from", "to", "proto", "ports", "class", "connections", "masquerade", "publish"}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def nfv_inventory(groups: Mapping[str, Sequence[str]], hostvars: Any) -> dict[str, Any]:
    """Addresses of hosts, members of groups, regions' LANs and pods' ranges: what a flow's ends can name."""
    hosts: dict[str, list[str]] = {}
    regions: dict[str, str] = {}
    pods: dict[str, str] = {}
    for name in groups["all"]:
        host = hostvars[name]
        if "ansible_host" in host:
            hosts[str(name)] = [str(host[key]) for key in ("ansible_host", "backbone_address") if key in host]
        if "region_lan_cidr" in host:
            regions[str(host["region_name"])] = str(host["region_lan_cidr"])
        if "region_pod_cidr" in host:
            pods[str(host["region_name"])] = str(host["region_pod_cidr"])
    members = {str(group): [str(host) for host in found if host in hosts] for group, found in groups.items()}
    return {"hosts": hosts, "groups": members, "regions": regions, "pods": pods}


def nfv_flows(
    flows: Iterable[Mapping[str, Any]],
    inventory: Mapping[str, Any],
    places: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The flows with each end as networks.

    Args:
        flows: the inventory's table.
        inventory: what ``nfv_inventory`` made.
        places: names of places outside the inventory, each with its CIDRs.
        classes: names of the classes that flows may be of, the last one being that of a flow that names none.

    Returns:
        Each flow with its ``id`` (24 bits, from its name alone) and its ``pairs`` of ``from`` and ``to``, lists of
        CIDRs.

    Raises:
        AnsibleFilterError: names the flow, the value and what would do.
    """
    found: list[dict[str, Any]] = []
    ids: dict[int, str] = {}
    for flow in flows:
        name = _name(flow)
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "big")
        if number in ids:
            raise _error(name, "name", name, f"its number is that of {ids[number]!r}; give it another name")
        ids[number] = name
        one = {"name": name, "id": number, **_traffic(name, flow, classes)}
        pairs = _pairs(name, flow, _Names(inventory, places or {}))
        beyond = {side for side in ("from", "to") if flow[side] == WORLD}
        one["pairs"] = [
            {side: [WORLD] if side in beyond else _texts(end) for side, end in zip(("from", "to"), pair, strict=True)}
            for pair in pairs
        ]
        if one["publish"] and (len(one["ports"]) != 1 or not all(_one_address(end) for _, end in pairs)):
            raise _error(name, "publish", one["publish"], "only a flow to one port of one host can be published")
        found.append(one)
    return found


def nfv_gateway_flows(flows: Iterable[Mapping[str, Any]], lan: str, own: Sequence[str]) -> list[dict[str, Any]]:
    """What of the flows concerns one gateway.

    Args:
        flows: what ``nfv_flows`` made.
        lan: CIDR of the gateway's LAN.
        own: the gateway's own addresses.

    Returns:
        The flows that leave the LAN (``out``), enter it (``in``) or end at the gateway (``own``), each as pairs of
        CIDRs; those that do none of it are left out, so that another region's change is none here.
    """
    inside = Network(lan)
    here = [Network(address) for address in own]
    found = []
    for flow in flows:
        ways: dict[str, list[dict[str, list[str]]]] = {"out": [], "in": [], "own": []}
        for pair in flow["pairs"]:
            start, end = ([ANY if cidr == WORLD else Network(cidr) for cidr in pair[side]] for side in ("from", "to"))
            others = [network for network in end if network not in here]
            for way, sources, targets, not_of in (
                ("out", _within(start, inside), _outside(others, inside), pair["from"]),
                ("in", _outside(start, inside), _within(others, inside), pair["to"]),
                ("own", [one for one in start if one not in here], _own(end, here), pair["to"]),
            ):
                if sources and targets and not_of != [WORLD]:
                    ways[way].append({"from": _texts(sources), "to": _texts(targets)})
        if any(ways.values()):
            found.append({key: value for key, value in flow.items() if key != "pairs"} | ways)
    return sorted(found, key=lambda flow: str(flow["name"]))


def nfv_gateway_routes(
    routes: Iterable[Mapping[str, str]], flows: Iterable[Mapping[str, Any]], lan: str
) -> list[dict[str, str]]:
    """The routes that one gateway needs: to where its flows go or come from, so that no region has another's.

    Args:
        routes: routes to all regions, each with its destination ``to``, a CIDR.
        flows: what ``nfv_flows`` made.
        lan: CIDR of the gateway's LAN.
    """
    others = {
        cidr
        for flow in nfv_gateway_flows(flows, lan, [])
        for way, side in (("out", "to"), ("in", "from"))
        for pair in flow[way]
        for cidr in pair[side]
    } - {str(ANY)}
    return [dict(route) for route in routes if any(Network(route["to"]).overlaps(Network(cidr)) for cidr in others)]


def nfv_gateway_chains(
    chains: Iterable[Mapping[str, Any]],
    flows: Sequence[Mapping[str, Any]],
    inventory: Mapping[str, Any],
    lan: str,
    own: Sequence[str],
    port_prefix: str | None = None,
) -> list[dict[str, Any]]:
    """The chains that one gateway realises, those whose functions are in its LAN, as ``service_chain`` takes them.

    Args:
        chains: the inventory's chains, each with a ``flow`` and the hosts that are its ``functions``.
        flows: what ``nfv_flows`` made.
        inventory: what ``nfv_inventory`` made.
        lan: CIDR of the gateway's LAN.
        own: the gateway's own addresses.
        port_prefix: where networking-sfc realises them, what the name of a host's Neutron port has before the host's.

    Raises:
        AnsibleFilterError: names the chain, the value and what would do.
    """
    here = {flow["name"]: flow for flow in nfv_gateway_flows(flows, lan, own)}
    found = []
    for chain in chains:
        name, flow = str(chain["name"]), str(chain["flow"])
        known = sorted(str(one["name"]) for one in flows)
        if flow not in known:
            raise _chain_error(name, "flow", flow, f"it is not declared; there are {', '.join(known)}")
        functions = []
        for host in chain["functions"]:
            if host not in inventory["hosts"]:
                raise _chain_error(name, "functions", host, "there is no such host in the inventory")
            functions.append({"name": str(host), "address": str(inventory["hosts"][host][0])})
        inside = [Network(one["address"]).subnet_of(Network(lan)) for one in functions]
        if any(inside) and not all(inside):
            raise _chain_error(name, "functions", chain["functions"], "they have to be in one region")
        if not any(inside):
            continue
        ends = [(way, pair) for way in ("out", "in") for pair in here[flow][way]] if flow in here else []
        if not ends:
            raise _chain_error(name, "flow", flow, f"it does not pass the gateway of {lan}, where the functions are")
        present = chain.get("state", "present") == "present"
        if present and port_prefix is None and here[flow]["masquerade"] and here[flow]["out"]:
            raise _chain_error(name, "flow", flow, "a gateway can't masquerade what it sends to functions before")
        traffic = {key: here[flow][key] for key in ("protocol", "ports")}
        if port_prefix is None:
            classifiers = [{"sources": pair["from"], "destinations": pair["to"]} for _, pair in ends]
        else:
            functions = [{"name": one["name"], "ingress": f"{port_prefix}{one['name']}"} for one in functions]
            classifiers = [
                {"sources": sources, "destinations": pair["to"], "source_port": f"{port_prefix}{host}"}
                for way, pair in ends
                for host, sources in _senders(chain, way, pair["from"], inventory["hosts"], own)
            ]
        found.append(
            {
                "name": name,
                "state": str(chain.get("state", "present")),
                "classifiers": [traffic | one for one in classifiers],
                "functions": functions,
                "symmetric": bool(chain.get("symmetric", False)),
            }
        )
    return found


def _senders(
    chain: Mapping[str, Any], way: str, sources: list[str], hosts: Mapping[str, Sequence[str]], own: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Hosts of the LAN whose ports a flow's packets leave, with what of the sources that is.

    Not the functions: what they pass on would come to them again.
    """
    if way == "in":
        return [(host, sources) for host, addresses in hosts.items() if own[0] in addresses]
    networks = [Network(cidr) for cidr in sources]
    found = [
        (host, [addresses[0]])
        for host, addresses in hosts.items()
        if host not in chain["functions"] and any(Network(addresses[0]).subnet_of(network) for network in networks)
    ]
    if not found:
        senders = ", ".join(sources)
        raise _chain_error(
            str(chain["name"]), "flow", chain["flow"], f"no other host of the inventory sends from {senders}"
        )
    return found


class _Names:
    """What names in a flow stand for."""

    def __init__(self, inventory: Mapping[str, Any], places: Mapping[str, Any]) -> None:
        self.hosts, self.groups, self.regions = (inventory[key] for key in ("hosts", "groups", "regions"))
        # Pods of a region are a separate place: outside the region they have their nodes' addresses.
        pods = {f"pods-{region}": cidr for region, cidr in inventory.get("pods", {}).items()}
        named = {**pods, **places}
        self.places = {name: [cidrs] if isinstance(cidrs, str) else list(cidrs) for name, cidrs in named.items()}

    def networks(self, text: str) -> list[Network]:
        """The networks of a region, a group, a host, a place or a CIDR; ValueError says what is wrong."""
        if text in ("any", WORLD):
            return [ANY]
        if text in self.places:
            return [Network(cidr) for cidr in self.places[text]]
        if text in self.regions:
            return [Network(self.regions[text])]
        if text[:1].isdigit():
            return [Network(text)]
        return [Network(address) for host in self._members(text) for address in self.hosts[host]]

    def _members(self, text: str) -> list[str]:
        """Hosts that are in each of the groups that ``:&`` joins."""
        sets = [self._one(part) for part in text.split(":&")]
        return [host for host in sets[0] if all(host in other for other in sets)]

    def _one(self, name: str) -> list[str]:
        if name in self.groups:
            return list(self.groups[name])
        if name in self.hosts:
            return [name]
        raise ValueError(f"{name!r} is not a region, group, host, place or CIDR of the inventory")


def _name(flow: Mapping[str, Any]) -> str:
    name = str(flow.get("name", ""))
    if not _NAME.fullmatch(name):
        raise _error(name, "name", name, "use up to 41 lower case letters, digits and hyphens, a letter first")
    unknown = sorted(set(flow) - KEYS)
    if unknown:
        raise _error(name, unknown[0], flow[unknown[0]], f"there is no such key; there are {', '.join(sorted(KEYS))}")
    return name


def _traffic(name: str, flow: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    protocol = str(flow.get("proto", "tcp"))
    if protocol not in PROTOCOLS:
        raise _error(name, "proto", protocol, f"use one of {', '.join(PROTOCOLS)}")
    ports = [_port(name, port) for port in flow.get("ports") or []]
    if bool(ports) == (protocol == "icmp"):
        raise _error(name, "ports", ports, "tcp and udp need ports, icmp has none")
    traffic_class = str(flow.get("class", classes[-1] if classes else ""))
    if classes and traffic_class not in classes:
        raise _error(name, "class", traffic_class, f"use one of {', '.join(classes)}")
    connections = int(flow.get("connections", 0))
    if connections < 0:
        raise _error(name, "connections", connections, "use a positive number, or none for no limit")
    publish = _port(name, flow["publish"]) if flow.get("publish") else ""
    return {
        "protocol": protocol,
        "ports": ports,
        "class": traffic_class,
        "connections": connections,
        "masquerade": bool(flow.get("masquerade", False)),
        "publish": publish,
    }


def _port(name: str, port: Any) -> str:
    match = _PORTS.fullmatch(str(port))
    if not match or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
        raise _error(name, "ports", port, "write a port as 8883 and a range as 8000-8010")
    return str(port)


def _pairs(name: str, flow: Mapping[str, Any], names: _Names) -> list[Pair]:
    """Both ends as networks; with ``{region}`` in them once for each region."""
    ends: dict[str, list[str]] = {}
    for side in ("from", "to"):
        value = flow.get(side)
        ends[side] = [value] if isinstance(value, str) else [str(one) for one in value or []]
        if not ends[side]:
            raise _error(name, side, value, "name a region, group, host, place or CIDR, or a list of them")
        if WORLD in ends[side] and value != WORLD:
            raise _error(name, side, value, "the world stands alone")
    each = any("{region}" in text for texts in ends.values() for text in texts)
    pairs = []
    for region in sorted(names.regions) if each else [""]:
        resolved = []
        for side, texts in ends.items():
            networks: set[Network] = set()
            for text in texts:
                try:
                    networks.update(names.networks(text.replace("{region}", region)))
                except ValueError as error:
                    raise _error(name, side, text, str(error)) from error
            # A firewall's set takes no network that another one of it holds already.
            resolved.append([one for one in networks if not any(one != net and one.subnet_of(net) for net in networks)])
        # A group may have no host yet.
        if resolved[0] and resolved[1]:
            pairs.append((resolved[0], resolved[1]))
    return pairs


def _within(networks: Iterable[Network], lan: Network) -> list[Network]:
    """The parts of the networks that are in the LAN."""
    return [min(one, lan, key=lambda net: net.num_addresses) for one in networks if one.overlaps(lan)]


def _outside(networks: Iterable[Network], lan: Network) -> list[Network]:
    """The networks that have anything out of the LAN."""
    return [one for one in networks if not one.subnet_of(lan)]


def _own(networks: Iterable[Network], own: Sequence[Network]) -> list[Network]:
    return [address for address in own if any(address.subnet_of(one) for one in networks)]


def _one_address(networks: Sequence[Network]) -> bool:
    return len(networks) == 1 and networks[0].num_addresses == 1


def _texts(networks: Iterable[Network]) -> list[str]:
    return [str(one.network_address) if one.prefixlen == 32 else str(one) for one in sorted(set(networks))]


def _chain_error(name: str, key: str, value: Any, remedy: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"chain {name!r}: {key}: {value!r}: {remedy}")


def _error(name: str, key: str, value: Any, remedy: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"flow {name!r}: {key}: {value!r}: {remedy}")


class FilterModule:
    """Filters of the collection for network functions."""

    def filters(self) -> dict[str, Any]:
        """Names to functions."""
        return {
            "nfv_inventory": nfv_inventory,
            "nfv_flows": nfv_flows,
            "nfv_gateway_flows": nfv_gateway_flows,
            "nfv_gateway_routes": nfv_gateway_routes,
            "nfv_gateway_chains": nfv_gateway_chains,
        }
