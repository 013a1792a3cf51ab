# SPDX-License-Identifier: Apache-2.0
"""Figures and times as a person reads them."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

ZONE: Final = "Asia/Seoul"
"""The zone of readers whose browser has not told theirs."""
UNKNOWN: Final = "–"


def zone(name: str) -> ZoneInfo:
    """The zone of that name, or Seoul's for a name that is none."""
    return ZoneInfo(name if name in _zones() else ZONE)


@cache
def _zones() -> set[str]:
    # It reads some hundred files.
    return available_timezones()


def seconds(value: float | None) -> str:
    """A length in seconds with a unit that suits it: 85 ms, 1.24 s, 4 min 05 s, 3 h 12 min, 5 d 2 h."""
    if value is None:
        return UNKNOWN
    if value < 0:
        return "−" + seconds(-value)
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    whole = round(value)
    if whole < 60:
        return f"{value:.1f} s" if value < 59.95 and value != whole else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def tick(value: float) -> str:
    """A round length of time on an axis: +200 ms, +1 s, +2 min."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if value >= length:
            return f"+{value / length:g} {unit}"
    return f"+{value * 1000:.0f} ms" if value else "0"


def count(value: float | None) -> str:
    """A number of things, with thousands apart."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A number a minute: whole from 10, else with one decimal."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def share(value: float | None, digits: int = 0) -> str:
    """A share of 1 as percent."""
    return UNKNOWN if value is None else f"{value * 100:.{digits}f} %"


def size(value: float | None) -> str:
    """Bytes with a unit that suits them."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def exact(at: datetime, where: ZoneInfo) -> str:
    """A time to the millisecond in the reader's zone, and in UTC."""
    local, utc = at.astimezone(where), at.astimezone(ZoneInfo("UTC"))
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d} {local:%Z} · {utc:%H:%M:%S} UTC"


def clock(at: datetime, where: ZoneInfo, now: datetime, *, seconds: bool = True) -> str:
    """A time in the reader's zone; with its date, and seconds only on demand, when that is another day."""
    local = at.astimezone(where)
    today = now.astimezone(where).date()
    if local.date() == today:
        return f"{local:%H:%M:%S}"
    date = f"{local:%m-%d}" if local.year == today.year else f"{local:%Y-%m-%d}"
    return f"{date} {local:%H:%M:%S}" if seconds else f"{date} {local:%H:%M}"


def stale(as_of: datetime | None, now: datetime, after: timedelta = timedelta(seconds=60)) -> bool:
    """Whether a figure is too old to be taken for the present."""
    return as_of is not None and now - as_of > after
