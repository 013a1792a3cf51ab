#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Plan or build the components for a site's hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Plan or build the components for a site's hosts
description:
  - Each folder under C(bundle/) with a C(build.sh) is a component. A component's key is the hash of its
    recipe, its sources, the keys of what it needs, and the Go toolchain's version. A component that the cache has under
    its key is not built again.
  - Without I(build), I(archive), I(archive_to) and I(verify) the module only reads and returns the plan.
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
    description: Names of the wanted components; their dependencies are included. Empty means all.
    type: list
    elements: str
    default: []
  settings:
    description:
      - Settings of recipes that differ from the default, by their names in the lines C(# setting:) of C(build.sh).
        They are part of a component's key.
    type: dict
    default: {}
  build:
    description: Name of the one component to build, when it is not in the cache.
    type: str
  verify:
    description:
      - Whether to compare each file with its SHA-256. By default only file sizes are compared, which is fast and
        detects an interrupted build. A component that was changed since it was built counts as missing from then on.
    type: bool
    default: false
  archive:
    description: Archive written by I(archive_to), from which components that are missing in the cache are taken.
    type: path
  archive_sha256:
    description:
      - SHA-256 that I(archive) must have. The default is the checksum in the file beside it with the ending C(.sha256),
        if there is one. Damage is detected in any case. Only a checksum from another source than the archive detects
        that someone changed both.
    type: str
    default: ""
  archive_to:
    description: File to write all components to, unless it already has them.
    type: path
  view:
    description:
      - Folder that gets one link per component to its place in the cache, once all components are present. The file
        beside it with the ending C(.cdx.json) is a bill of materials (CycloneDX) of the whole bundle.
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
- name: Find what is to be built
  koren.faas.bundle:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
  register: plan

- name: Build one component
  koren.faas.bundle:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
    build: etcd

- name: Take what is missing from an archive
  koren.faas.bundle:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
    archive: /media/koren-bundle.tar
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
    present: {description: Whether the cache has it completely., type: bool}
missing:
  description: Names of components that are still to be built, in building order.
  returned: always
  type: list
  elements: str
left:
  description: Estimated time to build the missing components, as text, based on earlier builds on this machine.
  returned: always
  type: str
damaged:
  description: Names of components that I(verify) found to be changed since they were built.
  returned: always
  type: list
  elements: str
"""

import sys
from dataclasses import replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.bundle import (
    BundleError,
    Entry,
    build,
    damaged,
    distrust,
    go_version,
    link_view,
    plan,
)
from ansible_collections.koren.faas.plugins.module_utils.bundle_archive import (
    is_current,
    unpack_archive,
    write_archive,
)
from ansible_collections.koren.faas.plugins.module_utils.bundle_sbom import write_sbom
from ansible_collections.koren.faas.plugins.module_utils.bundle_times import in_words, measured


def _present(entries: list[Entry], names: list[str], present: bool) -> list[Entry]:
    return [replace(entry, present=present) if entry.name in names else entry for entry in entries]


def _missing(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries if not entry.present]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repo": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "components": {"type": "list", "elements": "str", "default": []},
            "settings": {"type": "dict", "default": {}},
            "build": {"type": "str"},
            "verify": {"type": "bool", "default": False},
            "archive": {"type": "path"},
            "archive_sha256": {"type": "str", "default": ""},
            "archive_to": {"type": "path"},
            "view": {"type": "path"},
        },
        supports_check_mode=True,
    )
    repo, cache = Path(module.params["repo"]).resolve(), Path(module.params["cache"])
    bindir = str(Path(sys.executable).parent)
    try:
        entries = plan(repo, cache, module.params["components"], go_version([bindir]), module.params["settings"])
        changed = False
        broken: list[str] = []
        if module.params["verify"]:
            broken = [entry.name for entry in entries if entry.present and damaged(entry.path)]
            for entry in entries:
                if entry.name in broken and not module.check_mode:
                    distrust(entry.path)
            changed = bool(broken)
            entries = _present(entries, broken, False)
        if module.params["archive"] and _missing(entries):
            changed = True
            if not module.check_mode:
                unpack_archive(Path(module.params["archive"]), cache, entries, module.params["archive_sha256"])
                entries = _present(entries, _missing(entries), True)
        target = module.params["build"]
        if target:
            if target not in [entry.name for entry in entries]:
                raise BundleError(f"build: {target!r} is not one of the planned components")
            to_build = target in _missing(entries)
            changed = changed or to_build
            if to_build and not module.check_mode:
                build(repo, cache, entries, target, [bindir], module.params["settings"])
                entries = _present(entries, [target], True)
        missing = _missing(entries)
        if module.params["view"] and not missing and not module.check_mode:
            view = Path(module.params["view"])
            changed = link_view(view, entries) or changed
            if not module.params["components"]:
                changed = write_sbom(view.with_name(f"{view.name}.cdx.json"), repo, entries, [bindir]) or changed
        if module.params["archive_to"]:
            out = Path(module.params["archive_to"])
            if missing and not module.check_mode:
                raise BundleError(f"archive_to: {', '.join(missing)} must be built first")
            if missing or not is_current(out, entries):
                changed = True
                if not module.check_mode:
                    write_archive(out, entries)
    except BundleError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        components=[{**e.__dict__, "path": str(e.path)} for e in entries],
        missing=missing,
        left=in_words(missing, measured(cache)),
        damaged=broken,
    )


if __name__ == "__main__":
    main()
