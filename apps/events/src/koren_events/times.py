"""RFC 3339 times in UTC with milliseconds, as every message carries them."""

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def utc_now() -> datetime:
    """The current time in UTC, cut to milliseconds, so that it survives `format_time`."""
    return to_milliseconds(datetime.now(UTC))


def to_milliseconds(moment: datetime) -> datetime:
    """`moment` in UTC, cut to milliseconds. Raises ValueError when it has no time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; give one, e.g. datetime.now(UTC)")
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def format_time(moment: datetime) -> str:
    """`2026-11-24T10:15:00.250Z`."""
    return to_milliseconds(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """The moment an RFC 3339 text names, in UTC, cut to milliseconds. Raises ValueError."""
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not an RFC 3339 time such as 2026-11-24T10:15:00.250Z")
    return to_milliseconds(datetime.fromisoformat(text))
