#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Wait for an incident and follow it until its pod is gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wait_for_incident
short_description: Wait for an incident and follow it until its pod is gone
description:
  - Reads events and receipts at the centre's broker and shows each step of the first incident that a
    camera reports, with its time, as it happens.
  - Fails when a step does not happen in time, saying which and where to look; and when another region
    than the incident's gets any event.
  - Runs on the controller, as the site's operator.
requirements:
  - koren_events
  - kubernetes
options:
  camera:
    description: The camera's id, the events' source.
    type: str
    required: true
  region:
    description: The region that the events belong to.
    type: str
    required: true
  function:
    description: Name of the function that handles them.
    type: str
    required: true
  since:
    description: Time (ISO 8601) from which on events count. Without it, the time at which the task starts.
    type: str
  detect_timeout_s:
    description: Seconds until the incident must have been seen.
    type: int
    default: 90
  step_timeout_s:
    description: Seconds that each further step may take; twice that for the incident to be cleared.
    type: int
    default: 60
  site_dir:
    description: The site's state folder.
    type: path
    required: true
attributes:
  check_mode:
    support: none
    description: It changes nothing; in check mode it is skipped.
  diff_mode:
    support: none
    description: It changes nothing.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Follow the next accident of a camera
  koren.faas.wait_for_incident:
    camera: cctv-seoul-01
    region: seoul
    function: report-incident
    site_dir: .state/local
"""

RETURN = r"""
subject:
  description: The incident.
  returned: success
  type: str
steps:
  description:
    - What happened, in its order. Times are those that each part gave, ISO 8601; V(sent) is when the event
      was seen at the centre's broker.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The step., type: str}
    time: {description: When it happened., type: str}
    after_s: {description: Seconds since the detector's decision., type: float}
post:
  description: What the function answered last.
  returned: success
  type: dict
"""
