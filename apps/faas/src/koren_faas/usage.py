# SPDX-License-Identifier: Apache-2.0
"""What functions did since their regions' gateways started, from the gateways' metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from koren_faas import manifests
from koren_faas.deployment import ls
from koren_faas.errors import FaasError
from koren_faas.gateway import NAMESPACE
from koren_faas.kube import Kube
from koren_faas.regions import attempt
from koren_faas.site import Region, Site

_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_PORT = 9100
_CALLS = "koren_gateway_invocations_total"
_SECONDS = "koren_gateway_handler_seconds_sum"
_SERIES = re.compile(r"(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Usage:
    """What one function did in one region.

    Attributes:
        name: the function.
        namespace: of its pods.
        region: the region's name.
        calls: attempts to handle an event or call, each.
        failures: those that did not succeed.
        duration_s: seconds that its handler took, all together.
    """

    name: str
    namespace: str
    region: str
    calls: int
    failures: int
    duration_s: float

    @property
    def average_s(self) -> float | None:
        """Seconds an attempt; None without any."""
        return self.duration_s / self.calls if self.calls else None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return asdict(self) | {"average_s": self.average_s}


def usage(
    site: Site, names: Collection[str] = (), regions: Iterable[str] = ()
) -> tuple[tuple[Usage, ...], Mapping[str, FaasError]]:
    """Use of functions by name, then region; and the regions that did not tell, with the reason.

    Args:
        names: the functions; none means all.
        regions: their names; none means all.

    Raises:
        SiteError: a region does not exist.
    """

    def metrics(region: Region) -> str:
        kube = Kube(region, site.kubeconfig)
        return "\n".join(
            kube.request("GET", f"{_PODS}/{pod['metadata']['name']}:{_PORT}/proxy/metrics").decode()
            for pod in kube.list(_PODS, "app.kubernetes.io/name=gateway")
            if pod["status"].get("phase") == "Running"
        )

    listing = ls(site, names, regions)
    places = sorted({one.region for one in listing.functions})
    told, errors = attempt([site.regions[name] for name in places], metrics)
    found = [
        used(one.function.name, one.region, told[one.region])
        for one in listing.functions
        if one.region in told
    ]
    return tuple(found), {**listing.unreachable, **errors}


def used(function: str, region: str, metrics: str) -> Usage:
    """Read a function's use from the metrics, as Prometheus' text, of one or more gateways."""
    calls = failures = duration_s = 0.0
    for series in _SERIES.finditer(metrics):
        labels = dict(_LABEL.findall(series["labels"]))
        if labels.get("function") != function:
            continue
        value = float(series["value"])
        if series["name"] == _CALLS:
            calls += value
            failures += value if labels["outcome"] != "succeeded" else 0
        elif series["name"] == _SECONDS:
            duration_s += value
    return Usage(function, manifests.NAMESPACE, region, int(calls), int(failures), duration_s)
