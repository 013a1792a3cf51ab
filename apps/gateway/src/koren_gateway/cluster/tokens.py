"""Bearer tokens that Secrets of the functions' namespace hold."""

import asyncio
import hashlib
import hmac
import time
from collections import defaultdict
from dataclasses import dataclass

import structlog

from koren_gateway.cluster.interface import Cluster
from koren_gateway.errors import ClusterRefused, ClusterUnavailable

TOKEN_MIN_BYTES = 20

_FRESH_S = 10.0
_WAIT_S = 2.0
"""How long clients wait for the API server where the tokens were read before."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Read:
    digests: tuple[bytes, ...]
    until: float


class Tokens:
    """The tokens of each Secret that somebody asked for, read again when they are older than some seconds.

    While the API server can't be reached, tokens that were read before stay valid. When it refuses the Secret to
    the gateway, they do not.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._read: dict[str, _Read] = {}
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def accepts(self, secret: str, token: str) -> bool:
        """Whether the token is one of the Secret's values. Raises ClusterUnavailable when that is not known."""
        given = hashlib.sha256(token.encode(errors="replace")).digest()
        # All are compared, so that the time tells nothing.
        return sum(hmac.compare_digest(given, digest) for digest in await self._digests(secret)) > 0

    async def _digests(self, secret: str) -> tuple[bytes, ...]:
        # A lock each: a Secret that takes long to read concerns no other trigger.
        async with self._reading[secret]:
            known = self._read.get(secret)
            if known is not None and time.monotonic() < known.until:
                return known.digests
            try:
                async with asyncio.timeout(None if known is None else _WAIT_S):
                    values = await self._cluster.secret(secret)
            except ClusterRefused:
                self._read.pop(secret, None)
                raise
            except (ClusterUnavailable, TimeoutError) as error:
                if known is None:
                    raise
                _log.warning("tokens not read anew", secret=secret, problem=str(error) or type(error).__name__)
                digests = known.digests
            else:
                digests = _digests_of(secret, values)
            self._read[secret] = _Read(digests, time.monotonic() + _FRESH_S)
            return digests


def _digests_of(secret: str, values: dict[str, bytes] | None) -> tuple[bytes, ...]:
    if values is None:
        _log.error("no Secret with tokens: nobody is let in", secret=secret)
        return ()
    tokens = {key: value.strip() for key, value in values.items()}
    short = sorted(key for key, token in tokens.items() if len(token) < TOKEN_MIN_BYTES)
    if short:
        _log.error("tokens are too short and not accepted", secret=secret, keys=short, min_bytes=TOKEN_MIN_BYTES)
    return tuple(hashlib.sha256(token).digest() for key, token in tokens.items() if key not in short)
