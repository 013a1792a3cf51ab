"""Health of a region's part: a retained message, and the last will that takes its place."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

from koren_events.times import format_time, parse_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a part is up.

    `since` is the moment its present connection to the broker began; a part that connects anew is
    up with a new `since`, which is how others see that it was away. A last will has none.
    """

    region: str
    part: str
    state: Literal["up", "down"]
    since: datetime | None = None

    def to_json(self) -> bytes:
        """The message's bytes."""
        values = {"region": self.region, "part": self.part, "state": self.state}
        if self.since is not None:
            values["since"] = format_time(self.since)
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, message: bytes | str) -> Self:
        """The health in `message`. Raises ValueError when it is none."""
        try:
            values = json.loads(message)
            region, part, state = values["region"], values["part"], values["state"]
            if not isinstance(region, str) or not isinstance(part, str):
                raise ValueError("region and part must be texts")
            if state not in ("up", "down"):
                raise ValueError("state must be up or down")
            since = values.get("since")
            return cls(
                region=region,
                part=part,
                state=state,
                since=None if since is None else parse_time(since),
            )
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"not a health message: {error!r:.200}") from None
