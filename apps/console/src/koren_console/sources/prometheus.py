# SPDX-License-Identifier: Apache-2.0
"""The centre's Prometheus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from koren_console.model import Saving, Series
from koren_console.sources import queries
from koren_console.sources.http import SourceDown

MOST_POINTS = 360
_STEPS_S = (15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


@dataclass(frozen=True)
class Sample:
    """One value with its labels."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """Asks queries; every method raises SourceDown."""

    def __init__(self, address: str, http: httpx.AsyncClient) -> None:
        self._base = address.rstrip("/")
        self._http = http

    async def now(self, query: str) -> list[Sample]:
        """The values of a query now; those that are no number are left out."""
        answer = await self._ask("query", {"query": query})
        found = answer["result"]
        if answer["resultType"] != "vector":
            raise SourceDown(f"prometheus: {query} gives no vector")
        samples = [Sample(one["metric"], float(one["value"][1])) for one in found]
        return [one for one in samples if math.isfinite(one.value)]

    async def one(self, query: str) -> float | None:
        """The only value of a query; None when there is none."""
        samples = await self.now(query)
        return samples[0].value if samples else None

    async def series(self, name: str, region: str, function: str, span: timedelta) -> list[Series]:
        """A chart's lines over a span that ends now."""
        end = datetime.now(UTC).timestamp()
        wanted_s = max(span.total_seconds() / MOST_POINTS, 1)
        step_s = next((step for step in _STEPS_S if step >= wanted_s), _STEPS_S[-1])
        end = math.floor(end / step_s) * step_s
        start = math.ceil((end - span.total_seconds()) / step_s) * step_s
        times = [start + number * step_s for number in range(int((end - start) // step_s) + 1)]
        lines = []
        for title, chart in queries.CHARTS[name].items():
            query = chart.query.replace("%s", queries.selector(region, function)).replace(",}", "}")
            answer = await self._ask(
                "query_range", {"query": query, "start": str(start), "end": str(end), "step": str(step_s)}
            )
            values = {}
            for one in answer["result"][:1]:
                values = {round(float(at)): float(value) for at, value in one["values"]}
            lines.append(Series(title, chart.unit, times, _with_gaps(times, values), chart.objective))
        return lines

    async def savings(self, span: timedelta) -> list[Saving]:
        """Pod-seconds used, and those of the same functions always on."""
        seconds = f"{int(span.total_seconds())}s"
        used = await self.by_function(queries.SAVINGS["used"].replace("%s", seconds))
        always = await self.by_function(queries.SAVINGS["always_on"].replace("%s", seconds))
        return [
            Saving(region, function, used.get((region, function), 0.0), value)
            for (region, function), value in sorted(always.items())
        ]

    async def by_function(self, query: str) -> dict[tuple[str, str], float]:
        """The values of a query by region and function."""
        return {
            (one.labels.get("region", ""), one.labels.get("function", "")): one.value for one in await self.now(query)
        }

    async def _ask(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        try:
            answer = await self._http.post(f"{self._base}/api/v1/{path}", data=form)
            content = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SourceDown(f"prometheus does not answer: {error or type(error).__name__}") from None
        if not isinstance(content, dict) or content.get("status") != "success":
            why = content.get("error") if isinstance(content, dict) else answer.status_code
            raise SourceDown(f"prometheus refuses: {why}", answer.status_code)
        data: dict[str, Any] = content["data"]
        return data


def _with_gaps(times: Sequence[float], values: dict[int, float]) -> list[float | None]:
    found = (values.get(round(at)) for at in times)
    return [value if value is not None and math.isfinite(value) else None for value in found]
