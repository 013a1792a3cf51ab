# SPDX-License-Identifier: Apache-2.0
"""How a service chain is implemented: marks and routes on a gateway host, or networking-sfc's objects on OpenStack."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

# The upper byte of a packet's mark on its way to a function, and back from the last one. koren-nfv, the program of
# the role nfv_gateway, knows them too: it counts each packet once, and accepts packets that return.
TO_FUNCTION, FROM_FUNCTION = 0x4E000000, 0x4F000000
# Before the main table, behind the local one.
RULE_PRIORITY = 100
DESCRIPTION = "koren.faas service chain"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")


def check_name(name: str) -> str | None:
    """What is wrong with the name of a chain, which becomes part of other names; None if nothing is."""
    if _NAME.fullmatch(name):
        return None
    return f"name: {name!r}: use up to 41 lower case letters, digits and hyphens, a letter first"


def check_classifiers(classifiers: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the description of the flow; None if nothing is."""
    for one in classifiers:
        ports = one.get("ports") or []
        if bool(ports) == (one["protocol"] == "icmp"):
            return f"classifiers: ports: {ports!r}: tcp and udp need ports, icmp has none"
        for port in ports:
            if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", str(port)):
                return f"classifiers: ports: {port!r}: write a port as 8883 and a range as 8000-8010"
    return None


# On a gateway host


def mark(chain: str, function: int) -> int:
    """The mark of a packet on its way to a chain's function, and its routing table; functions count from 0."""
    number = int.from_bytes(hashlib.sha256(chain.encode()).digest()[:2], "big")
    return TO_FUNCTION | number << 8 | function


def table(chain: str) -> str:
    """The chain's nftables table."""
    return f"koren-chain-{chain}"


def steering(
    chain: str,
    classifiers: Sequence[Mapping[str, Any]],
    hardware: Sequence[str],
    interface: str,
    symmetric: bool,
) -> str:
    """Rules that send a flow's packets from function to function, as one transaction for nft.

    Args:
        chain: name of the chain.
        classifiers: each with ``protocol``, ``ports``, ``sources`` and ``destinations``.
        hardware: link addresses of the functions, in the order that the flow passes them.
        interface: this host's interface to the functions.
        symmetric: whether answers pass the functions too, in the opposite order.
    """
    forth = list(range(len(hardware)))
    ways = {"forth": forth} | ({"back": forth[::-1]} if symmetric else {})
    body: list[str] = []
    for way, order in ways.items():
        body.append(f"  chain {way} {{")
        # The function that sent the packet is done: the next one is due. After the last one, normal routing applies.
        following = [*(mark(chain, one) for one in order[1:]), FROM_FUNCTION]
        body += [
            f'    iifname "{interface}" ether saddr {hardware[one]} meta mark set {hex(due)} return'
            for one, due in zip(order, following, strict=True)
        ]
        body += [f"    meta mark set {hex(mark(chain, order[0]))}", "  }"]
    body += ["  chain prerouting {", "    type filter hook prerouting priority mangle; policy accept;"]
    for way in ways:
        body += [f"    {_match(one, answers=way == 'back')} jump {way}" for one in classifiers]
    body.append("  }")
    digest = hashlib.sha256("\n".join(body).encode()).hexdigest()[:16]
    name = f"inet {table(chain)}"
    lines = [f"table {name} {{ }}", f"delete table {name}", f"table {name} {{", f"  chain {marker(digest)} {{ }}"]
    return "\n".join([*lines, *body, "}"]) + "\n"


def marker(digest: str) -> str:
    """The name of the empty chain that identifies the loaded rules."""
    return f"loaded-{digest}"


def loaded_marker(rules: str) -> str:
    """The marker in the text of the rules."""
    found = re.search(r"loaded-[0-9a-f]{16}", rules)
    assert found, "rules come from steering()"
    return found[0]


def routing(chain: str, addresses: Sequence[str], interface: str) -> list[tuple[list[str], list[str]]]:
    """Arguments of ``ip`` for the functions' rules and routes, one pair per function."""
    return [
        (
            ["rule", "add", "priority", str(RULE_PRIORITY), "fwmark", hex(number), "table", str(number)],
            ["route", "replace", "default", "via", address, "dev", interface, "table", str(number)],
        )
        for number, address in ((mark(chain, one), address) for one, address in enumerate(addresses))
    ]


def unit(chain: str, rules_file: str, addresses: Sequence[str], interface: str) -> str:
    """The systemd service that restores the chain at boot, before packets of the flow pass."""
    starts = []
    for rule, route in routing(chain, addresses, interface):
        # A rule that already exists must not prevent the rest of the chain.
        starts += [f"ExecStart=-/sbin/ip {' '.join(rule)}", f"ExecStart=/sbin/ip {' '.join(route)}"]
    return "\n".join(
        [
            "[Unit]",
            f"Description=Service chain {chain}",
            "Wants=network-online.target",
            "After=network-online.target",
            "[Service]",
            "Type=oneshot",
            "RemainAfterExit=yes",
            *starts,
            f"ExecStart=/usr/sbin/nft --file {rules_file}",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _match(classifier: Mapping[str, Any], *, answers: bool) -> str:
    sources, destinations = _set(classifier["sources"]), _set(classifier["destinations"])
    if answers:
        sources, destinations = destinations, sources
    what = "meta l4proto icmp"
    if classifier["protocol"] != "icmp":
        what = f"{classifier['protocol']} {'sport' if answers else 'dport'} {_set(classifier['ports'])}"
    return f"ip saddr {sources} ip daddr {destinations} {what}"


def _set(items: Sequence[Any]) -> str:
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }"


# On OpenStack


class Network(Protocol):
    """The part of networking-sfc that a chain needs; ``kind`` is one of KINDS."""

    def every(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind that the project has."""

    def create(self, kind: str, **values: Any) -> dict[str, Any]:
        """The object made."""

    def update(self, kind: str, identity: str, **values: Any) -> None:
        """Change an object."""

    def delete(self, kind: str, identity: str) -> None:
        """Remove an object."""


class Sfc:
    """networking-sfc through openstacksdk."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def every(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return [self._plain(kind, one) for one in getattr(self._network, f"sfc_{kind}s")()]

    def create(self, kind: str, **values: Any) -> dict[str, Any]:
        """Create one."""
        made = getattr(self._network, f"create_sfc_{kind}")(**{k: v for k, v in values.items() if v is not None})
        return self._plain(kind, made)

    def update(self, kind: str, identity: str, **values: Any) -> None:
        """Change one."""
        getattr(self._network, f"update_sfc_{kind}")(identity, **values)

    def delete(self, kind: str, identity: str) -> None:
        """Remove one."""
        getattr(self._network, f"delete_sfc_{kind}")(identity, ignore_missing=True)

    def port(self, name: str) -> str:
        """The ID of a port; LookupError if there is none or more than one."""
        try:
            found = self._network.find_port(name, ignore_missing=True)
        except Exception as error:
            raise LookupError(f"port {name!r}: {error}") from error
        if not found:
            raise LookupError(f"there is no port {name!r} in the cloud; name one, or give its id")
        return str(found.id)

    @staticmethod
    def _plain(kind: str, one: Any) -> dict[str, Any]:
        plain: dict[str, Any] = one.to_dict(computed=False)
        if kind == "port_pair_group":
            plain["port_pairs"] = plain.get("port_pairs") or []
        if kind == "port_chain":
            plain["chain_parameters"] = plain.get("chain_parameters") or {}
            for key in ("port_pair_groups", "flow_classifiers"):
                plain[key] = plain.get(key) or []
        return plain


KINDS = ("port_pair", "port_pair_group", "flow_classifier", "port_chain")
Objects = dict[str, list[dict[str, Any]]]
MATCH = (
    "protocol",
    "source_ip_prefix",
    "destination_ip_prefix",
    "destination_port_range_min",
    "destination_port_range_max",
    "logical_source_port",
    "logical_destination_port",
)


def read(network: Network) -> Objects:
    """All objects by kind."""
    return {kind: network.every(kind) for kind in KINDS}


def flow_matches(classifiers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What networking-sfc's flow classifiers match: one source, one destination and one range of ports each."""
    found = []
    for one in classifiers:
        for source in one["sources"]:
            for destination in one["destinations"]:
                for port in one.get("ports") or [None]:
                    first, _, last = str(port or "").partition("-")
                    match: dict[str, Any] = dict.fromkeys(MATCH)
                    match |= {
                        "protocol": one["protocol"],
                        "source_ip_prefix": _prefix(source),
                        "destination_ip_prefix": _prefix(destination),
                        "logical_source_port": one.get("source_port"),
                        "logical_destination_port": one.get("destination_port"),
                    }
                    if first:
                        match["destination_port_range_min"] = int(first)
                        match["destination_port_range_max"] = int(last or first)
                    found.append(match)
    return found


class Realisation:
    """A chain on OpenStack: makes it match its description and records the changes.

    Objects are recognised by what they do, not by their names, so that two chains can share a function: OpenStack
    allows only one pair of a function's ports. Objects of others are used but neither changed nor removed.
    """

    def __init__(self, network: Network, have: Objects, name: str, *, check: bool) -> None:
        """Update ``have``, the result of ``read``, with each change; with ``check`` only report changes."""
        self.changes: list[str] = []
        self._network, self._have, self._name, self._check = network, have, name, check

    def present(
        self, matches: Sequence[Mapping[str, Any]], functions: Sequence[Mapping[str, str]], *, symmetric: bool
    ) -> None:
        """Make the chain match; functions have ``name``, and the port IDs ``ingress`` and ``egress``.

        Raises:
            LookupError: another chain passes the same functions in the same order, which networking-sfc does not allow.
        """
        chain = self._chain()
        there = [pair and self._group_of(pair) for pair in map(self._pair, functions)]
        order = [group and group["id"] for group in there]
        for other in self._have["port_chain"]:
            if other is not chain and other["port_pair_groups"] == order:
                raise LookupError(
                    f"chain {other['name']!r} passes the same functions in the same order, and OpenStack allows one"
                    " chain per order: give that chain the classifiers of both"
                )
        groups = [self._group(function) for function in functions]
        parameters = {"correlation": "mpls", "symmetric": symmetric}
        if chain and chain["chain_parameters"].get("symmetric", False) != symmetric:
            # This parameter can't be changed.
            self._delete("port_chain", chain)
            chain = None
        kept, missing = self._classifiers(chain, matches)
        stale = [one for one in self._of(chain) if one not in kept]
        # An old classifier would conflict with a new one that overlaps it.
        if chain and stale:
            self._update("port_chain", chain, flow_classifiers=[one["id"] for one in kept])
        for one in stale:
            self._delete("flow_classifier", one)
        kept += [self._create("flow_classifier", f"{self._name}-{_short(match)}", **match) for match in missing]
        wanted = {"port_pair_groups": groups, "flow_classifiers": sorted(one["id"] for one in kept)}
        if not chain:
            self._create("port_chain", self._name, **wanted, chain_parameters=parameters)
        elif chain["port_pair_groups"] != groups or sorted(chain["flow_classifiers"]) != wanted["flow_classifiers"]:
            self._update("port_chain", chain, **wanted)
        self._tidy()

    def absent(self) -> None:
        """Remove the chain, and everything that only it needed."""
        chain = self._chain()
        classifiers = self._of(chain)
        if chain:
            self._delete("port_chain", chain)
        for one in classifiers:
            self._delete("flow_classifier", one)
        self._tidy()

    def _chain(self) -> dict[str, Any] | None:
        found = [one for one in self._have["port_chain"] if one["name"] == self._name and _ours(one)]
        return found[0] if found else None

    def _of(self, chain: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The chain's own classifiers, and those of this name that an interrupted run left without a chain."""
        listed = set(chain["flow_classifiers"]) if chain else set()
        return [
            one
            for one in self._have["flow_classifier"]
            if one["id"] in listed or (_ours(one) and re.fullmatch(rf"{self._name}-[0-9a-f]{{8}}", one["name"]))
        ]

    def _classifiers(
        self, chain: Mapping[str, Any] | None, matches: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The wanted classifiers that exist, and the matches of those that are missing."""
        own = self._of(chain)
        kept, missing = [], []
        for match in matches:
            found = [one for one in own if all(one.get(key) == match[key] for key in MATCH)]
            if found:
                kept.append(found[0])
            else:
                missing.append(dict(match))
        return kept, missing

    def _pair(self, function: Mapping[str, str]) -> dict[str, Any] | None:
        ports = {"ingress": function["ingress"], "egress": function["egress"]}
        return next((one for one in self._have["port_pair"] if {key: one[key] for key in ports} == ports), None)

    def _group_of(self, pair: Mapping[str, Any]) -> dict[str, Any] | None:
        return next((one for one in self._have["port_pair_group"] if one["port_pairs"] == [pair["id"]]), None)

    def _group(self, function: Mapping[str, str]) -> str:
        """The ID of the group of a function's one pair of ports."""
        pair = self._pair(function) or self._create(
            "port_pair", function["name"], ingress=function["ingress"], egress=function["egress"]
        )
        group = self._group_of(pair) or self._create("port_pair_group", function["name"], port_pairs=[pair["id"]])
        identity: str = group["id"]
        return identity

    def _tidy(self) -> None:
        """Remove groups and pairs that no chain needs any more."""
        used = {group for chain in self._have["port_chain"] for group in chain["port_pair_groups"]}
        for group in [one for one in self._have["port_pair_group"] if _ours(one) and one["id"] not in used]:
            self._delete("port_pair_group", group)
        used = {pair for group in self._have["port_pair_group"] for pair in group["port_pairs"]}
        for pair in [one for one in self._have["port_pair"] if _ours(one) and one["id"] not in used]:
            self._delete("port_pair", pair)

    def _create(self, kind: str, name: str, **values: Any) -> dict[str, Any]:
        values |= {"name": name, "description": DESCRIPTION}
        self.changes.append(f"create {kind} {name}")
        made = {"id": f"new {kind} {name}", **values} if self._check else self._network.create(kind, **values)
        self._have[kind].append(made)
        return made

    def _update(self, kind: str, one: dict[str, Any], **values: Any) -> None:
        self.changes.append(f"update {kind} {one['name']}")
        if not self._check:
            self._network.update(kind, one["id"], **values)
        one.update(values)

    def _delete(self, kind: str, one: dict[str, Any]) -> None:
        self.changes.append(f"delete {kind} {one['name']}")
        if not self._check:
            self._network.delete(kind, one["id"])
        self._have[kind].remove(one)


def chains_through(have: Objects, port: str) -> list[str]:
    """Names of the site's chains that need a Neutron port, as a function's port or as a flow's end."""
    ends = ("ingress", "egress", "logical_source_port", "logical_destination_port")
    needed = {
        one["id"]
        for kind in ("port_pair", "flow_classifier")
        for one in have[kind]
        if port in [one.get(end) for end in ends]
    }
    needed |= {group["id"] for group in have["port_pair_group"] if needed.intersection(group["port_pairs"])}
    chains = [one for one in have["port_chain"] if _ours(one)]
    return sorted(
        str(one["name"]) for one in chains if needed.intersection(one["port_pair_groups"] + one["flow_classifiers"])
    )


def _ours(one: Mapping[str, Any]) -> bool:
    return one.get("description") == DESCRIPTION


def _prefix(network: Any) -> str:
    text = str(network)
    return text if "/" in text else f"{text}/32"


def _short(match: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(match.items())).encode()).hexdigest()[:8]
