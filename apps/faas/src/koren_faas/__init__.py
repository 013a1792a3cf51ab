# SPDX-License-Identifier: Apache-2.0
"""Functions on the regions of a site: deploy, list, call, delete::

site = Site.load(".state/local")
spec = Function(name="hello", handler="hello.handler", source=Path("hello.py"))
deploy(site, spec, ["seoul"], on_progress=print)
call(site, "hello", site.regions["seoul"], {"who": "you"})
"""

from koren_faas import cron_triggers, http_triggers, mqtt_sources, triggers
from koren_faas.calling import call
from koren_faas.change import Difference, Result
from koren_faas.deployment import Deployed, Listing, delete, deploy, ls, placed, update
from koren_faas.durations import seconds_of
from koren_faas.errors import (
    BuildError,
    CallError,
    FaasError,
    FunctionError,
    NotDeployedError,
    NotReadyError,
    RegionError,
    SiteError,
    SourceError,
    TriggerError,
)
from koren_faas.function import Function
from koren_faas.logs import Line, logs
from koren_faas.runtimes import RUNTIMES
from koren_faas.site import Region, Site

__all__ = [
    "RUNTIMES",
    "BuildError",
    "CallError",
    "Deployed",
    "Difference",
    "FaasError",
    "Function",
    "FunctionError",
    "Line",
    "Listing",
    "NotDeployedError",
    "NotReadyError",
    "Region",
    "RegionError",
    "Result",
    "Site",
    "SiteError",
    "SourceError",
    "TriggerError",
    "call",
    "cron_triggers",
    "delete",
    "deploy",
    "http_triggers",
    "logs",
    "ls",
    "mqtt_sources",
    "placed",
    "seconds_of",
    "triggers",
    "update",
]
