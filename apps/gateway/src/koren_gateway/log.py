"""Logs: one JSON object a line, each with the region."""

import logging
import sys
import time

import structlog
from structlog.typing import EventDict, WrappedLogger


def configure(region: str, level: int) -> None:
    """Logs of this process, those of its libraries too, go to standard output."""

    def with_region(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["region"] = region
        return event

    at = structlog.processors.TimeStamper(fmt="iso", utc=True)
    as_json = (
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(ensure_ascii=False),
    )
    structlog.configure(
        processors=[
            with_region,
            structlog.processors.add_log_level,
            at,
            structlog.processors.format_exc_info,
            *as_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[with_region, structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, at],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *as_json,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class Seldom:
    """Has something that others may bring about as often as they like logged at most once in `every_s` for each
    name."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last: dict[str, tuple[float, int]] = {}

    def left_out(self, name: str) -> int | None:
        """None when it is not to be logged now, else how many times it was not since the last time."""
        now = time.monotonic()
        at, count = self._last.get(name, (-self._every_s, 0))
        if now - at < self._every_s:
            self._last[name] = at, count + 1
            return None
        self._last[name] = now, 0
        return count
