# SPDX-License-Identifier: Apache-2.0
"""The first view: what is the case now, and what needs a person."""

from __future__ import annotations

from datetime import timedelta

from starlette.responses import Response

from koren_console.model import Health, Topic
from koren_console.web import map as atlas
from koren_console.web.pages.common import INCIDENT, SEVERITY, ask, fresh, spark, titles
from koren_console.web.view import View

MOST = 6
"""Incidents and held events that are shown at once; more are a click away."""
REGIONS = 12
"""Regions that are listed; beyond that only those that are not well."""
ORDER = (Health.ACT, Health.UNKNOWN, Health.WATCH, Health.OK)


async def now(view: View) -> Response:
    """Map, held events, open incidents, figures and regions."""
    board = view.board
    regions = sorted(board.regions(), key=lambda one: (ORDER.index(one.health), one.name))
    zoom = board.region(view.request.query_params.get("zoom", ""))
    cameras = [camera for camera in board.cameras() if zoom is None or camera.region == zoom.name]
    box = atlas.whole() if zoom is None else atlas.around([one.place for one in cameras if one.place])
    incidents = [one for one in board.incidents() if one.state == "open"]
    listed = regions if len(regions) <= REGIONS else [one for one in regions if one.health is not Health.OK][:REGIONS]
    return view.page(
        "now.html",
        str(view.t("nav.now")),
        summary=board.summary(),
        regions=regions,
        listed=listed,
        titles=titles(view),
        zoom=zoom,
        box=box,
        places=[(region, *atlas.frame().point(region.place)) for region in reversed(regions) if region.place],
        dots=atlas.dots(cameras, box) if zoom else [],
        cameras=cameras,
        held=sorted(board.held(), key=lambda one: one.since)[:MOST],
        held_all=len(board.held()),
        incidents=sorted(incidents, key=lambda one: one.began, reverse=True)[:MOST],
        incidents_all=len(incidents),
        last=max((one for one in board.incidents() if one.ended), key=lambda one: one.ended or one.began, default=None),
        alerts=sorted(
            (one for one in board.alerts() if not one.silenced_until and not one.inhibited),
            key=lambda one: (SEVERITY.get(one.severity) is not Health.ACT, -one.since.timestamp()),
        ),
        incident_health=INCIDENT,
        events=spark((await ask(board.series("events", "", "", timedelta(hours=1)))).value),
        fresh_figures=fresh(view, Topic.FIGURES, timedelta(minutes=2)),
        fresh_incidents=fresh(view, Topic.INCIDENTS),
        fresh_regions=fresh(view, Topic.REGIONS),
        fresh_held=fresh(view, Topic.HELD),
    )
