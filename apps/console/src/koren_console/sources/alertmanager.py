# SPDX-License-Identifier: Apache-2.0
"""The centre's Alertmanager, by its API v2."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx

from koren_console.model import Alert
from koren_console.sources.http import SourceDown

_QUIET = "Watchdog"
"""Always fires, to show that alerts are delivered: nothing for a person."""


class Alertmanager:
    """Asks for alerts and silences; every method raises SourceDown."""

    def __init__(self, address: str, http: httpx.AsyncClient) -> None:
        self._base = f"{address.rstrip('/')}/api/v2"
        self._http = http

    async def alerts(self) -> list[Alert]:
        """What rings now, silenced and inhibited ones too; the most severe and latest first."""
        rings = await self._ask("GET", "/alerts")
        silences = {one["id"]: one for one in await self._ask("GET", "/silences")}
        found = [alert_of(one, silences) for one in rings if one["labels"].get("alertname") != _QUIET]
        return sorted(found, key=lambda one: (one.severity != "critical", -one.since.timestamp()))

    async def silence(self, labels: dict[str, str], span: timedelta, comment: str, who: str) -> str:
        """Silence what has exactly these labels; the silence's id."""
        now = datetime.now(UTC)
        answer = await self._ask(
            "POST",
            "/silences",
            {
                "matchers": [
                    {"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in labels.items()
                ],
                "startsAt": now.isoformat(),
                "endsAt": (now + span).isoformat(),
                "createdBy": who,
                "comment": comment or "console",
            },
        )
        return str(answer["silenceID"])

    async def unsilence(self, fingerprint: str) -> int:
        """End the silences of an alert; how many."""
        rings = await self._ask("GET", "/alerts")
        one = next((one for one in rings if one["fingerprint"] == fingerprint), None)
        ids = [] if one is None else one["status"]["silencedBy"]
        for id in ids:
            await self._ask("DELETE", f"/silence/{quote(id, safe='')}")
        return len(ids)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = await self._http.request(method, self._base + path, json=body)
            if not answer.is_success:
                raise SourceDown(f"alertmanager refuses: {answer.text[:300]}", answer.status_code)
            return answer.json() if answer.content else None
        except (httpx.HTTPError, ValueError) as error:
            raise SourceDown(f"alertmanager does not answer: {error or type(error).__name__}") from None


def alert_of(one: dict[str, Any], silences: dict[str, dict[str, Any]]) -> Alert:
    """An alert as the API gives it."""
    labels, notes, status = one["labels"], one.get("annotations", {}), one["status"]
    by = [silences[id] for id in status.get("silencedBy", ()) if id in silences]
    last = max(by, key=lambda silence: str(silence["endsAt"]), default=None)
    runbook = notes.get("runbook") or notes.get("runbook_url") or ""
    return Alert(
        fingerprint=one["fingerprint"],
        name=labels.get("alertname", ""),
        severity=labels.get("severity", ""),
        summary=notes.get("summary", ""),
        # It becomes a link: nothing but a web address.
        runbook=runbook if runbook.startswith(("https://", "http://")) else "",
        since=datetime.fromisoformat(one["startsAt"]).astimezone(UTC),
        labels=dict(labels),
        silenced_until=None if last is None else datetime.fromisoformat(last["endsAt"]).astimezone(UTC),
        silenced_by="" if last is None else last["createdBy"],
        inhibited=bool(status.get("inhibitedBy")),
    )
