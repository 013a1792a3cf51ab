"""Coverage-guided: whatever a pod sends to the Runtime API is answered. See harness.py.

The API runs in this process, its queue is a stand-in that has one event in hand.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import atheris
from harness import main, search

with atheris.instrument_imports(include=["koren_gateway.api", "koren_gateway.queue.attempts"]):
    import structlog
    from aiohttp import web
    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.streams import StreamReader
    from aiohttp.test_utils import make_mocked_request
    from gateway_lab import REPORTER, TestCluster

    from koren_events.cloudevent import parse
    from koren_gateway.api.http import errors_as_json
    from koren_gateway.api.runtime import RuntimeApi
    from koren_gateway.cluster.functions import Functions
    from koren_gateway.cluster.interface import Change
    from koren_gateway.cluster.reviews import Reviewer
    from koren_gateway.errors import LeaseLost
    from koren_gateway.metrics import Metrics
    from koren_gateway.queue.queue import Progress, Standing, Taken
    from koren_gateway.queue.state import Value
    from koren_gateway.scaling.bell import Bell

BODY = b'{"specversion":"1.0","id":"1","source":"s","type":"t"}'
EVENT, _ = parse(BODY)


class Standin:
    """A queue, attempts, leases, state, logs and init errors; delivery 1 of `key` has the lease."""

    async def take(self, function: Any, pod: str, started_ms: int | None) -> Taken:
        assert started_ms is None or 0 <= started_ms < 10**15
        return Taken(
            key="key", delivery=1, deadline_ms=1, message=BODY, event=EVENT, phases={}, released_by="김", more=0
        )

    def taken(self, *what: Any) -> None:
        pass

    entered = taken

    async def extend(self, function: str, key: str, delivery: int, entered_ms: int | None) -> Progress:
        self._check(key, delivery)
        return Progress(1, EVENT, {})

    async def standing(self, function: str, key: str) -> Standing:
        return Standing(attempts=0, deliveries=1, entered=True, once=False)

    async def succeed(self, end: Any, result: bytes) -> None:
        json.loads(result.decode())
        self._check(end.key, end.delivery)

    async def fail(self, function: Any, end: Any, failure: Any) -> None:
        json.loads(failure.to_json().decode())
        str(failure).encode()
        assert failure.retry_after_s is None or 0 <= failure.retry_after_s < 1e9
        self._check(end.key, end.delivery)

    async def note(self, function: str, pod: str, failure: Any) -> None:
        failure.to_json().decode()

    async def add(self, function: str, pod: str, text: str) -> None:
        text.encode(errors="replace")

    async def get(self, function: str, key: str) -> Value | None:
        return Value(b"x", "1") if key == "there" else None

    async def put(self, function: str, key: str, value: bytes, **more: Any) -> str | None:
        assert more["expires_s"] is None or more["expires_s"] >= 0
        return None if more["condition"] else "2"

    def _check(self, key: str, delivery: int) -> None:
        if (key, delivery) != ("key", 1):
            raise LeaseLost("gone")


def one(data: bytes) -> None:
    """A line 'METHOD path name=value|…', then the body."""
    line, _, body = data.partition(b"\n")
    method, _, rest = line.decode(errors="replace").partition(" ")
    path, _, words = rest.partition(" ")
    if not path.startswith("/") or not path.isascii() or not path.isprintable():
        path = "/v1/invocation/key/error"
    headers = {"Authorization": "Bearer pod/report-incident/pod-a", "Host": "gateway"}
    for word in words.split("|"):
        name, is_one, value = word.partition("=")
        if is_one and name.isascii() and name.replace("-", "").isalpha():
            headers[name] = value
    LOOP.run_until_complete(answer(method if method.isalpha() and method.isascii() else "POST", path, headers, body))


async def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    payload = StreamReader(BaseProtocol(LOOP), 2**16, loop=LOOP)
    payload.feed_data(body)
    payload.feed_eof()
    request = make_mocked_request(method, path, headers=headers, payload=payload, client_max_size=2**21, app=APP)
    match = await APP.router.resolve(request)
    request._match_info = match
    match.add_app(APP)
    answered = await errors_as_json(request, match.handler)
    assert isinstance(answered, web.Response)
    assert 200 <= answered.status < 500, (answered.status, answered.text)
    if answered.status >= 400:
        assert json.loads(answered.text or "")["error"]


def app() -> web.Application:
    """The API's routes, as a pod of the one function reaches them."""
    functions = Functions()
    functions.apply(Change("listed", [REPORTER]))
    its: Any = Standin()
    api = RuntimeApi(
        namespace="functions",
        poll_s=0.01,
        lease_s=10.0,
        stopping=asyncio.Event(),
        queue=its,
        bell=Bell(its),
        functions=functions,
        attempts=its,
        leases=its,
        state=its,
        logs=its,
        reviewer=Reviewer(TestCluster(), Metrics()),
        init_errors=its,
    )
    made = api.app()
    made.freeze()
    return made


LOOP = asyncio.new_event_loop()
APP = app()
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


def test_runtime_api(tmp_path: Path) -> None:
    search(__file__, tmp_path)


if __name__ == "__main__":
    main(one)
