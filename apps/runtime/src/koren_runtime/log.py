"""The pod's log: every line with the event it belongs to."""

import _thread
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

TAIL_MAX_BYTES = 64 * 1024

_LINE_MAX_BYTES = 15 * 1024
"""With the event's id. containerd cuts longer lines at 16 KiB, and what follows would be a line without its event."""

_writing = _thread.allocate_lock()
"""Lines of several slots must not run into each other."""


class Log:
    """Writes lines as `[<event id>] text`; `-` stands for no event."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._begun = b""
        self._event_id = "-"
        self._tail = bytearray()

    def belongs_to(self, event_id: str) -> None:
        """What is printed from now on belongs to this event."""
        self.end_line()
        if not event_id.isprintable():
            # An id with a line break in it would make lines of its own.
            event_id = "".join(c if c.isprintable() else "?" for c in event_id)
        self._event_id = event_id

    def printed(self, output: bytes) -> None:
        """Takes what the function has printed, in any pieces."""
        *lines, self._begun = (self._begun + output).split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._begun) > _LINE_MAX_BYTES:
            self.end_line()

    def end_line(self) -> None:
        """Writes the line that was begun, if there is one."""
        if self._begun:
            self._write(self._begun)
            self._begun = b""

    def say(self, text: str) -> None:
        """A line of the runtime's own."""
        self.end_line()
        for line in text.splitlines():
            self._write(b"runtime: " + line.encode(errors="replace"))

    def tail(self) -> bytes:
        """The last 64 KiB of what was written since `forget`, in whole lines."""
        self._trim()
        return bytes(self._tail)

    def forget(self) -> None:
        """Begins the tail anew."""
        self._tail.clear()

    def _write(self, line: bytes) -> None:
        event = f"[{self._event_id}] ".encode(errors="replace")
        left = b"".join(event + piece + b"\n" for piece in _pieces(line, _LINE_MAX_BYTES - len(event)))
        self._tail += left
        if len(self._tail) > 2 * TAIL_MAX_BYTES:
            self._trim()
        with _writing:
            while left:
                left = left[posix.write(self._descriptor, left) :]

    def _trim(self) -> None:
        before = len(self._tail) - TAIL_MAX_BYTES
        if before > 0:
            del self._tail[: self._tail.find(b"\n", before - 1) + 1]


def _pieces(line: bytes, longest: int) -> "Iterator[bytes]":
    begin = 0
    while len(line) - begin > longest:
        end = begin + longest
        while end > begin + longest - 4 and line[end] & 0xC0 == 0x80:
            # Within a character of UTF-8.
            end -= 1
        yield line[begin:end]
        begin = end
    yield line[begin:]
