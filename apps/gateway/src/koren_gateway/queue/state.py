"""Small state that a function keeps in its region, shared by all its pods."""

from dataclasses import dataclass

from koren_gateway.errors import GatewayError, LeaseLost
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.store import Store

KEY_MAX_CHARACTERS = 256
VALUE_MAX_BYTES = 64 * 1024

_EXPIRES_MAX_S = 100 * 365 * 24 * 3600


class StateFull(GatewayError):
    """The function, or the region, has used up its room for state."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and the tag it has until the next write."""

    value: bytes
    tag: str


class State:
    """Values by function and key. Every call may raise StoreUnavailable and StoreBroken."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self._memory = memory

    async def get(self, function: str, key: str) -> Value | None:
        """The value, unless there is none or it expired."""
        value, tag = await self._store.command(
            "HMGET", f"koren:fn:{function}:state:{key}", "value", "tag"
        )
        return None if tag is None else Value(value or b"", tag.decode(errors="replace"))

    async def put(
        self,
        function: str,
        key: str,
        value: bytes,
        *,
        condition: str,
        expires_s: float | None,
        invocation: tuple[str, int] | None = None,
    ) -> str | None:
        """Writes the value and returns its tag, or None when the condition does not hold: '' none,
        '*' that there is no value, else the tag that the value has.

        `invocation` (key and delivery) is the event for which it is written: raises LeaseLost when
        that delivery has no lease any more. Raises StateFull when there is no room.
        """
        budgets = self._memory.budgets
        outcome, tag = await self._store.run(
            "put_state",
            name=function,
            key=key,
            value=value,
            expires=0
            if expires_s is None
            else max(1, round(min(expires_s, _EXPIRES_MAX_S) * 1000)),
            condition=condition,
            invocation=invocation[0] if invocation else None,
            delivery=invocation[1] if invocation else None,
            budgets=budgets.to_dict(),
        )
        match outcome:
            case b"lost":
                raise LeaseLost("the event for which state is written has no lease any more")
            case b"full":
                raise StateFull(
                    f"state {key!r}: {function} may keep {budgets.state_function} bytes of state "
                    f"here, all functions {budgets.state}; let old keys expire (expires_s), or give "
                    "the region's Redis more memory"
                )
            case b"changed":
                return None
        return str(tag.decode())
