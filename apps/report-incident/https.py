"""Requests to a server, over one connection."""

import http.client
import json
import ssl
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from typing import Any, Self

_TIMEOUT_S = 10.0


class Unreachable(Exception):
    """No answer came from the server; the message says where it was looked for."""


class Answer:
    """What a server answered; `content` is its JSON, or {"message": …} of anything else."""

    __slots__ = ("content", "headers", "status")

    def __init__(self, status: int, headers: "Message", body: bytes) -> None:
        self.status = status
        self.headers = headers
        try:
            self.content: Any = json.loads(body)
        except ValueError:
            self.content = {"message": body[:200].decode(errors="replace")}

    def later(self, reset: str, message: str) -> "Exception | None":
        """RetryAfter with the message, when the server refused for its rate limit and says how long
        that lasts: in the header named `reset`, or in Retry-After."""
        if self.status != 429:
            return None
        from rate_limit import wait_s

        from koren_runtime import RetryAfter

        seconds = wait_s([self.headers.get(reset)], self.headers.get("retry-after"))
        return None if seconds is None else RetryAfter(seconds, message)


class Server:
    """One connection to the server at `url`; `authority` is a PEM file, None for the system's.
    `timeout_s` is how long it may say nothing.

    Raises ValueError for an address that can't be asked.
    """

    def __init__(self, url: str, authority: str | None, timeout_s: float = _TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path:
            raise ValueError(
                f"the secret's url is {url!r}; it must be like https://sns.example.org"
            )
        self.url = url
        self._connection = http.client.HTTPSConnection(
            parts.hostname,
            parts.port,
            timeout=timeout_s,
            context=ssl.create_default_context(cafile=authority),
        )

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, verb: str, target: str, body: bytes | None, headers: "Mapping[str, str]"
    ) -> Answer:
        """The answer, whatever its status. Raises Unreachable."""
        try:
            self._connection.request(verb, target, body, dict(headers))
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            what = target.partition("?")[0].rpartition("/")[2]
            raise Unreachable(
                f"{what}: no answer from {self.url}: {type(error).__name__}: {error}"
            ) from error
        return Answer(response.status, response.headers, content)


def to_json(value: object) -> bytes:
    """`value` as a request's body."""
    return json.dumps(value, ensure_ascii=False).encode()
