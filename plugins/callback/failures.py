# SPDX-License-Identifier: Apache-2.0
"""Says at the end of a run which regions failed, on which host, at which task and why."""

from __future__ import annotations

DOCUMENTATION = r"""
name: failures
type: aggregate
short_description: Says at the end of a run what failed where
description:
  - A region that fails does not stop the others, so its error may be thousands of lines above the end of a run.
    This callback repeats the last error of each host that failed, by region.
  - What a C(rescue) or C(ignore_errors) took care of is not repeated.
requirements:
  - enable it with C(callbacks_enabled)
author: the koren.faas authors
"""

from typing import Any

from ansible.plugins.callback import CallbackBase

MOST_CHARACTERS = 600
OTHER = "site"
"""Where a host has no region."""


def reason(result: dict[str, Any]) -> str:
    """What a task's result says went wrong, on one line and of bounded length."""
    items = [reason(item) for item in result.get("results") or () if item.get("failed")]
    said = items or [str(result[key]) for key in ("msg", "stderr", "module_stderr", "censored") if result.get(key)]
    line = " ".join("; ".join(said[: 3 if items else 2]).split())
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…"


class CallbackModule(CallbackBase):
    """The callback plugin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "koren.faas.failures"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[str, str, str]] = {}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed on a host."""
        if not ignore_errors:
            self._note(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be reached."""
        self._note(result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The run is over."""
        regions: dict[str, list[str]] = {}
        for host in sorted(self._last):
            if stats.failures.get(host) or stats.dark.get(host):
                region, how, what = self._last[host]
                regions.setdefault(region, []).append(f"  {host} {how} at {what}")
        for region, lines in sorted(regions.items()):
            self._display.display(f"FAILED in {region}:", color="red")
            for line in lines:
                self._display.display(line, color="red")

    def _note(self, result: Any, how: str) -> None:
        host = result._host
        region = str(host.get_vars().get("region_name") or _region(host))
        self._last[host.name] = (region, how, f"'{result._task.get_name()}': {reason(result._result)}")


def _region(host: Any) -> str:
    """The group below `regions` or `edges` that the host is in."""
    above = {"regions", "edges"}
    for group in host.get_groups():
        if above & {parent.name for parent in group.parent_groups} and group.name not in above:
            return str(group.name)
    return OTHER
