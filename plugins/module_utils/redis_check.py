# SPDX-License-Identifier: Apache-2.0
"""Whether an external Redis can be a region's queue."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import IO, Any

OWNER = "koren:owner"
"""The key that names the owner of the queue."""
LEAST_VERSION = (7, 0)
TIMEOUT_S = 10.0
_RIGHTS = "~koren:* &koren:* +@read +@write +@connection +@transaction +@scripting +@pubsub +info +time +config|get"


class RedisProblem(Exception):
    """Redis can't be queried; the message names the remedy."""


class Refused(Exception):
    """Redis answered a command with an error."""


class Client:
    """One TLS connection with a minimal Redis client, since hosts have no client library.

    Raises:
        RedisProblem: Redis can't be reached, has no certificate by ``ca``, or refuses the password.
    """

    def __init__(self, host: str, port: int, user: str, password: str, ca: str) -> None:
        place = f"{host}:{port}"
        try:
            context = ssl.create_default_context(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise RedisProblem(f"redis_external.ca is not a certificate in PEM: {error}") from error
        try:
            plain = socket.create_connection((host, port), TIMEOUT_S)
        except OSError as error:
            raise RedisProblem(
                f"Redis at {place} can't be reached: {error}. Correct redis_external, or allow this host to connect."
            ) from error
        try:
            self._socket = context.wrap_socket(plain, server_hostname=host)
        except OSError as error:
            plain.close()
            raise RedisProblem(
                f"Redis at {place} accepts no TLS connection from this host: {error}. Its certificate must be for"
                f" {host}, issued by the authority in redis_external.ca."
            ) from error
        self._stream: IO[bytes] = self._socket.makefile("rb")
        try:
            self.ask("AUTH", user, password)
        except Refused as error:
            self.close()
            raise RedisProblem(
                f"Redis at {place} refuses the user {user}: {error}. Correct redis_external.user and password."
            ) from error

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()

    def ask(self, *words: str) -> Any:
        """The answer to a command.

        Raises:
            Refused: Redis answered with an error.
            RedisProblem: the connection ended.
        """
        parts = [word.encode() for word in words]
        sent = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        try:
            self._socket.sendall(sent)
            return self._answer()
        except OSError as error:
            raise RedisProblem(f"Redis ended the connection at {words[0]}: {error}") from error

    def _answer(self) -> Any:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("incomplete answer")
        kind, text = line[:1], line[1:-2].decode(errors="replace")
        if kind == b"-":
            raise Refused(text)
        if kind == b":":
            return int(text)
        if kind == b"$":
            return None if text == "-1" else self._stream.read(int(text) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return [self._answer() for _ in range(int(text))]
        return text


def facts_of(client: Client) -> dict[str, str]:
    """The fields of Redis' INFO."""
    return dict(line.split(":", 1) for line in client.ask("INFO").splitlines() if ":" in line)


def problems(client: Client, facts: Mapping[str, str]) -> Iterator[str]:
    """Requirements of the queue that this Redis with these ``facts`` does not meet; each with the remedy."""
    version = facts.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
        yield f"it is Redis {version}; the queue's scripts need 7.0 or newer"
    if facts.get("role") != "master":
        yield f"it is a {facts.get('role')}; set redis_external to the server that accepts writes"
    if facts.get("cluster_enabled") == "1":
        yield "it is a cluster, which the queue's scripts do not support; use a single server"
    if facts.get("aof_enabled") != "1":
        yield "it keeps no append-only file, so a restart would lose accepted events; set 'appendonly yes'"
    if facts.get("maxmemory_policy") != "noeviction":
        yield (
            f"it evicts data when its memory is full ({facts.get('maxmemory_policy')}), events too;"
            " set 'maxmemory-policy noeviction'"
        )
    try:
        synced = client.ask("CONFIG", "GET", "appendfsync")
        if synced[1:] != ["always"]:
            yield (
                f"it acknowledges before the data is on the disk (appendfsync {' '.join(synced[1:])}), so a power cut"
                " would lose accepted events; set 'appendfsync always'"
            )
    except Refused as error:
        yield f"its setting appendfsync can't be read ({error}); {_allow()}"
    yield from _missing_rights(client)


def _missing_rights(client: Client) -> Iterator[str]:
    key = f"koren:check:{secrets.token_hex(8)}"
    script = "#!lua\nreturn redis.call('SET', KEYS[1], redis.call('TIME')[1], 'EX', '60')"
    tried = (
        ("EVAL", script, "1", key),
        ("GET", key),
        ("HSET", f"{key}:h", "a", "b"),
        ("ZADD", f"{key}:z", "1", "a"),
        ("XADD", f"{key}:x", "*", "a", "b"),
        ("PUBLISH", key, "a"),
        ("MULTI",),
        ("EXEC",),
        ("SCAN", "0", "MATCH", f"{key}*"),
        ("DEL", key, f"{key}:h", f"{key}:z", f"{key}:x"),
    )
    for words in tried:
        try:
            client.ask(*words)
        except Refused as error:
            yield f"the user may not {words[0]} on keys and channels 'koren:*' ({error}); {_allow()}"


def _allow() -> str:
    return f"give the user these rights: {_RIGHTS}"
