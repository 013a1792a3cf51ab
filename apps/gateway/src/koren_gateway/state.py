"""Small state that a function keeps in its region, shared by all its pods."""

from dataclasses import dataclass

from koren_gateway.store import Store

KEY_MAX_CHARACTERS = 256
VALUE_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Value:
    """A value and the tag it has until the next write."""

    value: bytes
    tag: str


class State:
    """Values by function and key. Every call may raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, function: str, key: str) -> Value | None:
        """The value, unless there is none or it expired."""
        value, tag = await self._store.command("HMGET", _key(function, key), "value", "tag")
        return None if tag is None else Value(value, tag.decode())

    async def put(
        self, function: str, key: str, value: bytes, *, condition: str, expires_s: float | None
    ) -> str | None:
        """Writes the value and returns its tag, or None when the condition does not hold: '' none,
        '*' that there is no value, else the tag that the value has."""
        tag = await self._store.run(
            "put_state",
            [_key(function, key)],
            [value, 0 if expires_s is None else max(1, round(expires_s * 1000)), condition],
        )
        return None if tag is None else str(tag.decode())


def _key(function: str, key: str) -> str:
    return f"koren:fn:{function}:state:{key}"
