"""What the APIs do about connections and headers before any request is judged."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from gateway_lab import Lab, Mosquitto, Pki, started
from structlog.testing import capture_logs

from koren_gateway.log import Seldom
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

NEXT = b"GET /v1/invocation/next HTTP/1.1\r\nHost: gateway\r\n"


@pytest_asyncio.fixture
async def narrow(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    """A gateway whose listeners take three connections, and let none be idle for long."""
    monkeypatch.setattr("koren_gateway.api.listener.CONNECTIONS_MAX", 3)
    monkeypatch.setattr("koren_gateway.api.listener.IDLE_S", 1.0)
    async with started(lab_settings, pki) as made:
        yield made


async def connection(lab: Lab) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", lab.settings.runtime_port)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and body of the next answer."""
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length:")[2].split()[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(length))


@pytest.mark.asyncio
async def test_a_listener_refuses_connections_beyond_its_limit_and_drops_idle_ones(narrow: Lab) -> None:
    idle = [await connection(narrow) for _ in range(3)]
    idle[0][1].write(NEXT)  # a request that never ends
    reader, _ = await connection(narrow)
    status, body = await answer(reader)
    assert status == 503 and "3 connections already" in body["error"]
    async with asyncio.timeout(10):
        assert await reader.read() == b""
        for other, _ in idle:
            assert await other.read() == b""
    reader, writer = await connection(narrow)
    writer.write(NEXT + b"\r\n")
    assert (await answer(reader))[0] == 401
    writer.close()


@pytest.mark.asyncio
async def test_an_expectation_that_nobody_meets_is_refused_whatever_its_characters(lab: Lab) -> None:
    for expect in ("200-maybe", "\xe9", "가"):
        reader, writer = await connection(lab)
        writer.write(NEXT + f"Expect: {expect}\r\n\r\n".encode())
        status, body = await answer(reader)
        assert status == 417 and "Expect" in body["error"]
        writer.close()
    reader, writer = await connection(lab)
    writer.write(NEXT + b"Expect: 100-Continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await answer(reader))[0] == 401
    writer.close()


@pytest.mark.asyncio
async def test_pods_that_do_not_start_can_not_flood_the_log(lab: Lab) -> None:
    with capture_logs() as lines:
        for number in range(20):
            error = {"type": "ImportError", "message": f"no module {number}", "traceback": "x" * 10_000}
            assert (await lab.pod(f"pod-{number}").call("POST", "/v1/init/error", json=error)).status_code == 204
    said = [line for line in lines if line["event"] == "function does not start"]
    assert [line["problem"] for line in said] == ["ImportError: no module 0"]


def test_what_is_logged_seldom_says_how_often_it_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr("koren_gateway.log.time.monotonic", lambda: now)
    seldom = Seldom(10.0)
    assert [seldom.left_out(name) for name in ("a", "a", "b", "a")] == [0, None, 0, None]
    now = 15.0
    assert [seldom.left_out(name) for name in ("a", "a", "b")] == [2, None, 0]
