"""What the HTTP APIs have in common: errors as JSON that name the thing and the remedy."""

import contextlib
import functools
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import structlog
from aiohttp import HttpVersion11, web

from koren_gateway.errors import (
    ClusterUnavailable,
    LeaseLost,
    StoreBroken,
    StoreUnavailable,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger()


class Refused(Exception):
    """The request is answered with `status` and `{"error": problem, …}`."""

    def __init__(
        self, status: int, problem: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(problem)
        self.status = status
        self.headers = headers
        self.body = {"error": problem, **more}


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error has a JSON body."""
    try:
        return await handler(request)
    except Refused as error:
        return web.json_response(error.body, status=error.status, headers=error.headers)
    except LeaseLost as error:
        return web.json_response({"error": str(error)}, status=409)
    except (StoreUnavailable, ClusterUnavailable) as error:
        _log.warning("request not served", path=request.path, problem=str(error))
        return web.json_response(
            {"error": f"{error}; try again"}, status=503, headers={"Retry-After": "1"}
        )
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return web.json_response({"error": error.reason}, status=error.status)
    except Exception as error:
        _log.exception("request failed", path=request.path)
        problem = str(error) if isinstance(error, StoreBroken) else "the gateway has a fault"
        return web.json_response({"error": f"{problem}; its log says more"}, status=500)


async def _expectation(request: web.Request) -> web.Response | None:
    """Answers a header Expect that is not "100-continue"; aiohttp's own answer fails where it is not ASCII."""
    if request.version != HttpVersion11:
        return None
    if request.headers["Expect"].lower() != "100-continue":
        problem = 'header Expect can only be "100-continue"; leave it out'
        return web.json_response({"error": problem}, status=417)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # nothing of the answer has gone yet
    return None


get = functools.partial(web.get, expect_handler=_expectation)
post = functools.partial(web.post, expect_handler=_expectation)
put = functools.partial(web.put, expect_handler=_expectation)
delete = functools.partial(web.delete, expect_handler=_expectation)
route = functools.partial(web.route, expect_handler=_expectation)


def number_header(request: web.Request, name: str) -> int | None:
    """A header that is a whole number; None when it is absent. Raises Refused."""
    text = request.headers.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise Refused(400, f"header {name} is {text[:40]!r}; give a whole number")
    return int(text)


class Bodies:
    """Reads the bodies of requests, of each caller only so many bytes at a time: who sends many large
    ones slowly must not fill this process's memory."""

    def __init__(self, at_once_bytes: int) -> None:
        self._at_once_bytes = at_once_bytes
        self._reading: Counter[str] = Counter()

    @contextlib.contextmanager
    def reading(self, request: web.Request, caller: str) -> Iterator[None]:
        """While the body is read and used. Raises Refused when the caller sends too much at once."""
        length = request.content_length
        if length is None and request.can_read_body:
            raise Refused(411, "header Content-Length is missing")
        length = length or 0
        if self._reading[caller] and self._reading[caller] + length > self._at_once_bytes:
            raise Refused(503, f"{caller} sends too much at once; try again")
        self._reading[caller] += length
        try:
            yield
        finally:
            self._reading[caller] -= length
            if not self._reading[caller]:
                del self._reading[caller]


async def json_body(request: web.Request) -> Any:
    """The body, which must be JSON (nothing is null). Raises Refused."""
    try:
        return json.loads(await request.read() or b"null")
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
