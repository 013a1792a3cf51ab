# SPDX-License-Identifier: Apache-2.0
"""What cameras and functions may put into events and results: no page is lost to it, and none runs it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from test_incidents import Kept, detected

from koren_console.model import DeadLetter, Held, Incident, Words
from koren_console.simulation.app import Anybody, application
from koren_console.simulation.board import Simulation
from koren_console.sources.incidents import Incidents

NOW = datetime.now(UTC)
HALF = "half \ud800 a pair"
SCRIPT = "<script>alert(1)</script>"


class Hostile(Simulation):
    """A site with one incident, one held event and one dead letter, each as somebody wrote it."""

    def __init__(self, incident: Incident) -> None:
        super().__init__(regions=3, functions=1, cameras=1)
        self._told = incident

    def incidents(self) -> Sequence[Incident]:
        return [self._told]

    async def incident(self, subject: str) -> Incident | None:
        return self._told if subject == self._told.subject else None

    def held(self) -> Sequence[Held]:
        one = self._told
        return [
            Held(
                id="1-0",
                region=one.region,
                subject=one.subject,
                since=one.began,
                ends=one.began,
                place=Words(f"{HALF}{SCRIPT}", f"{HALF}{SCRIPT}"),
                confidence=None,
                why=Words("", ""),
                state="held",
            )
        ]

    async def dead_letters(self) -> Sequence[DeadLetter]:
        one = self._told
        return [DeadLetter("1-0", one.region, "f", "e", one.subject, f"{HALF}{SCRIPT}", one.began, 1, 1)]

    async def dead_letter(self, region: str, id: str) -> dict[str, Any]:
        return {"message": {"data": {HALF: SCRIPT}}}


def told(time: str = "2026-11-28T12:00:00Z", **data: Any) -> Incident:
    """The incident that an event with these words and this time makes."""
    incidents = Incidents(Kept())
    event = {**detected().to_dict(), "time": time}
    event["data"] = {**event["data"], "started_at": time, **data}
    incidents.event("seoul", json.dumps(event).encode(), NOW)
    [incident] = incidents.all()
    return incident


@pytest.mark.parametrize(
    "words",
    [
        {"severity": f"{SCRIPT}{HALF}"},
        {"time": "0001-01-01T00:00:00Z"},
        {"time": "9999-12-31T23:59:59Z"},
        {"confidence": 10**400},
        {"camera": {"id": SCRIPT, "name": {"ko": f"{SCRIPT}{HALF}", "en": SCRIPT}, "latitude": 10**400}},
    ],
    ids=["severity", "year 1", "year 9999", "confidence", "camera"],
)
@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/Lima"])
@pytest.mark.parametrize("suffix", ["", "?format=csv"])
def test_no_word_of_an_event_takes_a_page_away_or_runs_in_it(words: dict[str, Any], zone: str, suffix: str) -> None:
    incident = told(**words)
    with TestClient(application(Hostile(incident), Anybody())) as client:
        client.cookies.set("zone", zone)
        for path in (
            "/",
            "/incidents",
            f"/incidents/{incident.subject}",
            "/held",
            "/held/seoul/1-0/release",
            "/dead-letters",
            "/dead-letters/seoul/1-0",
            "/regions/seoul",
        ):
            answer = client.get(path + suffix)
            assert answer.status_code == 200, path
            if not suffix:
                assert SCRIPT not in answer.text


def test_a_time_that_an_event_makes_up_is_not_its_beginning() -> None:
    for time in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert abs(told(time=time).began - NOW) < timedelta(days=1)


@pytest.mark.parametrize(
    "path",
    [
        "/login?error=limited&wait=%C2%B2",
        "/events?until=0001-01-01T00:00:00%2B00:00",
        "/events?until=9999-12-31T23:59:59-23:59",
        "/events?until=0001-01-01T00:00:00%2B14:00",
    ],
)
def test_no_word_of_an_address_takes_a_page_away(path: str) -> None:
    with TestClient(application(Hostile(told()), Anybody())) as client:
        assert client.get(path).status_code == 200


def test_a_letter_that_is_nested_deeper_than_python_follows_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    nested: Any = "the end"
    for _ in range(900):
        nested = {"a": [nested]}

    async def letter(self: Hostile, region: str, id: str) -> dict[str, Any]:
        return {"message": {"first": "the beginning", "data": nested}}

    monkeypatch.setattr(Hostile, "dead_letter", letter)
    with TestClient(application(Hostile(told()), Anybody())) as client:
        answer = client.get("/dead-letters/seoul/1-0")
        assert answer.status_code == 200 and "the beginning" in answer.text
        assert client.get("/dead-letters/seoul/1-0/picture").status_code == 404
