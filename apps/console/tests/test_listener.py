# SPDX-License-Identifier: Apache-2.0
"""Strangers who open connections and say nothing, or little, keep nobody else out."""

from __future__ import annotations

import asyncio
import asyncio.constants
import asyncio.sslproto
import contextlib
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import uvicorn
from gateway_lab import Pki, free_port, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from koren_console import listener

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def alive(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@pytest_asyncio.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(listener, "MOST_OF_ONE", 20)
    monkeypatch.setattr(listener, "REQUEST_S", 0.5)
    app = Starlette(routes=[Route("/healthz", alive, methods=["GET", "POST"])])
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=listener.Connection, ws="none", log_config=None, timeout_keep_alive=60)
    )
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started, "it listens", 10)
    yield port
    server.should_exit = True
    await running


async def opened(port: int, said: bytes = b"", address: str = "127.0.0.1") -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(said)
    reader.writer = writer  # type: ignore[attr-defined]
    return reader


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(1000), 10):
            said += part
    return said


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", b""),
        (GET[:-2], b""),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nslow", b""),
        (GET, b"HTTP/1.1 200"),
        (GET + GET[:-2], b"HTTP/1.1 200"),
        (GET + GET, b"HTTP/1.1 200"),
    ],
    ids=["nothing", "half a head", "half a body", "idle after", "half of the next", "two at once"],
)
async def test_a_connection_that_takes_its_time_is_closed(port: int, said: bytes, status: bytes) -> None:
    begin = time.monotonic()
    answer = await rest(await opened(port, said))
    assert answer.startswith(status) if status else not answer
    assert answer.count(b"200 OK") == said.count(GET)
    assert time.monotonic() - begin < 5


@pytest.mark.asyncio
async def test_an_address_with_many_connections_keeps_no_other_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_S", 60)
    idle = [await opened(port) for _ in range(20)]
    assert await rest(await opened(port, GET)) == b"", "one too many"
    other = await opened(port, GET, "127.0.0.2")
    assert (await asyncio.wait_for(other.readline(), 10)).startswith(b"HTTP/1.1 200")
    idle[0].writer.close()  # type: ignore[attr-defined]

    async def room() -> bool:
        reader = await opened(port, GET)
        with contextlib.suppress(ConnectionError):
            return (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
        return False

    await until(room, "there is room for one again", 10)


@pytest.mark.asyncio
async def test_a_connection_without_a_handshake_costs_little_and_ends_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module, name in ((asyncio.constants, "SSL_HANDSHAKE_TIMEOUT"), (asyncio.sslproto.SSLProtocol, "max_size")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(listener, "HANDSHAKE_S", 1.0)
    listener.bound_handshakes()
    certificate, key = Pki(tmp_path).issue("console")
    app = Starlette(routes=[Route("/healthz", alive, methods=["POST"])])
    port = free_port()
    tls = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=listener.Connection, ws="none", log_config=None, **tls)  # type: ignore[arg-type]
    )
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started, "it listens", 10)
    tracemalloc.start()
    silent = [await opened(port) for _ in range(50)]
    await asyncio.sleep(0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Without the bound it is 256 KiB for each.
    assert held < 50 * 128 * 1024
    assert [await rest(one) for one in silent] == [b""] * 50
    # A body of many records comes whole.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    writer.write(
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n" + b"a" * 200_000
    )
    assert (await asyncio.wait_for(reader.read(-1), 10)).endswith(b"200000")
    writer.close()
    server.should_exit = True
    await running
