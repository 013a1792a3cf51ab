# SPDX-License-Identifier: Apache-2.0
"""Calls a function through its region's gateway, which also works while no pod runs."""

from __future__ import annotations

import json
from typing import Any

from koren_faas.deployment import get
from koren_faas.errors import CallError, RegionError
from koren_faas.gateway import Gateway
from koren_faas.kube import Kube
from koren_faas.site import Region, Site

# The gateway waits for the function's timeout and 30 s; a little more, to hear what it says then.
_GRACE_S = 45
# The function failed, or did not answer in time.
_FAILED = (502, 504)


def call(site: Site, name: str, region: Region, data: Any = None, *, wait: bool = True) -> Any:
    """Call the function in `region` and return its result.

    Args:
        data: the event's data, anything that JSON can hold; a dictionary with `specversion` is
            a whole CloudEvent.
        wait: False returns what the gateway says as soon as it holds the event: its id.

    Raises:
        NotDeployedError: the region does not have the function.
        CallError: the function failed, or did not answer in time.
        RegionError: the region, or its gateway, did not answer or refused.
    """
    kube = Kube(region, site.kubeconfig)
    function = get(kube, name).function
    whole = isinstance(data, dict) and "specversion" in data
    try:
        answer = Gateway(kube).request(
            "POST",
            f"/functions/{name}/invoke",
            query=None if wait else {"wait": "false"},
            body=data,
            content_type="application/cloudevents+json" if whole else "application/json",
            read_timeout_s=function.timeout_s + _GRACE_S,
        )
    except RegionError as error:
        if error.status in _FAILED:
            raise CallError(str(error)) from error
        raise
    return parse_answer(answer)


def parse_answer(body: bytes) -> Any:
    """A function's result: parsed when it is JSON, else its text."""
    text = body.decode(errors="replace")
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text
