"""Events on disk until their region has them."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from koren_events.cloudevent import parse
from koren_events.errors import (
    ConfigurationError,
    InvalidEvent,
    SpoolBroken,
    SpoolFull,
    SpoolInUse,
)
from koren_events.topics import receipt_topic as topic_of_receipts

_VERSION = 2

# One row an event, known by the topic of its receipts: the hash of source and id, and the region.
# `sent_at` is when the broker acknowledged it last, in seconds since 1970; NULL before the first.
_SCHEMA = f"""
CREATE TABLE event (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    receipt_topic TEXT NOT NULL UNIQUE,
    region TEXT NOT NULL,
    topic TEXT NOT NULL,
    message BLOB NOT NULL,
    sends INTEGER NOT NULL DEFAULT 0,
    sent_at REAL,
    subject TEXT NOT NULL DEFAULT ''
);
PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """What is known of one event in the spool, without its message."""

    receipt_topic: str
    region: str
    subject: str
    sends: int
    sent_at: float | None


class Spool:
    """A SQLite file of events, bounded in bytes. Safe to use from several threads.

    `put` returns once the event is on disk: a killed process or a lost power supply don't lose it.
    Raises SpoolInUse when another process has the file open. Each method raises SpoolBroken when
    the file is damaged, or was closed.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigurationError(f"spool {path} can't be opened: {error}") from None
        try:
            self._open()
            count, size_bytes = self._database.execute(
                "SELECT count(*), coalesce(sum(length(message)), 0) FROM event"
            ).fetchone()
        except sqlite3.DatabaseError as error:
            self._database.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise SpoolInUse(f"spool {path} is open in another publisher; give each its own file") from None
            raise ConfigurationError(f"spool {path} can't be used: {error}") from None
        except ConfigurationError as error:
            self._database.close()
            raise ConfigurationError(f"spool {path} {error}") from None
        self._count: int = count
        self._size_bytes: int = size_bytes

    def _open(self) -> None:
        # The exclusive lock is held until the process ends, however it ends.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(f"PRAGMA journal_size_limit = {8 * 2**20}")
        self._database.execute("BEGIN EXCLUSIVE")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        self._database.execute("COMMIT")
        if version == 0:
            self._database.executescript("BEGIN;" + _SCHEMA + "COMMIT;")
        elif version == 1:
            self._add_subjects()
        elif version != _VERSION:
            raise ConfigurationError(
                f"has version {version}, this program reads {_VERSION}; "
                "drain it with the program that wrote it, or name another file"
            )

    def _add_subjects(self) -> None:
        # Version 1 had no subjects, and kept texts as they came. Gateways answer for the composed
        # form of source and id.
        self._database.execute("BEGIN")
        self._database.execute("ALTER TABLE event ADD COLUMN subject TEXT NOT NULL DEFAULT ''")
        rows = self._database.execute("SELECT place, receipt_topic, region FROM event").fetchall()
        for place, receipt_topic, region in rows:
            (message,) = self._database.execute("SELECT message FROM event WHERE place = ?", (place,)).fetchone()
            try:
                event, message = parse(message)
                receipt_topic = topic_of_receipts(region, event.source, event.id)
                subject = event.subject or receipt_topic
            except InvalidEvent:
                subject = receipt_topic
            self._database.execute(
                "UPDATE OR REPLACE event SET receipt_topic = ?, subject = ?, message = ? WHERE place = ?",
                (receipt_topic, subject, message, place),
            )
        self._database.execute(f"PRAGMA user_version = {_VERSION}")
        self._database.execute("COMMIT")

    def __len__(self) -> int:
        return self._count

    def put(self, *, receipt_topic: str, region: str, subject: str, topic: str, message: bytes) -> bool:
        """Stores one event; False when the very same one is here already.

        Raises SpoolFull and SpoolBroken (nothing is stored), and InvalidEvent when another event
        has its source and id.
        """
        with self._lock:
            try:
                return self._put(receipt_topic, region, subject, topic, message)
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise SpoolFull("the spool's disk is full") from None
                raise self._broken(error) from None

    def _put(self, receipt_topic: str, region: str, subject: str, topic: str, message: bytes) -> bool:
        known = self._database.execute("SELECT message FROM event WHERE receipt_topic = ?", (receipt_topic,)).fetchone()
        if known is not None:
            if known[0] != message and not _differ_in_trace_only(known[0], message):
                raise InvalidEvent(
                    "another event with the same source and id is not delivered yet; give each event its own id"
                )
            return False
        if self._size_bytes + len(message) > self._limit_bytes:
            raise SpoolFull(
                f"the spool holds {self._size_bytes} bytes of {self._limit_bytes}; "
                f"{len(message)} more don't fit until the regions' receipts come"
            )
        self._database.execute(
            "INSERT INTO event (receipt_topic, region, subject, topic, message) VALUES (?, ?, ?, ?, ?)",
            (receipt_topic, region, subject, topic, message),
        )
        self._count += 1
        self._size_bytes += len(message)
        return True

    def entries(self) -> list[Spooled]:
        """All events, oldest first."""
        with self._lock:
            try:
                rows = self._database.execute(
                    "SELECT receipt_topic, region, subject, sends, sent_at FROM event ORDER BY place"
                ).fetchall()
            except sqlite3.Error as error:
                raise self._broken(error) from None
        return [Spooled(*row) for row in rows]

    def message(self, receipt_topic: str) -> tuple[str, bytes] | None:
        """Topic and message of one event; None once it has left.

        Raises OSError when the file can't be read just now.
        """
        with self._lock:
            try:
                row = self._database.execute(
                    "SELECT topic, message FROM event WHERE receipt_topic = ?", (receipt_topic,)
                ).fetchone()
            except sqlite3.OperationalError as error:
                raise OSError(str(error)) from None
            except sqlite3.Error as error:
                raise self._broken(error) from None
        return None if row is None else (row[0], row[1])

    def settle(self, *, sent: Iterable[str], received: Iterable[str]) -> None:
        """Notes in one transaction what the broker acknowledged and what the regions have.

        Raises OSError when the file can't be written just now, for want of space most likely;
        nothing is noted then.
        """
        now = time.time()
        with self._lock:
            try:
                self._settle(now, sent, received)
            except sqlite3.OperationalError as error:
                raise OSError(str(error)) from None
            except sqlite3.Error as error:
                raise self._broken(error) from None

    def _settle(self, now: float, sent: Iterable[str], received: Iterable[str]) -> None:
        freed: list[int] = []
        self._database.execute("BEGIN")
        try:
            self._database.executemany(
                "UPDATE event SET sends = sends + 1, sent_at = ? WHERE receipt_topic = ?",
                [(now, topic) for topic in sent],
            )
            for topic in received:
                rows = self._database.execute(
                    "DELETE FROM event WHERE receipt_topic = ? RETURNING length(message)",
                    (topic,),
                ).fetchall()
                freed += [row[0] for row in rows]
            self._database.execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._count -= len(freed)
        self._size_bytes -= sum(freed)

    def close(self) -> None:
        """Gives the file free."""
        with self._lock:
            self._database.close()

    def _broken(self, error: sqlite3.Error) -> SpoolBroken:
        return SpoolBroken(f"spool {self._path} is broken or closed: {error}")


def _differ_in_trace_only(one: bytes, other: bytes) -> bool:
    """Whether two messages are one event, put in with traces on and off."""
    first, second = json.loads(one), json.loads(other)
    return bool(first | {"traceparent": ""} == second | {"traceparent": ""})
