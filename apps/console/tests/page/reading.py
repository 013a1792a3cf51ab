# SPDX-License-Identifier: Apache-2.0
"""Serves the page of a simulated site, and reads it as a person with a browser does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from koren_console.simulation import Anybody, Simulation, application

HERE = Path(__file__).parent
SHOTS = HERE.parents[3] / ".state" / "console-screenshots"
# A page may be late while others use the machine; what is measured has its own limits.
expect.set_options(timeout=15_000)
AXE = (HERE / "vendor" / "axe.min.js").read_text()


class Served:
    """A page that is served on this machine by a thread; `board` is what it shows."""

    def __init__(self, app: ASGIApp, board: Simulation, port: int = 0) -> None:
        self.board = board
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1, lifespan="on"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()

        asyncio.run(serve())

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the page's server did not start; its log is above")
            self._thread.join(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def do(self, act: Callable[..., Any], *given: Any) -> Any:
        """Call something of the board where it lives."""
        assert self._loop is not None

        async def called() -> Any:
            return act(*given)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(30)

    def hurry(self) -> None:
        """Let all that is about to happen on the board happen now, as if ten minutes had gone by."""
        self.do(self.board._run_due, datetime.now(UTC) + timedelta(minutes=10))


@contextmanager
def serve(*more: BaseRoute, **options: Any) -> Iterator[Served]:
    """A simulated site with those options, served until the end of the block; `more` are addresses beside its own."""
    board = Simulation(**options)
    served = Served(application(board, Anybody(), list(more)), board)
    served.start()
    try:
        yield served
    finally:
        served.stop()


Site = Callable[..., Served]
"""Serves a simulated site with the options of `Simulation` until the test is over."""


class Reader:
    """A person with a browser: fails the test on errors of the browser's console, also those of the CSP."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.errors: list[str] = []
        self.expected: set[str] = set()
        self._contexts: list[Any] = []

    def open(
        self,
        url: str,
        *,
        language: str = "en-GB",
        scheme: str = "light",
        width: int = 1440,
        role: str = "operator",
        zone: str = "Asia/Seoul",
        **more: Any,
    ) -> Page:
        context = self._browser.new_context(
            viewport={"width": width, "height": 900 if width > 600 else 780},
            locale=language,
            color_scheme=scheme,
            timezone_id=zone,
            **more,
        )
        self._contexts.append(context)
        origin = "/".join(url.split("/")[:3])
        context.add_cookies(
            [
                {"name": "role", "value": role, "url": origin},
                {"name": "zone", "value": zone, "url": origin},
            ]
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        # A server that a test has stopped is no fault of the page.
        if message.type == "error" and "net::ERR_" not in message.text:
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def check(self) -> None:
        """Fails on errors since the last check."""
        errors, self.errors = self.errors, []
        unexpected = [one for one in errors if not any(known in one for known in self.expected)]
        assert not unexpected, f"the browser complains: {unexpected}"

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self.check()


def accessible(page: Page) -> None:
    """Fails on what axe-core finds against WCAG 2.2 AA and good practice."""
    page.evaluate(AXE)
    found = page.evaluate(
        """async () => {
          const only = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
          const found = await axe.run(document, { runOnly: only, resultTypes: ["violations"] });
          const said = (node) => `${node.html.slice(0, 160)} ${node.failureSummary}`;
          return found.violations.map((one) => [one.id, one.nodes.slice(0, 3).map(said)]);
        }"""
    )
    assert not found, json.dumps(found, indent=1, ensure_ascii=False)


def fits(page: Page) -> None:
    """Fails on a page that is wider than its window."""
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0, f"the page is {over} px wider than its window"


def shot(page: Page, name: str) -> None:
    """Keep what the page looks like."""
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)
