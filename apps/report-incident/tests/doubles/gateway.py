"""The gateway's API for a function's state."""

import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

from doubles.serving import Serving, body_of


class StateDouble(Serving):
    """Keeps values by key, each write with a new ETag. `down` makes it answer 503."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.expiries_s: dict[str, float] = {}
        self.down = False
        self._tags: dict[str, int] = {}
        self._lock = threading.Lock()
        super().__init__()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        assert request.command in ("GET", "PUT"), "the gateway has no other method for state"
        value = body_of(request) if request.command == "PUT" else None
        key = unquote(request.path).removeprefix("/v1/state/")
        with self._lock:
            if self.down:
                return self._answer(request, 503, b'{"error": "Redis is away"}')
            tag = f'"{self._tags.get(key, 0)}"'
            if value is None:
                if key not in self.values:
                    return self._answer(request, 404)
                return self._answer(request, 200, self.values[key], tag)
            if request.headers.get("If-None-Match") == "*" and key in self.values:
                return self._answer(request, 412)
            if request.headers.get("If-Match", tag) != tag:
                return self._answer(request, 412)
            self.values[key] = value
            self.expiries_s[key] = float(request.headers["Koren-Expires-S"])
            self._tags[key] = self._tags.get(key, 0) + 1
            self._answer(request, 204, tag=f'"{self._tags[key]}"')

    @staticmethod
    def _answer(
        request: BaseHTTPRequestHandler, status: int, body: bytes = b"", tag: str = ""
    ) -> None:
        request.send_response(status)
        if tag:
            request.send_header("ETag", tag)
        if status != 204:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
