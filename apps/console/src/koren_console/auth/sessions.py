# SPDX-License-Identifier: Apache-2.0
"""Sessions: kept at the server, known to the browser by a random name in a cookie."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from koren_console.model import Role

IDLE = timedelta(hours=2)
"""A session ends when nothing was asked for so long."""
LONGEST = timedelta(hours=12)
"""A session ends then in any case."""

_MOST = 5_000
_SEEN_STEP = timedelta(minutes=1)


@dataclass(frozen=True)
class Session:
    """A log-in that stands; `key` is the hash of its cookie's value, so that what is kept opens nothing."""

    key: str
    name: str
    role: Role
    csrf: str
    began: datetime
    seen: datetime

    def ended(self, now: datetime) -> bool:
        """Whether it has ended by its age or by lack of use."""
        return now - self.seen > IDLE or now - self.began > LONGEST


class SessionStore(Protocol):
    """Keeps sessions over a restart."""

    def sessions(self) -> Iterable[Session]:
        """Those that were kept, the one seen longest ago first."""

    def keep_session(self, session: Session) -> None:
        """Keep it, in place of what was kept of it."""

    def drop_session(self, key: str) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Wait until what was kept and forgotten so far outlives the process, as far as the disk allows it."""


def _now() -> datetime:
    return datetime.now(UTC)


class Sessions:
    """All sessions. Beyond a bound the one seen longest ago ends."""

    def __init__(self, store: SessionStore, clock: Callable[[], datetime] = _now) -> None:
        self._store = store
        self._clock = clock
        self._known: OrderedDict[str, Session] = OrderedDict()
        for session in store.sessions():
            if not session.ended(clock()):
                self._known[session.key] = session

    def begin(self, name: str, role: Role) -> tuple[str, Session]:
        """A new session and the value of its cookie; the value is always a fresh one."""
        value = secrets.token_urlsafe(32)
        now = self._clock()
        session = Session(_key(value), name, role, secrets.token_urlsafe(32), now, now)
        self._known[session.key] = session
        self._store.keep_session(session)
        while len(self._known) > _MOST:
            key, _ = self._known.popitem(last=False)
            self._store.drop_session(key)
        return value, session

    def find(self, value: str) -> Session | None:
        """The session of a cookie's value, if it stands; it counts as seen now."""
        session = self._known.get(_key(value)) if value else None
        if session is None:
            return None
        now = self._clock()
        if session.ended(now):
            self.end(session)
            return None
        if now - session.seen > _SEEN_STEP:
            session = replace(session, seen=now)
            self._known[session.key] = session
            self._known.move_to_end(session.key)
            self._store.keep_session(session)
        return session

    def stands(self, session: Session) -> bool:
        """Whether it still stands, without counting as use."""
        known = self._known.get(session.key)
        return known is not None and not known.ended(self._clock())

    def end(self, session: Session) -> None:
        """End it."""
        self._known.pop(session.key, None)
        self._store.drop_session(session.key)

    async def settle(self) -> None:
        """Wait until what has begun and ended so far outlives the process."""
        await asyncio.to_thread(self._store.flush)

    def keep_only(self, wanted: Callable[[Session], bool]) -> None:
        """End all others."""
        for session in list(self._known.values()):
            if not wanted(session):
                self.end(session)

    def __len__(self) -> int:
        return len(self._known)


def same(given: str, expected: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _key(value: str) -> str:
    return hashlib.sha256(value.encode(errors="replace")).hexdigest()
