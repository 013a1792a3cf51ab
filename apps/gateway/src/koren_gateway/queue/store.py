"""The region's Redis: one client, its scripts, and one error for 'not now'."""

import asyncio
import builtins
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from typing import Any

import msgpack
import structlog
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

from koren_gateway.errors import StoreBroken, StoreUnavailable, StoreUnreachable
from koren_gateway.settings import Settings

Argument = bytes | str | int

BELL_CHANNEL = "koren:bell"

_TIMEOUT_S = 5.0
_FIELDS = re.compile(r"^-- P: (.*(?:\n--    .*)*)", re.MULTILINE)
_NUMBER_MAX = 253_402_300_799_999  # the last ms of the year 9999
_log = structlog.get_logger()


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
        scripts = {
            script.name.removesuffix(".lua"): script.read_text(encoding="utf-8")
            for script in files("koren_gateway.queue").joinpath("scripts").iterdir()
            if script.name.endswith(".lua")
        }
        common = scripts.pop("lib")
        self._fields = {name: _fields_of(text) for name, text in scripts.items()}
        # The first line says what the script may do, and must stay the first.
        self._text = {name: text.replace("\n", "\n" + common, 1) for name, text in scripts.items()}
        self._sha = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._text.items()
        }

    async def run(self, script: str, **argument: Any) -> Any:
        """Runs the script of that name, atomically. It finds the named values in `P`; what is None
        is not there, nor is what its header does not name.

        Raises StoreUnavailable, and StoreBroken when Redis holds what no script makes. Keys of a
        wrong type are set aside first: by the script itself, and by `mend` for one that only reads.
        """
        wanted = self._fields[script]
        packed = _packed({k: v for k, v in argument.items() if v is not None and k in wanted})
        try:
            return await self._evaluate(script, packed)
        except ResponseError as error:
            problem = str(error)
        name = str(argument.get("name", ""))
        broken = await self._mend(name)
        _log.error("broken data", script=script, function=name, problem=problem, set_aside=broken)
        try:
            return await self._evaluate(script, packed)
        except ResponseError as error:
            raise StoreBroken(f"Redis holds what {script} can't read: {error}") from None

    async def command(self, *words: Argument) -> Any:
        """Runs one command. Raises as `run` does."""
        try:
            return await self._execute(words)
        except ResponseError as error:
            return await self._again(words, error)

    async def commands(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Runs several in one round trip; not atomic. Raises as `run` does."""
        pipeline = self.redis.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        async with _time_limit():
            answers = list(await pipeline.execute(raise_on_error=False))
        for place, answer in enumerate(answers):
            if isinstance(answer, ResponseError):
                raise_unavailable(answer)
                answers[place] = await self._again(commands[place], answer)
            elif isinstance(answer, Exception):
                raise_unavailable(answer)
                raise answer
        return answers

    async def _execute(self, words: tuple[Argument, ...]) -> Any:
        async with _time_limit():
            return await self.redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def _again(self, words: tuple[Argument, ...], error: ResponseError) -> Any:
        """Sets the key that the command could not read aside, and runs it again."""
        key = next((word for word in words if str(word).startswith("koren:")), "")
        if not key or "WRONGTYPE" not in str(error):
            raise StoreBroken(f"Redis: {words[0]!r}: {error}") from None
        broken = await self._mend("", key)
        _log.error("broken data", command=words[0], problem=str(error), set_aside=broken)
        try:
            return await self._execute(words)
        except ResponseError as error:
            raise StoreBroken(f"Redis holds what {words[0]!r} can't read: {error}") from None

    async def check_writable(self, size_bytes: int) -> None:
        """Raises StoreUnavailable unless Redis takes a write of that size now."""
        await self.run("probe", padding=bytes(size_bytes))

    async def _evaluate(self, script: str, packed: bytes) -> Any:
        sha = self._sha[script]
        async with _time_limit():
            try:
                return await self.redis.evalsha(sha, 0, packed)
            except NoScriptError:
                await self.redis.script_load(self._text[script])
                return await self.redis.evalsha(sha, 0, packed)

    async def _mend(self, name: str, *keys: Argument) -> list[str]:
        try:
            broken = await self._evaluate("mend", _packed({"name": name, "keys": list(keys)}))
        except ResponseError as error:
            _log.error("broken data can't be set aside", problem=str(error))
            return []
        return [key.decode(errors="replace") for key in broken]


def _fields_of(text: str) -> frozenset[str]:
    """What a script's header says that it finds in `P`."""
    named = _FIELDS.search(text)
    if named is None:
        return frozenset()
    bare = re.sub(r"\([^()]*\)", "", named[1].replace("\n--", ""))
    return frozenset(name.strip() for name in bare.split(","))


def _packed(argument: Mapping[str, Any]) -> bytes:
    # Redis' reader knows no type for bytes: they go as text does.
    packed: bytes = msgpack.packb(argument, use_bin_type=False, unicode_errors="surrogatepass")
    return packed


def unpacked(answer: bytes) -> Any:
    """A script's packed answer: names are text, values bytes and numbers."""
    return _named(msgpack.unpackb(answer, raw=True))


def _named(value: Any) -> Any:
    match value:
        case dict():
            return {name.decode(): _named(inner) for name, inner in value.items()}
        case list():
            return [_named(inner) for inner in value]
    return value


@contextlib.asynccontextmanager
async def _time_limit() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            yield
    except Exception as error:
        raise_unavailable(error)
        raise


def number(value: Any) -> int:
    """A count or a Unix time (ms) as Redis keeps it; 0 for what is none, or no time at all."""
    try:
        is_ = int(float(value or 0))
    except (TypeError, ValueError, OverflowError):
        return 0
    return is_ if 0 <= is_ <= _NUMBER_MAX else 0


def raise_unavailable(error: Exception) -> None:
    """Raises StoreUnavailable if `error` is one that waiting may help against."""
    unreachable = (ConnectionError, TimeoutError, OSError)
    refused = (OutOfMemoryError, ReadOnlyError, NoPermissionError)
    if isinstance(error, builtins.TimeoutError):
        raise StoreUnreachable(f"Redis: no answer within {_TIMEOUT_S:g} s") from None
    if isinstance(error, unreachable):
        raise StoreUnreachable(f"Redis: {error}") from error
    if isinstance(error, refused) or (
        # MISCONF: the last write to disk failed. OOM in a script has this class, too.
        isinstance(error, ResponseError) and str(error).startswith(("MISCONF", "OOM", "LOADING"))
    ):
        raise StoreUnavailable(f"Redis: {error}") from error
