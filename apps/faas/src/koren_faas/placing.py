# SPDX-License-Identifier: Apache-2.0
"""A function together with the triggers that are described beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from koren_faas import cron_triggers, deployment, http_triggers
from koren_faas.change import Result
from koren_faas.cron_triggers import CronTrigger
from koren_faas.function import Function
from koren_faas.http_triggers import HttpTrigger
from koren_faas.image import Progress
from koren_faas.site import Site

Trigger = CronTrigger | HttpTrigger


def place(
    site: Site,
    wanted: Mapping[str, Function],
    specs: Iterable[Trigger],
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Bring regions a function, as `deployment.place` does, and then the triggers that start it there.

    A trigger that can't be created is told of before the function is touched. Errors are those of `deployment.place`
    and of the triggers' `create`.
    """
    specs = tuple(specs)

    def declared(*, check: bool) -> list[Result]:
        return [_create(site, spec, wanted, check=check, on_progress=on_progress) for spec in specs]

    if not check:
        declared(check=True)
        for spec in specs:
            if isinstance(spec, HttpTrigger):
                http_triggers.demand_tokens(site, spec, wanted)
    results = [deployment.place(site, wanted, check=check, on_progress=on_progress), *declared(check=check)]
    changed = {region for result in results for region in result.changed_regions}
    return Result(
        tuple(difference for result in results for difference in result.diff),
        results[0].regions,
        tuple(region for region in results[0].regions if region in changed),
    )


def _create(site: Site, spec: Trigger, wanted: Mapping[str, Function], *, check: bool, on_progress: Progress) -> Result:
    if isinstance(spec, CronTrigger):
        return cron_triggers.create(site, spec, wanted, check=check, on_progress=on_progress)
    return http_triggers.create(site, spec, wanted, check=check, on_progress=on_progress)
