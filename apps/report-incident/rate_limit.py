"""When a network that refuses for its rate limit may be asked again."""

import time
from datetime import datetime
from email.utils import parsedate_to_datetime


def wait_s(resets: "list[str | None]", retry_after: str | None) -> float | None:
    """Seconds until the latest of `resets`, Unix seconds or times of ISO 8601, or what a
    Retry-After header says; 1 at the least. None when neither names a time to come."""
    now = time.time()
    waits = [_reset(reset) - now for reset in resets if reset]
    waits.append(_retry_after_s(retry_after or "", now) if max(waits, default=0.0) <= 0 else 0.0)
    longest = max(waits)
    return max(longest, 1.0) if longest > 0 else None


def _reset(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp() if "T" in text else _number(text)
    except ValueError:
        return 0.0


def _retry_after_s(text: str, now: float) -> float:
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except ValueError:
        return _number(text)


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0.0
