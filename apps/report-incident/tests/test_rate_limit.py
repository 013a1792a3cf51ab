"""What Bluesky's servers say of their rate limits, told by one that refuses everything."""

import email.utils
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bluesky
import handler
import pytest
from conftest import make_event
from doubles.gateway import StateDouble
from doubles.tls import certificate

from koren_runtime import RetryAfter


class Refusing:
    """Answers every request with `status` and `headers`."""

    def __init__(self, folder: Path) -> None:
        self.status = 429
        self.headers: dict[str, str] = {}
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = json.dumps({"error": "RateLimitExceeded", "message": "Too much"}).encode()
                self.send_response(double.status)
                for name, value in double.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = certificate(folder).wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def refusing(kept: StateDouble, secret: Callable[..., Path], tmp_path: Path) -> Iterator[Refusing]:
    double = Refusing(tmp_path)
    ca = (tmp_path / "ca.crt").read_text()
    secret(provider="bluesky", url=double.url, handle="seoul", password="x", ca_crt=ca)
    threading.Thread(target=double.server.serve_forever, args=(0.05,), daemon=True).start()
    yield double
    double.server.shutdown()
    double.server.server_close()


def wait_s() -> float:
    with pytest.raises(RetryAfter, match="createSession: 429 RateLimitExceeded: Too much") as raised:
        handler.handler(make_event(jpeg=None), {})
    return raised.value.seconds


def unix(seconds: float) -> str:
    return str(int(time.time() + seconds))


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says(refusing: Refusing) -> None:
    refusing.headers = {"ratelimit-limit": "3000", "ratelimit-reset": unix(300)}

    assert 200 < wait_s() <= 300


def test_retry_after_is_read_where_no_reset_is_told(refusing: Refusing) -> None:
    refusing.headers = {"retry-after": "77"}
    assert wait_s() == 77

    refusing.headers = {"retry-after": email.utils.formatdate(time.time() + 99, usegmt=True)}
    assert 30 < wait_s() <= 99

    refusing.headers = {"ratelimit-reset": unix(-5), "retry-after": "7"}
    assert wait_s() == 7


def test_the_wait_is_never_more_than_a_day(refusing: Refusing) -> None:
    refusing.headers = {"ratelimit-reset": unix(10 * 86400)}

    assert wait_s() == 86400


@pytest.mark.parametrize(
    "headers",
    [{}, {"ratelimit-reset": "soon"}, {"ratelimit-reset": "-1", "retry-after": "later"}],
)
def test_without_a_time_to_come_the_usual_retries_are_left(
    refusing: Refusing, headers: dict[str, str]
) -> None:
    refusing.headers = headers

    with pytest.raises(bluesky.XrpcError, match="createSession: 429 RateLimitExceeded"):
        handler.handler(make_event(jpeg=None), {})


def test_only_the_rate_limit_is_waited_for(refusing: Refusing) -> None:
    refusing.status = 500
    refusing.headers = {"ratelimit-reset": unix(300)}

    with pytest.raises(bluesky.XrpcError, match="createSession: 500"):
        handler.handler(make_event(jpeg=None), {})
