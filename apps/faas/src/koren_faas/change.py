# SPDX-License-Identifier: Apache-2.0
"""What a deploy or delete changed, or would change."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

# Written by the API server and by controllers, not by a deploy.
_FOREIGN_META = (
    "creationTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that changed.

    Attributes:
        what: its region, kind and name.
        before: its content, empty when it did not exist.
        after: its content, empty when it is gone.
    """

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of an operation on one or more regions.

    Attributes:
        diff: what changed, or would change, in the order of the regions.
        regions: names of the regions that were brought to the wanted state.
        changed_regions: names of those in which something changed, or would change.
    """

    diff: tuple[Difference, ...]
    regions: tuple[str, ...]
    changed_regions: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything changed, or would change."""
        return bool(self.diff)


def compare(
    region: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[Difference]:
    """The difference between two states of one object, None being its absence."""
    texts = [_text(state) if state else "" for state in (before, after)]
    named = after or before
    if texts[0] == texts[1] or not named:
        return []
    what = f"{region}: {named['kind']} {named['metadata']['name']}"
    return [Difference(what, texts[0], texts[1])]


def join(parts: Mapping[str, Sequence[Difference]]) -> Result:
    """One result of several regions': region name to what changed there."""
    return Result(
        diff=tuple(difference for part in parts.values() for difference in part),
        regions=tuple(parts),
        changed_regions=tuple(region for region, part in parts.items() if part),
    )


def _text(state: Mapping[str, Any]) -> str:
    own = copy.deepcopy(dict(state))
    own.pop("status", None)
    meta = own["metadata"]
    for key in _FOREIGN_META:
        meta.pop(key, None)
    if own["kind"] == "Deployment":
        own["spec"].pop("replicas", None)
        meta.get("annotations", {}).pop("deployment.kubernetes.io/revision", None)
    if own["kind"] == "ScaledObject":
        meta.get("labels", {}).pop("scaledobject.keda.sh/name", None)
    return yaml.safe_dump(own, sort_keys=True, allow_unicode=True)
