"""The trace that an event belongs to, as W3C's `traceparent` says it."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span's place in a trace; ids are hexadecimal.

    Ids are derived from what the span is about. So every process, also one that was restarted or is
    another replica, knows the span of an attempt or an event without being told, and a repeat of an
    event is in the event's own trace.
    """

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def parse(cls, traceparent: object) -> Self | None:
        """The context in a `traceparent`; None when it is none."""
        found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
        if found is None:
            return None
        return cls(found[1], found[2], bool(int(found[3], 16) & 1))

    @classmethod
    def of_event(cls, source: str, id: str, *, sampled: bool = True) -> Self:
        """The first span of the trace that begins with an event."""
        digest = hashlib.sha256(f"{source}\n{id}".encode(errors="surrogatepass")).hexdigest()
        return cls(digest[:32], digest[32:48], sampled)

    def child(self, *about: object) -> Self:
        """The context of a span in the same trace, derived from what the span is about."""
        text = "\n".join((self.trace_id, *map(str, about)))
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        return type(self)(self.trace_id, digest[:16], self.sampled)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"
