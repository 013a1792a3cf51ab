# SPDX-License-Identifier: Apache-2.0
"""The page in Debian's Chromium, with a simulated site behind it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from reading import SHOTS, Reader, Served, Site, serve
from starlette.routing import BaseRoute


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: apt install chromium fonts-noto-cjk"
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield started
        started.close()


@pytest.fixture
def site() -> Iterator[Site]:
    """Serves a simulated site with the given options until the test is over."""
    with ExitStack() as stack:

        def begun(*more: BaseRoute, **options: Any) -> Served:
            return stack.enter_context(serve(*more, **options))

        yield begun


@pytest.fixture
def reader(browser: Browser, site: Site) -> Iterator[Reader]:
    """Opens pages. They are closed before the test's site, which would wait for them."""
    person = Reader(browser)
    yield person
    person.close()


@pytest.fixture(scope="module")
def quiet() -> Iterator[Served]:
    """A site with a past, where nothing begins by itself."""
    with serve(every_s=0, pace=4) as served:
        yield served
