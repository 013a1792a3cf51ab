"""Events on disk until their region has them."""

import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from koren_events.errors import ConfigurationError, InvalidEvent, SpoolFull, SpoolInUse

_VERSION = 1

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
    sent_at REAL
);
PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """What is known of one event in the spool, without its message."""

    receipt_topic: str
    region: str
    sends: int
    sent_at: float | None


class Spool:
    """A SQLite file of events, bounded in bytes. Safe to use from several threads.

    `put` returns once the event is on disk: a killed process or a lost power supply don't lose it.
    Raises SpoolInUse when another process has the file open.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigurationError(f"spool {path} can't be opened: {error}") from None
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self._database.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise SpoolInUse(
                    f"spool {path} is open in another publisher; give each its own file"
                ) from None
            raise ConfigurationError(f"spool {path} can't be used: {error}") from None
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ConfigurationError(f"spool {path} can't be used: {error}") from None
        except ConfigurationError as error:
            self._database.close()
            raise ConfigurationError(f"spool {path} {error}") from None
        self._size_bytes: int = self._database.execute(
            "SELECT coalesce(sum(length(message)), 0) FROM event"
        ).fetchone()[0]

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
        elif version != _VERSION:
            raise ConfigurationError(
                f"has version {version}, this program reads {_VERSION}; "
                "drain it with the program that wrote it, or name another file"
            )

    def __len__(self) -> int:
        with self._lock:
            return int(self._database.execute("SELECT count(*) FROM event").fetchone()[0])

    def put(self, *, receipt_topic: str, region: str, topic: str, message: bytes) -> bool:
        """Stores one event; False when the very same one is here already.

        Raises SpoolFull (nothing is stored), and InvalidEvent when another event has its source
        and id.
        """
        with self._lock:
            known = self._database.execute(
                "SELECT message FROM event WHERE receipt_topic = ?", (receipt_topic,)
            ).fetchone()
            if known is not None:
                if known[0] != message:
                    raise InvalidEvent(
                        "another event with the same source and id is not delivered yet; "
                        "give each event its own id"
                    )
                return False
            if self._size_bytes + len(message) > self._limit_bytes:
                raise SpoolFull(
                    f"the spool holds {self._size_bytes} bytes of {self._limit_bytes}; "
                    f"{len(message)} more don't fit until the regions' receipts come"
                )
            try:
                self._database.execute(
                    "INSERT INTO event (receipt_topic, region, topic, message) VALUES (?, ?, ?, ?)",
                    (receipt_topic, region, topic, message),
                )
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise SpoolFull("the spool's disk is full") from None
                raise
            self._size_bytes += len(message)
            return True

    def entries(self) -> list[Spooled]:
        """All events, oldest first."""
        with self._lock:
            rows = self._database.execute(
                "SELECT receipt_topic, region, sends, sent_at FROM event ORDER BY place"
            ).fetchall()
        return [Spooled(*row) for row in rows]

    def message(self, receipt_topic: str) -> tuple[str, bytes]:
        """Topic and message of one event. Raises KeyError once it has left."""
        with self._lock:
            row = self._database.execute(
                "SELECT topic, message FROM event WHERE receipt_topic = ?", (receipt_topic,)
            ).fetchone()
        if row is None:
            raise KeyError(receipt_topic)
        return row[0], row[1]

    def settle(self, *, sent: Iterable[str], received: Iterable[str]) -> None:
        """Notes in one transaction what the broker acknowledged and what the regions have."""
        now = time.time()
        with self._lock:
            freed_bytes = 0
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
                    freed_bytes += sum(row[0] for row in rows)
                self._database.execute("COMMIT")
            except sqlite3.OperationalError:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._size_bytes -= freed_bytes

    def close(self) -> None:
        """Gives the file free."""
        with self._lock:
            self._database.close()
