#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have the messages of an MQTT topic taken in as events, or no more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mqtt_source
short_description: Have the messages of an MQTT topic taken in as events, or no more
description:
  - Declares the source in each region's cluster, whose gateway listens to it, and gives its publishers the
    rights at the broker.
  - A function gets the events with the topic C(events/<region>/<name>/mqtt).
  - Runs on the controller, which has the site's state folder.
requirements:
  - koren_faas
options:
  name:
    description: The source's name, a DNS label of at most 54 characters.
    type: str
    required: true
  state:
    description:
      - V(present) declares the source in I(regions). In other regions it stays as it is.
      - V(absent) takes it and its publishers' rights away from I(regions). Its events stay.
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
  topic:
    description:
      - MQTT topic filter. C({region}) in it stands for the region's name.
      - Its first level is a name, and not V(events), V(receipts) or V(health). A topic matches one source of a
        region at most.
    type: str
  at:
    description:
      - Where publishers connect. From the V(centre) its broker sends the messages on to the region's, if the bridge
        has the topic (C(mqtt_sources) of the inventory).
    type: str
    choices: [region, centre]
    default: region
  subject_from:
    description:
      - C(topic), C(topic.N) (its Nth level, from 1) or C(payload.FIELD) (FIELD of a JSON object, C(a.b) for one
        inside another).
      - Events of one subject keep their order. Without it, events have no subject and no order.
    type: str
    default: ""
  id_from:
    description:
      - C(payload.FIELD), by which a repeat is known and dropped. Without it every message that is published is
        an event.
    type: str
    default: ""
  publishers:
    description: Who may publish, by the name of a certificate or of a user with a password.
    type: list
    elements: str
    default: []
  site_dir:
    description: The site's state folder. Without it E(KOREN_SITE_DIR), else C(.state/local).
    type: path
attributes:
  check_mode:
    support: full
    description: The API servers and the brokers are asked what would change.
  diff_mode:
    support: full
    description: Shows each Kubernetes object and the rights at each broker, before and after.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Take in what a press says
  koren.faas.mqtt_source:
    name: press
    topic: plant/press/+
    regions: [seoul]
    subject_from: topic.3
    publishers: [press-3]

- name: Take in no more of it
  koren.faas.mqtt_source:
    name: press
    state: absent
"""

RETURN = r"""
regions:
  description: Regions where the source is now as asked.
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
from ansible_collections.koren.faas.plugins.module_utils.faas import carry_out, load_site, need_library

AS_THEY_ARE = ("name", "topic", "at", "subject_from", "id_from")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "regions": {"type": "list", "elements": "str", "default": []},
            "topic": {"type": "str"},
            "at": {"type": "str", "choices": ["region", "centre"], "default": "region"},
            "subject_from": {"type": "str", "default": ""},
            "id_from": {"type": "str", "default": ""},
            "publishers": {"type": "list", "elements": "str", "default": []},
            "site_dir": {"type": "path"},
        },
        required_if=[("state", "present", ("topic",))],
        supports_check_mode=True,
    )
    sources, params = need_library(module).mqtt_sources, module.params

    def act(**how: Any) -> Any:
        if params["state"] == "absent":
            return sources.delete(load_site(module), params["name"], params["regions"], **how)
        its = {option: params[option] for option in AS_THEY_ARE} | {"publishers": tuple(params["publishers"])}
        source = sources.MqttSource(**its)
        return sources.create(load_site(module), source, params["regions"], **how)

    carry_out(module, act)


if __name__ == "__main__":
    main()
