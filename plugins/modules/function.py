#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Bring a function to regions of a site, or take it away."""

from __future__ import annotations

DOCUMENTATION = r"""
module: function
short_description: Bring a function to regions of a site, or take it away
description:
  - Makes the function's image once on this machine, imports its handler there as a check, pushes the
    image to the registry of each region, has the region's nodes pull it, and applies the function's
    Kubernetes objects. Nothing is touched in any region before the check passed.
  - The number of pods is never written after the first deploy.
  - Runs on the controller, which has the site's state folder, C(buildah) and C(skopeo).
requirements:
  - koren_faas
options:
  name:
    description: The function's name, a DNS label of at most 54 characters.
    type: str
    required: true
  state:
    description:
      - V(present) brings the function to I(regions). In other regions it stays as it is.
      - V(absent) takes it with its triggers and its images away from I(regions). Secrets stay.
    type: str
    choices: [present, absent]
    default: present
  regions:
    description:
      - Names of regions.
      - Without any, V(present) means every edge of the site, and V(absent) every region.
    type: list
    elements: str
    default: []
  source:
    description:
      - File, folder or archive (V(.zip), V(.tar.gz), V(.tar.bz2) or V(.tar.xz)) with the code. A single
        file becomes the handler's module, whatever its name.
      - Of a folder, or an archive of one, all files are taken but hidden ones, byte-code, and the folders C(tests) and
        C(node_modules).
      - With I(runtime=image), an OCI or Docker archive of the function's image.
    type: path
  image:
    description: With I(runtime=image), the reference of the function's image in a registry, which C(skopeo) reads.
    type: str
  handler:
    description: What is called, as C(module.function). Required unless I(runtime=image).
    type: str
  runtime:
    description: The runtime. V(image) is an image of the user's own, whose program speaks the Runtime API.
    type: str
    choices: [python3.11, python3.13, nodejs22, image]
    default: python3.11
  dependencies:
    description:
      - Requirements file; installed as wheels into the image.
      - With I(runtime=nodejs22), a C(package.json) with its C(package-lock.json) beside it.
    type: path
  packages:
    description:
      - Debian packages that the image has beside the runtime's, each C(name) or C(name=version). What
        they need comes with them. Their installation scripts do not run.
      - This machine's C(apt-get) fetches them.
    type: list
    elements: str
    default: []
  topic:
    description:
      - MQTT topic filter whose events the function gets, below C(events/<region>/). C({region}) in
        it stands for the region's name.
      - Without it only calls start the function.
    type: str
  delay:
    description:
      - How long each event of O(topic) waits before the function gets it, as a whole number with C(s), C(m), C(h) or
        C(d), 7 days at most. Later events of the same subject wait behind it.
      - Without it there is no delay. Another delay is for events that come from then on.
    type: str
    default: ""
  timeout_s:
    description: Seconds that the handler may take for one event.
    type: int
    default: 180
  memory:
    description: Memory that is requested, and the limit, as a Kubernetes quantity.
    type: str
    default: 256Mi
  cpu:
    description: CPU that is requested, as a Kubernetes quantity. It is no limit.
    type: str
    default: 100m
  tmp_size:
    description: What C(/tmp) may hold, as a Kubernetes quantity. A pod that writes more is evicted.
    type: str
    default: 64Mi
  min_scale:
    description: Least pods in one region.
    type: int
    default: 0
  max_scale:
    description: Most pods in one region.
    type: int
    default: 10
  target:
    description:
      - Incidents with work that one pod is to look after, at least O(concurrency) times O(batch_size). For each more
        there is one more pod.
    type: int
    default: 1
  concurrency:
    description:
      - Most events of different subjects that one pod handles side by side, 32 at most. Each has a process of its
        own; O(memory) is for all of them together.
    type: int
    default: 1
  batch_size:
    description:
      - Most events of different subjects that the handler is given at once, 100 at most. Its event is then a batch,
        whose C(data) is a list of events. With V(1) there are no batches.
    type: int
    default: 1
  batch_window:
    description:
      - How long an event waits for a full batch, as C(5s). The unit is C(s) or C(m), and it is V(5m) at most.
      - Without it, what is there goes at once.
    type: str
    default: ""
  max_attempts:
    description: Tries before an event becomes a dead letter.
    type: int
    default: 5
  max_in_flight:
    description: Most events that the function has in hand in one region. V(0) is as many as its pods take.
    type: int
    default: 0
  rate:
    description:
      - Most events that the function gets in one region in any second or minute, as C(N/s) or C(N/m). More wait
        in order.
      - Without it there is no limit.
    type: str
    default: ""
  priority:
    description:
      - Whose pods start first when the nodes of a region are full. Pods of a function with a higher priority may take
        the place of those with a lower one.
      - Another priority replaces the function's pods.
    type: str
    choices: [high, normal, low]
    default: normal
  history:
    description:
      - How long a region keeps each event that the function has handled, for C(faas function replay), as C(24h). The
        unit is C(s), C(m), C(h) or C(d), and it is V(7d) at most.
      - Without it nothing is kept, and what was kept is deleted.
    type: str
    default: ""
  secrets:
    description:
      - Names of Secrets in the namespace C(functions), mounted as files below
        C(/run/secrets/<name>/).
    type: list
    elements: str
    default: []
  env:
    description: Environment variables.
    type: dict
    default: {}
  egress:
    description:
      - What the function's pods may connect to, beside the region's gateway and DNS.
      - V(default) is every address of the world and no private one, V(none) is nothing more. Else an address or CIDR of
        IP version 4, with C(:port) for one TCP port of it; V(default) can be among these.
    type: list
    elements: str
    default: [default]
  opens:
    description: Event type that opens an incident. The function stays up until the incident closes.
    type: str
  closes:
    description: Event type that closes an incident.
    type: str
  incident_limit_s:
    description: Seconds after which an open incident counts as closed.
    type: int
    default: 3600
  site_dir:
    description: The site's state folder. Without it E(KOREN_SITE_DIR), else C(.state/local).
    type: path
attributes:
  check_mode:
    support: full
    description:
      - Nothing is built or applied; the API servers are asked what would change.
      - While the site is not set up yet, a change is reported and the objects are not compared.
  diff_mode:
    support: full
    description: Shows each Kubernetes object, and each image on a node, before and after.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Report accidents on the edges
  koren.faas.function:
    name: report-incident
    source: apps/report-incident
    handler: handler.handler
    dependencies: apps/report-incident/requirements.txt
    topic: events/{region}/+/accident
    secrets: [sns]
    opens: kr.koren.traffic.accident.detected
    closes: kr.koren.traffic.accident.cleared

- name: Bring a program of one's own
  koren.faas.function:
    name: count
    runtime: image
    image: registry.example/team/count:1.2

- name: Take a function away from one region
  koren.faas.function:
    name: hello
    state: absent
    regions: [seoul]
"""

RETURN = r"""
regions:
  description: Regions where the function is now as asked.
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.faas import as_path, carry_out, load_site, need_library

AS_THEY_ARE = (
    "name",
    "image",
    "runtime",
    "topic",
    "timeout_s",
    "memory",
    "cpu",
    "tmp_size",
    "min_scale",
    "max_scale",
    "target",
    "concurrency",
    "batch_size",
    "max_attempts",
    "max_in_flight",
    "rate",
    "priority",
    "history",
    "opens",
    "closes",
    "incident_limit_s",
)


def description(faas: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Attributes of the function that the module's options describe."""
    return {option: params[option] for option in AS_THEY_ARE} | {
        "delay_s": faas.seconds_of("delay", params["delay"]),
        "batch_window_s": faas.seconds_of("batch_window", params["batch_window"]),
        "handler": params["handler"] or "",
        "source": as_path(params["source"]),
        "dependencies": as_path(params["dependencies"]),
        "packages": tuple(params["packages"]),
        "secrets": tuple(params["secrets"]),
        "egress": tuple(params["egress"]),
        "env": {key: str(value) for key, value in params["env"].items()},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "regions": {"type": "list", "elements": "str", "default": []},
            "source": {"type": "path"},
            "image": {"type": "str"},
            "handler": {"type": "str"},
            "runtime": {
                "type": "str",
                "choices": ["python3.11", "python3.13", "nodejs22", "image"],
                "default": "python3.11",
            },
            "dependencies": {"type": "path"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "topic": {"type": "str"},
            "delay": {"type": "str", "default": ""},
            "timeout_s": {"type": "int", "default": 180},
            "memory": {"type": "str", "default": "256Mi"},
            "cpu": {"type": "str", "default": "100m"},
            "tmp_size": {"type": "str", "default": "64Mi"},
            "min_scale": {"type": "int", "default": 0},
            "max_scale": {"type": "int", "default": 10},
            "target": {"type": "int", "default": 1},
            "concurrency": {"type": "int", "default": 1},
            "batch_size": {"type": "int", "default": 1},
            "batch_window": {"type": "str", "default": ""},
            "max_attempts": {"type": "int", "default": 5},
            "max_in_flight": {"type": "int", "default": 0},
            "rate": {"type": "str", "default": ""},
            "priority": {"type": "str", "choices": ["high", "normal", "low"], "default": "normal"},
            "history": {"type": "str", "default": ""},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "env": {"type": "dict", "default": {}},
            "egress": {"type": "list", "elements": "str", "default": ["default"]},
            "opens": {"type": "str"},
            "closes": {"type": "str"},
            "incident_limit_s": {"type": "int", "default": 3600},
            "site_dir": {"type": "path"},
        },
        mutually_exclusive=[("source", "image")],
        required_if=[("state", "present", ("source", "image"), True)],
        supports_check_mode=True,
    )
    faas = need_library(module)
    params = module.params

    def act(**how: Any) -> Any:
        if params["state"] == "absent":
            return faas.delete(load_site(module), params["name"], params["regions"], **how)
        function = faas.Function(**description(faas, params))
        return faas.deploy(load_site(module), function, params["regions"], **how)

    carry_out(module, act)


if __name__ == "__main__":
    main()
