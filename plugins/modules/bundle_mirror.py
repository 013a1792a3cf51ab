#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Fetch the components for a site's hosts from a mirror, or publish them to one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_mirror
short_description: Fetch components of the bundle from a mirror, or publish them to one
description:
  - A mirror is a folder, on a web server or not, that one machine publishes to and others fetch from.
  - Each component has a statement that is signed with Ed25519 and names the component's key and its archive's SHA-256.
    The module fails if I(mirror_key) did not sign a statement, or if an archive is not the one that its statement
    names. It only warns if the mirror does not answer or lacks a listed component, since missing components can be
    built.
  - Without I(fetch) and I(publish_to) the module only checks which of the missing components the mirror has.
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
  mirror:
    description: The mirror's address (C(https://), C(http://) or C(file://)) or its path.
    type: str
  mirror_key:
    description: The public key that signs the mirror's components, a line C(ssh-ed25519 …).
    type: str
    default: ""
  fetch:
    description: Name of the one component to fetch, when it is not in the cache.
    type: str
  publish_to:
    description: Folder of a mirror to publish all components to, unless it already has them.
    type: path
  signing_key:
    description: Private key that signs published components, in C(ssh-keygen)'s format. Created if it is missing.
    type: path
attributes:
  check_mode:
    support: full
    description: In check mode nothing is fetched or published; what would be is reported as a change.
  diff_mode:
    support: none
    description: Components are binary.
requirements:
  - cryptography
  - joserfc
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Check which of the missing components the mirror has
  koren.faas.bundle_mirror:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
    mirror: https://mirror.example/koren-bundle
    mirror_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXampleExampleExampleExampleExampleExampleExam
  register: on_mirror

- name: Publish all components
  koren.faas.bundle_mirror:
    repo: "{{ playbook_dir }}/.."
    cache: ~/.cache/koren-faas
    publish_to: /srv/www/koren-bundle
    signing_key: ~/.config/koren-faas/bundle.key
"""

RETURN = r"""
available:
  description: Names of the missing components that the mirror has, in building order.
  returned: with I(mirror), without I(fetch)
  type: list
  elements: str
answers:
  description: Whether the mirror answers. If it does not, further requests are pointless.
  returned: with I(mirror)
  type: bool
published:
  description: Names of the components that were added to the folder.
  returned: with I(publish_to)
  type: list
  elements: str
public_key:
  description: The line that machines which fetch set as I(mirror_key); empty if check mode would create the key.
  returned: with I(publish_to)
  type: str
"""

import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.bundle import BundleError, Entry, go_version, plan
from ansible_collections.koren.faas.plugins.module_utils.bundle_mirror import (
    Mirror,
    MirrorUnavailable,
    is_published,
    public_line,
    publish,
    signing_key,
)


def _look(module: AnsibleModule, entries: list[Entry]) -> dict[str, Any]:
    missing = [entry for entry in entries if not entry.present]
    mirror = Mirror(module.params["mirror"], module.params["mirror_key"])
    try:
        available = mirror.has(missing)
    except MirrorUnavailable as error:
        module.warn(f"{error}. {len(missing)} components will be built here.")
        return {"changed": False, "available": [], "answers": error.answers}
    if missing and not available:
        module.warn(
            f"bundle_mirror {mirror} has none of the {len(missing)} missing components, so they will be built here. "
            "Check the address, and that the mirror was filled from this checkout."
        )
    return {"changed": False, "available": available, "answers": True}


def _fetch(module: AnsibleModule, cache: Path, entries: list[Entry]) -> dict[str, Any]:
    mirror = Mirror(module.params["mirror"], module.params["mirror_key"])
    found = [entry for entry in entries if entry.name == module.params["fetch"]]
    if not found:
        raise BundleError(f"fetch: {module.params['fetch']!r} is not one of the planned components")
    if found[0].present or module.check_mode:
        return {"changed": not found[0].present, "answers": True}
    try:
        mirror.fetch(cache, found[0])
    except MirrorUnavailable as error:
        module.warn(f"{error}. {found[0].name} will be built here.")
        return {"changed": False, "answers": error.answers}
    return {"changed": True, "answers": True}


def _publish(module: AnsibleModule, entries: list[Entry]) -> dict[str, Any]:
    folder, key_file = Path(module.params["publish_to"]), Path(module.params["signing_key"])
    missing = [entry.name for entry in entries if not entry.present]
    if module.check_mode:
        if missing or not key_file.exists():
            return {"changed": True, "published": [entry.name for entry in entries], "public_key": ""}
        key = signing_key(key_file)
        left = [entry.name for entry in entries if not is_published(folder, entry, key.public_key())]
        return {"changed": bool(left), "published": left, "public_key": public_line(key)}
    if missing:
        raise BundleError(f"publish_to: {', '.join(missing)} must be built first")
    key = signing_key(key_file)
    done = [entry.name for entry in entries if publish(folder, entry, key)]
    return {"changed": bool(done), "published": done, "public_key": public_line(key)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repo": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "components": {"type": "list", "elements": "str", "default": []},
            "settings": {"type": "dict", "default": {}},
            "mirror": {"type": "str"},
            "mirror_key": {"type": "str", "default": "", "no_log": False},
            "fetch": {"type": "str"},
            "publish_to": {"type": "path"},
            "signing_key": {"type": "path", "no_log": False},
        },
        required_one_of=[("mirror", "publish_to")],
        mutually_exclusive=[("mirror", "publish_to")],
        required_by={"fetch": ["mirror"], "publish_to": ["signing_key"]},
        supports_check_mode=True,
    )
    repo, cache = Path(module.params["repo"]).resolve(), Path(module.params["cache"])
    try:
        entries = plan(repo, cache, module.params["components"], go_version([str(Path(sys.executable).parent)]))
        if module.params["publish_to"]:
            result = _publish(module, entries)
        elif module.params["fetch"]:
            result = _fetch(module, cache, entries)
        else:
            result = _look(module, entries)
    except BundleError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or cache}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
