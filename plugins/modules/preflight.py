#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Find problems that would make a run fail."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Find problems that would make a run fail, before anything is changed
description:
  - Checks the inventory's values and, for the driver C(podman), the machine. Changes nothing, and shows all errors at
    once. Each names the variable, its value and the remedy.
options:
  site_name:
    description: Name of the site, at most 20 lower case letters and digits.
    type: str
    required: true
  driver:
    description: Driver that provides the hosts.
    type: str
    required: true
  repo:
    description: The repository's root, where each driver is a role and each set of Debian packages a list.
    type: path
    required: true
  backbone_cidr:
    description: CIDR of the network between the regions.
    type: str
    required: true
  hosts:
    description: The site's hosts, as the filter P(koren.faas.preflight_host#filter) reads them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name in the inventory.
        type: str
        required: true
      groups:
        description: Groups that it is in.
        type: list
        elements: str
        required: true
      variables:
        description: Variables that are checked and have a value.
        type: dict
        required: true
      failed:
        description: Variables that are set and have no value, with the reason.
        type: dict
        required: true
  functions:
    description: The site's functions, as the filter P(koren.faas.preflight_function#filter) reads them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the function.
        type: str
        required: true
      regions:
        description: Regions that it runs in; every edge if empty.
        type: list
        elements: str
        required: true
      keys:
        description: Names of the files of each secret.
        type: dict
        required: true
      files:
        description: Paths of the files of each secret that are on the controller, by their names.
        type: dict
        required: true
      provider:
        description: The social network of each secret that is an account.
        type: dict
        required: true
  site_dir:
    description: Folder of the site's state, where relative paths of files begin.
    type: path
    required: true
  own_prefix:
    description: Prefix of the names of the site's own podman networks.
    type: str
    required: true
  memory_mb:
    description: Memory that the machine must have, in MiB.
    type: int
    required: true
  disk_gb:
    description: Free disk space that the machine must have, in GiB.
    type: int
    required: true
  disk_path:
    description: Folder whose disk is checked.
    type: path
    required: true
  become:
    description: Whether tasks have what they need to become root; otherwise sudo must work without a password.
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
- name: Check the inventory and the machine
  koren.faas.preflight:
    site_name: local
    driver: podman
    repo: "{{ playbook_dir }}/.."
    backbone_cidr: 10.90.0.0/24
    hosts: "{{ groups['site'] | map('extract', hostvars) | map('koren.faas.preflight_host') }}"
    functions: "{{ functions_list | map('koren.faas.preflight_function') }}"
    site_dir: "{{ site_dir }}"
    own_prefix: koren-local-
    memory_mb: 10000
    disk_gb: 25
    disk_path: /var/lib
"""

RETURN = r"""
errors:
  description: All problems that were found.
  returned: failure
  type: list
  elements: str
"""

import gzip
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.preflight import (
    Function,
    Host,
    check_addresses_free,
    check_functions,
    check_inventory,
    check_machine,
    site_networks,
    used_ranges,
)


def _cgroup_controllers() -> set[str]:
    lines = Path("/proc/cgroups").read_text(encoding="utf-8").splitlines()[1:]
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    found = {line.split()[0] for line in lines if line.split()[3] == "1"}
    return found | set(unified.read_text(encoding="utf-8").split() if unified.exists() else [])


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return platform.system()
    return f"{release['ID']} {release.get('VERSION_ID', '')}".strip()


def _kernel_config() -> str | None:
    own = Path("/proc/config.gz")
    if own.exists():
        return gzip.decompress(own.read_bytes()).decode()
    installed = Path(f"/boot/config-{os.uname().release}")
    return installed.read_text(encoding="utf-8") if installed.exists() else None


def _listed(*command: str) -> list[dict[str, Any]]:
    """What a program lists as JSON; empty if the program is missing or fails."""
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    try:
        done = subprocess.run([*as_root, *command], capture_output=True, text=True, check=False)
        return json.loads(done.stdout) or []
    except (OSError, ValueError):
        return []


def _becomes_root() -> bool:
    return shutil.which("sudo") is not None and subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0


def _machine_errors(params: dict[str, Any], hosts: list[Host]) -> list[str]:
    """What this machine lacks to run the hosts."""
    uid = os.getuid()
    errors = check_machine(
        architecture=platform.machine(),
        system=_system(),
        uid=uid,
        become=params["become"] or (uid != 0 and _becomes_root()),
        programs={name: shutil.which(name) is not None for name in ("podman", "apt-get")},
        cgroup_controllers=_cgroup_controllers(),
        kernel_config=_kernel_config(),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        memory_wanted_mb=params["memory_mb"],
        disk_gb=shutil.disk_usage(params["disk_path"]).free / 2**30,
        disk_wanted_gb=params["disk_gb"],
        disk_path=params["disk_path"],
    )
    used = used_ranges(
        _listed("podman", "network", "ls", "--format", "json"), _listed("ip", "-json", "route"), params["own_prefix"]
    )
    return errors + check_addresses_free(site_networks(params["backbone_cidr"], hosts), used)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "site_name": {"type": "str", "required": True},
            "driver": {"type": "str", "required": True},
            "repo": {"type": "path", "required": True},
            "backbone_cidr": {"type": "str", "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "groups": {"type": "list", "elements": "str", "required": True},
                    "variables": {"type": "dict", "required": True},
                    "failed": {"type": "dict", "required": True},
                },
            },
            "functions": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "regions": {"type": "list", "elements": "str", "required": True},
                    # Names of files, not contents. Ansible mistakes "keys" for a secret.
                    "keys": {"type": "dict", "required": True, "no_log": False},
                    "files": {"type": "dict", "required": True},
                    "provider": {"type": "dict", "required": True},
                },
            },
            "site_dir": {"type": "path", "required": True},
            "own_prefix": {"type": "str", "required": True},
            "memory_mb": {"type": "int", "required": True},
            "disk_gb": {"type": "int", "required": True},
            "disk_path": {"type": "path", "required": True},
            "become": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    repo = Path(params["repo"])
    hosts = [Host(**host) for host in params["hosts"]]
    errors = check_inventory(
        site_name=params["site_name"],
        driver=params["driver"],
        drivers=[path.name.removeprefix("provision_") for path in (repo / "roles").glob("provision_*")],
        backbone_cidr=params["backbone_cidr"],
        hosts=hosts,
        package_sets=[path.stem for path in (repo / "bundle" / "apt").glob("*.txt")],
    )
    functions = [Function(**function) for function in params["functions"]]
    errors += check_functions(functions, hosts, Path(params["site_dir"]))
    if params["driver"] == "podman":
        errors += _machine_errors(params, hosts)
    if errors:
        module.fail_json(msg="Nothing was changed. Fix these problems first:\n- " + "\n- ".join(errors), errors=errors)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
