"""What Bluesky's servers say of their rate limits, told by one that refuses everything."""

import email.utils
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import bluesky
import handler
import pytest
from conftest import make_event
from doubles.gateway import StateDouble
from doubles.serving import Serving, answer_json, body_of
from doubles.tls import certificate

from koren_runtime import RetryAfter


class Refusing(Serving):
    """Answers every request with `status` and `headers`."""

    def __init__(self, folder: Path) -> None:
        self.status = 429
        self.headers: dict[str, str] = {}
        super().__init__(certificate(folder))

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body_of(request)
        refused = {"error": "RateLimitExceeded", "message": "Too much"}
        answer_json(request, self.status, refused, self.headers)


@pytest.fixture
def refusing(kept: StateDouble, secret: Callable[..., Path], tmp_path: Path) -> Iterator[Refusing]:
    with Refusing(tmp_path) as double:
        ca = (tmp_path / "ca.crt").read_text()
        secret(provider="bluesky", url=double.url, handle="seoul", password="x", ca_crt=ca)
        yield double


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
