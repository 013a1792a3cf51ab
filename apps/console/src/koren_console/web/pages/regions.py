# SPDX-License-Identifier: Apache-2.0
"""Regions: the list, and one of them."""

from __future__ import annotations

from datetime import timedelta

from starlette.exceptions import HTTPException
from starlette.responses import Response

from koren_console.model import Health, Region, Topic
from koren_console.web import map as atlas
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import FUNCTION, INCIDENT, fresh, silent
from koren_console.web.view import View

ORDER = (Health.OK, Health.WATCH, Health.UNKNOWN, Health.ACT)
COLUMNS: list[Column[Region]] = [
    Column("health", "col.state", lambda one: ORDER.index(one.health)),
    Column("region", "col.region", lambda one: one.name),
    Column("since", "col.since", lambda one: one.since),
    Column("last", "col.last-word", lambda one: one.last_word),
    Column("incidents", "col.open-incidents", lambda one: one.open_incidents, number=True),
    Column("pods", "col.pods", lambda one: one.pods, number=True),
    Column("queued", "col.queued", lambda one: one.queued, number=True),
    Column("held", "col.held", lambda one: one.held, number=True),
    Column("dead", "col.dead", lambda one: one.dead_letters, number=True),
    Column("nodes", "col.nodes", lambda one: len(one.nodes), number=True),
    Column("reason", "col.reason", lambda one: one.reason.en, extra=True),
]
CERTIFICATE_WATCH = timedelta(days=21)
CERTIFICATE_ACT = timedelta(days=7)


def fields(one: Region) -> dict[str, str]:
    """What the filter looks in."""
    return {
        "region": f"{one.name} {one.title.ko} {one.title.en}",
        "state": one.health.value,
        "reason": f"{one.reason.ko} {one.reason.en}",
        "node": " ".join(node.name for node in one.nodes),
    }


async def regions(view: View) -> Response:
    """The list, those that need a person first."""
    found = listing(view, view.board.regions(), COLUMNS, fields, "-health")
    if wants_csv(view):
        return as_csv(view, "regions", found, COLUMNS)
    return view.page(
        "regions.html",
        str(view.t("nav.regions")),
        listing=found,
        columns=COLUMNS,
        fresh=fresh(view, Topic.REGIONS),
        silent=silent(view.board.regions()),
        hints=("state:unknown", "state:act", "state:watch"),
    )


async def region(view: View) -> Response:
    """One region: nodes, services, links, certificates, pods and cameras."""
    one = view.board.region(view.request.path_params["name"])
    if one is None:
        raise HTTPException(404)
    cameras = [camera for camera in view.board.cameras() if camera.region == one.name]
    box = atlas.around([camera.place for camera in cameras if camera.place])
    functions = [function for function in view.board.functions() if function.region == one.name]
    certificates = [
        (certificate, _until(certificate.ends - view.now))
        for certificate in sorted(one.certificates, key=lambda certificate: certificate.ends)
    ]
    return view.page(
        "region.html",
        view.w(one.title),
        region=one,
        cameras=cameras,
        box=box,
        dots=atlas.dots(cameras, box),
        unwell=[camera for camera in cameras if camera.health is not Health.OK][:20],
        functions=functions,
        pods=sorted(
            ((pod, function) for function in functions for pod in function.pods),
            key=lambda pair: pair[0].since,
            reverse=True,
        )[:50],
        certificates=certificates,
        incidents=sorted(
            (incident for incident in view.board.incidents() if incident.region == one.name),
            key=lambda incident: incident.began,
            reverse=True,
        )[:8],
        incident_health=INCIDENT,
        function_health=FUNCTION,
        fresh=fresh(view, Topic.REGIONS),
    )


def _until(left: timedelta) -> Health:
    if left < CERTIFICATE_ACT:
        return Health.ACT
    return Health.WATCH if left < CERTIFICATE_WATCH else Health.OK
