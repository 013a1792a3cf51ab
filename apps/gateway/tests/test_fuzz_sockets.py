"""A running gateway, asked anything over its real sockets: it answers in its callers' words, stays alive,
and the next event is handled."""

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from fuzzing import JSON, LONG, MESSAGES, TEXTS, search
from gateway_lab import Mosquitto, Pki, RedisServer, environment, event, settings
from hypothesis import given
from hypothesis import strategies as st

from koren_gateway.scaling.externalscaler import externalscaler_pb2 as pb
from koren_gateway.settings import Settings

pytestmark = pytest.mark.fuzz

MEANT = {501, 503, 504, 507}
SCALER = "/externalscaler.ExternalScaler/"


@dataclass
class Running:
    """A gateway's process and how it is reached."""

    settings: Settings
    process: "subprocess.Popen[bytes]"
    tls: ssl.SSLContext
    keda: grpc.Channel

    def ask(
        self, port: int, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer; raises http.client's errors for what is none."""
        kind = http.client.HTTPConnection
        more: dict[str, Any] = {}
        if port == self.settings.functions_port:
            kind, more = http.client.HTTPSConnection, {"context": self.tls}
        connection = kind("localhost", port, timeout=10, **more)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def pod(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """As the pod that handles events."""
        return self.ask(
            self.settings.runtime_port,
            method,
            path,
            {"Authorization": "Bearer pod/report-incident/pod-a", **headers},
            body,
        )

    def still_works(self) -> None:
        """An event goes all the way, whatever may wait before it."""
        assert self.process.poll() is None
        wanted = f"still-{time.monotonic_ns()}"
        made = json.dumps(event(wanted, "updated")).encode()
        status, _, _ = self.ask(
            self.settings.functions_port,
            "POST",
            "/v1/functions/report-incident/invoke?wait=false",
            {"Koren-Token": "user/admin", "Content-Type": "application/cloudevents+json"},
            made,
        )
        assert status == 202
        until = time.monotonic() + 30
        while True:
            assert time.monotonic() < until
            status, body, headers = self.pod("GET", "/v1/invocation/next")
            if status != 200:
                assert status == 204
                continue
            at = f"/v1/invocation/{headers['koren-invocation-id']}/"
            attempt = {"Koren-Attempt": headers["koren-attempt"]}
            for what in ("entered", "heartbeat", "response"):
                assert self.pod("POST", at + what, b"1", **attempt)[0] == 204
            if json.loads(body).get("subject") == wanted:
                return


@pytest.fixture(scope="module")
def gateway(pki: Pki, shared_broker: Mosquitto) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="koren-fuzz-") as folder:
        redis = RedisServer(Path(folder))
        redis.start()
        made = settings(pki, redis, shared_broker.port, poll_s=0.05)
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("gateway_process.py"))],
            env=environment(made),
            stdout=subprocess.DEVNULL,
        )
        certificate, key = pki.issue("keda")
        credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{made.scaler_port}", credentials) as channel:
            running = Running(made, process, pki.client_context(), channel)
            try:
                wait_until_ready(running)
                yield running
            finally:
                process.terminate()
                process.wait(20)
                redis.stop()


def wait_until_ready(running: Running) -> None:
    until = time.monotonic() + 30
    while True:
        assert running.process.poll() is None and time.monotonic() < until
        with contextlib.suppress(OSError, http.client.HTTPException):
            if running.ask(running.settings.metrics_port, "GET", "/readyz", {}, b"")[0] == 200:
                return
        time.sleep(0.05)


WORDS = st.one_of(
    st.sampled_from(["report-incident", "nobody", "x", "..", "%00", "%ff%fe", "a%2Fb", "%0A", "*", "9" * 400]),
    TEXTS.map(lambda text: urllib.parse.quote(text.encode(errors="replace"), safe="")),
)
RUNTIME_PATHS = st.one_of(
    st.sampled_from(["/v1/invocation/next", "/v1/init/error", "/v1/log", "/v1/state/", "/v1", "/", "//", "*", "/?"]),
    st.builds(
        "/v1/invocation/{}/{}".format, WORDS, st.sampled_from(["entered", "heartbeat", "response", "error"]) | WORDS
    ),
    st.builds("/v1/state/{}".format, WORDS),
)
FUNCTION_PATHS = st.one_of(
    st.builds("/v1/functions/{}/invoke?wait=false&{}".format, WORDS, WORDS),
    st.builds("/v1/functions/{}/log".format, WORDS),
    st.builds(
        "/v1/{}?{}={}".format,
        st.sampled_from(["functions", "dead-letters", "held"]),
        st.sampled_from(["limit", "after", "function"]),
        st.sampled_from(["1", "0", "1000", "5_5", "held:5_5", "dismissed:", "-1", "9" * 5000]) | WORDS,
    ),
    st.builds(
        "/v1/{}/{}{}".format,
        st.sampled_from(["dead-letters", "held"]),
        WORDS,
        st.sampled_from(["", "/redrive", "/release", "/dismiss", "/x"]),
    ),
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"])
VALUES = st.one_of(
    st.sampled_from(["", "0", "1", "-1", "1e3", "9" * 15, "9" * 16, "9" * 5000, "*", '"x"', "None", "²"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Koren-Attempt",
            "Koren-Started-Ms",
            "Koren-Expires-S",
            "Koren-Invocation-Id",
            "If-Match",
            "If-None-Match",
            "Content-Type",
            "Content-Encoding",
            "Accept",
            "Range",
            "Cookie",
            "Expect",
            "Upgrade",
            "Connection",
        ]
    ),
    VALUES,
    max_size=4,
).filter(lambda headers: headers.get("Expect", "").isascii())  # aiohttp fails at others of unknown paths
BODIES = st.one_of(
    MESSAGES,
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {}, optional={name: JSON for name in ("type", "message", "traceback", "reject", "retry_after_s", "text")}
    ).map(lambda value: json.dumps(value).encode()),
)
TOKENS = st.sampled_from(
    ["pod/report-incident/pod-a", "pod/report-incident/pod-b", "pod/nobody/pod", "user/admin", "user/kim"]
) | st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


def check(running: Running, answer: tuple[int, bytes, dict[str, str]], method: str) -> None:
    status, body, headers = answer
    assert 200 <= status < 500 or status in MEANT, (status, body)
    if status >= 400 and method != "HEAD" and headers.get("content-type", "").startswith("application/json"):
        assert json.loads(body)["error"]


def requested(running: Running, port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    # A server may hang up on who says that he expects or upgrades to something else.
    odd = {"Expect", "Upgrade", "Connection", "Content-Encoding"} & headers.keys()
    try:
        answer = running.ask(port, method, path, headers, body)
    except (http.client.BadStatusLine, ConnectionError):
        assert odd or running.process.poll() is None
        return
    check(running, answer, method)


@search(80, 5000)
@given(METHODS, RUNTIME_PATHS, HEADERS, TOKENS, BODIES)
def test_the_runtime_api_answers_whatever_is_asked(
    gateway: Running, method: str, path: str, headers: dict[str, str], token: str, body: bytes
) -> None:
    requested(
        gateway, gateway.settings.runtime_port, method, path, {"Authorization": f"Bearer {token}"} | headers, body
    )


@search(60, 5000)
@given(METHODS, FUNCTION_PATHS, HEADERS, TOKENS | st.just("user/admin"), BODIES)
def test_the_function_api_answers_whatever_is_asked(
    gateway: Running, method: str, path: str, headers: dict[str, str], token: str, body: bytes
) -> None:
    requested(gateway, gateway.settings.functions_port, method, path, {"Koren-Token": token} | headers, body)


@search(30, 2000)
@given(
    st.sampled_from(["runtime_port", "functions_port", "metrics_port", "scaler_port"]),
    st.binary(max_size=300)
    | st.builds(
        b"GET /v1/invocation/next HTTP/1.1\r\nHost: x\r\n%b: %b\r\n\r\n%b".__mod__,
        st.tuples(
            st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Authorization", b"Expect"]),
            st.sampled_from([b"-1", b"5", b"9" * 30, b"chunked", b"Bearer \xff", b"100-continue", b"\x00"]),
            st.binary(max_size=40),
        ),
    ),
)
def test_bytes_that_are_no_request_end_nothing(gateway: Running, port: str, data: bytes) -> None:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", getattr(gateway.settings, port)), 5) as line,
    ):
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        answer = line.recv(9)
        if port in ("runtime_port", "metrics_port") and answer:
            assert answer.startswith(b"HTTP/1.")
    assert gateway.process.poll() is None


METADATA = st.dictionaries(
    st.sampled_from(["function", "target"]) | st.text(max_size=5),
    st.sampled_from(["report-incident", "nobody", "1", "0", "1e9", "²", "-1", "\x00\n*"]) | st.text(max_size=20),
    max_size=4,
)
FEW = grpc.StatusCode


@search(40, 3000)
@given(
    st.sampled_from(["IsActive", "GetMetricSpec", "GetMetrics", "StreamIsActive", "Nothing"]),
    st.builds(
        lambda has, wraps: (
            pb.GetMetricsRequest(scaledObjectRef=has, metricName="m") if wraps else has
        ).SerializeToString(),
        st.builds(lambda metadata: pb.ScaledObjectRef(name="x", scalerMetadata=metadata), METADATA),
        st.booleans(),
    )
    | st.binary(max_size=60),
)
def test_the_scaler_answers_whatever_is_asked(gateway: Running, method: str, request: bytes) -> None:
    call = gateway.keda.unary_stream(SCALER + method)
    try:
        stream = call(request, timeout=0.2 if method == "StreamIsActive" else 10)
        next(iter(stream))
        stream.cancel()
    except StopIteration:
        pass
    except grpc.RpcError as error:
        meant = {FEW.INVALID_ARGUMENT, FEW.UNIMPLEMENTED, FEW.DEADLINE_EXCEEDED}
        # gRPC itself refuses what is no message of the protocol, and says so in these words.
        meant |= {FEW.UNKNOWN} if "DecodeError" in (error.details() or "") else set()
        assert error.code() in meant, (error.code(), error.details())
    assert gateway.process.poll() is None


def test_after_all_of_that_an_event_is_handled(gateway: Running) -> None:
    gateway.still_works()
    request = pb.ScaledObjectRef(name="x", scalerMetadata={"function": "report-incident"}).SerializeToString()
    assert pb.IsActiveResponse.FromString(gateway.keda.unary_unary(SCALER + "IsActive")(request)) is not None
    if LONG:
        assert b"koren_gateway_faults_total" not in gateway.ask(
            gateway.settings.metrics_port, "GET", "/metrics", {}, b""
        )[1].replace(b"# HELP koren_gateway_faults_total", b"").replace(b"# TYPE koren_gateway_faults_total", b"")
