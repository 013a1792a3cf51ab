"""A collector that takes OTLP over HTTP as the protocol says, and keeps the spans."""

import http.server
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class Seen:
    """A span as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ms: int
    end_ms: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    failed: bool
    description: str
    events: list[str]

    @property
    def context(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector:
    """Listens on a port of its own, with TLS if it is given a certificate. `delay_s` makes it slow."""

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, delay_s: float = 0.0) -> None:
        self.spans: list[Seen] = []
        self.headers: list[dict[str, str]] = []
        self.bodies = b""
        self.status = 200
        self.delay_s = delay_s
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(collector.delay_s)
                collector._take(self.path, dict(self.headers), body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *what: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = f"{scheme}://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Seen]:
        """The spans of that name, in order of time."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_ms)

    def wait(self, *names: str, timeout_s: float = 15.0) -> list[Seen]:
        """One span of each name, the first of it; waits until they are there."""
        until = time.monotonic() + timeout_s
        while missing := [name for name in names if not self.named(name)]:
            assert time.monotonic() < until, f"no {missing} among {[span.name for span in self.spans]}"
            time.sleep(0.02)
        return [self.named(name)[0] for name in names]

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces", path
        request = ExportTraceServiceRequest.FromString(body)
        self.headers.append(headers)
        self.bodies += body
        self.spans += [
            Seen(
                name=span.name,
                kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                start_ms=span.start_time_unix_nano // 1_000_000,
                end_ms=span.end_time_unix_nano // 1_000_000,
                attributes=_plain(span.attributes),
                resource=_plain(of_one.resource.attributes),
                failed=span.status.code == Status.STATUS_CODE_ERROR,
                description=span.status.message,
                events=[event.name for event in span.events],
            )
            for of_one in request.resource_spans
            for scope in of_one.scope_spans
            for span in scope.spans
        ]


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
