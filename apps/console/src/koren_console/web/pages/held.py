# SPDX-License-Identifier: Apache-2.0
"""Held events: shown as readers would see the post, then confirmed or dismissed."""

from __future__ import annotations

from typing import Literal

from starlette.responses import Response

from koren_console.model import Held, Refused, Role, Topic, Words
from koren_console.web.pages.common import acting, done, fresh, silent, titles
from koren_console.web.view import View

MOST = 50
GONE = Words(
    "이 이벤트는 더 이상 기다리지 않습니다. 다른 사람이 결정했거나 기한이 지났습니다. "
    "사고 목록에서 결과를 확인해 주십시오.",
    "This does not wait any more: somebody has decided it, or its time is over. The incident shows what became of it.",
)


async def held(view: View) -> Response:
    """All that wait, the longest first, each with what it would post."""
    query = view.request.query_params.get("q", "").strip().lower()
    waiting = sorted((one for one in view.board.held() if one.state == "held"), key=lambda one: one.since)
    found = [
        one
        for one in waiting
        if all(
            term.removeprefix("region:") in f"{one.region} {one.place.ko} {one.place.en} {one.subject}".lower()
            for term in query.split()
        )
    ]
    return view.page(
        "held.html",
        str(view.t("nav.held")),
        held=found[:MOST],
        found=len(found),
        total=len(waiting),
        query=query,
        titles=titles(view),
        silent=silent(view.board.regions()),
        fresh=fresh(view, Topic.HELD),
    )


def _held(view: View) -> Held | None:
    region, id = view.request.path_params["region"], view.request.path_params["id"]
    return next((one for one in view.board.held() if one.region == region and one.id == id), None)


async def step(view: View) -> Response:
    """What a confirmation or dismissal does, before it is done."""
    one = _held(view)
    if one is None:
        return view.page("refused.html", str(view.t("nav.held")), refusal=GONE, back="/held")
    return view.page(
        "held_step.html",
        view.w(one.place),
        held=one,
        act=view.request.path_params["act"],
        titles=titles(view),
        fresh=fresh(view, Topic.HELD),
    )


async def decide(view: View) -> Response:
    """Confirm or dismiss one."""
    user, _ = await acting(view)
    region, id = view.request.path_params["region"], view.request.path_params["id"]
    act: Literal["release", "dismiss"] = view.request.path_params["act"]
    try:
        decision = view.board.acts.release if act == "release" else view.board.acts.dismiss
        outcome = await decision(region, id, user.name, Role(user.role))
    except Refused as refused:
        return view.page("refused.html", str(view.t("nav.held")), 409, refusal=refused.words, back="/held")
    return done(view, outcome, "/held", "held.back")
