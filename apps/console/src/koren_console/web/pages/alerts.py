# SPDX-License-Identifier: Apache-2.0
"""Alerts: what rings, and silences."""

from __future__ import annotations

from datetime import timedelta

from starlette.exceptions import HTTPException
from starlette.responses import Response

from koren_console.model import Alert, Refused, Role, Topic
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import SEVERITY, acting, done, first, fresh
from koren_console.web.view import View

SPANS = {"1h": timedelta(hours=1), "4h": timedelta(hours=4), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
COLUMNS: list[Column[Alert]] = [
    Column("severity", "col.severity", lambda one: one.severity),
    Column("name", "col.alert", lambda one: one.name),
    Column("region", "col.region", lambda one: one.labels.get("region")),
    Column("since", "col.since", lambda one: one.since),
    Column("summary", "col.summary", lambda one: one.summary),
    Column("silenced", "col.silenced", lambda one: one.silenced_until),
]


def fields(one: Alert) -> dict[str, str]:
    """What the filter looks in: its labels by their names, too."""
    return {
        **one.labels,
        "name": one.name,
        "severity": one.severity,
        "summary": one.summary,
        "state": "silenced" if one.silenced_until else "inhibited" if one.inhibited else "ringing",
    }


async def alerts(view: View) -> Response:
    """The list, the newest first: what rings, then what is silenced or inhibited."""
    found = listing(view, view.board.alerts(), COLUMNS, fields, "-since")
    if wants_csv(view):
        return as_csv(view, "alerts", found, COLUMNS)
    return view.page(
        "alerts.html",
        str(view.t("nav.alerts")),
        listing=found,
        ringing=[one for one in found.rows if not one.silenced_until and not one.inhibited],
        quiet=[one for one in found.rows if one.silenced_until or one.inhibited],
        severity_health=SEVERITY,
        fresh=fresh(view, Topic.ALERTS),
        hints=("state:ringing", "state:silenced", "severity:critical"),
    )


def _alert(view: View) -> Alert:
    wanted = view.request.path_params["fingerprint"]
    one = next((one for one in view.board.alerts() if one.fingerprint == wanted), None)
    if one is None:
        raise HTTPException(404)
    return one


async def step(view: View) -> Response:
    """What a silence does, before it is set or ended."""
    one = _alert(view)
    return view.page("alert_step.html", one.name, alert=one, spans=SPANS, severity_health=SEVERITY)


async def act(view: View) -> Response:
    """Silence the alert, or end its silence."""
    user, sent = await acting(view)
    one = _alert(view)
    try:
        if first(sent, "act") == "unsilence":
            outcome = await view.board.unsilence(one.fingerprint, user.name, Role(user.role))
        else:
            span = SPANS.get(first(sent, "span"))
            if span is None:
                raise HTTPException(400)
            comment = first(sent, "comment").strip()[:500]
            outcome = await view.board.silence(one.fingerprint, span, comment, user.name, Role(user.role))
    except Refused as refused:
        return view.page("refused.html", one.name, 409, refusal=refused.words, back="/alerts")
    return done(view, outcome, "/alerts", "alerts.back")
