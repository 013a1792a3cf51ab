#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Find what a run would stumble over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Find what a run would stumble over, before anything is touched
description:
  - Looks at the inventory's values and at the machine, changes nothing, and shows all errors at once.
    Each names the variable, its value and the remedy.
options:
  site_name:
    description: Name of the site.
    type: str
    required: true
  driver:
    description: How hosts come to be.
    type: str
    required: true
  networks:
    description: CIDRs that must not overlap, each as C(name) (the variable) and C(cidr).
    type: list
    elements: dict
    required: true
  regions:
    description: Names of the regions.
    type: list
    elements: str
    required: true
  control_planes:
    description: Region of each control plane host.
    type: list
    elements: str
    required: true
  memory_mb:
    description: Memory that the machine must have, in MiB.
    type: int
    required: true
  disk_gb:
    description: Free disk space that must be there, in GiB.
    type: int
    required: true
  disk_path:
    description: Folder whose disk is looked at.
    type: path
    required: true
  become:
    description: Whether tasks become root.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: Nothing is ever changed.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Look at the inventory and the machine
  koren.faas.preflight:
    site_name: local
    driver: podman
    networks: [{name: site_backbone_cidr, cidr: 10.90.0.0/24}]
    regions: [central, seoul]
    control_planes: [central, seoul]
    memory_mb: 10000
    disk_gb: 25
    disk_path: /var/lib
"""

RETURN = r"""
errors:
  description: All that was found.
  returned: failure
  type: list
  elements: str
"""

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.preflight import (
    check_inventory,
    check_machine,
)


def _cgroup_controllers() -> set[str]:
    lines = Path("/proc/cgroups").read_text(encoding="utf-8").splitlines()[1:]
    return {line.split()[0] for line in lines if line.split()[3] == "1"}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "site_name": {"type": "str", "required": True},
            "driver": {"type": "str", "required": True},
            "networks": {"type": "list", "elements": "dict", "required": True},
            "regions": {"type": "list", "elements": "str", "required": True},
            "control_planes": {"type": "list", "elements": "str", "required": True},
            "memory_mb": {"type": "int", "required": True},
            "disk_gb": {"type": "int", "required": True},
            "disk_path": {"type": "path", "required": True},
            "become": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    errors = check_inventory(
        params["site_name"], params["driver"], params["networks"], params["regions"], params["control_planes"]
    )
    if params["driver"] == "podman":
        errors += check_machine(
            uid=os.getuid(),
            become=params["become"],
            programs={name: shutil.which(name) is not None for name in ("podman", "apt-get")},
            cgroup_controllers=_cgroup_controllers(),
            memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
            memory_wanted_mb=params["memory_mb"],
            disk_gb=shutil.disk_usage(params["disk_path"]).free / 2**30,
            disk_wanted_gb=params["disk_gb"],
            disk_path=params["disk_path"],
        )
    if errors:
        module.fail_json(msg="Nothing was changed. To be mended first:\n- " + "\n- ".join(errors), errors=errors)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
