# SPDX-License-Identifier: Apache-2.0
"""What Prometheus said last, by the names of the queries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from koren_console.sources import queries
from koren_console.sources.http import SourceDown
from koren_console.sources.prometheus import Prometheus, Sample

EVERY_S = 15.0
"""As often as it collects."""

_SLOW_EVERY_S = 600.0
_SLOW = ("saved",)
_log = structlog.get_logger()


@dataclass
class Figures:
    """The values of all queries; what a query did not give is left as it was, with `as_of` telling its age."""

    as_of: datetime | None = None
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    _regions: dict[tuple[str, str], dict[str, list[Sample]]] = field(default_factory=dict)

    def put(self, group: str, name: str, samples: list[Sample]) -> None:
        """A query gave these."""
        self.samples.setdefault(group, {})[name] = samples
        self._regions.pop((group, name), None)

    def in_region(self, group: str, name: str, region: str) -> list[Sample]:
        """The samples of a query that are a region's."""
        key = (group, name)
        if key not in self._regions:
            found: dict[str, list[Sample]] = {}
            for one in self.of(group, name):
                found.setdefault(one.labels.get("region", ""), []).append(one)
            self._regions[key] = found
        return self._regions[key].get(region, [])

    def summary(self, name: str) -> float | None:
        """A figure of the whole site."""
        found = self.samples.get("summary", {}).get(name)
        return found[0].value if found else None

    def of(self, group: str, name: str) -> list[Sample]:
        """The samples of a query."""
        return self.samples.get(group, {}).get(name, [])

    def by(self, group: str, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The values of a query by these labels."""
        return {tuple(one.labels.get(label, "") for label in labels): one.value for one in self.of(group, name)}


GROUPS: Mapping[str, Mapping[str, str]] = {
    "summary": queries.SUMMARY,
    "region": queries.REGION_FIGURES,
    "host": queries.HOSTS,
    "part": queries.PARTS,
    "redis": {"share": queries.REDIS_SHARE},
    "certificate": {"ends": queries.CERTIFICATES},
    "link": queries.LINKS,
    "camera": queries.CAMERAS,
    "function": queries.FUNCTIONS,
    "phase": queries.PHASES,
}


class Collector:
    """Asks all queries again and again."""

    def __init__(self, prometheus: Prometheus, figures: Figures, on_change: Callable[[], None]) -> None:
        self._prometheus = prometheus
        self._figures = figures
        self._on_change = on_change
        self._slow_at = 0.0
        self._refused: set[str] = set()

    async def run(self) -> None:
        """For ever."""
        said = ""
        while True:
            try:
                await self.once()
                now = ""
            except SourceDown as down:
                now = str(down)
            if now != said:
                _log.warning("prometheus", problem=now) if now else _log.info("prometheus answers")
            said = now
            await asyncio.sleep(EVERY_S)

    async def once(self) -> None:
        """Ask each once. Raises SourceDown when Prometheus does not answer; one query that it refuses is left out."""
        slow = not self._slow_at or time.monotonic() - self._slow_at > _SLOW_EVERY_S
        for group, asked in GROUPS.items():
            for name, query in asked.items():
                if name in _SLOW and not slow:
                    continue
                try:
                    self._figures.put(group, name, await self._prometheus.now(query))
                    self._refused.discard(query)
                except SourceDown as down:
                    if down.status is None or down.status >= 500:
                        raise
                    if query not in self._refused:
                        _log.warning("query refused", query=query, problem=str(down))
                    self._refused.add(query)
        if slow:
            self._slow_at = time.monotonic()
        self._figures.as_of = datetime.now(UTC)
        self._on_change()
