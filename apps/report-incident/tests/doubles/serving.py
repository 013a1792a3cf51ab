"""An HTTP server on this machine, for what a double answers."""

import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Serving:
    """Listens on `port` and hands each request to `_serve`, as long as the `with` block lasts;
    with `context` over TLS, at `url`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                double._serve(self)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError


def body_of(request: BaseHTTPRequestHandler) -> bytes:
    """The body that the client sent."""
    return request.rfile.read(int(request.headers.get("Content-Length") or 0))


def answer_json(
    request: BaseHTTPRequestHandler, status: int, answer: Any, headers: Mapping[str, str]
) -> None:
    """Answers with JSON, and with these headers too."""
    content = json.dumps(answer).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json; charset=utf-8")
    request.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(content)
