# SPDX-License-Identifier: Apache-2.0
"""Held events of a region, as its gateway tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from koren_console.model import Held, Incident, Words
from koren_console.sources.gateway import Gateway
from koren_console.sources.http import SourceDown
from koren_console.sources.incidents import share_of, words_of
from koren_console.sources.preview import Preview, preview
from koren_events.contract import incident_kind
from koren_events.times import parse_time

MOST = 500
"""Held events of a region that are shown."""

_WHAT = {
    "rear_end": Words("추돌", "rear-end collision"),
    "side": Words("측면 충돌", "side collision"),
    "head_on": Words("정면 충돌", "head-on collision"),
    "single": Words("단독 사고", "single-vehicle accident"),
    "unknown": Words("종류를 알 수 없는 사고", "accident of unknown kind"),
    "stopped-vehicle": Words("정지 차량", "stopped vehicle"),
    "person-on-road": Words("차도 위 보행자", "person in the roadway"),
    "wrong-way": Words("역주행 차량", "wrong-way vehicle"),
}
_SEVERITY = {
    "minor": Words("경미", "minor"),
    "moderate": Words("보통", "moderate"),
    "severe": Words("심각", "severe"),
}


@dataclass(frozen=True)
class _Told:
    """What an event says, and what its post will."""

    kind: str | None
    facts: Mapping[str, Any]
    preview: Preview


class Holding:
    """One region's held events. What an event says is asked for once; its text is that of `network`."""

    def __init__(self, gateway: Gateway, hold_s: int, network: str) -> None:
        self._gateway = gateway
        self._network = network
        self._hold = timedelta(seconds=hold_s)
        self._told: dict[str, _Told] = {}

    async def list(self) -> list[Held]:
        """Those that wait, the most urgent first. Raises SourceDown."""
        answer = await self._gateway.get("/held", {"limit": str(MOST)})
        rows = [one for one in answer["held"] if one["state"] == "held"]
        for gone in self._told.keys() - {one["id"] for one in rows}:
            del self._told[gone]
        for row in rows:
            if row["id"] not in self._told:
                try:
                    message = (await self._gateway.get(f"/held/{row['id']}")).get("message")
                except SourceDown as down:
                    if down.status != 404:
                        raise
                    continue
                # A long text takes its time to be fitted.
                shown = await asyncio.to_thread(preview, message, self._network)
                self._told[row["id"]] = _Told(_kind(message), _facts(message), shown)
        found = [self._held(row) for row in rows if row["id"] in self._told]
        return sorted(found, key=lambda one: one.ends)

    def _held(self, row: Mapping[str, Any]) -> Held:
        event = row.get("event") or {}
        told = self._told[row["id"]]
        facts = told.facts
        since = parse_time(row["received"])
        return Held(
            id=row["id"],
            region=self._gateway.region,
            subject=str(event.get("subject") or ""),
            since=since,
            ends=parse_time(row["until"]) if row.get("until") else since + self._hold,
            place=_place(facts) or Words(*[str(event.get("source") or row["id"])] * 2),
            confidence=share_of(facts.get("confidence")),
            why=_why(told.kind, facts),
            preview=told.preview.text,
            no_preview=told.preview.missing,
            first_post=told.preview.first,
            state=row["state"],
        )


def with_incident(held: Held, incident: Incident | None) -> Held:
    """A held event with the picture of its incident."""
    return held if incident is None else replace(held, picture=incident.picture)


def _kind(message: Any) -> str | None:
    type = message.get("type") if isinstance(message, Mapping) else None
    return incident_kind(type) if isinstance(type, str) else None


def _facts(message: Any) -> Mapping[str, Any]:
    data = message.get("data") if isinstance(message, Mapping) else None
    # Not the picture: it is kept elsewhere.
    return {name: value for name, value in data.items() if name != "image"} if isinstance(data, Mapping) else {}


def _place(facts: Mapping[str, Any]) -> Words | None:
    camera = facts.get("camera")
    return words_of(camera.get("name")) if isinstance(camera, Mapping) else None


def _why(kind: str | None, facts: Mapping[str, Any]) -> Words:
    what = _WHAT.get(str(facts.get("what") if kind == "accident" else kind))
    if what is None:
        return Words("", "")
    ko, en = [what.ko], [what.en]
    severity = _SEVERITY.get(str(facts.get("severity")))
    if severity is not None:
        ko.append(f"심각도 {severity.ko}")
        en.append(f"{severity.en} severity")
    objects = facts.get("objects")
    count = (
        sum(1 for one in objects if isinstance(one, Mapping) and one.get("involved"))
        if isinstance(objects, list)
        else 0
    )
    if count:
        ko.append(f"관련 객체 {count}개")
        en.append(f"{count} object{'s' if count > 1 else ''} involved")
    return Words(", ".join(ko), ", ".join(en))
