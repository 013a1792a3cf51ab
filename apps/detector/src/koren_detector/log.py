"""Logs: one JSON object a line, with the keys that logs have everywhere. journald adds the time."""

from __future__ import annotations

import json
import logging

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """A record as `level`, `message` and what was given as `extra`, such as `event_id` and `subject`."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        more = {key: value for key, value in vars(record).items() if key not in _OF_EVERY_RECORD}
        line = {"level": record.levelname.lower(), "logger": record.name, "message": message, **more}
        return json.dumps(line, ensure_ascii=False, default=str)


def configure() -> None:
    """Logs of this process go to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
