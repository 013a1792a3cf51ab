# SPDX-License-Identifier: Apache-2.0
"""Secrets that the controller creates once and keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: secret
short_description: A random secret that is created once and kept in a file
description:
  - Returns the content of a file on the controller. The first call creates the file, which only its owner can read.
  - In check mode it creates no file. For a missing file it then returns another value at each call.
options:
  _terms:
    description: Paths of the files.
    type: list
    elements: path
    required: true
  length:
    description: Characters of a new secret.
    type: int
    default: 40
  chars:
    description: Characters of a new secret, as P(ansible.builtin.password#lookup) takes them.
    type: list
    elements: str
    default: [ascii_letters, digits]
author: the koren.faas authors
"""

EXAMPLES = """
redis_gateway_password: "{{ lookup('koren.faas.secret', site_dir ~ '/secrets/redis-' ~ region_name) }}"
"""

RETURN = """
_raw:
  description: The secrets, one for each path.
  type: list
  elements: str
"""

UNKEPT = "/dev/null"  # what ansible.builtin.password takes for a secret that is written nowhere


class LookupModule(LookupBase):
    """Adds check mode to ansible.builtin.password."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The secret of each path in `terms`."""
        self.set_options(var_options=variables, direct=kwargs)
        dry = bool((variables or {}).get("ansible_check_mode"))
        passwords = lookup_loader.get("ansible.builtin.password", loader=self._loader, templar=self._templar)
        paths = [UNKEPT if dry and not Path(term).exists() else term for term in terms]
        options = {name: self.get_option(name) for name in ("length", "chars")}
        secrets: list[str] = passwords.run(paths, variables, **options)
        for path, secret in zip(terms, secrets, strict=True):
            if not secret:
                raise AnsibleError(f"{path} is empty: restore it from a backup, or delete it to have a new secret made")
        return secrets
