"""Small state of a function, kept in the region and shared by all its pods.

    from koren_runtime import state

    entry = state.get("post")
    if entry is None:
        state.put("post", b"at://…", version=state.ABSENT, expires_s=86400)

Each call is a request to the gateway. Its errors may be left to propagate: the event is tried
again then.
"""

import posix

from koren_runtime.http import Connection, Response, quote
from koren_runtime.settings import (
    DEFAULT_TOKEN,
    INVOCATION_FILE,
    INVOCATION_FILE_BYTES,
    environment,
    gateway_address,
)

VALUE_MAX_BYTES = 64 * 1024

ANY = "any"
"""`put` whatever is there."""
ABSENT = "absent"
"""`put` only if there is nothing."""

_TIMEOUT_S = 5.0


class StateError(Exception):
    """The gateway did not do it; the message says why."""


class Conflict(StateError):
    """The state is not what `version` says: another pod was there first. Read it again."""


class LeaseLost(StateError):
    """This attempt at the event has ended for the gateway; another may be under way."""


class Entry:
    """A value and its version."""

    __slots__ = ("value", "version")

    def __init__(self, value: bytes, version: str) -> None:
        self.value = value
        self.version = version

    def __repr__(self) -> str:
        return f"Entry(value={self.value[:80]!r}, version={self.version!r})"


def get(key: str) -> Entry | None:
    """What is kept under `key`; None when there is nothing. Raises StateError."""
    response = _ask("GET", key, {})
    if response.status == 404:
        return None
    if response.status != 200:
        raise StateError(f"state {key!r}: the gateway answered {response.problem()}")
    return Entry(response.body, _version(response))


def put(key: str, value: bytes, *, version: str = ANY, expires_s: int | None = None) -> str:
    """Keeps at most 64 KiB under `key`; returns its new version.

    `version` is that of the entry to be replaced, or ABSENT, or ANY. After `expires_s` seconds it
    is forgotten. Raises Conflict when something else is there, LeaseLost when the event in hand is
    not this pod's any more, StateError for all else.
    """
    if len(value) > VALUE_MAX_BYTES:
        raise StateError(
            f"state {key!r} has {len(value)} bytes; {VALUE_MAX_BYTES} is the most that is kept"
        )
    headers = {}
    if version == ABSENT:
        headers["If-None-Match"] = "*"
    elif version != ANY:
        headers["If-Match"] = f'"{version}"'
    if expires_s is not None:
        headers["Koren-Expires-S"] = str(expires_s)
    response = _ask("PUT", key, headers, value)
    if response.status == 412:
        raise Conflict(f"state {key!r} has changed")
    if response.status == 409:
        raise LeaseLost(f"state {key!r} is not written: {response.problem()}")
    if response.status not in (200, 204):
        raise StateError(f"state {key!r}: the gateway answered {response.problem()}")
    return _version(response)


def _version(response: Response) -> str:
    return response.headers.get("etag", "").strip('"')


def _invocation(key: str, path: str | None) -> dict[str, str]:
    """The headers that say for which attempt a write is; none while the module is loaded."""
    if path is None:
        return {}  # not in a pod
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise LeaseLost(
            f"state {key!r} is not written: the function that started this process has ended"
        ) from error
    try:
        lines = posix.read(file, INVOCATION_FILE_BYTES).decode().split("\n")
    finally:
        posix.close(file)
    if len(lines) < 2:
        return {}
    return {"Koren-Invocation-Id": lines[0], "Koren-Attempt": lines[1]}


def _ask(method: str, key: str, headers: dict[str, str], body: bytes | None = None) -> Response:
    variables = environment()
    if method == "PUT":
        headers |= _invocation(key, variables.get(INVOCATION_FILE))
    host, port = gateway_address(variables)
    try:
        connection = Connection(
            host, port, variables.get("KOREN_TOKEN", DEFAULT_TOKEN), timeout_s=_TIMEOUT_S
        )
        try:
            connection.send(method, f"/v1/state/{quote(key)}", headers, body)
            return connection.receive()
        finally:
            connection.close()
    except OSError as error:
        raise StateError(f"state {key!r}: the gateway can't be reached: {error}") from error
