# SPDX-License-Identifier: Apache-2.0
"""Pod-seconds used, beside those of the same functions always on."""

from __future__ import annotations

from datetime import timedelta

from starlette.responses import Response

from koren_console.model import Saving
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import ask, silent, titles
from koren_console.web.view import View

SPANS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "15d": timedelta(days=15)}
COLUMNS: list[Column[Saving]] = [
    Column("function", "col.function", lambda one: one.function),
    Column("region", "col.region", lambda one: one.region),
    Column("used", "col.used", lambda one: one.used, number=True),
    Column("always", "col.always-on", lambda one: one.always_on, number=True),
    Column("saved", "col.saved", lambda one: 1 - one.used / one.always_on if one.always_on else None, number=True),
]


async def saved(view: View) -> Response:
    """The figures of a span, in all and by function."""
    span = view.request.query_params.get("span", "7d")
    span = span if span in SPANS else "7d"
    found = await ask(view.board.savings(SPANS[span]))
    rows = found.value or []
    listed = listing(view, rows, COLUMNS, lambda one: {"function": one.function, "region": one.region}, "-used")
    if wants_csv(view):
        return as_csv(view, "saved", listed, COLUMNS)
    used, always_on = sum(one.used for one in rows), sum(one.always_on for one in rows)
    return view.page(
        "saved.html",
        str(view.t("nav.saved")),
        listing=listed,
        refusal=found.refusal,
        columns=COLUMNS,
        titles=titles(view),
        silent=silent(view.board.regions()),
        span=span,
        spans=list(SPANS),
        used=used,
        always_on=always_on,
        saved=1 - used / always_on if always_on else None,
    )
