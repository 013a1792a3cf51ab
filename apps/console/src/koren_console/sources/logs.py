# SPDX-License-Identifier: Apache-2.0
"""Logs at the centre: VictoriaLogs, asked in LogsQL."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from koren_console.model import LogLine
from koren_console.sources.http import SourceDown

_FIELDS = ("event_id", "subject", "function", "region", "host")
_MOST = 2_000
_MOST_TEXT = 8_000
_MOST_BYTES = 16 * 1024 * 1024


class Logs:
    """Asks for lines."""

    def __init__(self, address: str, http: httpx.AsyncClient) -> None:
        self._address = f"{address.rstrip('/')}/select/logsql/query"
        self._http = http

    async def find(
        self,
        wanted: dict[str, str],
        text: str,
        since: datetime,
        until: datetime,
        limit: int,
        events: Sequence[str] = (),
    ) -> list[LogLine]:
        """The latest lines that have these fields and the text, oldest first.

        Args:
            events: ids; with a subject, lines of these events count as the incident's too.

        Raises:
            SourceDown: they can't be had.
        """
        form = {
            "query": query_of(wanted, text, events),
            "start": _time(since),
            "end": _time(until),
            # With a limit the latest lines come, in any order.
            "limit": str(min(limit, _MOST)),
        }
        lines, size = [], 0
        try:
            async with self._http.stream("POST", self._address, data=form) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise SourceDown(f"logs: refused: {answer.text[:300]}", answer.status_code)
                async for line in answer.aiter_lines():
                    size += len(line)
                    if size > _MOST_BYTES:
                        break
                    if line.strip():
                        lines.append(line_of(json.loads(line)))
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise SourceDown(f"logs do not answer: {error or type(error).__name__}") from None
        return sorted(lines, key=lambda one: one.at)


def query_of(wanted: dict[str, str], text: str, events: Sequence[str] = ()) -> str:
    """The query for lines with these fields, exactly, and each word or "quoted phrase" of the text."""
    found = {name: f"{name}:={_quoted(value)}" for name, value in wanted.items() if name in _FIELDS and value}
    if events and "subject" in found:
        found["subject"] = f"({found['subject']} or event_id:in({','.join(map(_quoted, events))}))"
    parts = list(found.values())
    for phrase, word in re.findall(r'"([^"]+)"|(\S+)', text[:500]):
        parts.append(f"i({_quoted(phrase or word)})")
    return " ".join(parts) or "*"


def line_of(fields: dict[str, Any]) -> LogLine:
    """A line as VictoriaLogs gives it."""
    namespace, pod = fields.get("namespace", ""), fields.get("pod", "")
    return LogLine(
        at=datetime.fromisoformat(_milliseconds(fields["_time"])).astimezone(UTC),
        region=fields.get("region", ""),
        host=fields.get("host", ""),
        unit=fields.get("unit") or (f"{namespace}/{pod}" if pod else ""),
        text=str(fields.get("_msg", ""))[:_MOST_TEXT],
        level=fields.get("level", ""),
        event=fields.get("event_id", ""),
        subject=fields.get("subject", ""),
        function=fields.get("function", ""),
    )


def _quoted(value: str) -> str:
    # LogsQL unquotes as Go does, which knows no surrogate pairs: characters stay as they are.
    return json.dumps(value, ensure_ascii=False)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(text: str) -> str:
    return re.sub(r"(\.\d{6})\d+", r"\1", text)
