"""Servers that the tests share, and a clean Redis for each."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from gateway_lab import Lab, Mosquitto, Pki, RedisServer, settings, started

from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import Queue
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), pki)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def lab_settings(pki: Pki, shared_redis: RedisServer, shared_broker: Mosquitto) -> Settings:
    return settings(pki, shared_redis, shared_broker.port)


@pytest_asyncio.fixture
async def store(lab_settings: Settings) -> AsyncIterator[Store]:
    redis = connect(lab_settings)
    keys = [key async for key in redis.scan_iter("koren:*")]
    if keys:
        await redis.delete(*keys)
    yield Store(redis)
    await redis.aclose()


@pytest.fixture
def queue(store: Store, lab_settings: Settings) -> Queue:
    return Queue(store, lab_settings, Memory(store, lab_settings.batch_bytes))


@pytest_asyncio.fixture
async def lab(lab_settings: Settings, pki: Pki, store: Store) -> AsyncIterator[Lab]:
    """A running gateway on the shared servers, with a clean Redis."""
    async with started(lab_settings, pki) as made:
        yield made
