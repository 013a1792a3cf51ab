"""Small state of a function, kept in the region and shared by all its pods.

    from koren_runtime import state

    entry = state.get("post")
    if entry is None:
        state.put("post", b"at://…", version=state.ABSENT, expires_s=86400)

Each call is a request to the gateway. Its errors may be left to propagate: the event is tried
again then.
"""

from koren_runtime.http import Connection, Response, quote
from koren_runtime.settings import DEFAULT_TOKEN, environment, gateway_address

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
    is forgotten. Raises Conflict when something else is there, StateError for all else.
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
    if response.status not in (200, 204):
        raise StateError(f"state {key!r}: the gateway answered {response.problem()}")
    return _version(response)


def _version(response: Response) -> str:
    return response.headers.get("etag", "").strip('"')


def _ask(method: str, key: str, headers: dict[str, str], body: bytes | None = None) -> Response:
    variables = environment()
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
