"""The gateway's Runtime API for one function on this machine, on the loopback address."""

import contextlib
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from koren_runtime.local.state import State

_LEASE_MS = 10_000
_POLL_S = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt at an event ended.

    `result` is what the handler returned. When it failed, `error` is the kind of error and `message`
    and `traceback` tell of it. `rejected` says that the event would be a dead letter at once,
    `retry_after_s` when the handler wants the next attempt.
    """

    result: Any = None
    error: str | None = None
    message: str = ""
    traceback: str = ""
    rejected: bool = False
    retry_after_s: float | None = None


class Gateway:
    """Hands a pod one event at a time and takes its outcome.

    `port` is where it listens, `token` what a pod has to show.
    """

    def __init__(self, state: State) -> None:
        self.token = secrets.token_urlsafe()
        self._state = state
        self._changed = threading.Condition()
        self._event: bytes | None = None
        self._attempt = 0
        self._leased = ""
        self._outcome: Outcome | None = None
        self._gone = False
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                gateway._serve(self)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a pod that ended amid a request

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def handle(self, event: dict[str, Any]) -> Outcome | None:
        """Has the pod handle an event; None when it is gone before it said how that ended."""
        with self._changed:
            self._outcome = None
            self._event = json.dumps(event, ensure_ascii=False).encode()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._outcome is not None or self._gone)
            self._event, self._leased = None, ""
            return self._outcome

    def pod_is_gone(self) -> None:
        """Nobody is going to say how an event ended."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stops listening."""
        self.pod_is_gone()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = unquote(request.path)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _answer(request, 401, {"error": "no valid token"})
        if path == "/v1/invocation/next":
            return self._next(request)
        if path.startswith("/v1/state/"):
            return self._serve_state(request, path.removeprefix("/v1/state/"), body)
        if not path.startswith("/v1/invocation/"):
            return _answer(request, 204)  # logs and failed starts: the pod prints them itself
        id, _, word = path.removeprefix("/v1/invocation/").rpartition("/")
        with self._changed:
            if not self._leased or id != self._leased:
                return _answer(request, 409, {"error": "the attempt has no lease"})
            if word in ("response", "error"):
                self._outcome = _outcome(word, json.loads(body))
                self._leased = ""
        _answer(request, 204, headers={"Koren-Lease-Ms": str(_LEASE_MS)})
        # After the answer: who waits for the outcome may end the pod at once.
        with self._changed:
            self._changed.notify_all()

    def _next(self, request: BaseHTTPRequestHandler) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._event is not None or self._gone, _POLL_S)
            if self._event is None:
                return _answer(request, 204)
            message, self._event = self._event, None
            self._attempt += 1
            self._leased = f"local-{self._attempt}"
            headers = {
                "Content-Type": "application/cloudevents+json",
                "Koren-Invocation-Id": self._leased,
                "Koren-Attempt": "1",
                "Koren-Lease-Ms": str(_LEASE_MS),
                "Koren-Deadline-Ms": str(round((time.time() + 86400) * 1000)),
            }
        _answer(request, 200, message, headers)

    def _serve_state(self, request: BaseHTTPRequestHandler, key: str, body: bytes) -> None:
        if request.command == "GET":
            found = self._state.kept(key)
            if found is None:
                return _answer(request, 404, {"error": "there is no value"})
            return _answer(request, 200, found.value, {"ETag": f'"{found.version}"'})
        writer = request.headers.get("Koren-Invocation-Id")
        if writer is not None and writer != self._leased:
            return _answer(request, 409, {"error": "the attempt has no lease"})
        version = request.headers.get("If-Match")
        if request.headers.get("If-None-Match") == "*":
            version = ""
        expires = request.headers.get("Koren-Expires-S")
        written = self._state.write(
            key,
            body,
            version=None if version is None else version.strip('"'),
            expires_s=None if expires is None else float(expires),
        )
        if written is None:
            return _answer(request, 412, {"error": "it is another value"})
        return _answer(request, 204, headers={"ETag": f'"{written}"'})


@contextlib.contextmanager
def serving(state: State) -> Iterator[dict[str, str]]:
    """The environment in which a process that is no pod finds this state at a gateway."""
    gateway = Gateway(state)
    try:
        with tempfile.TemporaryDirectory(prefix="koren-gateway-") as folder:
            token = Path(folder) / "token"
            token.write_text(gateway.token)
            yield {"KOREN_GATEWAY": f"127.0.0.1:{gateway.port}", "KOREN_TOKEN": str(token)}
    finally:
        gateway.close()


def _outcome(word: str, said: Any) -> Outcome:
    if word == "response":
        return Outcome(result=said)
    return Outcome(
        error=said["type"],
        message=said["message"],
        traceback=said.get("traceback", ""),
        rejected=said.get("reject", False),
        retry_after_s=said.get("retry_after_s"),
    )


def _answer(
    request: BaseHTTPRequestHandler,
    status: int,
    content: bytes | dict[str, str] = b"",
    headers: dict[str, str] | None = None,
) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if status != 204:
        request.wfile.write(body)
