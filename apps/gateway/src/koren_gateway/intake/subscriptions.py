"""The session's subscriptions to the topics of sources, kept in step with what is declared.

The broker keeps a session's subscriptions while no gateway is connected. So that one whose source was deleted
meanwhile is ended, Redis has a list of them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog

from koren_gateway.cluster.sources import Sources
from koren_gateway.errors import StoreUnavailable, SubscriptionRefused
from koren_gateway.intake.mqtt import Connection
from koren_gateway.queue.store import Store

TOPICS = "koren:mqtt-topics"

_AGAIN_S = 1.0
_log = structlog.get_logger()


class Subscriptions:
    """What the region's broker was asked for, by sources."""

    def __init__(self, store: Store, sources: Sources) -> None:
        self._store = store
        self._sources = sources

    async def follow(self, connection: Connection) -> None:
        """Keeps a connection's session in step, until ConnectionLost is raised. What the broker refuses is
        logged, and asked for again with the next connection."""
        asked: set[str] = set()
        while True:
            wanted = self._sources.topics()
            try:
                held = {topic.decode() for topic in await self._store.command("HKEYS", TOPICS)}
                for topic in held - wanted:
                    await connection.unsubscribe(topic)
                    await self._store.command("HDEL", TOPICS, topic)
                for topic in wanted - asked:
                    await self._subscribe(connection, topic)
            except StoreUnavailable as error:
                _log.warning("subscriptions wait for redis", problem=str(error))
                await asyncio.sleep(_AGAIN_S)
                continue
            asked = set(wanted)
            await self._sources.wait_for_others(wanted)

    async def wait_for_any(self) -> None:
        """Waits until there is a source, or a subscription of one that has gone. Raises StoreUnavailable."""
        if not await self._store.command("HLEN", TOPICS):
            await self._sources.wait_for_others(frozenset())

    async def _subscribe(self, connection: Connection, topic: str) -> None:
        await self._store.command("HSET", TOPICS, topic, 0)
        try:
            await connection.subscribe(topic)
        except SubscriptionRefused as error:
            _log.error("source gets no messages; check the broker's ACL", topic=topic, problem=str(error))
        else:
            await self._store.command("HSET", TOPICS, topic, 1)
            _log.info("source open", topic=topic)

    async def state(self) -> list[Mapping[str, Any]]:
        """Each source, whether the broker has its subscription, and those that are refused with the reason.
        Raises StoreUnavailable."""
        topics = await self._store.command("HGETALL", TOPICS)
        return [
            {**asdict(source), "subscribed": topics.get(source.topic.encode()) == b"1", "problem": None}
            for source in self._sources.all()
        ] + [{**asdict(refused), "subscribed": False} for refused in self._sources.refused()]
