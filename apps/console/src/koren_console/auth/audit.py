# SPDX-License-Identifier: Apache-2.0
"""A line for each change: to the log and to history."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import structlog

from koren_console.model import AuditLine

_log = structlog.get_logger("audit")
_MOST = 500


class Keeper(Protocol):
    """Where lines are kept."""

    def audit(self, line: AuditLine) -> None:
        """Keep a line; must not fail."""


class Audit:
    """Writes who did what, to what, and what came of it."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

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
