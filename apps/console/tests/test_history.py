# SPDX-License-Identifier: Apache-2.0
"""History over restarts, kills, a broken file and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from koren_console.auth.sessions import Session
from koren_console.history import History, HistoryUnread, HistoryUnusable
from koren_console.model import Alert, AuditLine, Incident, Mark, Place, Role, Words

NOW = datetime(2026, 11, 28, 12, 0, 0, 123000, tzinfo=UTC)


def incident(subject: str = "cctv-1-20261128T120000Z", **more: object) -> Incident:
    values = {
        "subject": subject,
        "region": "seoul",
        "camera": "cctv-1",
        "place": Words("강남역", "Gangnam"),
        "severity": "minor",
        "confidence": 0.97,
        "state": "open",
        "began": NOW,
        "point": Place(37.5, 127.0),
        "objects": ("car", "bus"),
        "text": Words("사고", "accident"),
        "marks": (Mark("camera", "seen", NOW, until=NOW + timedelta(seconds=1), event="e-1", attempt=2),),
        **more,
    }
    return Incident(**values)  # type: ignore[arg-type]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path, days=30, megabytes=16)
    yield made
    made.close()


def reopened(history: History) -> History:
    history.close()
    return History(history.file.parent, days=30, megabytes=16)


def test_everything_is_there_again_after_a_restart(history: History) -> None:
    one = incident()
    alert = Alert("f", "BridgeDown", "warning", "down", "", NOW, {"region": "seoul"}, silenced_until=NOW)
    session = Session("key", "kim", Role.OPERATOR, "csrf", NOW, NOW)
    line = AuditLine(NOW, "kim", "operator", "release", "seoul/held/1", "done", "상세")
    history.keep_incident(incident(state="held"))
    history.keep_incident(one)
    history.keep_picture("a.jpg", "image/jpeg", b"\xff\xd8\xff")
    history.keep_alert(alert, None)
    history.keep_alert(alert, NOW)
    history.keep_session(session)
    history.audit(line)
    after = reopened(history)
    assert after.incidents(10) == [one]
    assert asyncio.run(after.incident(one.subject)) == one
    assert asyncio.run(after.picture("a.jpg")) == ("image/jpeg", b"\xff\xd8\xff")
    assert asyncio.run(after.alerts(10)) == [(alert, NOW)]
    assert list(after.sessions()) == [session]
    assert asyncio.run(after.audit_lines(10)) == [line]
    after.drop_session("key")
    after.drop_picture("a.jpg")
    last = reopened(after)
    assert not list(last.sessions())
    assert asyncio.run(last.picture("a.jpg")) is None
    last.close()


def test_what_was_put_is_read_before_it_is_on_disk(history: History) -> None:
    history.keep_picture("a.jpg", "image/jpeg", b"now")
    assert asyncio.run(history.picture("a.jpg")) == ("image/jpeg", b"now")


def test_text_that_is_no_unicode_text_does_no_harm(history: History) -> None:
    odd = incident(place=Words("\ud800", "x"))
    history.keep_incident(odd)
    history.keep_incident(incident("other"))
    after = reopened(history)
    assert {one.subject for one in after.incidents(10)} == {odd.subject, "other"}
    after.close()


def test_a_record_that_can_never_be_written_holds_up_no_other(history: History) -> None:
    history.keep_incident(incident("half \ud800 a pair"))
    history.keep_incident(incident("other"))
    history.flush()
    history.keep_incident(incident("later"))
    after = reopened(history)
    assert {one.subject for one in after.incidents(10)} == {"other", "later"}
    after.close()


def there(folder: Path, subject: str) -> bool:
    """Whether another process finds the incident in the file."""
    with contextlib.closing(sqlite3.connect(folder / "history.sqlite3", timeout=20)) as other:
        return bool(other.execute("SELECT 1 FROM incidents WHERE subject = ?", (subject,)).fetchall())


def test_a_kill_loses_nothing_that_has_reached_the_file(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys, time
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from test_history import History, incident
        history = History(Path({str(tmp_path)!r}), days=30, megabytes=16)
        for number in range(1_000_000):
            history.keep_incident(incident(f"i-{{number}}"))
            history.keep_picture(f"{{number}}.jpg", "image/jpeg", b"x" * 10_000)
            print(number, flush=True)
            time.sleep(0.002)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    assert process.stdout
    old = next(number for number in map(int, process.stdout) if number > 300)
    for number in map(int, process.stdout):
        # Nobody closes the file or waits for it, and it goes on being written.
        if number % 20 == 0 and there(tmp_path, f"i-{old}"):
            break
        assert number < 100_000, "what was put is not on disk"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    after = History(tmp_path, days=30, megabytes=16)
    assert after.problem == ""
    kept = {one.subject for one in after.incidents(1_000_000)}
    assert {f"i-{number}" for number in range(old + 1)} <= kept
    after.close()


@pytest.mark.parametrize("damage", ["first-page", "middle", "text", "cut"])
def test_a_broken_file_is_set_aside_and_said(history: History, damage: str) -> None:
    for number in range(300):
        history.keep_incident(incident(f"i-{number}"))
    history.close()
    content = bytearray(history.file.read_bytes())
    match damage:
        case "first-page":
            content[:100] = b"\0" * 100
        case "middle":
            content[4096:] = os.urandom(len(content) - 4096)
        case "text":
            content = bytearray(b"this is no database, but longer than its header needs to be" * 100)
        case "cut":
            del content[len(content) // 2 :]
    history.file.write_bytes(content)
    after = History(history.file.parent, days=30, megabytes=16)
    assert "set aside" in after.problem or "broken" in after.problem
    # Opening it may have counted up in its header.
    assert history.file.with_suffix(".broken").read_bytes()[100:] == bytes(content)[100:]
    after.keep_incident(incident())
    last = reopened(after)
    assert [one.subject for one in last.incidents(10)] == [incident().subject]
    last.close()


def test_a_file_that_breaks_while_it_is_in_use_is_set_aside_too(history: History) -> None:
    for number in range(300):
        history.keep_incident(incident(f"i-{number}"))
    history.flush()
    other = sqlite3.connect(history.file)
    busy = 1
    while busy:
        [(busy, _, _)] = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    other.close()
    size = history.file.stat().st_size
    with history.file.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    deadline = time.monotonic() + 20
    number = 0
    while not history.problem and time.monotonic() < deadline:
        number += 1
        history.keep_incident(incident(f"j-{number}"))
        history.incidents(1000)
        time.sleep(0.05)
    assert "broken" in history.problem
    history.keep_incident(incident("after"))
    last = reopened(history)
    assert "after" in {one.subject for one in last.incidents(10_000)}
    last.close()


def test_size_is_bounded_and_the_oldest_pictures_go_first(history: History) -> None:
    picture = os.urandom(200_000)
    for number in range(150):
        history.keep_incident(incident(f"i-{number:03}"))
        history.keep_picture(f"{number:03}.jpg", "image/jpeg", picture)
        history.flush()
    history._guarded(history._tidy)
    size = history.file.stat().st_size
    assert size <= 17 * 1024 * 1024
    assert asyncio.run(history.picture("149.jpg")) is not None
    assert asyncio.run(history.picture("000.jpg")) is None
    assert len(history.incidents(1000)) == 150, "incidents stay while pictures can go"


def test_what_is_too_old_goes(history: History) -> None:
    history.keep_incident(incident("old"))
    history.keep_incident(incident("new"))
    history.audit(AuditLine(NOW - timedelta(days=400), "kim", "operator", "log-in", "", "done"))
    history.flush()
    with sqlite3.connect(history.file) as other:
        other.execute("UPDATE incidents SET updated = 0 WHERE subject = 'old'")
    other.close()
    now = datetime.now(UTC)
    for name, ended in (("old", now - timedelta(days=40)), ("new", now)):
        history.keep_alert(Alert(name, name, "warning", "", "", now - timedelta(days=50), {}), ended)
    history.flush()
    history._guarded(history._tidy)
    assert [one.subject for one in history.incidents(10)] == ["new"]
    assert [alert.name for alert, _ in asyncio.run(history.alerts(10))] == ["new"]
    assert asyncio.run(history.audit_lines(10)) == []


def test_alerts_that_cannot_be_read_are_not_taken_for_none(history: History) -> None:
    history.keep_alert(Alert("f", "BridgeDown", "warning", "down", "", NOW, {}), NOW)
    history.flush()
    history._reader.set_progress_handler(lambda: 1, 1)
    with pytest.raises(HistoryUnread):
        asyncio.run(history.alerts(10))
    assert "not read" in history.problem


def test_a_disk_that_fails_is_said_and_what_waits_is_written_later(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.flush()
    blocker = sqlite3.connect(history.file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("koren_console.history._AGAIN_S", 0.05)
    history._db.execute("PRAGMA busy_timeout = 50")
    history.keep_incident(incident())
    deadline = time.monotonic() + 10
    while not history.problem and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "not written" in history.problem
    blocker.execute("ROLLBACK")
    blocker.close()
    history.flush(10)
    assert history.problem == ""
    assert [one.subject for one in history.incidents(10)] == [incident().subject]


def test_what_waits_for_a_disk_takes_bounded_memory(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_console.history._MOST_WAITING", 50)
    monkeypatch.setattr("koren_console.history._MOST_WAITING_BYTES", 1_000_000)
    monkeypatch.setattr(history, "_guarded", lambda work: False)
    for number in range(500):
        history.keep_incident(incident(f"i-{number}"))
        history.keep_picture(f"{number}.jpg", "image/jpeg", b"x" * 100_000)
    assert len(history._waiting) <= 50
    assert sum(len(one) for _, (*_, one) in history._waiting.values() if isinstance(one, bytes)) <= 1_200_000


def test_a_start_reads_no_more_than_memory_has_room_for(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koren_console.history._MOST_READ_BYTES", 50_000)
    long = Mark("function", "failed", NOW, detail="x" * 10_000)
    for number in range(20):
        history.keep_incident(incident(f"i-{number}", marks=(long,)))
    history.flush()
    assert len(history.incidents(100)) == 4


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryUnusable, match="history"):
        History(tmp_path / "missing", days=1, megabytes=16)
