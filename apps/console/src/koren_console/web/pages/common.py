# SPDX-License-Identifier: Apache-2.0
"""What several views do."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import Response

from koren_console.model import Health, Outcome, Refused, Region, Role, Series, Topic, Words
from koren_console.web.access import User
from koren_console.web.view import View

T = TypeVar("T")
INCIDENT = {"held": Health.ACT, "open": Health.WATCH, "cleared": Health.OK, "dismissed": Health.UNKNOWN}
FUNCTION = {"IDLE": Health.OK, "READY": Health.OK, "NOT READY": Health.WATCH, "REFUSED": Health.ACT}
SEVERITY = {"page": Health.ACT, "critical": Health.ACT, "warning": Health.WATCH, "ticket": Health.WATCH}
FORM_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was asked for, or why it could not be had."""

    value: T | None
    refusal: Words | None = None


async def ask(question: Awaitable[T]) -> Answer[T]:
    """The answer of something that may be down, so that the rest of the page is still shown."""
    try:
        return Answer(await question)
    except Refused as refused:
        return Answer(None, refused.words)


@dataclass(frozen=True)
class Freshness:
    """How old a part of the page is: `loading` before its first answer, `stale` when newer ones are missing."""

    as_of: datetime | None
    loading: bool
    stale: bool


def fresh(view: View, topic: Topic, after: timedelta = timedelta(seconds=60)) -> Freshness:
    """How old that part of the board is."""
    as_of = view.board.as_of(topic)
    return Freshness(as_of, as_of is None, as_of is not None and view.now - as_of > after)


def silent(regions: Iterable[Region]) -> list[Region]:
    """The regions that do not answer."""
    return [region for region in regions if region.health is Health.UNKNOWN]


def titles(view: View) -> dict[str, str]:
    """The regions' titles by name."""
    return {region.name: view.w(region.title) for region in view.board.regions()}


def spark(series: Sequence[Series] | None, width: int = 120, height: int = 28) -> list[str]:
    """Points of a small line of the first series; a gap ends one line and the next begins another."""
    if not series or not series[0].values:
        return []
    values = series[0].values
    top = max((value for value in values if value is not None), default=0) or 1
    step = width / max(1, len(values) - 1)
    lines: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            lines.append([])
        else:
            lines[-1].append(f"{index * step:.1f},{height - 2 - value / top * (height - 4):.1f}")
    return [" ".join(line) for line in lines if len(line) > 1]


async def acting(view: View) -> tuple[User, dict[str, list[str]]]:
    """The operator who sent a form and its fields, once role and origin are checked.

    Raises `HTTPException` 401, 403 or 413.
    """
    user = view.auth.check_role(view.request, Role.OPERATOR)
    fields = await form(view)
    view.auth.check_csrf({key: values[0] for key, values in fields.items()}, view.request)
    return user, fields


async def form(view: View) -> dict[str, list[str]]:
    """The fields of a form. Raises `HTTPException` 413 for one that is too large."""
    length = view.request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()) or int(length) > FORM_BYTES:
        raise HTTPException(413)
    fields: dict[str, list[str]] = {}
    async with view.request.form(max_files=0, max_fields=2000, max_part_size=FORM_BYTES) as sent:
        for key, value in sent.multi_items():
            if isinstance(value, str):
                fields.setdefault(key, []).append(value)
    return fields


def first(fields: dict[str, list[str]], key: str) -> str:
    """A field's value; empty when it was not sent."""
    return fields.get(key, [""])[0]


def done(view: View, outcome: Outcome, back: str, back_word: str) -> Response:
    """What an act did."""
    return view.page("outcome.html", str(view.t("outcome.title")), outcome=outcome, back=back, back_word=back_word)
