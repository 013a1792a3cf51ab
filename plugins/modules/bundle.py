#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Plan or build what a site's hosts get."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Plan or build the components that a site's hosts get
description:
  - Each folder under C(bundle/) with a C(build.sh) is a component. A component's key is the hash of its
    recipe, its sources, the keys of what it needs, and the Go toolchain's version. What the cache holds
    under that key is not built again.
  - With I(build) empty the module only reads and returns the plan.
options:
  repo:
    description: The repository's root, which holds C(bundle/).
    type: path
    required: true
  cache:
    description: Folder outside the checkout that keeps built components.
    type: path
    required: true
  components:
    description: Names of the wanted components; their needs come along. Empty means all.
    type: list
    elements: str
    default: []
  build:
    description: Name of the one component to build, when it is not in the cache.
    type: str
  view:
    description: Folder that gets one link a component to its place in the cache, once all are there.
    type: path
attributes:
  check_mode:
    support: full
    description: In check mode nothing is built; what would be built is reported as a change.
  diff_mode:
    support: none
    description: Components are binary.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: What is to be built
  koren.faas.bundle:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
  register: plan

- name: Build one component
  koren.faas.bundle:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
    build: etcd
"""

RETURN = r"""
components:
  description: The plan in building order.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The component's name., type: str}
    key: {description: Hash of all that goes into it., type: str}
    path: {description: Its folder in the cache., type: str}
    present: {description: Whether it is there whole., type: bool}
missing:
  description: Names of components that are still to be built, in building order.
  returned: always
  type: list
  elements: str
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.bundle import (
    BundleError,
    build,
    link_view,
    plan,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repo": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "components": {"type": "list", "elements": "str", "default": []},
            "build": {"type": "str"},
            "view": {"type": "path"},
        },
        supports_check_mode=True,
    )
    repo, cache = Path(module.params["repo"]).resolve(), Path(module.params["cache"])
    bindir = str(Path(sys.executable).parent)
    go = shutil.which("go", path=os.pathsep.join([bindir, os.environ.get("PATH", "")]))
    if not go:
        module.fail_json(msg="no Go toolchain: install requirements.txt into the virtual environment")
    try:
        toolchain = subprocess.check_output([str(go), "env", "GOVERSION"], text=True).strip()
        entries = plan(repo, cache, module.params["components"], toolchain)
        changed = False
        target = module.params["build"]
        if target:
            entry = next((e for e in entries if e.name == target), None)
            if entry is None:
                raise BundleError(f"build: {target!r} is not one of the planned components")
            changed = not entry.present
            if changed and not module.check_mode:
                build(repo, cache, entries, target, [bindir])
                entries = [replace(e, present=True) if e is entry else e for e in entries]
        missing = [entry.name for entry in entries if not entry.present]
        if module.params["view"] and not missing and not module.check_mode:
            changed = link_view(Path(module.params["view"]), entries) or changed
    except BundleError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        components=[{**e.__dict__, "path": str(e.path)} for e in entries],
        missing=missing,
    )


if __name__ == "__main__":
    main()
