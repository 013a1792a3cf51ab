# SPDX-License-Identifier: Apache-2.0
"""Servers' SSH host keys, from the console and in the site's known_hosts file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def console_key(text: str) -> str:
    """The Ed25519 host key that cloud-init wrote to a server's console; empty if there is none yet."""
    blocks = re.findall(r"BEGIN SSH HOST KEY KEYS(.*?)END SSH HOST KEY KEYS", text, re.DOTALL)
    keys = re.findall(r"ssh-ed25519 [A-Za-z0-9+/=]{68}", blocks[-1]) if blocks else []
    return str(keys[-1]) if keys else ""


def known_servers(known_hosts: str) -> dict[str, tuple[str, str]]:
    """Host key and server ID by address, from the lines that ``merge_known_hosts`` wrote."""
    out: dict[str, tuple[str, str]] = {}
    for line in known_hosts.splitlines():
        parts = line.split()
        if len(parts) == 4:
            out |= {name: (f"{parts[1]} {parts[2]}", parts[3]) for name in parts[0].split(",")}
    return out


def merge_known_hosts(known_hosts: str, servers: Iterable[Thing]) -> str:
    """The file with a line for each server: ``addresses``, ``host_key`` and, as the comment, ``id``.

    By the ID, the next run detects that a server was replaced and has another key. Lines of other hosts stay.
    """
    servers = [s for s in servers if s["host_key"]]
    names = {name for s in servers for name in s["addresses"]}
    lines = [line for line in known_hosts.splitlines() if not names & set(line.split(" ")[0].split(","))]
    lines += [f"{','.join(s['addresses'])} {s['host_key']} {s['id']}" for s in servers]
    return "".join(f"{line}\n" for line in sorted(lines))
