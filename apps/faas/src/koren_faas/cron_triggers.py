# SPDX-License-Identifier: Apache-2.0
"""Triggers of kind cron: at the moments of a schedule, the region's gateway makes an event for one function."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from koren_faas import triggers
from koren_faas.change import Result
from koren_faas.errors import TriggerError
from koren_faas.image import Progress
from koren_faas.site import Site

DEADLINE_S = 3600
_DEADLINE_MAX_S = 24 * 3600
_PAYLOAD_MAX_BYTES = 256 * 1024
_NICKNAMES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


@dataclass(frozen=True, slots=True, kw_only=True)
class CronTrigger:
    """A trigger of kind cron as its user describes it.

    Attributes:
        name: DNS label; the subject of its events, so that they are handled one after the other.
        function: what it starts.
        schedule: cron expression of five fields, or a nickname such as `@daily`.
        timezone: IANA name of the zone that the schedule is in.
        payload: the events' data, anything that JSON has; None: they have none.
        starting_deadline_s: seconds after which a run that was missed is left out.

    Raises:
        TriggerError: a value can't be accepted; the message names it.
    """

    name: str
    function: str
    schedule: str
    timezone: str = "UTC"
    payload: Any = None
    starting_deadline_s: int = DEADLINE_S

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise TriggerError(f"trigger {self.name!r}: {problem}")

    def declared(self) -> dict[str, str]:
        """What its ConfigMap says beside kind and function."""
        return {
            "schedule": self.schedule,
            "timezone": self.timezone,
            "starting-deadline-s": str(self.starting_deadline_s),
            "payload": "" if self.payload is None else _json(self.payload),
        }


def create(
    site: Site,
    spec: CronTrigger,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have a schedule start a function; returns once the regions' gateways know it.

    Args:
        regions: their names; none means every region that has the function.
        check: change nothing, only tell what would change; named regions then need not have the function.

    Raises:
        NotDeployedError: a region does not have the function.
        TriggerError: another trigger has the name; nothing was changed.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    names = triggers.places(site, spec.function, regions, check=check)
    wanted = dict.fromkeys(names, spec.declared())
    return triggers.declare(site, spec.name, triggers.CRON, spec.function, wanted, check=check, on_progress=on_progress)


def payload_of(text: str) -> Any:
    """What a text of JSON says.

    Raises:
        TriggerError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TriggerError(f"payload is not JSON ({error}): put a text in quotes, as in '\"text\"'") from error


def _problems(trigger: CronTrigger) -> list[str]:
    problems = []
    try:
        zone = ZoneInfo(trigger.timezone)
    except (LookupError, OSError, ValueError):
        return [f"timezone is {trigger.timezone!r}; give a name of the IANA database, e.g. Asia/Seoul"]
    problems += _schedule_problems(trigger.schedule, zone)
    if not 1 <= trigger.starting_deadline_s <= _DEADLINE_MAX_S:
        problems.append(f"starting-deadline is {trigger.starting_deadline_s}; give seconds from 1 to {_DEADLINE_MAX_S}")
    try:
        size = len(_json(trigger.payload).encode())
    except (TypeError, ValueError) as error:
        return [*problems, f"payload can't be JSON: {error}"]
    if size > _PAYLOAD_MAX_BYTES:
        problems.append(f"payload has {size} bytes; give at most {_PAYLOAD_MAX_BYTES}")
    return problems


def _schedule_problems(schedule: str, zone: ZoneInfo) -> list[str]:
    if schedule.strip().lower() in _NICKNAMES:
        return []
    if len(schedule.split()) != 5:
        return [
            f"schedule is {schedule!r}; give minute, hour, day of the month, month and day of the week,"
            f" e.g. '*/5 * * * *', or one of {', '.join(_NICKNAMES)}"
        ]
    try:
        if next(CronSim(schedule, datetime.now(UTC).astimezone(zone)), None) is None:
            return [f"schedule {schedule!r} names no moment of the next 50 years"]
    except CronSimError as error:
        return [f"schedule is {schedule!r}: {error}; e.g. '*/5 * * * *'"]
    return []


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
