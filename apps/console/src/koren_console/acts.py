# SPDX-License-Identifier: Apache-2.0
"""What people change at a real site, each in the name of their role and with a line in the audit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from koren_console.alerts import Alerts
from koren_console.auth.audit import Audit
from koren_console.model import Outcome, Refused, Role, Topic, Words
from koren_console.records import event_of, parsed
from koren_console.refusals import counted, missing, or_refused, outcome_of, refused
from koren_console.sources.http import SourceDown
from koren_console.watched import Watched, known

_GRACE_S = 45
_MOST_LETTER_ACTS = 8


class SiteActs:
    """Acts at regions' gateways and at Alertmanager, each with the name and the role of who acts.

    Args:
        places: the regions by name.
        alerts: what rings; None where there is no Alertmanager.
        audit: where each act is written down, also one that was refused.
        say: is told what an act has changed.
    """

    def __init__(
        self, places: Mapping[str, Watched], alerts: Alerts | None, audit: Audit, say: Callable[[Topic], None]
    ) -> None:
        self._places = places
        self._alerts = alerts
        self._audit = audit
        self._say = say

    async def release(self, region: str, id: str, who: str, role: Role) -> Outcome:
        return await self._decide(region, id, who, role, "release", "released")

    async def dismiss(self, region: str, id: str, who: str, role: Role) -> Outcome:
        return await self._decide(region, id, who, role, "dismiss", "dismissed")

    async def _decide(self, region: str, id: str, who: str, role: Role, verb: str, done: str) -> Outcome:
        place = known(self._places, region)
        async with self._audited(who, role, verb, f"{region}/held/{id}"):
            answer = await or_refused(place.gateway.act(role, who, "POST", "held", id, verb))
        place.held = [one for one in place.held if one.id != id]
        place.ask.set()
        self._say(Topic.HELD)
        count = len(answer.get(done, ()))
        if verb == "release":
            words = Words(
                f"이벤트 {count}건을 확인하여 처리를 시작했습니다.", f"Released {count} events. They are handled now."
            )
        else:
            words = Words(f"이벤트 {count}건을 무시했습니다.", f"Dismissed {count} events. Nothing is posted.")
        return Outcome(count, 0, words)

    async def redrive(self, region: str, ids: Sequence[str], who: str, role: Role) -> Outcome:
        done, reasons = await self._each(region, ids, who, role, "redrive", "POST", "redrive")
        return counted(region, done, reasons, ("다시 처리하도록 보냈습니다", "sent again"))

    async def purge(self, region: str, ids: Sequence[str], who: str, role: Role) -> Outcome:
        done, reasons = await self._each(region, ids, who, role, "purge", "DELETE")
        return counted(region, done, reasons, ("삭제했습니다", "deleted"))

    async def _each(
        self, region: str, ids: Sequence[str], who: str, role: Role, what: str, method: str, *suffix: str
    ) -> tuple[int, list[str]]:
        place = known(self._places, region)
        room = asyncio.Semaphore(_MOST_LETTER_ACTS)

        async def one(id: str) -> str:
            async with room:
                try:
                    await place.gateway.act(role, who, method, "dead-letters", id, *suffix)
                except SourceDown as down:
                    self._audit.write(who, role, what, f"{region}/dead-letters/{id}", outcome_of(down), str(down))
                    return str(down)
                self._audit.write(who, role, what, f"{region}/dead-letters/{id}", "done")
                return ""

        answers = await asyncio.gather(*(one(id) for id in dict.fromkeys(ids)))
        self._say(Topic.DEAD_LETTERS)
        return answers.count(""), [one for one in answers if one]

    async def call(self, region: str, function: str, payload: bytes, who: str, role: Role) -> dict[str, Any]:
        place = known(self._places, region)
        placed = place.cluster.functions.get(function)
        if placed is None:
            raise Refused(
                Words(f"{region}에는 함수 {function}이(가) 없습니다.", f"{region} has no function {function}.")
            )
        id, event = event_of(region, function, payload)
        began = time.monotonic()
        status, answer = 200, b""
        async with self._audited(who, role, "call", f"{region}/{function}"):
            try:
                answer = await place.gateway.call(
                    role, who, function, event, "application/cloudevents+json", placed.timeout_s + _GRACE_S
                )
            except SourceDown as down:
                # The function failed, or did not answer in time: that is an answer too.
                if down.status not in (502, 504):
                    raise refused(down) from down
                status, answer = down.status, json.dumps({"error": str(down)}).encode()
        return {"status": status, "answer": parsed(answer), "seconds": time.monotonic() - began, "event": id}

    async def silence(self, fingerprint: str, span: timedelta, comment: str, who: str, role: Role) -> Outcome:
        alerts = self._for_operator(role)
        alert = next((one for one in alerts.ringing if one.fingerprint == fingerprint), None)
        if alert is None:
            raise Refused(Words("이 경보는 더 이상 울리지 않습니다.", "This alert does not ring any more."))
        async with self._audited(who, role, "silence", f"{alert.name} {fingerprint}", f"{span}: {comment}"):
            await or_refused(alerts.alertmanager.silence(alert.labels, span, comment, who))
        await self._look_again(alerts)
        return Outcome(1, 0, Words("경보를 음소거했습니다.", "The alert is silenced."))

    async def unsilence(self, fingerprint: str, who: str, role: Role) -> Outcome:
        alerts = self._for_operator(role)
        async with self._audited(who, role, "unsilence", fingerprint):
            count = await or_refused(alerts.alertmanager.unsilence(fingerprint))
        await self._look_again(alerts)
        return Outcome(count, 0, Words("음소거를 해제했습니다.", "The silence has ended."))

    async def _look_again(self, alerts: Alerts) -> None:
        # Without an answer it is seen at the next one.
        with contextlib.suppress(SourceDown):
            await alerts.refresh()

    def _for_operator(self, role: Role) -> Alerts:
        # Alertmanager itself knows no roles.
        if role is not Role.OPERATOR:
            raise Refused(Words("운영자만 할 수 있습니다.", "Only an operator may do this."))
        if self._alerts is None:
            raise missing("Alertmanager", "Alertmanager")
        return self._alerts

    @contextlib.asynccontextmanager
    async def _audited(self, who: str, role: Role, what: str, target: str, detail: str = "") -> AsyncIterator[None]:
        try:
            yield
        except Refused as refused:
            cause = refused.__cause__
            down = cause if isinstance(cause, SourceDown) else None
            self._audit.write(who, role, what, target, outcome_of(down), refused.words.en)
            raise
        except BaseException as error:
            self._audit.write(who, role, what, target, "failed", type(error).__name__)
            raise
        self._audit.write(who, role, what, target, "done", detail)
