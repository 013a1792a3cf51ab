# SPDX-License-Identifier: Apache-2.0
"""Alerts: what rings, what rang, and silences."""

from __future__ import annotations

from datetime import timedelta

from starlette.exceptions import HTTPException
from starlette.responses import Response

from koren_console.model import Alert, PastAlert, Refused, Role, Topic
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import SEVERITY, acting, ask, done, first, fresh, titles
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


MOST_PAST = 2_000
"""Past alerts that are listed, the latest; history may have more."""
PAST: list[Column[PastAlert]] = [
    Column("severity", "col.severity", lambda one: one.alert.severity),
    Column("name", "col.alert", lambda one: one.alert.name),
    Column("region", "col.region", lambda one: one.alert.labels.get("region")),
    Column("since", "col.began", lambda one: one.alert.since),
    Column("ended", "col.ended", lambda one: one.ended),
    Column("lasted", "col.lasted", lambda one: one.lasted, number=True),
    Column("summary", "col.summary", lambda one: one.alert.summary),
    Column("fingerprint", "col.id", lambda one: one.alert.fingerprint, extra=True),
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


async def past(view: View) -> Response:
    """What rings no more, the one that began last first."""
    found = await ask(view.board.past_alerts(MOST_PAST))
    rows = found.value or ()
    listed = listing(view, rows, PAST, lambda one: {**fields(one.alert), "state": "ended"}, "-since")
    if wants_csv(view):
        return as_csv(view, "past-alerts", listed, PAST)
    return view.page(
        "alerts_past.html",
        str(view.t("alerts.past")),
        listing=None if found.refusal else listed,
        refusal=found.refusal,
        columns=PAST,
        titles=titles(view),
        most=MOST_PAST if len(rows) >= MOST_PAST else None,
        severity_health=SEVERITY,
        fresh=fresh(view, Topic.ALERTS),
        hints=("severity:critical", *(f"region:{one.name}" for one in view.board.regions()[:4])),
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
            outcome = await view.board.acts.unsilence(one.fingerprint, user.name, Role(user.role))
        else:
            span = SPANS.get(first(sent, "span"))
            if span is None:
                raise HTTPException(400)
            comment = first(sent, "comment").strip()[:500]
            outcome = await view.board.acts.silence(one.fingerprint, span, comment, user.name, Role(user.role))
    except Refused as refused:
        return view.page("refused.html", one.name, 409, refusal=refused.words, back="/alerts")
    return done(view, outcome, "/alerts", "alerts.back")
