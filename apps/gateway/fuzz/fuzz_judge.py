"""Coverage-guided: a message of any topic, properties and body is judged. See harness.py."""

from pathlib import Path

import atheris
from harness import main, search

with atheris.instrument_imports(include=["koren_events", "koren_gateway.intake.judge", "koren_runtime"]):
    from gateway_lab import REPORTER
    from outcomes import check_judged

    from koren_gateway.cluster.functions import function_of
    from koren_gateway.intake.mqtt import Arrival

FUNCTION = function_of(REPORTER)


def one(data: bytes) -> None:
    """The first line, if there are two, is the topic; 'content type|name=value|…' may follow it."""
    first, line, message = data.partition(b"\n")
    if not line:
        first, message = b"events/seoul/x/accident", data
    topic, *properties = first.decode(errors="surrogateescape").split("|")
    attributes = dict(word.partition("=")[::2] for word in properties[1:])
    check_judged(
        Arrival(
            mid=1,
            topic=topic,
            message=message,
            received_ms=1000,
            content_type=properties[0] if properties else None,
            attributes=attributes,
        ),
        FUNCTION,
    )


def test_judge(tmp_path: Path) -> None:
    search(__file__, tmp_path)


if __name__ == "__main__":
    main(one)
