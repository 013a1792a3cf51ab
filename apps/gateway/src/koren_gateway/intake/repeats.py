"""Which message of a source the broker sends again.

MQTT has no id of a message. Two messages that say the same are two events: a button pressed twice. But what a
gateway had on disk and not acknowledged when its connection ended comes again, with the number that it had on
the way from the broker, and marked as a repeat. So the last of them are kept in Redis with the ids they were
given, before they are taken in.
"""

import hashlib
import uuid
from collections.abc import Sequence

from koren_gateway.intake.mqtt import Arrival
from koren_gateway.queue.store import Store

RECENT = "koren:mqtt-recent"

# More than a broker has on its way at once, and too few for it to have begun its numbers anew.
_KEPT = 1000


class Repeats:
    """Gives messages ids, and one that comes again the id that it had."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: dict[str, str] = {}

    async def load(self) -> None:
        """Learns what other replicas took in, at the begin of a connection. Raises StoreUnavailable."""
        entries = await self._store.command("LRANGE", RECENT, 0, -1)
        pairs = (entry.decode(errors="replace").partition(" ") for entry in entries)
        self._ids = {mark: id for mark, _, id in pairs}

    async def ids(self, arrivals: Sequence[Arrival]) -> list[str]:
        """The id of each; new ones are on disk when this returns. Raises StoreUnavailable."""
        ids, fresh = [], []
        for arrival in arrivals:
            mark = _mark(arrival)
            id = self._ids.get(mark) if arrival.repeat else None
            if id is None:
                id = uuid.uuid4().hex
                if arrival.mid is not None:
                    fresh.append((mark, id))
            ids.append(id)
        if fresh:
            entries = [f"{mark} {id}" for mark, id in fresh]
            await self._store.commands(("RPUSH", RECENT, *entries), ("LTRIM", RECENT, -_KEPT, -1))
            for mark, id in fresh:
                self._ids.pop(mark, None)
                self._ids[mark] = id
            while len(self._ids) > _KEPT:
                del self._ids[next(iter(self._ids))]
        return ids


def _mark(arrival: Arrival) -> str:
    said = arrival.topic.encode(errors="surrogatepass") + b"\n" + arrival.message
    return f"{arrival.mid}:{hashlib.sha256(said).hexdigest()[:32]}"
