"""Who calls: the API server's word for a token, kept for a minute at most."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from koren_gateway.cluster import Caller, Cluster
from koren_gateway.metrics import Metrics

KEPT_S = 60.0
REFUSAL_KEPT_S = 5.0

_KEPT_MAX = 10_000


class Reviewer:
    """Reviews tokens, each once a minute however many calls come with it at the same time."""

    def __init__(
        self, cluster: Cluster, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Caller | None]] = OrderedDict()
        self._under_review: dict[bytes, asyncio.Task[Caller | None]] = {}

    async def review(self, token: str) -> Caller | None:
        """Whose token it is; None when it is nobody's. Raises ClusterUnavailable."""
        if not token:
            return None
        # Tokens themselves are not kept.
        digest = hashlib.sha256(token.encode()).digest()
        kept = self._known.get(digest)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        task = self._under_review.get(digest)
        if task is None:
            task = asyncio.create_task(self._review(digest, token))
            self._under_review[digest] = task
            task.add_done_callback(lambda _: self._under_review.pop(digest, None))
        # Shielded: a caller that goes away must not fail the others.
        return await asyncio.shield(task)

    def forget_pod(self, pod: str) -> None:
        """The pod is gone, and its tokens with it."""
        for digest, (_, caller) in list(self._known.items()):
            if caller is not None and caller.pod == pod:
                del self._known[digest]

    async def _review(self, digest: bytes, token: str) -> Caller | None:
        began = time.monotonic()
        caller = await self._cluster.review(token)
        self._metrics.reviews.observe(time.monotonic() - began)
        kept_s = KEPT_S if caller is not None else REFUSAL_KEPT_S
        self._known[digest] = (self._clock() + kept_s, caller)
        self._known.move_to_end(digest)
        while len(self._known) > _KEPT_MAX:
            self._known.popitem(last=False)
        return caller
