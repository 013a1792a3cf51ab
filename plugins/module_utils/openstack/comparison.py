# SPDX-License-Identifier: Apache-2.0
"""Comparison of the wanted and the found objects of one cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import owned
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import KINDS, NAMED, Plan, Step, Thing


class Comparison:
    """A site's objects in one cloud, which a module for each kind compares.

    Attributes:
        out: the plan so far.
        own: the site's objects by kind, then by name; floating IPs by address.
    """

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
                if len(ids) > 1 and kind in NAMED:
                    self.error(
                        f"{kind.replace('_', ' ')} {name} exists {len(ids)} times: {', '.join(ids)}; remove all but one"
                    )

    def reference(self, kind: str, name: str, *, missing_ok: bool = False) -> Thing | None:
        """The object with this name or ID; records an error if there is none, or more than one."""
        there = [t for t in self.found.get(kind, ()) if name in (t["id"], t["name"])]
        if len(there) == 1:
            return there[0]
        if there:
            ids = ", ".join(sorted(str(t["id"]) for t in there))
            self.error(f"{kind} {name} exists {len(there)} times ({ids}): use the ID of the one that is meant")
        elif not missing_ok:
            names = sorted({str(t["name"]) for t in self.found.get(kind, ())})
            self.error(f"{kind} {name} does not exist; there are: {', '.join(names[:20]) or 'none'}")
        return None

    def update(
        self,
        kind: str,
        name: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        wanted: Thing,
        found: Thing,
    ) -> None:
        """Record an update of the differences, if there are any."""
        changed = [key for key in after if before.get(key) != after[key]]
        if changed:
            self.step(
                kind, "update", name, {k: before.get(k) for k in changed}, {k: after[k] for k in changed}, wanted, found
            )

    def step(
        self,
        kind: str,
        verb: str,
        name: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        wanted: Thing | None = None,
        found: Thing | None = None,
    ) -> None:
        """Record a step. An object to create must not exist with another owner."""
        if verb == "create" and kind in NAMED:
            self.not_of_others(kind, name, but=(found or {}).get("id"))
        self.out.steps.append(Step(kind, verb, name, before or {}, after or {}, wanted or {}, found or {}))

    def not_of_others(self, kind: str, name: str, but: str | None = None) -> None:
        """Record an error if an object that is not the site's has the name."""
        others = [t for t in self.found.get(kind, ()) if t["name"] == name and t["id"] != but]
        if others:
            self.error(
                f"{kind.replace('_', ' ')} {name} exists and does not belong to this site"
                f" ({', '.join(sorted(str(t['id']) for t in others))}): rename or remove it, or give the site"
                " another site_name"
            )

    def error(self, text: str) -> None:
        """Record once what prevents the plan."""
        if text not in self.out.errors:
            self.out.errors.append(text)
