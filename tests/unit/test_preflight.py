"""Each mistake is found before anything is touched, named with its value and its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.koren.faas.plugins.module_utils.preflight import (
    check_inventory,
    check_machine,
)

INVENTORY: dict[str, Any] = {
    "site_name": "local",
    "driver": "podman",
    "networks": [
        {"name": "site_backbone_cidr", "cidr": "10.90.0.0/24"},
        {"name": "region_lan_cidr of seoul", "cidr": "10.90.11.0/24"},
    ],
    "regions": ["central", "seoul"],
    "control_planes": ["central", "seoul"],
}
MACHINE: dict[str, Any] = {
    "uid": 0,
    "become": False,
    "programs": {"podman": True, "apt-get": True},
    "cgroup_controllers": {"cpu", "memory", "pids"},
    "memory_mb": 24000,
    "memory_wanted_mb": 10000,
    "disk_gb": 80.0,
    "disk_wanted_gb": 25,
    "disk_path": "/var/lib",
}


def test_a_good_inventory_and_machine_pass() -> None:
    assert check_inventory(**INVENTORY) == []
    assert check_machine(**MACHINE) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"site_name": "My Site"}, ["site_name", "'My Site'", "lower case"]),
        ({"driver": "vmware"}, ["site_driver", "'vmware'", "podman"]),
        ({"regions": ["seoul", "seoul"]}, ["region_name", "'seoul'", "two regions"]),
        ({"control_planes": ["central"]}, ["'seoul'", "control_planes"]),
        (
            {"networks": [{"name": "a", "cidr": "10.0.0.0/8"}, {"name": "b", "cidr": "10.90.11.0/24"}]},
            ["a (10.0.0.0/8) overlaps b (10.90.11.0/24)"],
        ),
        ({"networks": [{"name": "region_lan_cidr of seoul", "cidr": "10.90.11.1/24"}]}, ["no CIDR", "10.90.11.1/24"]),
    ],
)
def test_a_mistake_in_the_inventory_is_named(change: dict[str, Any], words: list[str]) -> None:
    (error,) = check_inventory(**(INVENTORY | change))
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uid": 1000}, ["1000", "--become"]),
        ({"programs": {"podman": False, "apt-get": False}}, ["podman is missing", "install podman"]),
        ({"cgroup_controllers": {"cpu"}}, ["memory, pids"]),
        ({"memory_mb": 4000}, ["4000 MiB", "preflight_memory_mb"]),
        ({"disk_gb": 3.0}, ["/var/lib", "preflight_disk_gb"]),
    ],
)
def test_what_the_machine_lacks_is_named(change: dict[str, Any], words: list[str]) -> None:
    (error,) = check_machine(**(MACHINE | change))
    assert all(word in error for word in words), error


def test_all_mistakes_are_shown_at_once() -> None:
    assert len(check_inventory(**(INVENTORY | {"site_name": "X", "driver": "x", "control_planes": []}))) == 4
