#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Call a function in a region of a site."""

from __future__ import annotations

DOCUMENTATION = r"""
module: function_call
short_description: Call a function in a region of a site
description:
  - Calls a function through its region's gateway and returns its result. The function may be idle.
  - What a function does, nobody knows, so a call always counts as a change; say otherwise with
    C(changed_when).
requirements:
  - koren_faas
options:
  name:
    description: The function's name.
    type: str
    required: true
  region:
    description: The region to call it in.
    type: str
    required: true
  data:
    description: The event's data, or a whole CloudEvent; anything that JSON can hold.
    type: raw
  wait:
    description:
      - Whether to wait for the result. Else the module returns what the gateway says once it holds
        the event.
    type: bool
    default: true
  site_dir:
    description: The site's state folder. Without it E(KOREN_SITE_DIR), else C(.state/local).
    type: path
attributes:
  check_mode:
    support: none
    description: The task is skipped in check mode.
  diff_mode:
    support: none
    description: A call has no states to compare.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Call a function
  koren.faas.function_call:
    name: hello
    region: seoul
    data:
      who: you
  register: answer
  changed_when: false
"""

RETURN = r"""
result:
  description: What the function returned, or with I(wait=false) the gateway's receipt.
  returned: success
  type: raw
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.faas import load_site, need_library


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "data": {"type": "raw"},
            "wait": {"type": "bool", "default": True},
            "site_dir": {"type": "path"},
        },
        supports_check_mode=False,
    )
    faas = need_library(module)
    params = module.params
    try:
        site = load_site(module)
        (region,) = site.pick([params["region"]])
        result = faas.call(site, params["name"], region, params["data"], wait=params["wait"])
    except faas.FaasError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, result=result)


if __name__ == "__main__":
    main()
