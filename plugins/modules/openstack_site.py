#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make a site's resources in OpenStack clouds match its inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openstack_site
short_description: Make a site's resources in OpenStack clouds match its inventory
description:
  - Reads all clouds first and reports every problem (credentials, quotas, images, flavors, names that are taken) before
    anything is changed in any of them. Then makes the changes in all clouds at once.
  - Resources of the site have its tag, which is set when they are created. Nothing else is changed or removed.
  - Needs one process per run. The modules of openstack.cloud would need one per resource.
options:
  site:
    description: Name of the site.
    type: str
    required: true
  state:
    description: C(absent) removes everything in the clouds that has the site's tag.
    type: str
    choices: [present, absent]
    default: present
  leaving:
    description:
      - Names of servers that are no longer in I(clouds). With C(state=absent) only these are removed, with their
        floating IPs, ports and volumes that belong to the site.
    type: list
    elements: str
  clouds:
    description:
      - Resources that the site must have, by cloud, as returned by the filter P(koren.faas.openstack_clouds#filter).
    type: list
    elements: dict
    required: true
    suboptions:
      cloud:
        description: Name in C(clouds.yaml).
        type: str
        required: true
      whole:
        description: Whether these are all resources of the site in the cloud. Otherwise the others are left unchanged.
        type: bool
        default: true
      key_pair:
        description: Name of the key pair.
        type: str
        required: true
      public_key:
        description: Its public key.
        type: str
        default: ""
      images:
        description: Images that servers use, as C(name) and C(file), which is uploaded if there is no such image.
        type: list
        elements: dict
        default: []
      networks:
        description:
          - Networks with one subnet each, as C(name), C(cidr), C(gateway), C(dns), C(pool) (first and last address that
            the cloud may assign itself) and C(external), the network to which a router connects it.
        type: list
        elements: dict
        default: []
      security_groups:
        description: Groups as C(name) and C(rules), each C(protocol), C(first_port), C(last_port) and C(cidr).
        type: list
        elements: dict
        default: []
      server_groups:
        description: Groups of servers that are kept apart, as C(name) and C(policy).
        type: list
        elements: dict
        default: []
      servers:
        description:
          - Servers as C(host), C(name), C(image), C(cores), C(memory_mb), C(disk_gb), C(zone), C(group), C(user_data),
            C(ports) (C(name), C(network), C(address), C(allowed), C(security_groups)), C(volumes) (C(name),
            C(size_gb)), C(floating_ip) (an address, C(any), or nothing), C(external), C(host_key), and C(chosen).
        type: list
        elements: dict
        default: []
  prune:
    description: Whether to remove resources that have the site's tag and are not in I(clouds).
    type: bool
    default: false
  known_hosts:
    description:
      - File that gets the servers' host keys, which are read from their consoles once. Without it none is read.
    type: path
  timeout_s:
    description: Seconds that one server may take to start, to disappear, or to show its host key.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
    description: Reports what would be done, including errors.
  diff_mode:
    support: full
    description: Shows the differences, by cloud and resource.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Create the hosts of the inventory
  koren.faas.openstack_site:
    site: "{{ site_name }}"
    clouds: "{{ groups['site'] | map('extract', hostvars) | koren.faas.openstack_clouds(groups, settings) }}"
    known_hosts: "{{ site_dir }}/known_hosts"

- name: Show what a removal would remove
  koren.faas.openstack_site:
    site: trial
    state: absent
    clouds:
      - cloud: koren-seoul
        key_pair: koren-trial
  check_mode: true

- name: Remove one server and its resources
  koren.faas.openstack_site:
    site: trial
    state: absent
    clouds: "{{ groups['site'] | map('extract', hostvars) | koren.faas.openstack_clouds(groups, settings) }}"
    leaving: [koren-trial-seoul-w1]
"""

RETURN = r"""
steps:
  description: What was done, or would be done in check mode, as text, each with its cloud.
  returned: always
  type: list
  elements: str
  sample: ["koren-seoul: create server koren-local-seoul-cp"]
surplus:
  description: Resources that have the site's tag and are not in the inventory.
  returned: success
  type: list
  elements: str
servers:
  description: The servers by host.
  returned: success
  type: dict
  contains:
    id:
      description: The server's id.
      type: str
    cloud:
      description: The cloud that it is in.
      type: str
    floating_ip:
      description: Its floating IP, or empty.
      type: str
errors:
  description: All problems.
  returned: failure
  type: list
  elements: str
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.koren.faas.plugins.module_utils.openstack.cloud import (
    HAVE_LIBRARY,
    Cloud,
    CloudError,
    read_host_keys,
)
from ansible_collections.koren.faas.plugins.module_utils.openstack.known_hosts import known_servers, merge_known_hosts
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Step

_LISTS = ("images", "networks", "security_groups", "server_groups", "servers")


def _in_each(clouds: list[Cloud], action: Any) -> list[str]:
    """Do something in all clouds at once; returns the errors."""

    def run(cloud: Cloud) -> str:
        try:
            action(cloud)
        except CloudError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(max_workers=max(1, len(clouds))) as pool:
        return [error for error in pool.map(run, clouds) if error]


def _words(clouds: list[Cloud], steps: str) -> list[str]:
    return [
        f"{cloud.name}: {step}" for cloud in clouds for step in (cloud.done if steps == "done" else cloud.plan.steps)
    ]


def _diff(clouds: list[Cloud]) -> list[dict[str, str]]:
    def lines(step: Step, values: Any) -> str:
        name = f"{step.kind.replace('_', ' ')} {step.name}"
        if not values and step.verb == "create" and values is step.after:
            return f"{name}\n"
        return "".join(
            f"{name}: {key}: {one}\n"
            for key, value in values.items()
            for one in (value if isinstance(value, list) else [value])
        )

    return [
        {
            "before_header": cloud.name,
            "after_header": cloud.name,
            "before": "".join(lines(step, step.before) for step in cloud.plan.steps),
            "after": "".join(lines(step, step.after) for step in cloud.plan.steps),
        }
        for cloud in clouds
        if cloud.plan.steps
    ]


def _keep_host_keys(module: AnsibleModule, clouds: list[Cloud]) -> bool:
    """Write the servers' host keys; returns whether the file changed."""
    if not module.params["known_hosts"]:
        return False
    path = Path(module.params["known_hosts"])
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    servers = [server for cloud in clouds for server in cloud.servers()]
    if module.check_mode:
        # Check mode does not wait for unknown keys.
        known = known_servers(text)
        servers = [s for s in servers if s["host_key"] or known.get(s["addresses"][0], ("", ""))[1] == s["id"]]
    read_host_keys(clouds, servers, known_servers(text), module.params["timeout_s"])
    merged = merge_known_hosts(text, servers)
    if merged == text:
        return False
    if not module.check_mode:
        new = path.with_suffix(".new")
        new.write_text(merged, encoding="utf-8")
        new.replace(path)
    return True


def main() -> None:
    """Run the module."""
    dicts = {"type": "list", "elements": "dict", "default": []}
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "clouds": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "cloud": {"type": "str", "required": True},
                    "whole": {"type": "bool", "default": True},
                    "key_pair": {"type": "str", "required": True, "no_log": False},
                    "public_key": {"type": "str", "default": ""},
                    **dict.fromkeys(_LISTS, dicts),
                },
            },
            "leaving": {"type": "list", "elements": "str"},
            "prune": {"type": "bool", "default": False},
            "known_hosts": {"type": "path"},
            "timeout_s": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    if not HAVE_LIBRARY:
        module.fail_json(msg=missing_required_lib("openstacksdk"))
    params = module.params
    absent = params["state"] == "absent"
    nothing: dict[str, Any] = {name: [] for name in _LISTS}
    leaving = params["leaving"]
    if leaving is not None and not absent:
        module.fail_json(msg="leaving names servers to remove: it needs state=absent")
    wanted = [cloud | nothing | {"whole": True} if absent and leaving is None else cloud for cloud in params["clouds"]]
    clouds = [Cloud(params["site"], cloud, params["timeout_s"]) for cloud in wanted]

    errors = _in_each(clouds, lambda cloud: cloud.look(prune=absent or params["prune"], leaving=leaving))
    errors += [error for cloud in clouds for error in cloud.plan.errors]
    if errors:
        module.fail_json(
            msg="Nothing was changed. Fix these problems first:\n- " + "\n- ".join(errors), errors=errors, steps=[]
        )
    diff = _diff(clouds)
    steps = _words(clouds, "planned")
    changed = bool(steps)
    if not module.check_mode:
        errors = _in_each(clouds, lambda cloud: cloud.apply())
        steps = _words(clouds, "done")
    if not errors and not absent:
        try:
            changed = _keep_host_keys(module, clouds) or changed
        except CloudError as error:
            errors = [str(error)]
    if errors:
        module.fail_json(
            msg="Completed steps stay, and the next run continues from them:\n- " + "\n- ".join(errors),
            errors=errors,
            steps=steps,
            changed=bool(steps),
        )
    module.exit_json(
        changed=changed,
        diff=diff,
        steps=steps,
        surplus=[f"{cloud.name}: {what}" for cloud in clouds for what in cloud.plan.surplus],
        servers={} if absent else {s["host"]: s for cloud in clouds for s in cloud.servers()},
    )


if __name__ == "__main__":
    main()
