#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""List functions in the regions of a site."""

from __future__ import annotations

DOCUMENTATION = r"""
module: function_info
short_description: List functions in the regions of a site
description:
  - Reads from each region's API server which functions it has and how they are.
  - A region that is cut off does not keep the others from being listed.
requirements:
  - koren_faas
options:
  name:
    description: Only the function of this name.
    type: str
  regions:
    description: Names of regions; without any, all.
    type: list
    elements: str
    default: []
  site_dir:
    description: The site's state folder. Without it E(KOREN_SITE_DIR), else C(.state/local).
    type: path
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module only reads.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Read where the function is
  koren.faas.function_info:
    name: report-incident
  register: found

- name: Demand that it is idle everywhere
  ansible.builtin.assert:
    that: found.functions | map(attribute='status') | unique == ['0/0 IDLE']
"""

RETURN = r"""
functions:
  description: One entry for each function and region, by name, then region.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The function's name., type: str}
    namespace: {description: The Kubernetes namespace., type: str}
    region: {description: The region., type: str}
    handler: {description: What is called., type: str}
    runtime: {description: The runtime., type: str}
    dependencies: {description: Lines of the requirements in the image., type: list, elements: str}
    packages: {description: Debian packages that the image has beside the runtime's., type: list, elements: str}
    status: {description: "C(0/0 IDLE), C(1/1 READY), C(0/1 NOT READY) or C(REFUSED).", type: str}
    problem: {description: "Why the region's gateway refuses it, null when it does not.", type: str}
    replicas: {description: Pods that there are., type: int}
    ready: {description: Pods that run., type: int}
    image: {description: Name of the image with its tag., type: str}
    trigger: {description: "Its trigger's name, null for its own.", type: str}
    topic: {description: MQTT topic filter., type: str}
    delay_s: {description: Seconds that each event of the topic waits., type: int}
    timeout_s: {description: Seconds that the handler may take., type: int}
    memory: {description: Requested memory and its limit., type: str}
    cpu: {description: Requested CPU., type: str}
    tmp_size: {description: What C(/tmp) may hold., type: str}
    min_scale: {description: Least pods., type: int}
    max_scale: {description: Most pods., type: int}
    target: {description: Incidents with work that one pod is to look after., type: int}
    concurrency: {description: Most events of different subjects that one pod handles side by side., type: int}
    batch_size: {description: Most events that the handler is given at once; 1 is no batches., type: int}
    batch_window_s: {description: Seconds that an event waits for a full batch., type: int}
    max_attempts: {description: Tries before an event becomes a dead letter., type: int}
    max_in_flight: {description: Most events that it has in hand in the region; 0 is no limit., type: int}
    rate: {description: "Most events that it gets in any second or minute; empty: no limit.", type: str}
    priority: {description: "V(high), V(normal) or V(low).", type: str}
    history: {description: "How long events that it has handled are kept for a replay; empty: not at all.", type: str}
    secrets: {description: Names of mounted Secrets., type: list, elements: str}
    env: {description: Environment variables., type: dict}
    egress: {description: "What its pods may connect to, beside the gateway and DNS.", type: list, elements: str}
    opens: {description: Event type that opens an incident., type: str}
    closes: {description: Event type that closes an incident., type: str}
    incident_limit_s: {description: Seconds that an incident is open at most., type: int}
refused:
  description: Deployments with a function's label that are no function, by name, then region.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The Deployment's name., type: str}
    namespace: {description: The Kubernetes namespace., type: str}
    region: {description: The region., type: str}
    status: {description: C(REFUSED)., type: str}
    problem: {description: Why it is no function., type: str}
unreachable:
  description: Region that did not tell, to the reason.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.faas import load_site, need_library


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "regions": {"type": "list", "elements": "str", "default": []},
            "site_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    faas = need_library(module)
    name = module.params["name"]
    try:
        names = [name] if name else []
        found = faas.ls(load_site(module), names, module.params["regions"], judged=True)
    except faas.FaasError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        functions=[one.as_dict() for one in found.functions],
        refused=[one.as_dict() for one in found.refused],
        unreachable={region: str(error) for region, error in found.unreachable.items()},
    )


if __name__ == "__main__":
    main()
