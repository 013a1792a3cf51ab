"""Logs: one JSON object a line, each with the region."""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger


def configure(region: str, level: int) -> None:
    """Logs of this process go to standard output."""

    def with_region(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["region"] = region
        return event

    structlog.configure(
        processors=[
            with_region,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
