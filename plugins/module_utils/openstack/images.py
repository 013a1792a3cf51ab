# SPDX-License-Identifier: Apache-2.0
"""Images."""

from __future__ import annotations

from ansible_collections.koren.faas.plugins.module_utils.openstack.comparison import Comparison
from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import owned
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Thing


def compare(c: Comparison, image: Thing) -> None:
    """Compare an image; one that the site uploads has `file`."""
    there = c.reference("image", image["name"], missing_ok=bool(image.get("file")))
    cut = there is not None and there["status"] != "active" and owned("image", there, c.site, "")
    if image.get("file") and (there is None or cut):
        c.step("image", "create", image["name"], after={"file": image["file"]}, wanted=image, found=there or {})
    elif there is not None and there["status"] != "active":
        c.error(
            f"image {image['name']} is {there['status']}, not active: wait until its upload is complete, or remove it"
        )
