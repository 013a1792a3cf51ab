# SPDX-License-Identifier: Apache-2.0
"""Records for views, made of what sources say."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from koren_console.model import DeadLetter, Health, Place
from koren_console.settings import Point
from koren_console.sources import queries
from koren_console.sources.figures import Figures
from koren_events.times import format_time, parse_time

T = TypeVar("T")


class Made(Generic[T]):
    """Records that were made, until something changes or they are a second old."""

    def __init__(self) -> None:
        self._records: Sequence[T] = ()
        self._until = 0.0

    def get(self, make: Callable[[], Sequence[T]]) -> Sequence[T]:
        """They, made anew if need be."""
        if time.monotonic() >= self._until:
            self._records, self._until = make(), time.monotonic() + 1.0
        return self._records

    def forget(self) -> None:
        """Something has changed."""
        self._until = 0.0


class FunctionFigures:
    """What Prometheus says of functions, arranged once for many."""

    def __init__(self, figures: Figures) -> None:
        self._plain = {name: figures.by("function", name, "region", "function") for name in queries.FUNCTIONS}
        self._phases = {name: figures.by("phase", name, "region", "function", "phase") for name in queries.PHASES}
        self._names: dict[tuple[str, str], list[str]] = {}
        for region, function, phase in self._phases["p50"] | self._phases["p95"]:
            self._names.setdefault((region, function), []).append(phase)

    def of(self, region: str, function: str) -> dict[str, Any]:
        """The figures of one function, by the names of the record."""
        key = (region, function)
        p50, p95 = self._phases["p50"], self._phases["p95"]
        phases = [(one, p50.get((*key, one)), p95.get((*key, one))) for one in self._names.get(key, ())]
        return {
            "queued": whole(self._plain["queued"].get(key)),
            "per_minute": self._plain["per_minute"].get(key),
            "errors_per_minute": self._plain["errors_per_minute"].get(key),
            "p50": p50.get((*key, "handler_entered")),
            "p95": p95.get((*key, "handler_entered")),
            "phases": sorted(phases, key=lambda one: one[1] or 0),
        }


def letter_of(region: str, row: dict[str, Any]) -> DeadLetter:
    """A dead letter as the Function API gives it."""
    event = row.get("event") or {}
    return DeadLetter(
        id=row["id"],
        region=region,
        function=row.get("function") or "",
        event=event.get("id") or "",
        subject=event.get("subject") or "",
        reason=row["reason"],
        at=parse_time(row["time"]),
        attempts=row["attempts"],
        bytes=row.get("bytes") or 0,
    )


def event_of(region: str, function: str, payload: bytes) -> tuple[str, bytes]:
    """A payload as an event, unless it is one already; its id and itself."""
    try:
        data = json.loads(payload or b"null")
    except (ValueError, RecursionError):
        data = payload.decode(errors="replace")
    if isinstance(data, dict) and "specversion" in data:
        return str(data.get("id", "")), payload
    id = str(uuid.uuid4())
    values = {
        "specversion": "1.0",
        "id": id,
        "source": f"/functions/{function}",
        "type": "kr.koren.faas.invocation",
        "time": format_time(datetime.now(UTC)),
        "region": region,
        "datacontenttype": "text/plain" if isinstance(data, str) else "application/json",
        "data": data,
    }
    return id, json.dumps(values).encode()


def parsed(body: bytes) -> Any:
    """A function's answer: parsed when it is JSON, else its text."""
    text = body.decode(errors="replace")
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        return text


def status_of(pods: int, ready: int, problem: str) -> str:
    """As `faas function ls` says it."""
    if problem:
        return "REFUSED"
    if pods == 0:
        return "IDLE"
    return "READY" if ready else "NOT READY"


def camera_health(connected: float | None, moving: float | None) -> Health:
    """Whether the stream comes, and shows anything new."""
    if connected is None:
        return Health.UNKNOWN
    if not connected:
        return Health.ACT
    return Health.OK if moving is None or moving > 0 else Health.WATCH


def place_of(point: Point | None) -> Place | None:
    """A point of the settings on the map."""
    return None if point is None else Place(point.latitude, point.longitude)


def whole(value: float | None) -> int | None:
    """A count that Prometheus gives as a float."""
    return None if value is None else max(0, round(value))
