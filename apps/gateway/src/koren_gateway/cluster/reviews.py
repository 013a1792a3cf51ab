"""Who calls: the API server's word for a token, kept for a minute.

While nobody can review, a token that was found good stays good until it expires by its own word: an
outage of the API server must not take from pods the events that they have in hand.
"""

import asyncio
import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from koren_gateway.cluster.interface import Caller, Cluster
from koren_gateway.errors import ClusterUnavailable
from koren_gateway.metrics import Metrics

KEPT_S = 60.0
REFUSAL_KEPT_S = 5.0

_KEPT_MAX = 10_000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Verdict:
    caller: Caller | None
    until_s: float
    """By the own clock, when it is to be reviewed again."""
    expires_at: float
    """Unix time when the token ends by its own word; 0 when it does not say."""


class Reviewer:
    """Reviews tokens, each once a minute however many calls come with it at the same time."""

    def __init__(
        self,
        cluster: Cluster,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._under_review: dict[bytes, asyncio.Task[Caller | None]] = {}

    async def review(self, token: str) -> Caller | None:
        """Whose token it is; None when it is nobody's. Raises ClusterUnavailable."""
        if not token or not token.isascii():
            return None
        # Tokens themselves are not kept.
        digest = hashlib.sha256(token.encode()).digest()
        kept = self._known.get(digest)
        if kept is not None and kept.until_s > self._clock():
            return kept.caller
        task = self._under_review.get(digest)
        if task is None:
            task = asyncio.create_task(self._review(digest, token))
            self._under_review[digest] = task
            task.add_done_callback(lambda _: self._under_review.pop(digest, None))
        # Shielded: a caller that goes away must not fail the others.
        return await asyncio.shield(task)

    def forget_pod(self, pod: str) -> None:
        """The pod is gone, and its tokens with it."""
        for digest, verdict in list(self._known.items()):
            if verdict.caller is not None and verdict.caller.pod == pod:
                del self._known[digest]

    async def _review(self, digest: bytes, token: str) -> Caller | None:
        began = time.monotonic()
        try:
            caller = await self._cluster.review(token)
        except ClusterUnavailable as error:
            kept = self._known.get(digest)
            if kept is None or kept.caller is None or kept.expires_at <= self._wall_clock():
                raise
            _log.warning("token not reviewed again", user=kept.caller.user, problem=str(error))
            # Asked again soon, but not with every call: each would wait for its time to run out.
            self._keep(digest, kept.caller, REFUSAL_KEPT_S, kept.expires_at)
            return kept.caller
        self._metrics.reviews.observe(time.monotonic() - began)
        kept_s = KEPT_S if caller is not None else REFUSAL_KEPT_S
        self._keep(digest, caller, kept_s, _expires_at(token) if caller is not None else 0.0)
        return caller

    def _keep(self, digest: bytes, caller: Caller | None, kept_s: float, expires_at: float) -> None:
        self._known[digest] = _Verdict(caller, self._clock() + kept_s, expires_at)
        self._known.move_to_end(digest)
        while len(self._known) > _KEPT_MAX:
            self._known.popitem(last=False)


def _expires_at(token: str) -> float:
    """When a token that was reviewed ends by its own word (a JWT's `exp`), as Unix time; else 0."""
    try:
        claims = token.split(".")[1]
        expires = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        return float(expires)
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return 0.0
