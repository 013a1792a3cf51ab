# SPDX-License-Identifier: Apache-2.0
"""A line for each change: to the log and to history."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

import structlog

from koren_console.auth.limits import Bucket, network
from koren_console.model import AuditLine

_log = structlog.get_logger("audit")
_MOST = 500
_REFUSALS_AT_ONCE = 30
_REFUSAL_EVERY_S = 60


class Keeper(Protocol):
    """Where lines are kept."""

    def audit(self, line: AuditLine) -> None:
        """Keep a line; must not fail."""


class Audit:
    """Writes who did what, to what, and what came of it."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._refusals = Bucket(_REFUSALS_AT_ONCE, _REFUSAL_EVERY_S, time.monotonic)

    def refusal(self, by: str, who: str, role: str, what: str, target: str, outcome: str, detail: str) -> None:
        """Write a line of something that was not done and may be tried without end: of one address or user only so
        many, for the audit is bounded and what people did must not be crowded out of it."""
        key = network(by)
        if self._refusals.wait_s(key) > 0:
            return
        self._refusals.take(key)
        last = self._refusals.wait_s(key) > 0
        self.write(who, role, what, target, outcome, f"{detail}; what follows at once is left out" if last else detail)

    def write(self, who: str, role: str, what: str, target: str, outcome: str, detail: str = "") -> None:
        """Write one line. Texts that a stranger typed are cut."""
        line = AuditLine(
            at=datetime.now(UTC),
            who=who[:100],
            role=role,
            what=what,
            target=target[:_MOST],
            outcome=outcome,
            detail=detail[:_MOST],
        )
        _log.info(
            "audit",
            who=line.who,
            role=line.role,
            what=line.what,
            target=line.target,
            outcome=line.outcome,
            detail=line.detail,
        )
        self._keeper.audit(line)
