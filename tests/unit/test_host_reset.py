# SPDX-License-Identifier: Apache-2.0
"""What roles leave on a host, the role that takes a site off it knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROLES = Path(__file__).parents[2] / "roles"
KNOWN = yaml.safe_load((ROLES / "host_reset/vars/main.yml").read_text(encoding="utf-8"))
UNITS = set(KNOWN["__host_reset_units"])
PACKAGED = set(KNOWN["__host_reset_packaged"])
REMOVED = [*KNOWN["__host_reset_settings"], *KNOWN["__host_reset_data"]]
KEPT = yaml.safe_load((ROLES / "host_base/vars/main.yml").read_text(encoding="utf-8"))["__host_base_overwritten"]


def written() -> Iterator[str]:
    """Each path on a host that a task writes a file to."""
    for path in ROLES.glob("*/tasks/*.yml"):
        if path.parents[1].name.startswith(("provision_", "host_reset")):
            continue
        for name in re.findall(r"\bdest: \"?(/.*?)\"?$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield re.sub(r"\{\{.*?\}\}", "*", name)


def test_every_unit_is_stopped_and_removed() -> None:
    units = {name.removeprefix("/etc/systemd/system/") for name in written() if name.startswith("/etc/systemd/system/")}
    # The watchdog's two are written by one task, and those of backups. The routes are put back as they were.
    own = {name for name in units if name.endswith((".service", ".timer"))}
    own.remove("koren-routes.service")
    pairs = {f"koren-{name}.{kind}" for name in ("watchdog", "backup") for kind in ("service", "timer")}
    assert own | pairs == UNITS
    assert {name.partition(".")[0] for name in units if name.endswith(".service.d/koren.conf")} == PACKAGED


def test_every_file_is_removed_or_put_back() -> None:
    left = {
        name
        for name in written()
        if not name.startswith(("/etc/systemd/system/", "/usr/local/bin/*", "/etc/apt/*"))
        and not any(name == one or name.startswith(f"{one}/") for one in [*REMOVED, *KEPT])
    }
    assert left == set()
