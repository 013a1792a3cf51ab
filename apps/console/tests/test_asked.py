# SPDX-License-Identifier: Apache-2.0
"""What people and strangers ask takes nothing from what the board itself asks of an API server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_lab import Pki, until
from starlette.exceptions import HTTPException
from starlette.requests import Request

from koren_console.api import Callers
from koren_console.settings import RegionSettings, Text
from koren_console.sources.apiserver import ApiServer


class Slow:
    """An API server that answers /version at once and nothing else ever."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ")[1].decode()
                if path != "/version":
                    self.asked.append(path)
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    await reader.read()
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()


@pytest_asyncio.fixture
async def slow(tmp_path: Path) -> AsyncIterator[tuple[Slow, ApiServer]]:
    pki = Pki(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pki.issue("apiserver"))
    made = Slow()
    listening = await asyncio.start_server(made.connected, "127.0.0.1", 0, ssl=context)
    (tmp_path / "token").write_text("x")
    settings = RegionSettings(
        name="seoul",
        title=Text(ko="서울", en="Seoul"),
        server=f"https://localhost:{listening.sockets[0].getsockname()[1]}",
        authority=pki.ca,
        token=tmp_path / "token",
    )
    asked = ApiServer(settings)
    yield made, asked
    await asked.close()
    listening.close()


@pytest.mark.asyncio
async def test_a_region_whose_logs_are_followed_by_many_does_not_look_cut_off(slow: tuple[Slow, ApiServer]) -> None:
    server, asked = slow
    said: list[bool] = []
    probing = asyncio.create_task(asked.probe(said.append))

    async def follow() -> None:
        async for _ in asked.lines("/log", {}, quiet_s=None):
            raise AssertionError("it says nothing")

    followers = [asyncio.create_task(follow()) for _ in range(60)]
    await until(lambda: len(server.asked) >= 20, "as many as there are connections for", 10)
    # Longer than it takes to call a region cut off.
    done, _ = await asyncio.wait({probing}, timeout=9)
    for task in (probing, *followers):
        task.cancel()
    await asyncio.gather(probing, *followers, return_exceptions=True)
    assert not done and said == [True]


@pytest.mark.asyncio
async def test_tokens_of_strangers_are_checked_a_few_at_a_time_and_the_rest_is_refused(
    slow: tuple[Slow, ApiServer],
) -> None:
    server, asked = slow
    callers = Callers(asked)

    async def ask(number: int) -> int:
        headers = [(b"koren-token", b"stranger-%d" % number)]
        try:
            await callers.check(Request({"type": "http", "headers": headers}), "list", "regions")
        except HTTPException as refused:
            return refused.status_code
        return 200

    tasks = [asyncio.create_task(ask(number)) for number in range(100)]
    await until(lambda: sum(task.done() for task in tasks) > 0 and len(server.asked) > 0, "some are refused", 10)
    assert {task.result() for task in tasks if task.done()} == {503}
    assert len(server.asked) <= 4
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
