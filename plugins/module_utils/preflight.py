# SPDX-License-Identifier: Apache-2.0
"""What a run would stumble over, found from the inventory and the machine before anything is touched."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from itertools import combinations

DRIVERS = ("podman",)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_inventory(
    site_name: str,
    driver: str,
    networks: Iterable[Mapping[str, str]],
    regions: list[str],
    control_planes: list[str],
) -> list[str]:
    """Errors of the inventory alone; each names the variable, its value and the remedy."""
    errors = []
    for what, value in [("site_name", site_name), *(("region_name", region) for region in regions)]:
        if not _LABEL.fullmatch(value):
            errors.append(f"{what}: {value!r} is no DNS label; use lower case letters, digits and hyphens")
    if driver not in DRIVERS:
        errors.append(f"site_driver: {driver!r} is not known; use one of: {', '.join(DRIVERS)}")
    for region in sorted({r for r in regions if regions.count(r) > 1}):
        errors.append(f"region_name: {region!r} is the name of two regions; give each its own")
    for region in regions:
        if region not in control_planes:
            errors.append(f"region {region!r} has no host in the group control_planes; add one")
    parsed = []
    for network in networks:
        try:
            parsed.append((network["name"], ipaddress.ip_network(network["cidr"])))
        except ValueError as error:
            errors.append(f"{network['name']}: {network['cidr']!r} is no CIDR ({error}); write one as 10.0.0.0/24")
    for (name, cidr), (other_name, other) in combinations(parsed, 2):
        if cidr.version == other.version and cidr.overlaps(other):
            errors.append(f"{name} ({cidr}) overlaps {other_name} ({other}); give each a range of its own")
    return errors


def check_machine(
    *,
    uid: int,
    become: bool,
    programs: Mapping[str, bool],
    cgroup_controllers: set[str],
    memory_mb: int,
    memory_wanted_mb: int,
    disk_gb: float,
    disk_wanted_gb: int,
    disk_path: str,
) -> list[str]:
    """Errors of the machine that is to carry the hosts; each names what is there and the remedy."""
    errors = []
    if uid != 0 and not become:
        errors.append(f"the run is by user id {uid}, not root; run it as root or with --become")
    if not programs["podman"] and not programs["apt-get"]:
        errors.append("podman is missing and there is no apt to install it; install podman 4.3 or newer")
    missing = {"cpu", "memory", "pids"} - cgroup_controllers
    if missing:
        errors.append(
            f"the kernel offers no cgroup controller {', '.join(sorted(missing))} "
            "(see /proc/cgroups); boot with them enabled"
        )
    if memory_mb < memory_wanted_mb:
        errors.append(
            f"the machine has {memory_mb} MiB of memory, preflight_memory_mb asks for {memory_wanted_mb}; "
            "take a larger machine, or fewer regions and a lower preflight_memory_mb"
        )
    if disk_gb < disk_wanted_gb:
        errors.append(
            f"{disk_path} has {disk_gb:.0f} GiB free, preflight_disk_gb asks for {disk_wanted_gb}; "
            "free some, or point preflight_disk_path at another disk"
        )
    return errors
