"""The region's Redis: one client, its scripts, and one error for 'not now'."""

import asyncio
import builtins
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from koren_gateway.errors import StoreUnavailable
from koren_gateway.settings import Settings

Argument = bytes | str | int

BELL_CHANNEL = "koren:bell"

_TIMEOUT_S = 5.0


def connect(settings: Settings) -> Redis:
    """A client of the region's Redis; it connects when first used, and again when it must."""
    return Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        username=settings.redis_user,
        password=settings.redis_password.get_secret_value() if settings.redis_password else None,
        ssl=settings.redis_ca is not None,
        ssl_ca_certs=str(settings.redis_ca) if settings.redis_ca else None,
        # Calls have a time limit in Store. With one here redis-py sends by asyncio.wait_for, which
        # on Python 3.11 swallows a cancellation that comes as it ends.
        socket_timeout=None,
        socket_connect_timeout=2.0,
        # Scripts that take or end a lease must not run twice behind the caller's back.
        retry=Retry(NoBackoff(), 0),
        client_name="koren-gateway",
        protocol=2,
    )


class Store:
    """Runs scripts and commands; whatever means 'not now' is raised as StoreUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        folder = files("koren_gateway").joinpath("scripts")
        self._text = {
            script.name.removesuffix(".lua"): script.read_text(encoding="utf-8")
            for script in folder.iterdir()
            if script.name.endswith(".lua")
        }
        self._sha = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._text.items()
        }

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs the script of that name, atomically."""
        sha = self._sha[script]
        async with _time_limit():
            try:
                return await self.redis.evalsha(sha, len(keys), *keys, *arguments)
            except NoScriptError:
                await self.redis.script_load(self._text[script])
                return await self.redis.evalsha(sha, len(keys), *keys, *arguments)

    async def command(self, *words: Argument) -> Any:
        """Runs one command."""
        async with _time_limit():
            return await self.redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def commands(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Runs several in one round trip; not atomic."""
        pipeline = self.redis.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        async with _time_limit():
            return list(await pipeline.execute())

    async def check_writable(self, size_bytes: int) -> None:
        """Raises StoreUnavailable unless Redis takes a write of that size now."""
        await self.run("probe", [], [bytes(size_bytes)])


@contextlib.asynccontextmanager
async def _time_limit() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            yield
    except Exception as error:
        raise_unavailable(error)
        raise


def raise_unavailable(error: Exception) -> None:
    """Raises StoreUnavailable if `error` is one that waiting may help against."""
    waiting_helps = (
        ConnectionError,
        TimeoutError,
        OutOfMemoryError,
        ReadOnlyError,
        NoPermissionError,
        OSError,
    )
    if isinstance(error, builtins.TimeoutError):
        raise StoreUnavailable(f"Redis: no answer within {_TIMEOUT_S:g} s") from None
    if isinstance(error, waiting_helps) or (
        # MISCONF: the last write to disk failed. OOM in a script has this class, too.
        isinstance(error, ResponseError) and str(error).startswith(("MISCONF", "OOM", "LOADING"))
    ):
        raise StoreUnavailable(f"Redis: {error}") from error
