# SPDX-License-Identifier: Apache-2.0
"""Key pairs."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison) -> None:
    """Compare the site's key pair."""
    name = c.wanted["key_pair"]
    there = c.own["key_pair"].get(name)
    if there is None:
        c.step("key_pair", "create", name, wanted={"name": name, "public_key": c.wanted["public_key"]})
    elif c.wanted["public_key"] and not same_key(c, there):
        c.error(
            f"key pair {name} exists with another public key than the site's: remove it if it is no longer needed,"
            " or give this site another site_name"
        )


def same_key(c: Comparison, there: Thing) -> bool:
    """Whether a found key pair has the site's public key; true if that key is not known."""
    wanted = str(c.wanted["public_key"]).split()[:2]
    return not wanted or str(there["public_key"]).split()[:2] == wanted
