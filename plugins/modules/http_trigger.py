#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have a function started by HTTP requests, or no more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: http_trigger
short_description: Have a function started by HTTP requests, or no more
description:
  - Declares the trigger in each region's cluster, whose gateway starts the function for requests of a path of the
    region's ingress. This works while the region is cut off from the centre.
  - A trigger that is paused stays so.
  - Runs on the controller, which has the site's state folder.
requirements:
  - koren_faas
options:
  name:
    description: The trigger's name, a DNS label of at most 54 characters. No other trigger of the region has it.
    type: str
    required: true
  state:
    description:
      - V(present) declares the trigger in I(regions). In other regions it stays as it is.
      - V(absent) takes it away from I(regions). Requests that were taken in are finished. Its Secret stays.
    type: str
    choices: [present, absent]
    default: present
  regions:
    description:
      - Names of regions.
      - Without any, V(present) means every region that has the function, and V(absent) every region.
    type: list
    elements: str
    default: []
  function:
    description: The function to start, which is in the regions.
    type: str
  path:
    description:
      - Path of the requests. C(/orders/*) takes what is below C(/orders) too.
      - Without it C(/) and the trigger's name.
    type: str
  host:
    description: Name that clients ask for; C({region}) in it stands for the region's name. Without it any.
    type: str
    default: ""
  methods:
    description: Methods of the requests.
    type: list
    elements: str
    choices: [DELETE, GET, PATCH, POST, PUT]
    default: [POST]
  async:
    description: Whether a client gets a receipt at once, by which it asks for the result, instead of the result.
    type: bool
    default: false
  rate:
    description:
      - Most requests that a region takes in any second or minute, as C(N/s) or C(N/m).
      - Without it there is no limit.
    type: str
    default: ""
  token_secret:
    description:
      - Secret of the namespace C(functions) whose values are the tokens of clients. Each region of the trigger has to
        have it before.
      - Either this or O(anonymous) is required.
    type: str
    default: ""
  anonymous:
    description: Whether anybody who reaches the ingress may start the function.
    type: bool
    default: false
  headers:
    description: Request headers that the function gets beside the usual ones.
    type: list
    elements: str
    default: []
  site_dir:
    description: The site's state folder. Without it E(KOREN_SITE_DIR), else C(.state/local).
    type: path
attributes:
  check_mode:
    support: full
    description: The API servers are asked what would change.
  diff_mode:
    support: full
    description: Shows each Kubernetes object before and after.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Let clients with a token send orders
  koren.faas.http_trigger:
    name: orders
    function: take-order
    path: /v1/orders
    token_secret: orders-tokens

- name: Take no more orders
  koren.faas.http_trigger:
    name: orders
    state: absent
"""

RETURN = r"""
regions:
  description: Regions where the trigger is now as asked.
  returned: success
  type: list
  elements: str
steps:
  description: What took time, in the order it was done.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.faas import declare_trigger

OPTIONS = {
    "path": {"type": "str"},
    "host": {"type": "str", "default": ""},
    "methods": {
        "type": "list",
        "elements": "str",
        "choices": ["DELETE", "GET", "PATCH", "POST", "PUT"],
        "default": ["POST"],
    },
    "async": {"type": "bool", "default": False},
    "rate": {"type": "str", "default": ""},
    "token_secret": {"type": "str", "default": "", "no_log": False},
    "anonymous": {"type": "bool", "default": False},
    "headers": {"type": "list", "elements": "str", "default": []},
}


def described(faas: Any, params: dict[str, Any]) -> Any:
    """The trigger that the module's options describe."""
    its = {option: params[option] for option in OPTIONS if option != "async"}
    its |= {"methods": tuple(its["methods"]), "headers": tuple(its["headers"]), "is_async": params["async"]}
    return faas.http_triggers.described(params["name"], params["function"], **its)


def main() -> None:
    """Run the module."""
    declare_trigger("http", OPTIONS, (), described)


if __name__ == "__main__":
    main()
