# SPDX-License-Identifier: Apache-2.0
"""Objects of a region's cluster, applied and removed with what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from koren_faas.change import Difference, compare
from koren_faas.errors import RegionError
from koren_faas.kube import Kube


def apply(kube: Kube, manifest: Mapping[str, Any], check: bool) -> list[Difference]:
    """Have an object as the manifest says; with `check`, only tell what would change.

    Raises:
        RegionError: the region refused or did not answer.
    """
    before = kube.get(manifest)
    try:
        after: Mapping[str, Any] = kube.apply(manifest, dry_run=check)
    except RegionError as error:
        # A dry run can't see a namespace or a kind that an earlier step would have made.
        if not (check and error.status == 404):
            raise
        after = manifest
    return compare(kube.region, before, after)


def remove(kube: Kube, manifest: Mapping[str, Any], check: bool) -> list[Difference]:
    """Have no such object; with `check`, only tell what would change.

    Raises:
        RegionError: the region refused or did not answer.
    """
    before = kube.get(manifest)
    if before is not None and not check:
        kube.delete(before)
    return compare(kube.region, before, None)
