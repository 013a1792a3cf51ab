#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have a function started by the clock, or no more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cron_trigger
short_description: Have a function started by the clock, or no more
description:
  - Declares the trigger in each region's cluster, whose gateway makes an event of each moment of the schedule. This
    works while the region is cut off from the centre.
  - Each moment is one event. Runs of one trigger do not overlap. Of runs that were missed only the latest is made up
    for, if it is within O(starting_deadline_s).
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
      - V(absent) takes it away from I(regions). Events that it has made are handled still.
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
  schedule:
    description:
      - Minute, hour, day of the month, month and day of the week, as cron has them; or V(@hourly), V(@daily),
        V(@weekly), V(@monthly) or V(@yearly).
    type: str
  timezone:
    description: IANA name of the zone that the schedule is in.
    type: str
    default: UTC
  payload:
    description: Data of the events, whatever JSON has. Without it they have none.
    type: raw
  starting_deadline_s:
    description: Seconds after which a run that was missed is left out, a day at most.
    type: int
    default: 3600
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
- name: Clean up every night
  koren.faas.cron_trigger:
    name: nightly
    function: clean-up
    schedule: "0 3 * * *"
    timezone: Asia/Seoul
    payload: {keep_days: 30}

- name: Clean up no more
  koren.faas.cron_trigger:
    name: nightly
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
    "schedule": {"type": "str"},
    "timezone": {"type": "str", "default": "UTC"},
    "payload": {"type": "raw"},
    "starting_deadline_s": {"type": "int", "default": 3600},
}


def described(faas: Any, params: dict[str, Any]) -> Any:
    """The trigger that the module's options describe."""
    return faas.cron_triggers.CronTrigger(**{option: params[option] for option in ("name", "function", *OPTIONS)})


def main() -> None:
    """Run the module."""
    declare_trigger("cron", OPTIONS, ("schedule",), described)


if __name__ == "__main__":
    main()
