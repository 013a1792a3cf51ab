# SPDX-License-Identifier: Apache-2.0
"""Dead letters: what was given up, why, and what to do with it."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from koren_console.model import DeadLetter, Outcome, Refused, Role, Words
from koren_console.web.lists import Column, Listing, as_csv, listing, wants_csv
from koren_console.web.pages.common import acting, ask, done, first, form, silent, titles
from koren_console.web.view import View

COLUMNS: list[Column[DeadLetter]] = [
    Column("at", "col.at", lambda one: one.at),
    Column("region", "col.region", lambda one: one.region),
    Column("function", "col.function", lambda one: one.function),
    Column("reason", "col.reason", lambda one: one.reason),
    Column("subject", "col.incident", lambda one: one.subject),
    Column("attempts", "col.attempts", lambda one: one.attempts, number=True),
    Column("bytes", "col.size", lambda one: one.bytes, number=True),
    Column("id", "col.id", lambda one: one.id, extra=True),
    Column("event", "col.event", lambda one: one.event, extra=True),
]
SHOWN = 20_000
"""Letters of a payload that are shown."""
DEPTH = 100
"""What is nested deeper is not shown: Python would not follow."""
PICTURES = {"image/jpeg", "image/png", "image/webp"}
ACTS = ("redrive", "purge")


def fields(one: DeadLetter) -> dict[str, str]:
    """What the filter looks in."""
    return {
        "region": one.region,
        "function": one.function,
        "reason": one.reason,
        "subject": one.subject,
        "event": one.event,
        "id": one.id,
    }


async def _listed(view: View) -> tuple[Listing[DeadLetter] | None, Words | None]:
    found = await ask(view.board.dead_letters())
    if found.value is None:
        return None, found.refusal
    return listing(view, found.value, COLUMNS, fields, "-at"), None


async def dead_letters(view: View) -> Response:
    """The list, the newest first."""
    found, refusal = await _listed(view)
    if found is not None and wants_csv(view):
        return as_csv(view, "dead-letters", found, COLUMNS)
    return view.page(
        "dead_letters.html",
        str(view.t("nav.dead")),
        listing=found,
        refusal=refusal,
        columns=COLUMNS,
        titles=titles(view),
        silent=silent(view.board.regions()),
        hints=tuple(f"region:{one.name}" for one in view.board.regions()[:4]),
    )


async def _letter(view: View) -> tuple[DeadLetter, dict[str, Any]]:
    region, id = view.request.path_params["region"], view.request.path_params["id"]
    one = next((one for one in await view.board.dead_letters() if (one.region, one.id) == (region, id)), None)
    if one is None:
        raise HTTPException(404)
    return one, await view.board.dead_letter(region, id)


async def dead_letter(view: View) -> Response:
    """One letter with its payload: pretty, bounded, its picture shown."""
    try:
        one, letter = await _letter(view)
    except Refused as refused:
        return view.page("refused.html", str(view.t("nav.dead")), 503, refusal=refused.words, back="/dead-letters")
    shown = json.dumps(_without_bytes(letter), indent=2, ensure_ascii=False, default=str)
    return view.page(
        "dead_letter.html",
        one.function,
        letter=one,
        payload=shown[:SHOWN],
        cut=max(0, len(shown) - SHOWN),
        picture=_picture(letter) is not None,
        titles=titles(view),
        logs=await ask(view.board.logs(event=one.event, limit=50)) if one.event else None,
    )


async def picture(view: View) -> Response:
    """The picture in a letter's payload."""
    try:
        found = _picture((await _letter(view))[1])
    except Refused:
        found = None
    if found is None:
        raise HTTPException(404)
    return Response(found[1], media_type=found[0], headers={"Cache-Control": "private, max-age=3600"})


def _picture(value: Any, depth: int = 0) -> tuple[str, bytes] | None:
    """The first embedded picture of a JSON value: an object with a media type and base64."""
    if depth > DEPTH:
        return None
    if isinstance(value, dict):
        media = next((one for one in value.values() if isinstance(one, str) and one in PICTURES), None)
        if media:
            for one in value.values():
                if isinstance(one, str) and len(one) > 200:
                    try:
                        return media, base64.b64decode(one, validate=True)
                    except binascii.Error:
                        continue
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            found = _picture(one, depth + 1)
            if found:
                return found
    return None


def _without_bytes(value: Any, depth: int = 0) -> Any:
    """The value with each long text cut to its beginning and its length, and without what lies too deep."""
    if isinstance(value, (dict, list)) and depth > DEPTH:
        return "…"
    if isinstance(value, dict):
        return {key: _without_bytes(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_bytes(one, depth + 1) for one in value]
    if isinstance(value, str) and len(value) > 2000:
        return f"{value[:80]}… ({len(value):,})"
    return value


async def review(view: View) -> Response:
    """What a redrive or purge of the chosen letters does, before it is done."""
    view.auth.check_role(view.request, Role.OPERATOR)
    sent = await form(view)
    act = first(sent, "act")
    if act not in ACTS:
        raise HTTPException(400)
    try:
        everything = list(await view.board.dead_letters())
    except Refused as refused:
        return view.page("refused.html", str(view.t("nav.dead")), 503, refusal=refused.words, back="/dead-letters")
    chosen = set(sent.get("letter", []))
    letters = [one for one in everything if f"{one.region}/{one.id}" in chosen]
    return view.page(
        "dead_letters_step.html",
        str(view.t(f"dead.{act}-title", n=len(letters))),
        act=act,
        letters=letters,
        missing=len(chosen) - len(letters),
        by_function=Counter((one.region, one.function) for one in letters).most_common(),
        titles=titles(view),
    )


async def act(view: View) -> Response:
    """Redrive or purge the chosen letters, region by region; says how many were reached and what was not."""
    user, sent = await acting(view)
    kind = first(sent, "act")
    if kind not in ACTS:
        raise HTTPException(400)
    by_region: dict[str, list[str]] = {}
    for one in sent.get("letter", []):
        region, _, id = one.partition("/")
        by_region.setdefault(region, []).append(id)
    outcomes: list[Outcome] = []
    for region, ids in by_region.items():
        try:
            do = view.board.acts.redrive if kind == "redrive" else view.board.acts.purge
            outcomes.append(await do(region, ids, user.name, Role(user.role)))
        except Refused as refused:
            outcomes.append(Outcome(0, len(ids), refused.words))
    total = Outcome(
        sum(one.done for one in outcomes),
        sum(one.failed for one in outcomes),
        Words(" ".join(one.message.ko for one in outcomes), " ".join(one.message.en for one in outcomes)),
    )
    return done(view, total, "/dead-letters", "dead.back")
