# SPDX-License-Identifier: Apache-2.0
"""What rings at the centre's Alertmanager, and what rang, as history has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from koren_console.history import History, HistoryUnread
from koren_console.model import Alert, PastAlert, Refused, Words
from koren_console.sources.alertmanager import Alertmanager
from koren_console.sources.http import SourceDown

_EVERY_S = 5.0

_log = structlog.get_logger()


class Alerts:
    """Asks Alertmanager every few seconds and keeps what begins and ends; an alert is known by label set and beginning.

    Args:
        alertmanager: who is asked.
        history: where alerts are kept.
        on_change: called when something began, ended or was silenced.
    """

    def __init__(self, alertmanager: Alertmanager, history: History, on_change: Callable[[], None]) -> None:
        self.alertmanager = alertmanager
        self.ringing: Sequence[Alert] = ()
        """What rang at the last answer, silenced and inhibited ones too."""
        self.as_of: datetime | None = None
        """When Alertmanager last answered."""
        self._history = history
        self._on_change = on_change

    async def run(self) -> None:
        """Ask, for ever."""
        said = ""
        while True:
            try:
                await self.refresh()
                problem = ""
            except SourceDown as down:
                problem = str(down)
            if problem != said:
                _log.warning("alertmanager", problem=problem)
            said = problem
            await asyncio.sleep(_EVERY_S)

    async def refresh(self) -> None:
        """Ask now. Raises SourceDown."""
        found = await self.alertmanager.alerts()
        now = datetime.now(UTC)
        before, rings = _by_key(self.ringing), _by_key(found)
        for key, alert in rings.items():
            if before.get(key) != alert:
                self._history.keep_alert(alert, None)
        for key in before.keys() - rings.keys():
            self._history.keep_alert(before[key], now)
        self.ringing, self.as_of = found, now
        if before != rings:
            self._on_change()

    async def past(self, limit: int) -> Sequence[PastAlert]:
        """What rang and does so no more, the one that began last first. Raises Refused when history can't be read."""
        before = self.ringing
        try:
            kept = await self._history.alerts(limit + len(before))
        except HistoryUnread as error:
            raise Refused(
                Words(
                    "기록을 읽을 수 없어 지난 경보를 표시할 수 없습니다. 콘솔의 로그와 볼륨을 확인해 주십시오.",
                    "History can't be read, so past alerts can't be shown. Look at the console's log and its volume.",
                )
            ) from error
        ringing = _by_key([*before, *self.ringing]).keys()
        return [
            PastAlert(alert, ended)
            for alert, ended in kept
            # One whose end was not seen may ring still until Alertmanager has answered.
            if (alert.fingerprint, alert.since) not in ringing and (ended is not None or self.as_of is not None)
        ][:limit]


def _by_key(alerts: Sequence[Alert]) -> dict[tuple[str, datetime], Alert]:
    return {(one.fingerprint, one.since): one for one in alerts}
