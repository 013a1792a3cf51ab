"""The pod's log: every line with the event it belongs to."""

import posix

_LINE_MAX_BYTES = 16 * 1024


class Log:
    """Writes lines as `[<event id>] text`; `-` stands for no event."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._begun = b""
        self._event_id = "-"

    def belongs_to(self, event_id: str) -> None:
        """What is printed from now on belongs to this event."""
        self.end_line()
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

    def _write(self, line: bytes) -> None:
        left = f"[{self._event_id}] ".encode(errors="replace") + line + b"\n"
        while left:
            left = left[posix.write(self._descriptor, left) :]
