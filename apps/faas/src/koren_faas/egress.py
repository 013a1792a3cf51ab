# SPDX-License-Identifier: Apache-2.0
"""What a function's pods may connect to, beside the gateway and DNS."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Any

DEFAULT = "default"
"""Every address of the world, and no private one."""
NONE = "none"
"""Nothing more."""

# Hosts of the site, pods and Services are among these, and so is a cloud's metadata service, which
# gives out the host's identity.
_NOT_THE_WORLD = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)


def problems_of(egress: Iterable[str]) -> list[str]:
    """What is wrong with these destinations, a sentence each."""
    wanted = list(egress)
    problems = []
    if not wanted:
        problems.append(f"egress is empty: give {NONE}, {DEFAULT}, or destinations")
    if NONE in wanted and len(wanted) > 1:
        problems.append(f"egress {NONE} can't be combined with others: {', '.join(wanted)}")
    for one in wanted:
        if one in (DEFAULT, NONE):
            continue
        try:
            _parsed(one)
        except ValueError as error:
            problems.append(
                f"egress {one!r} ({error}) is no destination; give {DEFAULT}, {NONE}, an address or"
                " CIDR such as 192.0.2.0/24, or one with a port such as 192.0.2.7:443"
            )
    return problems


def rules_of(egress: Iterable[str]) -> list[dict[str, Any]]:
    """The destinations as egress rules of a NetworkPolicy. They have no `problems_of`."""
    rules: list[dict[str, Any]] = []
    for one in sorted(set(egress) - {NONE}):
        if one == DEFAULT:
            world = {"cidr": "0.0.0.0/0", "except": list(_NOT_THE_WORLD)}
            rules.append({"to": [{"ipBlock": world}]})
            continue
        network, port = _parsed(one)
        rule: dict[str, Any] = {"to": [{"ipBlock": {"cidr": str(network)}}]}
        if port is not None:
            # A port alone is one of TCP.
            rule["ports"] = [{"port": port, "protocol": "TCP"}]
        rules.append(rule)
    return rules


def _parsed(destination: str) -> tuple[IPv4Network, int | None]:
    cidr, colon, port = destination.partition(":")
    network = IPv4Network(cidr)
    if not colon:
        return network, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"port {port!r} is not from 1 to 65535")
    return network, int(port)
