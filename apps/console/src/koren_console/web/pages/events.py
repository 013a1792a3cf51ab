# SPDX-License-Identifier: Apache-2.0
"""Log lines of all regions, by event, incident, function, host, text and time."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

from starlette.responses import Response

from koren_console.web.lists import cell, wants_csv
from koren_console.web.pages.common import ask, silent
from koren_console.web.view import View

SPANS = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
FIELDS = ("event", "subject", "function", "region", "host", "text")
MOST = 500


async def events(view: View) -> Response:
    """The lines that the address asks for, the newest last; nothing is asked for before there is a question."""
    query = view.request.query_params
    asked = {name: query.get(name, "").strip()[:300] for name in FIELDS}
    span = query.get("span", "1h")
    span = span if span in SPANS else "1h"
    until = _time(query.get("until", ""))
    found = None
    if any(asked.values()) or "span" in query:
        found = await ask(view.board.logs(**asked, since=(until or view.now) - SPANS[span], until=until, limit=MOST))
    if wants_csv(view) and found is not None and found.value is not None:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["at", "region", "host", "unit", "level", "event", "subject", "function", "text"])
        for line in found.value:
            row = (line.at, line.region, line.host, line.unit, line.level)
            writer.writerow([cell(one) for one in (*row, line.event, line.subject, line.function, line.text)])
        return Response(
            ("\ufeff" + out.getvalue()).encode(errors="replace"),
            media_type="text/csv",
            headers={"Content-Disposition": 'attachment; filename="events.csv"', "Cache-Control": "no-store"},
        )
    return view.page(
        "events.html",
        str(view.t("nav.events")),
        asked=asked,
        span=span,
        spans=list(SPANS),
        found=found,
        most=MOST,
        regions=view.board.regions(),
        silent=silent(view.board.regions()),
    )


def _time(said: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(said)
        return at.astimezone(UTC) if at.tzinfo and 1 < at.year < 9999 else None
    except ValueError:
        return None
