# SPDX-License-Identifier: Apache-2.0
"""Volumes."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, volume: Thing) -> None:
    """Compare a volume, which can grow."""
    there = c.own["volume"].get(volume["name"])
    if there is None:
        c.step("volume", "create", volume["name"], after={"size_gb": volume["size_gb"]}, wanted=volume)
    elif there["size"] > volume["size_gb"]:
        c.error(
            f"volume {volume['name']} has {there['size']} GB, but the inventory says {volume['size_gb']}:"
            " a volume can't shrink"
        )
    elif there["size"] < volume["size_gb"]:
        c.update("volume", volume["name"], {"size_gb": there["size"]}, {"size_gb": volume["size_gb"]}, volume, there)
