# SPDX-License-Identifier: Apache-2.0
"""The steps of a plan for one cloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Thing = Mapping[str, Any]

# The kinds in the order in which they are created; removal has the opposite order.
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
# Kinds whose objects are found by name, so that two of one name would be ambiguous.
NAMED = ("network", "router", "security_group", "port", "volume", "server")


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
        """The step as text, such as ``update server koren-local-seoul-cp: size 2x4096 -> 4x8192``."""
        text = f"{self.verb} {self.kind.replace('_', ' ')} {self.name}"
        if self.verb != "update":
            return text
        return f"{text}: {', '.join(_change(key, self.before.get(key), now) for key, now in self.after.items())}"


def _change(key: str, before: Any, after: Any) -> str:
    """A change as text; for a list only additions and removals: ``rules +tcp 22-22 from 10.0.0.0/8``."""
    if not isinstance(after, list):
        return f"{key} {before} -> {after}"
    before = before or []
    words = [f"+{one}" for one in after if one not in before] + [f"-{one}" for one in before if one not in after]
    return f"{key} {' '.join(words)}"


@dataclass
class Plan:
    """Steps in the order in which they are carried out, and errors that prevent them."""

    steps: list[Step] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    # Objects with the site's mark that are not in the inventory and are kept.
    surplus: list[str] = field(default_factory=list)
