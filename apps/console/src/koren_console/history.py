# SPDX-License-Identifier: Apache-2.0
"""What is kept over a restart: incidents, pictures, alerts, the audit and sessions, in one SQLite file.

Writes are gathered and committed a few times a second by one thread of their own, so that no burst waits for the disk.
Only a log-in and a log-out wait for it.
A file that can't be read is set aside, and history begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from koren_console.auth.sessions import Session
from koren_console.model import Alert, AuditLine, Incident, Mark, Place, Role, Words

_SCHEMA = """
CREATE TABLE IF NOT EXISTS incidents (
  subject TEXT PRIMARY KEY, region TEXT NOT NULL, updated INTEGER NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS incidents_updated ON incidents (updated);
CREATE TABLE IF NOT EXISTS pictures (
  name TEXT PRIMARY KEY, at INTEGER NOT NULL, media TEXT NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS pictures_at ON pictures (at);
CREATE TABLE IF NOT EXISTS alerts (
  fingerprint TEXT, since INTEGER, ended INTEGER, record TEXT NOT NULL, PRIMARY KEY (fingerprint, since)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS audit_at ON audit (at);
CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, seen INTEGER NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
"""
_VERSION = 1
_COMMIT_S = 0.2
_AGAIN_S = 1.0
_TIDY_S = 60.0
_MOST_WAITING = 2_000
_MOST_WAITING_BYTES = 32 * 1024 * 1024
_MOST_AUDIT = 100_000
_MOST_SESSIONS = 10_000
_MOST_READ_BYTES = 64 * 1024 * 1024

_log = structlog.get_logger()
T = TypeVar("T")


class History:
    """The file and its thread. Nothing here raises for a disk that fails: it is logged, and `problem` says it.

    Args:
        folder: where the file is; must exist.
        days: how long anything is kept.
        megabytes: how large the file becomes, beyond which the oldest pictures go first, then the oldest incidents.
    """

    def __init__(self, folder: Path, *, days: int, megabytes: int) -> None:
        self.file = folder / "history.sqlite3"
        self.problem = ""
        """Why history is incomplete; empty when it is not."""
        self._days = days
        self._bytes = megabytes * 1024 * 1024
        self._lock = threading.Condition()
        self._waiting: dict[tuple[str, str], tuple[str, tuple[Any, ...]]] = {}
        self._number = 0
        self._put_so_far = 0
        self._settled = 0
        self._closing = False
        self._found_broken: sqlite3.Error | None = None
        self._reading = threading.Lock()
        self._db = self._open()
        self._reader = self._connect()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join(10)
        with self._reading:
            self._reader.close()

    # Writing: returns at once.

    def keep_incident(self, incident: Incident) -> None:
        """Keep an incident, in place of what was kept of it."""
        self._put(
            ("incident", incident.subject),
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?)",
            # Written as text by the thread: of many changes within a commit only the last is.
            (incident.subject, incident.region, _ms(datetime.now(UTC)), incident),
        )

    def keep_picture(self, name: str, media: str, content: bytes) -> None:
        """Keep a picture."""
        with self._lock:
            waiting = sum(
                len(values[3]) for _, values in self._waiting.values() if len(values) == 4 and type(values[3]) is bytes
            )
        if waiting + len(content) > _MOST_WAITING_BYTES:
            # The disk does not keep up, or fails.
            return
        self._put(
            ("picture", name),
            "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?)",
            (name, _ms(datetime.now(UTC)), media, content),
        )

    def drop_picture(self, name: str) -> None:
        """Forget a picture that another took the place of."""
        self._put(("picture", name), "DELETE FROM pictures WHERE name = ?", (name,))

    def keep_alert(self, alert: Alert, ended: datetime | None) -> None:
        """Keep an alert that rings, or that has ended."""
        record = json.dumps(dataclasses.asdict(alert), default=_plain)
        since = _ms(alert.since)
        self._put(
            ("alert", f"{alert.fingerprint} {since}"),
            "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?)",
            (alert.fingerprint, since, None if ended is None else _ms(ended), record),
        )

    def audit(self, line: AuditLine) -> None:
        """Keep a line of the audit."""
        self._number += 1
        record = json.dumps(dataclasses.asdict(line), default=_plain)
        self._put(("audit", str(self._number)), "INSERT INTO audit (at, record) VALUES (?, ?)", (_ms(line.at), record))

    def keep_session(self, session: Session) -> None:
        """Keep a session, in place of what was kept of it."""
        record = json.dumps(dataclasses.asdict(session), default=_plain)
        self._put(
            ("session", session.key),
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)",
            (session.key, _ms(session.seen), record),
        )

    def drop_session(self, key: str) -> None:
        """Forget a session."""
        self._put(("session", key), "DELETE FROM sessions WHERE key = ?", (key,))

    # Reading.

    def sessions(self) -> Iterable[Session]:
        """Sessions that were kept, the one seen longest ago first."""
        rows = self._read("SELECT record FROM sessions ORDER BY seen DESC LIMIT ?", _MOST_SESSIONS)
        return [one for (record,) in reversed(rows) if (one := _parsed(_session, record)) is not None]

    def incidents(self, limit: int) -> list[Incident]:
        """The incidents that changed last, the latest first, as far as they are no burden to memory."""
        rows = self._read("SELECT record FROM incidents ORDER BY updated DESC LIMIT ?", limit)
        return [one for (record,) in rows if (one := _parsed(_incident, record)) is not None]

    async def incident(self, subject: str) -> Incident | None:
        """One incident."""
        rows = await asyncio.to_thread(self._read, "SELECT record FROM incidents WHERE subject = ?", subject)
        return _parsed(_incident, rows[0][0]) if rows else None

    async def picture(self, name: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a picture."""
        with self._lock:
            waits = self._waiting.get(("picture", name))
        if waits is not None and waits[0].startswith("INSERT"):
            return waits[1][2], waits[1][3]
        rows = await asyncio.to_thread(self._read, "SELECT media, bytes FROM pictures WHERE name = ?", name)
        return (rows[0][0], rows[0][1]) if rows else None

    async def audit_lines(self, limit: int) -> list[AuditLine]:
        """The latest lines of the audit, newest first."""
        await asyncio.to_thread(self.flush)
        rows = await asyncio.to_thread(self._read, "SELECT record FROM audit ORDER BY id DESC LIMIT ?", limit)
        return [one for (record,) in rows if (one := _parsed(_audit_line, record)) is not None]

    async def alerts(self, limit: int) -> list[tuple[Alert, datetime | None]]:
        """Alerts with their ends, the one that began last first; one that rings has no end.

        Raises:
            HistoryUnread: the file can't be read.
        """
        return await asyncio.to_thread(self._alerts, limit)

    def _alerts(self, limit: int) -> list[tuple[Alert, datetime | None]]:
        self.flush()
        try:
            rows = self._rows("SELECT record, ended FROM alerts ORDER BY since DESC LIMIT ?", limit)
        except sqlite3.Error as error:
            self._unread(error)
            raise HistoryUnread(str(error)) from error
        return [
            (one, None if ended is None else _time(ended))
            for record, ended in rows
            if (one := _parsed(_alert, record)) is not None
        ]

    def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until what was put so far is on disk; no longer than the timeout, as a disk may fail."""
        with self._lock:
            until = self._put_so_far
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._settled >= until or not self._thread.is_alive(), timeout_s)

    # The thread.

    def _put(self, key: tuple[str, str], statement: str, values: tuple[Any, ...]) -> None:
        with self._lock:
            if key not in self._waiting and len(self._waiting) >= _MOST_WAITING:
                # The disk does not keep up, or fails.
                self._waiting.pop(next(iter(self._waiting)))
            self._waiting.pop(key, None)
            self._waiting[key] = (statement, values)
            self._put_so_far += 1

    def _run(self) -> None:
        tidied = 0.0
        while True:
            with self._lock:
                self._lock.wait(_COMMIT_S if self._waiting else 1.0)
                batch, upto, closing = dict(self._waiting), self._put_so_far, self._closing
            if self._found_broken is not None:
                self._begin_anew(self._found_broken)
                self._found_broken = None
            if batch:
                if not self._guarded(partial(_commit, batch=batch)) and not closing:
                    time.sleep(_AGAIN_S)
                    continue
                with self._lock:
                    for key, value in batch.items():
                        if self._waiting.get(key) is value:
                            del self._waiting[key]
                    self._settled = upto
                    self._lock.notify_all()
            if time.monotonic() - tidied > _TIDY_S:
                self._guarded(self._tidy)
                tidied = time.monotonic()
            if closing:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                return

    def _tidy(self, db: sqlite3.Connection) -> None:
        old = _ms(datetime.now(UTC) - timedelta(days=self._days))
        with db:
            db.execute("DELETE FROM incidents WHERE updated < ?", (old,))
            db.execute("DELETE FROM pictures WHERE at < ?", (old,))
            db.execute("DELETE FROM alerts WHERE coalesce(ended, since) < ?", (old,))
            db.execute("DELETE FROM audit WHERE at < ?", (old,))
            db.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (_MOST_AUDIT,))
            db.execute("DELETE FROM sessions WHERE seen < ?", (_ms(datetime.now(UTC) - timedelta(days=2)),))
        for table, key, order in (
            ("pictures", "name", "at"),
            ("incidents", "subject", "updated"),
            ("alerts", "since", "since"),
        ):
            oldest = f"SELECT {key} FROM {table} ORDER BY {order} LIMIT 20"
            gone = 1
            while gone > 0 and self._used(db) > self._bytes:
                with db:
                    gone = db.execute(f"DELETE FROM {table} WHERE {key} IN ({oldest})").rowcount
        # As a script: a single step of it would free a single page.
        db.executescript("PRAGMA incremental_vacuum")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _used(self, db: sqlite3.Connection) -> int:
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _guarded(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do it; False when it is to be tried again."""
        try:
            work(self._db)
            if self.problem.startswith("history is not written"):
                self.problem = ""
                _log.info("history is written again")
            return True
        except sqlite3.DatabaseError as error:
            if _broken(error):
                self._begin_anew(error)
            else:
                self._say(f"history is not written: {error}")
            return False

    def _begin_anew(self, error: sqlite3.Error) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        with self._reading:
            with contextlib.suppress(sqlite3.Error):
                self._reader.close()
            self._set_aside(error)
            self._db, self._reader = self._create(), self._connect()

    # The file.

    def _open(self) -> sqlite3.Connection:
        try:
            db = self._create()
            [(verdict,), *_] = db.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != "ok":
                db.close()
                raise sqlite3.DatabaseError(verdict)
            return db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _broken(error):
                raise HistoryUnusable(
                    f"{self.file} can't be opened: {error}; check the volume and its owner"
                ) from error
            self._set_aside(error)
            return self._create()

    def _create(self) -> sqlite3.Connection:
        db = self._connect()
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {16 * 1024 * 1024}").fetchall()
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"malformed: its version is {version}, this console's is {_VERSION}")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=5, check_same_thread=False)

    def _set_aside(self, error: Exception) -> None:
        """Keep the broken file under another name; an earlier one goes, for the room is bounded."""
        aside = self.file.with_suffix(".broken")
        self.file.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)
        self._say(f"history was broken ({error}) and began anew; the broken file is {aside}")

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._rows(statement, *values)
        except sqlite3.Error as error:
            self._unread(error)
            return []

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._reading:
            rows: list[tuple[Any, ...]] = []
            size = 0
            # Closed, for a statement that is not at its end holds on to what it reads.
            with contextlib.closing(self._reader.execute(statement, values)) as found:
                for row in found:
                    size += sum(len(one) for one in row if isinstance(one, str | bytes))
                    if rows and size > _MOST_READ_BYTES:
                        break
                    rows.append(row)
            return rows

    def _unread(self, error: sqlite3.Error) -> None:
        if _broken(error):
            # The thread, whose connection may have seen nothing of it, begins anew.
            self._found_broken = error
        else:
            self._say(f"history is not read: {error}")

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            _log.error("history", problem=problem)
        self.problem = problem


class HistoryUnread(Exception):
    """The file can't be read now."""


class HistoryUnusable(Exception):
    """The folder can't be written; the message names the file."""


def _commit(db: sqlite3.Connection, batch: dict[tuple[str, str], tuple[str, tuple[Any, ...]]]) -> None:
    with db:
        for statement, values in batch.values():
            try:
                db.execute(statement, [_incident_json(one) if isinstance(one, Incident) else one for one in values])
            except (TypeError, ValueError, OverflowError) as error:
                # It can't ever be written, such as half a surrogate pair; it must not hold up the others.
                _log.error("a record is not kept", statement=statement.split(" VALUES")[0], problem=repr(error)[:200])


def _broken(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken; a full disk, say, is no reason to set it aside."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_SCHEMA")) or "malformed" in str(error)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} can't be kept")


def _parsed(make: Callable[[dict[str, Any]], T], record: str) -> T | None:
    """What was kept, or None when it is of a form that is not known (any more)."""
    try:
        return make(json.loads(record))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _incident_json(incident: Incident) -> str:
    return json.dumps(dataclasses.asdict(incident), default=_plain)


def _words(value: dict[str, str] | None) -> Words | None:
    return None if value is None else Words(**value)


def _moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _incident(values: dict[str, Any]) -> Incident:
    marks: Sequence[dict[str, Any]] = values.pop("marks")
    times = {name: _moment(values.pop(name)) for name in ("began", "ended")}
    place, text, point, objects = (values.pop(name) for name in ("place", "text", "point", "objects"))
    return Incident(
        **values,
        **times,  # type: ignore[arg-type]
        place=Words(**place),
        text=_words(text),
        point=None if point is None else Place(**point),
        objects=tuple(objects),
        marks=tuple(Mark(**{**mark, "at": _moment(mark["at"]), "until": _moment(mark["until"])}) for mark in marks),
    )


def _session(values: dict[str, Any]) -> Session:
    return Session(
        key=values["key"],
        name=values["name"],
        role=Role(values["role"]),
        csrf=values["csrf"],
        began=datetime.fromisoformat(values["began"]),
        seen=datetime.fromisoformat(values["seen"]),
    )


def _audit_line(values: dict[str, Any]) -> AuditLine:
    return AuditLine(**{**values, "at": datetime.fromisoformat(values["at"])})


def _alert(values: dict[str, Any]) -> Alert:
    return Alert(**{**values, "since": _moment(values["since"]), "silenced_until": _moment(values["silenced_until"])})
