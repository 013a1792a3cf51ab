"""Coverage-guided: the parser takes a message or refuses it, and what it takes the runtime takes too.

A folder `fuzz_cloudevent` beside this file has inputs to begin with. It is run as

    python fuzz/fuzz_cloudevent.py -max_total_time=60 NEW fuzz/fuzz_cloudevent

where NEW is an empty folder for what the search finds, and the options are libFuzzer's. pytest runs it for
`KOREN_FUZZ_S` seconds (60 unless given): `python -m pytest -o python_files='fuzz_*.py' fuzz`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["koren_events", "koren_runtime"]):
    from koren_events.cloudevent import CloudEvent, parse, parse_binary
    from koren_events.errors import InvalidEvent
    from koren_runtime import fast_json
    from koren_runtime.contract import to_event


def one(data: bytes) -> None:
    """As it is, a structured message; with a first line 'content type|name=value|…', binary mode too."""
    check(lambda: parse(data))
    first, line, body = data.partition(b"\n")
    if line:
        content_type, *words = first.decode(errors="replace").split("|")
        attributes = dict(word.partition("=")[::2] for word in words)
        check(lambda: parse_binary(attributes, content_type or None, body))


def check(parsing: Callable[[], tuple[CloudEvent, bytes]]) -> None:
    try:
        event, message = parsing()
    except InvalidEvent:
        return
    assert parse(message) == (event, message)
    assert CloudEvent.from_meta(event.to_meta().encode()) == event
    its = to_event(fast_json.loads(message.decode()))
    assert (its["event-id"], its["event-type"], its["event-namespace"]) == (event.id, event.type, event.source)


def test_cloudevent(tmp_path: Path) -> None:
    seconds = os.environ.get("KOREN_FUZZ_S", "60")
    ended = subprocess.run(
        [sys.executable, __file__, f"-max_total_time={seconds}", f"-artifact_prefix={tmp_path}/", "-timeout=20"]
        + [str(tmp_path), str(Path(__file__).with_suffix(""))],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
