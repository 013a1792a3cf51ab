"""As much of HTTP/1.1 as the gateway's API needs, for the price of two built-in modules."""

import _socket
import posix
import time

from koren_runtime.fast_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Addresses = list[tuple[Any, ...]]

BODY_MAX_BYTES = 16 * 1024 * 1024
"""An answer with more is refused; events have a sixteenth of it at most."""

_LIMIT_BYTES = 64 * 1024
_KEEPALIVE_S = 10


class ProtocolError(ConnectionError):
    """The answer is not what this client understands."""


class Response:
    """Status, headers by their lower-case names, body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def problem(self) -> str:
        """What an answer that is no success says, on one line."""
        text = self.body.decode(errors="replace")
        try:
            value = loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("error"), str):
            text = value["error"].encode(errors="replace").decode()
        return " ".join([str(self.status), *text[:500].split()])


class Connection:
    """One connection, used for one request after the other.

    Each method raises OSError (which ConnectionError and TimeoutError are); the connection is of no
    use then.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token_path: str,
        *,
        timeout_s: float,
        addresses: "Addresses | None" = None,
    ) -> None:
        """Connects within `timeout_s` seconds, to `addresses` if the name is looked up already."""
        self._host = host
        self._port = port
        self._token_path = token_path
        self._received = b""
        self.limit(timeout_s)
        self._socket = _connect(
            look_up(host, port) if addresses is None else addresses, host, self._until
        )

    def limit(self, timeout_s: float) -> None:
        """What follows, however many requests it is, has to be done in so many seconds."""
        self._until = time.monotonic() + timeout_s

    def fileno(self) -> int:
        """The socket, to poll for an answer."""
        return self._socket.fileno()

    def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> None:
        """Sends a request; its answer is read by `receive`."""
        if self._received:
            raise ProtocolError("the gateway said more than it was asked")
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            f"Authorization: Bearer {_read_token(self._token_path)}",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self._hurry()
        self._socket.sendall(head.encode() + (body or b""))

    def receive(self) -> Response:
        """The answer to the request that was sent."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > _LIMIT_BYTES:
                raise ProtocolError("the gateway's headers are too long")
            self._received += self._receive_some(_LIMIT_BYTES)
        head = self._received[:end].decode("latin-1").split("\r\n")
        self._received = self._received[end + 4 :]
        version, _, rest = head[0].partition(" ")
        status = number(rest[:3])
        if not version.startswith("HTTP/1.") or status is None:
            raise ProtocolError(f"not an HTTP answer: {head[0][:80]!r}")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return Response(status, headers, self._receive_body(status, headers))

    def _receive_body(self, status: int, headers: dict[str, str]) -> bytes:
        if status == 204 or status == 304:
            return b""
        size = number(headers.get("content-length", ""))
        if size is None:
            raise ProtocolError("the gateway's answer has no Content-Length")
        if size > BODY_MAX_BYTES:
            raise ProtocolError(f"the gateway's answer has {size} bytes")
        parts = [self._received[:size]]
        left = size - len(parts[0])
        self._received = self._received[size:]
        while left > 0:
            part = self._receive_some(min(left, 1 << 18))
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _receive_some(self, size: int) -> bytes:
        self._hurry()
        part = self._socket.recv(size)
        if not part:
            raise ConnectionError("the gateway closed the connection")
        return part

    def _hurry(self) -> None:
        self._socket.settimeout(_left_s(self._until))

    def close(self) -> None:
        """Ends it, also amid a request."""
        self._socket.close()


def number(text: str) -> int | None:
    """The whole number in a header; None when it is none, or has more than 15 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def quote(text: str) -> str:
    """`text` as a part of a path; slashes stay."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"-._~/" else f"%{byte:02X}"
        for byte in text.encode()
    )


def unquote(text: str) -> str:
    """The inverse of `quote`. Raises ValueError."""
    first, *rest = text.split("%")
    found = first.encode()
    for part in rest:
        found += bytes.fromhex(part[:2]) + part[2:].encode()
    return found.decode(errors="replace")


def look_up(host: str, port: int) -> "Addresses":
    """The addresses of a name. Nothing limits how long it takes. Raises OSError."""
    # As bytes: text would be encoded by the idna codec, and importing that takes longer than the
    # rest of the way to the gateway.
    return _socket.getaddrinfo(host.encode(), port, 0, _socket.SOCK_STREAM)


def _connect(addresses: "Addresses", host: str, until: float) -> _socket.socket:
    problem: OSError = ConnectionError(f"{host} has no address")
    for family, kind, protocol, _, address in addresses:
        socket = _socket.socket(family, kind, protocol)
        try:
            socket.settimeout(_left_s(until))
            socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            # A node that vanished says nothing: a long poll must not wait for it for ever.
            socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
            socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, _KEEPALIVE_S)
            socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, _KEEPALIVE_S)
            socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, 2)
            socket.connect(address)
        except OSError as error:
            socket.close()
            problem = error
        else:
            return socket
    raise problem


def _left_s(until: float) -> float:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the gateway did not answer in time")
    return left_s


def _read_token(path: str) -> str:
    # Read for each request: the kubelet replaces it long before it expires.
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(file, _LIMIT_BYTES).decode(errors="replace").strip()
    finally:
        posix.close(file)
