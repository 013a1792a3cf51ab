"""The gateway's Runtime API for tests of runtimes: as small as its contract allows, and strict about it."""

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from koren_runtime.settings import CONCURRENCY_MAX

TOKEN = "a-token"
KEPT = -503
"""In `refuse`: 503, and that the lease is kept."""


@dataclass
class Call:
    """One request that reports something."""

    at: float
    path: str
    body: Any
    attempt: str | None = None


@dataclass
class GatewayDouble:
    """Hands out events one after the other, and writes down what it is told.

    A request that breaks the contract is answered 400 and noted in `complaints`.
    """

    poll_s: float = 5.0
    port: int = 0
    token: str = TOKEN
    lease_ms: int = 10_000
    refuse: dict[str, list[int]] = field(default_factory=dict)
    """By the last word of the path: statuses to answer with before it works."""
    calls: list[Call] = field(default_factory=list)
    nexts: list[float] = field(default_factory=list)
    """When each `next` came in."""
    started_ms: int = 0
    complaints: list[str] = field(default_factory=list)
    hang: set[str] = field(default_factory=set)
    """Last words of paths that are not answered."""
    refused: list[str] = field(default_factory=list)
    """The last words of the paths that were refused for `refuse`."""
    leases: dict[str, int] = field(default_factory=dict)
    """The attempt of each invocation that has a lease."""
    slots: dict[str, int] = field(default_factory=dict)
    """The slot that each invocation was handed out to."""
    writers: list[tuple[str | None, str | None]] = field(default_factory=list)
    """Invocation and attempt of each write of state."""
    state: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    expiries: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._queue: deque[tuple[str, dict[str, Any]]] = deque()
        self._changed = threading.Condition()
        self._version = 0
        self._attempt = 0
        self._hang_up = threading.Event()
        self._connections: set[socket.socket] = set()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                double._connections.add(self.connection)

            def finish(self) -> None:
                double._connections.discard(self.connection)
                super().finish()

            def do_GET(self) -> None:
                double._serve(self)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # pods that were killed amid a request

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """It is gone: nothing listens, and what was connected is cut."""
        self._hang_up.set()
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def cut(self) -> None:
        """Ends all connections."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stop_listening(self) -> None:
        """Whoever is connected goes on, nobody else can connect."""
        self._server.shutdown()
        self._server.socket.close()

    def give(self, data: Any, id: str = "invocation-1", **attributes: Any) -> None:
        event = {
            "specversion": "1.0",
            "id": "event-1",
            "source": "cctv-seoul-01",
            "type": "kr.koren.traffic.accident.detected",
            "subject": "incident-1",
            "time": "2026-11-24T10:15:00.250Z",
            "datacontenttype": "application/json",
            "region": "seoul",
            "sequence": 1,
            "data": data,
        }
        with self._changed:
            self._queue.append((id, event | attributes))
            self._changed.notify_all()

    def wait_for(self, word: str, count: int = 1, timeout_s: float = 10.0) -> Call:
        """The call number `count` whose path ends with `word`."""

        def found() -> list[Call]:
            return [call for call in self.calls if call.path.endswith(word)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, timeout_s), (
                f"no {word} within {timeout_s:g} s; it told {self.words() or 'nothing'}"
            )
            return found()[count - 1]

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Looks at the condition whenever the double was told something."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"{self.calls} {self.complaints}"

    def wait_for_next(self, count: int = 1, timeout_s: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.nexts) >= count, timeout_s), (
                f"it asked for an event {len(self.nexts)} times within {timeout_s:g} s, not {count}"
            )

    def nexts_before(self, word: str) -> int:
        """How many times it was asked for an event before the first call whose path ends with `word`."""
        first = self.wait_for(word).at
        return sum(at < first for at in self.nexts)

    def words(self) -> list[str]:
        """What it was told, in order, without heartbeats."""
        words = [call.path.rsplit("/", 1)[-1] for call in self.calls]
        return [word for word in words if word not in ("heartbeat", "log")]

    def log(self) -> str:
        """What the pods' logs were said to be."""
        return "".join(call.body["text"] for call in self.calls if call.path == "/v1/log")

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        path = unquote(request.path)
        problem = self._problem(request, path)
        if problem:
            self.complaints.append(f"{request.command} {path}: {problem}")
            return self._answer(request, 400, json.dumps({"error": problem}).encode())
        word = path.rsplit("/", 1)[-1]
        if word in self.hang:
            self._hang_up.wait()
            return None
        refusals = self.refuse.get(word)
        if refusals:
            with self._changed:
                self.refused.append(word)
                self._changed.notify_all()
            refusal = refusals.pop(0)
            headers = {"Koren-Lease": "kept"} if refusal == KEPT else {}
            answer = b'{"error": "refused by the test"}'
            return self._answer(request, abs(refusal), answer, headers)
        if path == "/v1/invocation/next":
            self._next(request)
        elif path.startswith("/v1/state/"):
            self._state(request, path.removeprefix("/v1/state/"), body)
        else:
            try:
                said = json.loads(body)
            except ValueError:
                self.complaints.append(f"{path}: no JSON")
                return self._answer(request, 400, b'{"error": "no JSON"}')
            with self._changed:
                attempt = request.headers.get("Koren-Attempt")
                self.calls.append(Call(time.time(), path, said, attempt))
                if word in ("response", "error"):
                    self.leases.pop(path.split("/")[3], None)
                self._changed.notify_all()
            kept = word in ("entered", "heartbeat")
            self._answer(request, 204, b"", {"Koren-Lease-Ms": str(self.lease_ms)} if kept else {})

    def _problem(self, request: BaseHTTPRequestHandler, path: str) -> str | None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return "no token"
        if not request.headers.get("Host"):
            return "no host"
        if path == "/v1/invocation/next":
            started = request.headers.get("Koren-Started-Ms", "")
            if not started.isdigit() or abs(int(started) / 1000 - time.time()) > 600:
                return f"Koren-Started-Ms is {started!r}"
            self.started_ms = int(started)
            slot = request.headers.get("Koren-Slot", "0")
            if not slot.isdigit() or int(slot) >= CONCURRENCY_MAX:
                return f"Koren-Slot is {slot!r}"
        elif path.startswith("/v1/invocation/"):
            attempt = request.headers.get("Koren-Attempt", "")
            if not 1 <= int(attempt or 0) <= self._attempt:
                return "no attempt"
        elif path == "/v1/log" and int(request.headers["Content-Length"]) > 64 * 1024:
            return "a log too long"
        return None

    def _next(self, request: BaseHTTPRequestHandler) -> None:
        with self._changed:
            self.nexts.append(time.time())
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._queue, self.poll_s):
                return self._answer(request, 204)
            id, event = self._queue.popleft()
            self._attempt += 1
            self.leases[id] = self._attempt
            self.slots[id] = int(request.headers.get("Koren-Slot", "0"))
        headers = {
            "Content-Type": "application/cloudevents+json",
            "Koren-Invocation-Id": id,
            "Koren-Attempt": str(self.leases[id]),
            "Koren-Lease-Ms": str(self.lease_ms),
            "Koren-Deadline-Ms": str(round((time.time() + 60) * 1000)),
        }
        self._answer(request, 200, json.dumps(event, ensure_ascii=False).encode(), headers)

    def _state(self, request: BaseHTTPRequestHandler, key: str, body: bytes) -> None:
        if request.command == "GET":
            if key not in self.state:
                return self._answer(request, 404, b'{"error": "no value"}')
            value, version = self.state[key]
            return self._answer(request, 200, value, {"ETag": f'"{version}"'})
        writer = (request.headers.get("Koren-Invocation-Id"), request.headers.get("Koren-Attempt"))
        self.writers.append(writer)
        if writer != (None, None) and str(self.leases.get(writer[0] or "")) != writer[1]:
            return self._answer(request, 409, b'{"error": "the attempt has no lease"}')
        known = self.state.get(key)
        must_match = request.headers.get("If-Match")
        if (request.headers.get("If-None-Match") == "*" and known is not None) or (
            must_match is not None and (known is None or must_match != f'"{known[1]}"')
        ):
            return self._answer(request, 412, b'{"error": "changed"}')
        self._version += 1
        self.state[key] = (body, self._version)
        self.expiries[key] = request.headers.get("Koren-Expires-S", "")
        with self._changed:
            self._changed.notify_all()
        return self._answer(request, 204, b"", {"ETag": f'"{self._version}"'})

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        if status != 204:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if status != 204:
            request.wfile.write(body)
