# SPDX-License-Identifier: Apache-2.0
"""Incidents: the list, and the life of one."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from starlette.exceptions import HTTPException
from starlette.responses import Response

from koren_console.model import Incident, Topic
from koren_console.settings import TRACE_ID
from koren_console.web import timeline
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import INCIDENT, ask, fresh, silent, titles
from koren_console.web.view import View

COLUMNS: list[Column[Incident]] = [
    Column("state", "col.state", lambda one: one.state),
    Column("place", "col.place", lambda one: one.place.en),
    Column("region", "col.region", lambda one: one.region),
    Column("severity", "col.severity", lambda one: one.severity),
    Column("confidence", "col.confidence", lambda one: one.confidence, number=True),
    Column("began", "col.began", lambda one: one.began),
    Column("lasted", "col.lasted", lambda one: (one.ended - one.began).total_seconds() if one.ended else None, True),
    Column("events", "col.events", lambda one: one.events, number=True),
    Column("retried", "col.retried", lambda one: one.retried, number=True),
    Column("pods", "col.pods", lambda one: one.pods, number=True),
    Column("post", "col.post", lambda one: one.post),
    Column("kind", "col.kind", lambda one: one.kind, extra=True),
    Column("subject", "col.subject", lambda one: one.subject, extra=True),
    Column("camera", "col.camera", lambda one: one.camera, extra=True),
    Column("ended", "col.ended", lambda one: one.ended, extra=True),
]


def fields(one: Incident) -> dict[str, str]:
    """What the filter looks in."""
    return {
        "state": one.state,
        "region": one.region,
        "camera": one.camera,
        "kind": one.kind,
        "severity": one.severity,
        "subject": one.subject,
        "place": f"{one.place.ko} {one.place.en}",
        "road": one.road,
        "objects": " ".join(one.objects),
    }


async def incidents(view: View) -> Response:
    """The list, the newest first."""
    found = listing(view, view.board.incidents(), COLUMNS, fields, "-began")
    if wants_csv(view):
        return as_csv(view, "incidents", found, COLUMNS)
    return view.page(
        "incidents.html",
        str(view.t("nav.incidents")),
        listing=found,
        columns=COLUMNS,
        titles=titles(view),
        incident_health=INCIDENT,
        fresh=fresh(view, Topic.INCIDENTS),
        silent=silent(view.board.regions()),
        hints=("state:open", "state:held", *(f"region:{one.name}" for one in view.board.regions()[:4])),
    )


async def incident(view: View) -> Response:
    """One incident: time axis, attempts, log lines, picture and texts."""
    subject = view.request.path_params["subject"]
    found = await ask(view.board.incident(subject))
    if found.refusal:
        return view.page("refused.html", subject, 503, refusal=found.refusal, back="/incidents")
    one = found.value
    if one is None:
        raise HTTPException(404)
    marks = timeline.spans(one.marks)
    start = marks[0].at if marks else one.began
    end = one.ended or view.now
    if marks:
        end = max(end if one.state == "open" or one.ended else start, marks[-1].until or marks[-1].at)
    words = {mark.what: str(view.t(f"mark.{mark.what}")) for mark in marks}
    posted = timeline.first_post(marks)
    axes = []
    if posted is not None and (end - start) > (posted - start) * 2:
        axes.append(("incident.axis-first", timeline.axis(marks, start, timeline.with_margin(start, posted), words)))
    axes.append(("incident.axis-all", timeline.axis(marks, start, timeline.with_margin(start, end), words)))
    since, until = start - timedelta(seconds=5), (one.ended or view.now) + timedelta(minutes=5)
    return view.page(
        "incident.html",
        view.w(one.place),
        incident=one,
        region=view.board.region(one.region),
        marks=marks,
        axes=axes,
        start=start,
        to_post=(posted - start).total_seconds() if posted else None,
        lasted=_lasted(one, view.now),
        attempts=timeline.attempts(marks),
        held=next((held for held in view.board.held() if held.subject == subject and held.state == "held"), None),
        logs=await ask(view.board.logs(subject=subject, since=since, until=until, limit=200)),
        incident_health=INCIDENT,
        bad=timeline.BAD,
        trace_address=trace_address(view.trace_url, one.trace),
        fresh=fresh(view, Topic.INCIDENTS),
    )


def trace_address(pattern: str, trace: str) -> str:
    """Where the trace is shown; empty without a pattern, and for what is no trace id (32 hexadecimal digits)."""
    return pattern.replace(TRACE_ID, trace) if re.fullmatch("[0-9a-f]{32}", trace) else ""


def _lasted(one: Incident, now: datetime) -> float:
    return ((one.ended or now) - one.began).total_seconds()
