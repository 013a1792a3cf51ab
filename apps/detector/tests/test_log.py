from __future__ import annotations

import json
import logging

from koren_detector.log import JsonLines


def _line(**given: object) -> dict[str, object]:
    record = logging.LogRecord("koren_detector.worker", logging.WARNING, "w.py", 1, "incident %s", ("사고",), None)
    vars(record).update(given)
    line: dict[str, object] = json.loads(JsonLines().format(record))
    return line


def test_a_line_has_its_level_its_message_and_the_keys_that_were_given() -> None:
    assert _line(event_id="e-1", subject="crash-1", lag_s=0.5) == {
        "level": "warning",
        "logger": "koren_detector.worker",
        "message": "incident 사고",
        "event_id": "e-1",
        "subject": "crash-1",
        "lag_s": 0.5,
    }


def test_an_error_is_one_line_with_its_traceback_and_without_more() -> None:
    try:
        raise ValueError("of the frame")
    except ValueError as error:
        line = _line(exc_info=(ValueError, error, error.__traceback__), path=object)
    assert str(line["message"]).endswith("ValueError: of the frame")
    assert "<class 'object'>" in str(line["path"])
