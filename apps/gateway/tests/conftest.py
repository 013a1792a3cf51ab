"""Servers that the tests share, and a clean Redis for each."""

from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
import pytest_asyncio
from gateway_lab import REGION, Lab, Mosquitto, Pki, RedisServer, settings, started

from koren_gateway.intake.mqtt import Connection, Link
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.queue import Queue
from koren_gateway.queue.store import Store, connect
from koren_gateway.settings import Settings

# A machine that runs other things stalls for longer than an example may take.
hypothesis.settings.register_profile("koren", deadline=None)
hypothesis.settings.load_profile("koren")


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


@pytest_asyncio.fixture
async def clean_broker(pki: Pki, shared_broker: Mosquitto) -> Mosquitto:
    """The shared broker, which keeps nothing for the gateway that another test has published."""
    certificate, key = pki.issue(f"gateway.{REGION}")
    link = Link(
        host="localhost",
        port=shared_broker.port,
        client_id=f"gateway.{REGION}",
        ca=pki.ca,
        certificate=certificate,
        key=key,
        session_expiry_s=0,
        buffer_bytes=2**20,
        will_topic=f"health/{REGION}/none",
        will_message=b"",
    )
    await (await Connection.open(link)).close()
    return shared_broker


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
async def lab(lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto) -> AsyncIterator[Lab]:
    """A running gateway on the shared servers, with a clean Redis."""
    async with started(lab_settings, pki) as made:
        yield made
