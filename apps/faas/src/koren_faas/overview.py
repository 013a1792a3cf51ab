# SPDX-License-Identifier: Apache-2.0
"""Tables of the console's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from koren_faas.show import columns, printable, table

UNKNOWN = "-"


def regions(found: Sequence[Mapping[str, Any]], *, wide: bool = False) -> str:
    """Regions, a line each."""
    rows: list[tuple[str, ...]] = [
        ("NAME", "STATUS", "SINCE", "NODES", "PARTS", "INCIDENTS", "PODS", "QUEUED", "HELD")
        + ("DEAD_LETTERS", "REASON")
    ]
    for one in found:
        counts = ("open_incidents", "pods", "queued", "held", "dead_letters")
        rows.append(
            (
                _text(one.get("name")),
                _text(one.get("health")).upper(),
                _time(one.get("since")),
                _well(one.get("nodes")),
                _well(one.get("parts")),
                *(_count(one.get(key)) for key in counts),
                _words(one.get("reason")),
            )
        )
    return table(rows, wide=wide)


def top(
    summary: Mapping[str, Any], functions: Sequence[Mapping[str, Any]], *, wide: bool = False
) -> str:
    """The site's figures, then its functions, a line each: those with most pods first."""

    def count(key: str) -> str:
        return _count(summary.get(key))

    saved = summary.get("saved")
    told = [
        ("Regions:", f"{count('answering')} of {count('regions')} answer"),
        ("Incidents:", f"{count('open_incidents')} open, {count('waiting')} held"),
        ("Alerts:", count("alerts")),
        ("Pods:", f"{count('pods')} of at most {count('pods_maximum')}"),
        ("Events:", f"{count('events_last_hour')} in the last hour"),
        ("From zero:", f"{_seconds(summary.get('p95_from_zero'))} (95th percentile)"),
        ("Lost:", count("lost")),
        ("Retried:", count("retried")),
        ("Dead letters:", count("dead")),
        ("Saved:", UNKNOWN if saved is None else f"{saved * 100:.1f}% of pod-seconds this week"),
        ("As of:", _time(summary.get("as_of"))),
    ]
    rows: list[tuple[str, ...]] = [
        ("NAME", "STATUS", "PODS", "MAX", "QUEUED", "EVENTS/MIN", "ERRORS/MIN", "P50", "P95")
        + ("LAST_START", "DEAD_LETTERS", "REGION")
    ]
    for one in sorted(functions, key=_busy):
        phases = (one.get("last_start") or {}).get("phases")
        rows.append(
            (
                _text(one.get("name")),
                _text(one.get("status")),
                *(_count(one.get(key)) for key in ("pods", "maximum", "queued")),
                *(_rate(one.get(key)) for key in ("per_minute", "errors_per_minute")),
                *(_seconds(one.get(key)) for key in ("p50", "p95")),
                _seconds(phases[-1][1] if phases else None),
                _count(one.get("dead_letters")),
                _text(one.get("region")),
            )
        )
    return f"{columns(told)}\n\n{table(rows, wide=wide)}"


def incidents(found: Sequence[Mapping[str, Any]], *, wide: bool = False) -> str:
    """Incidents, a line each."""
    rows: list[tuple[str, ...]] = [
        ("ID", "STATE", "SEVERITY", "BEGAN", "LASTED", "PODS", "EVENTS", "RETRIED", "FAILED")
        + ("REGION", "PLACE")
    ]
    for one in found:
        rows.append(
            (
                *(_text(one.get(key)) for key in ("subject", "state", "severity")),
                _time(one.get("began")),
                _between(one.get("began"), one.get("ended")),
                *(_count(one.get(key)) for key in ("pods", "events", "retried", "failed")),
                _text(one.get("region")),
                _words(one.get("place")),
            )
        )
    return table(rows, wide=wide)


def incident(one: Mapping[str, Any], console: str) -> str:
    """All of one incident: what is known of it, what was posted, and its life, a line for each moment.

    Args:
        console: address of the console's page; empty when the site has none.
    """
    picture, confidence = _text(one.get("picture")), one.get("confidence")
    if picture.startswith("/"):
        picture = f"{console}{picture}" if console else UNKNOWN
    rows = [
        ("ID:", _text(one.get("subject"))),
        ("Region:", _text(one.get("region"))),
        ("State:", _text(one.get("state"))),
        ("Severity:", _text(one.get("severity"))),
        ("Confidence:", UNKNOWN if confidence is None else f"{confidence * 100:.0f}%"),
        ("Place:", _words(one.get("place"))),
        ("Road:", _text(one.get("road"))),
        ("Camera:", _text(one.get("camera"))),
        ("Objects:", _text(", ".join(map(str, one.get("objects") or ())))),
        ("Began:", _time(one.get("began"))),
        ("Ended:", _time(one.get("ended"))),
        ("Lasted:", _between(one.get("began"), one.get("ended"))),
        ("Pods:", _count(one.get("pods"))),
        ("Events:", _count(one.get("events"))),
        ("Retried:", _count(one.get("retried"))),
        ("Failed:", _count(one.get("failed"))),
        ("Picture:", picture),
        ("Post:", _text(one.get("post"))),
        ("Trace:", _text(one.get("trace"))),
    ]
    parts = [columns(rows)]
    text = one.get("text") or {}
    for language in ("en", "ko"):
        if text.get(language):
            parts.append("\n".join(_text(line) for line in str(text[language]).splitlines()))
    marks: list[tuple[str, ...]] = [
        ("TIME", "AFTER", "LANE", "WHAT", "LASTED", "FUNCTION", "ATTEMPT", "EVENT", "DETAIL")
    ]
    for mark in sorted(one.get("marks") or (), key=lambda mark: str(mark.get("at"))):
        at = mark.get("at")
        took = None if mark.get("until") is None else _between(at, mark["until"])
        marks.append(
            (
                _time(at, "milliseconds"),
                f"+{_between(one.get('began'), at)}",
                *(_text(mark.get(key)) for key in ("lane", "what")),
                took or UNKNOWN,
                _text(mark.get("function")),
                _count(mark.get("attempt")),
                *(_text(mark.get(key)) for key in ("event", "detail")),
            )
        )
    return "\n\n".join([*parts, table(marks, wide=True)])


def _busy(one: Mapping[str, Any]) -> tuple[Any, ...]:
    counts = tuple(-(one.get(key) or 0) for key in ("pods", "queued", "per_minute"))
    return (*counts, str(one.get("name")), str(one.get("region")))


def _well(things: Sequence[Mapping[str, Any]] | None) -> str:
    """How many of all are neither broken nor silent."""
    if not things:
        return UNKNOWN
    return f"{sum(one.get('health') in ('ok', 'watch') for one in things)}/{len(things)}"


def _text(value: Any) -> str:
    """One line of a text of others."""
    return printable(str(value if value is not None else "")) or UNKNOWN


def _words(words: Mapping[str, Any] | None) -> str:
    words = words or {}
    return _text(words.get("en") or words.get("ko"))


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else str(value)


def _rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}s"


def _time(value: str | None, precision: str = "seconds") -> str:
    if value is None:
        return UNKNOWN
    return _moment(value).isoformat(timespec=precision).replace("+00:00", "Z")


def _between(begin: str | None, end: str | None) -> str:
    """Seconds from one time to another, or to now."""
    if begin is None:
        return UNKNOWN
    until = _moment(end) if end is not None else datetime.now(UTC)
    return f"{(until - _moment(begin)).total_seconds():.3f}s"


def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC)
