"""RFC 3339 times in UTC with milliseconds, as every message carries them."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The current time in UTC, cut to milliseconds, so that it survives `format_time`."""
    return to_milliseconds(datetime.now(UTC))


def to_milliseconds(moment: datetime) -> datetime:
    """`moment` in UTC, cut to milliseconds.

    Raises ValueError when it has no time zone, or when UTC puts it outside the years 1 to 9999.
    """
    if moment.utcoffset() is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; give one, e.g. datetime.now(UTC)")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is outside the years 1 to 9999 in UTC") from None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# Under load the same few moments are written again and again.
@lru_cache(maxsize=256)
def format_time(moment: datetime) -> str:
    """`2026-11-24T10:15:00.250Z`. Raises ValueError as `to_milliseconds` does."""
    if moment.tzinfo is not UTC:
        moment = to_milliseconds(moment)
    # The text is cut to milliseconds, too.
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


def parse_time(text: object) -> datetime:
    """The moment an RFC 3339 text names, in UTC, cut to milliseconds.

    Takes any value of JSON. Raises ValueError, and nothing else, for one that names no moment.
    """
    if not isinstance(text, str) or not _RFC3339.fullmatch(text):
        shown = repr(text[:40]) if isinstance(text, str) else f"a value of type {type(text).__name__}"
        raise ValueError(f"{shown} is not an RFC 3339 time such as 2026-11-24T10:15:00.250Z")
    return to_milliseconds(datetime.fromisoformat(text))


@lru_cache(maxsize=256)
def from_ms(unix_ms: int) -> datetime:
    """The moment of a Unix time in milliseconds, in UTC.

    Raises ValueError outside the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(milliseconds=unix_ms)
    except OverflowError:
        raise ValueError(f"{unix_ms} ms is outside the years 1 to 9999") from None


def format_ms(unix_ms: int) -> str:
    """A Unix time in milliseconds as messages carry it. Raises ValueError as `from_ms` does."""
    return format_time(from_ms(unix_ms))
