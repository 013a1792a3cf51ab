# SPDX-License-Identifier: Apache-2.0
"""What people changed, or tried to."""

from __future__ import annotations

from starlette.responses import Response

from koren_console.model import AuditLine
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import ask
from koren_console.web.view import View

COLUMNS: list[Column[AuditLine]] = [
    Column("at", "col.at", lambda one: one.at),
    Column("who", "col.who", lambda one: one.who),
    Column("role", "col.role", lambda one: one.role),
    Column("what", "col.what", lambda one: one.what),
    Column("target", "col.target", lambda one: one.target),
    Column("outcome", "col.outcome", lambda one: one.outcome),
    Column("detail", "col.detail", lambda one: one.detail),
]


def fields(one: AuditLine) -> dict[str, str]:
    """What the filter looks in."""
    return {
        "who": one.who,
        "role": one.role,
        "what": one.what,
        "target": one.target,
        "outcome": one.outcome,
        "detail": one.detail,
    }


async def audit(view: View) -> Response:
    """The latest changes, the newest first."""
    found = await ask(view.board.audit(1000))
    listed = listing(view, found.value or [], COLUMNS, fields, "-at")
    if wants_csv(view):
        return as_csv(view, "audit", listed, COLUMNS)
    return view.page(
        "audit.html",
        str(view.t("nav.audit")),
        listing=listed,
        refusal=found.refusal,
        columns=COLUMNS,
        hints=("outcome:refused", "what:release", "what:purge"),
    )
