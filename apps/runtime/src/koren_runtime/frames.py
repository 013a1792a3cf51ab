"""Messages between the supervisor and the worker: a letter, a length, a body."""

import _socket

EVENT = b"V"
"""To the worker: an invocation's id, a line; its attempt, a line; a CloudEvent in JSON."""
READY = b"R"
"""From the worker: the handler is loaded."""
NOT_READY = b"N"
"""The handler can't be loaded; a failure as JSON. The worker ends."""
ENTERED = b"E"
"""The handler is entered; the event's id."""
ANSWER = b"A"
"""The handler's answer as JSON."""
FAILED = b"F"
"""The handler has failed; a failure as JSON."""

CONTROL = 3
"""The descriptor on which a worker in another language has the socket to its supervisor."""

BODY_MAX_BYTES = 32 * 1024 * 1024

_KINDS = (EVENT, READY, NOT_READY, ENTERED, ANSWER, FAILED)
_HEAD = 5


class BrokenFrame(Exception):
    """What the other side says is no frame. Nothing it says later can be understood."""


def pack(kind: bytes, body: bytes = b"") -> bytes:
    """The frame's bytes."""
    return kind + len(body).to_bytes(4, "big") + body


class Frames:
    """Takes frames from a socket."""

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._received = bytearray()

    def receive(self, flags: int = 0) -> "list[tuple[bytes, bytes]] | None":
        """Reads, with these flags of `recv`, until a frame is complete; the complete ones.

        None when the other side is gone. With MSG_DONTWAIT nothing when it says nothing now.
        Raises BrokenFrame.
        """
        frames: list[tuple[bytes, bytes]] = []
        while not frames:
            try:
                part = self._socket.recv(1 << 18, flags)
            except BlockingIOError:
                break
            except ConnectionError:
                return None
            if not part:
                return None
            self._received += part
            frames = self._complete()
        return frames

    def _complete(self) -> "list[tuple[bytes, bytes]]":
        frames = []
        while len(self._received) >= _HEAD:
            size = int.from_bytes(self._received[1:_HEAD], "big")
            if size > BODY_MAX_BYTES or self._received[:1] not in _KINDS:
                raise BrokenFrame
            end = _HEAD + size
            if len(self._received) < end:
                break
            frames.append((bytes(self._received[:1]), bytes(self._received[_HEAD:end])))
            del self._received[:end]
        return frames
