# SPDX-License-Identifier: Apache-2.0
"""An incident's life on one axis to scale, and its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from koren_console.model import Mark

LANES: Final = ("camera", "broker", "queue", "kubernetes", "function", "post")
STEPS: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
BAD: Final = ("failed", "dead-lettered", "dismissed")
LETTER: Final = 0.82
"""Width of a letter in percent of an axis of usual width."""


@dataclass(frozen=True)
class Bar:
    """A mark on the axis; `x` and `width` are percent of it."""

    mark: Mark
    x: float
    width: float
    label: str
    """Empty where it would run into the one before; the table has them all."""
    anchor: str
    label_x: float


@dataclass(frozen=True)
class Tick:
    """A line across the axis, so many seconds after its begin."""

    x: float
    seconds: float


@dataclass(frozen=True)
class Axis:
    """A span of time with its lanes."""

    start: datetime
    span: float
    """Seconds."""
    ticks: Sequence[Tick]
    lanes: Sequence[tuple[str, Sequence[Bar]]]


@dataclass(frozen=True)
class Attempt:
    """One try of a function at an event."""

    event: str
    function: str
    number: int
    entered: datetime | None
    ended: datetime | None
    outcome: str
    """entered while it runs, succeeded, failed, dead-lettered."""
    detail: str


def spans(marks: Sequence[Mark]) -> list[Mark]:
    """The marks in order of time, each handler's entry reaching to its end."""
    ends = {
        (mark.event, mark.function, mark.attempt): mark.at
        for mark in marks
        if mark.lane == "function" and mark.what in ("succeeded", "failed")
    }
    return sorted(
        (
            replace(mark, until=ends.get((mark.event, mark.function, mark.attempt)))
            if mark.what == "entered" and mark.until is None
            else mark
            for mark in marks
        ),
        key=lambda mark: mark.at,
    )


def axis(marks: Sequence[Mark], start: datetime, end: datetime, words: dict[str, str]) -> Axis:
    """The marks of that span, each to scale. `words` are the labels by what a mark is."""
    span = max((end - start).total_seconds(), 0.05)
    step = next((one for one in STEPS if span / one <= 8), span / 6)
    ticks = [Tick(index * step / span * 100, index * step) for index in range(int(span / step) + 1)]
    lanes = []
    for lane in LANES:
        own = [mark for mark in marks if mark.lane == lane and start <= mark.at <= start + timedelta(seconds=span)]
        taken: list[tuple[float, float]] = []
        # What went wrong is labelled first, where not all labels have room.
        bars = [_bar(mark, start, span, words, taken) for mark in sorted(own, key=lambda mark: mark.what not in BAD)]
        lanes.append((lane, sorted(bars, key=lambda bar: bar.x)))
    return Axis(start, span, ticks, lanes)


def _bar(mark: Mark, start: datetime, span: float, words: dict[str, str], taken: list[tuple[float, float]]) -> Bar:
    """The mark on the axis, with a label where none of the `taken` spans is in its way."""
    x = (mark.at - start).total_seconds() / span * 100
    until = min(100.0, (mark.until - start).total_seconds() / span * 100) if mark.until else x
    # The end of a handler is the end of its bar.
    label = "" if mark.what == "succeeded" else words.get(mark.what, mark.what)
    length = sum(2 if ord(letter) > 0x1100 else 1 for letter in label) * LETTER + 2
    within = (x, x + length) if until - x >= length else None
    for begin, anchor in ((within[0] if within else until, "start"), (until, "start"), (x - length, "end")):
        free = begin >= 0 and begin + length <= 100
        if label and free and all(begin + length <= other or begin >= end for other, end in taken):
            taken.append((begin, begin + length))
            return Bar(mark, x, until - x, label, anchor, begin + 1 if anchor == "start" else x - 1)
    return Bar(mark, x, until - x, "", "start", x)


def first_post(marks: Sequence[Mark]) -> datetime | None:
    """The end of the part that an objective is about: the first post, else the first end of a handler."""
    for what in ("posted", "succeeded", "failed", "entered"):
        found = [mark.until or mark.at for mark in marks if mark.what == what]
        if found:
            return min(found)
    return None


def attempts(marks: Sequence[Mark]) -> list[Attempt]:
    """Each try of each event, in the order in which they began."""
    found: dict[tuple[str, str, int], list[Mark]] = {}
    for mark in marks:
        if mark.lane == "function" and mark.attempt is not None:
            found.setdefault((mark.event, mark.function, mark.attempt), []).append(mark)
    tries = []
    for (event, function, number), own in found.items():
        entered = next((mark for mark in own if mark.what == "entered"), None)
        end = next((mark for mark in reversed(own) if mark.what != "entered"), None)
        ended = end.at if end else entered.until if entered else None
        outcome = end.what if end else "entered"
        detail = next((mark.detail for mark in reversed(own) if mark.detail), "")
        tries.append(Attempt(event, function, number, entered.at if entered else None, ended, outcome, detail))
    far = datetime.max.replace(tzinfo=marks[0].at.tzinfo) if marks else None
    return sorted(tries, key=lambda one: (one.entered or one.ended or far, one.number))


def with_margin(start: datetime, end: datetime) -> datetime:
    """An end a little later, so that the last mark is not at the edge."""
    return end + max((end - start) * 0.04, timedelta(milliseconds=50))
