# SPDX-License-Identifier: Apache-2.0
"""Functions: the list, one of them, and a call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from koren_console.model import Function, Refused, Role, Start, Topic
from koren_console.web.lists import Column, as_csv, listing, wants_csv
from koren_console.web.pages.common import FUNCTION, acting, ask, first, fresh, silent, titles
from koren_console.web.view import View

OBJECTIVE_S = 2.0
"""Seconds within which 99 % of events are handled from zero."""
SPANS = {"15m": timedelta(minutes=15), "1h": timedelta(hours=1), "6h": timedelta(hours=6), "24h": timedelta(hours=24)}
SERIES = ("events", "p95", "pods", "queued")
PAYLOAD_BYTES = 512 * 1024

COLUMNS: list[Column[Function]] = [
    Column("name", "col.function", lambda one: one.name),
    Column("region", "col.region", lambda one: one.region),
    Column("status", "col.status", lambda one: one.status),
    Column("pods", "col.pods", lambda one: len(one.pods), number=True),
    Column("maximum", "col.maximum", lambda one: one.maximum, extra=True),
    Column("queued", "col.queued", lambda one: one.queued, number=True),
    Column("rate", "col.rate", lambda one: one.per_minute, number=True),
    Column("p50", "col.p50", lambda one: one.p50, number=True),
    Column("p95", "col.p95", lambda one: one.p95, number=True),
    Column("errors", "col.errors", lambda one: one.errors_per_minute, number=True),
    Column("dead", "col.dead", lambda one: one.dead_letters, number=True),
    Column("start", "col.start", lambda one: _start_s(one)),
    Column("filter", "col.filter", lambda one: one.filter, extra=True),
]


def _start_s(one: Function) -> float | None:
    return one.last_start.phases[-1][1] if one.last_start is not None and one.last_start.phases else None


def phase_parts(start: Start | None) -> list[tuple[str, float, float, float]]:
    """Each phase of a start: its name, where it begins and how long it is in percent of all, and its seconds."""
    if start is None or not start.phases:
        return []
    ends = [("", 0.0), *start.phases]
    total = start.phases[-1][1] or 1
    return [
        (name, before / total * 100, max(0.0, end - before) / total * 100, end - before)
        for (_, before), (name, end) in pairwise(ends)
    ]


def phase_table(one: Function) -> list[tuple[str, float | None, float | None, float | None]]:
    """Each phase with the seconds until its end: in the last start, and p50 and p95 of all."""
    last = dict(one.last_start.phases) if one.last_start else {}
    usual = {name: (p50, p95) for name, p50, p95 in one.phases}
    names = [name for name, _, _ in one.phases] or list(last)
    return [(name, last.get(name), *usual.get(name, (None, None))) for name in names]


def fields(one: Function) -> dict[str, str]:
    """What the filter looks in."""
    return {
        "name": one.name,
        "region": one.region,
        "status": one.status,
        "filter": one.filter,
        "pods": str(len(one.pods)),
    }


async def functions(view: View) -> Response:
    """The list; those with pods first."""
    found = listing(view, view.board.functions(), COLUMNS, fields, "-pods")
    if wants_csv(view):
        return as_csv(view, "functions", found, COLUMNS)
    return view.page(
        "functions.html",
        str(view.t("nav.functions")),
        listing=found,
        columns=COLUMNS,
        titles=titles(view),
        function_health=FUNCTION,
        phase_parts=phase_parts,
        fresh=fresh(view, Topic.FUNCTIONS),
        silent=silent(view.board.regions()),
        hints=("-pods:0", "status:ready", *(f"region:{one.name}" for one in view.board.regions()[:4])),
    )


def _function(view: View) -> Function:
    one = view.board.function(view.request.path_params["region"], view.request.path_params["name"])
    if one is None:
        raise HTTPException(404)
    return one


async def function(view: View) -> Response:
    """One function: pods, phases, figures over time, its description, calls and logs."""
    one = _function(view)
    span = view.request.query_params.get("span", "1h")
    return view.page(
        "function.html",
        one.name,
        function=one,
        region=view.board.region(one.region),
        function_health=FUNCTION,
        phase_rows=phase_parts(one.last_start),
        phase_table=phase_table(one),
        objective=OBJECTIVE_S,
        span=span if span in SPANS else "1h",
        spans=SPANS,
        series=SERIES,
        description=json.dumps(one.description, indent=2, ensure_ascii=False, default=str),
        logs=await ask(view.board.logs(function=one.name, region=one.region, limit=25)),
        fresh=fresh(view, Topic.FUNCTIONS),
    )


async def series(view: View) -> Response:
    """Figures over time as JSON, for the charts."""
    query = view.request.query_params
    name, span = query.get("name", ""), SPANS.get(query.get("span", "1h"))
    if name not in SERIES or span is None:
        raise HTTPException(404)
    found = await ask(view.board.series(name, query.get("region", ""), query.get("function", ""), span))
    if found.value is None:
        return JSONResponse({"refusal": view.w(found.refusal)}, 503)
    # At most three lines can be told apart.
    return JSONResponse(
        [
            {
                "name": one.name,
                "unit": one.unit,
                "times": list(one.times),
                "values": list(one.values),
                "objective": one.objective,
            }
            for one in found.value[:3]
        ],
        headers={"Cache-Control": "no-store"},
    )


async def call_form(view: View) -> Response:
    """What a call does, and its payload."""
    one = _function(view)
    return view.page("call.html", one.name, function=one, payload="{}", result=None, refusal=None)


async def call(view: View) -> Response:
    """Call the function and show its answer."""
    user, sent = await acting(view)
    one = _function(view)
    payload = first(sent, "payload")
    if len(payload.encode()) > PAYLOAD_BYTES:
        raise HTTPException(413)
    try:
        result = await view.board.acts.call(one.region, one.name, payload.encode(), user.name, Role(user.role))
    except Refused as refused:
        return view.page("call.html", one.name, 409, function=one, payload=payload, result=None, refusal=refused.words)
    shown = json.dumps(result.get("answer"), indent=2, ensure_ascii=False, default=str)
    return view.page(
        "call.html", one.name, function=one, payload=payload, result=result, shown=shown[:64_000], refusal=None
    )


async def follow(view: View) -> Response:
    """Lines of the function's pods as server-sent events, while the reader is signed in."""
    one = _function(view)

    async def lines() -> AsyncIterator[str]:
        yield ": begin\n\n"
        try:
            async for line in view.board.follow(one.region, one.name):
                if not view.auth.stands(view.request):
                    return
                yield "".join(f"data: {part}\n" for part in line.splitlines() or [""]) + "\n"
        except Refused as refused:
            yield f"event: refused\ndata: {view.w(refused.words)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
