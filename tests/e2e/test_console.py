# SPDX-License-Identifier: Apache-2.0
"""The console of a running site, in a browser: who may see and do what, and an accident from event to zero."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import SITE_DIR, accident, cut_off
from playwright.sync_api import Browser, Page, expect, sync_playwright

from koren_events import Event, Image, Publisher, ReceiptState, Text, accident_cleared

SHOTS = SITE_DIR.parent / "console-screenshots"
# What a region's fault or an incident's end takes at most.
LONG_MS = 60_000
expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: apt install chromium fonts-noto-cjk"
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        with playwright.chromium.launch(executable_path=program, args=args) as started:
            yield started


def logged_in(browser: Browser, site: dict[str, Any], user: str) -> Page:
    """A browser's page in which that user has logged in."""
    password = (SITE_DIR / "secrets" / f"console-{user}").read_text().strip()
    # The certificate is checked by another test: Chromium trusts no authority that it is told of on its command line.
    page = browser.new_context(ignore_https_errors=True, locale="en-GB", timezone_id="Asia/Seoul").new_page()
    page.goto(site["console"])
    page.locator("#name").fill(user)
    page.locator("#password").fill(password)
    page.locator("form.stack button").click()
    page.wait_for_url(re.compile(re.escape(site["console"]) + "/?$"))
    return page


@pytest.fixture
def operator(browser: Browser, site: dict[str, Any]) -> Iterator[Page]:
    """An operator at the first view."""
    page = logged_in(browser, site, "operator")
    yield page
    page.context.close()


def held_accident() -> Event:
    """An accident that a camera in Seoul has seen, with the demo's photo; a person has to confirm it."""
    photo = Image(jpeg=(SITE_DIR / "demo/photo.jpg").read_bytes(), width=1280, height=720)
    return accident("seoul", Text(ko="시험로", en="Test Street"), image=photo, hold=True)


def test_the_console_is_whom_the_sites_authority_says(site: dict[str, Any]) -> None:
    tls = ssl.create_default_context(cafile=str(SITE_DIR / "pki/ca.crt"))
    with urllib.request.urlopen(f"{site['console']}/login", timeout=10, context=tls) as answer:
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_all_regions_answer_and_every_view_has_something_to_say(operator: Page, site: dict[str, Any]) -> None:
    expect(operator.locator("header")).to_contain_text(f"{len(site['regions'])} regions answer", timeout=LONG_MS)
    views = ("/", "/incidents", "/functions", "/regions", "/held", "/events", "/dead-letters", "/alerts", "/saved")
    for view in (*views, "/audit", "/regions/seoul", "/functions/seoul/report-incident"):
        answer = operator.goto(site["console"] + view)
        assert answer is not None and answer.status == 200, view
        expect(operator.locator("main")).not_to_be_empty()
        operator.screenshot(path=SHOTS / f"site{view.replace('/', '-')}.png", full_page=True)
    expect(operator.locator("main")).to_contain_text("events/seoul/+/accident")


def test_an_accident_waits_for_a_person_and_is_followed_until_zero(
    operator: Page, browser: Browser, site: dict[str, Any], publisher: Publisher
) -> None:
    held = held_accident()
    publisher.publish(held)
    assert publisher.wait(held, 30).state is ReceiptState.HELD
    operator.goto(f"{site['console']}/held")
    card = operator.locator("article.held-card", has_text="Test Street")
    expect(card).to_be_visible()
    operator.screenshot(path=SHOTS / "site-held.png", full_page=True)
    viewer = logged_in(browser, site, "viewer")
    viewer.goto(f"{site['console']}/held")
    expect(viewer.locator("article.held-card", has_text="Test Street")).to_be_visible()
    expect(viewer.locator("article.held-card", has_text="Test Street").locator("button:enabled")).to_have_count(0)
    viewer.context.close()
    card.locator("button[data-key=c]").click()
    receipts = list(publisher.receipts(held, timeout_s=90))
    assert receipts[-1].state is ReceiptState.SUCCEEDED
    operator.goto(f"{site['console']}/incidents/{held.subject}")
    expect(operator.locator("h1")).to_contain_text("Test Street")
    expect(operator.locator(".posted").first).to_contain_text("시험로")
    cleared = accident_cleared(held, cleared_at=datetime.now(UTC))
    publisher.publish(cleared)
    list(publisher.receipts(cleared, timeout_s=90))
    expect(operator.locator("h1 + .state")).to_contain_text("Cleared", timeout=LONG_MS)
    operator.locator("#marks summary").click()
    expect(operator.locator("#marks tbody")).to_contain_text("back to zero", timeout=LONG_MS)
    operator.screenshot(path=SHOTS / "site-incident.png", full_page=True)
    said = operator.locator("#marks tbody").inner_text()
    for word in ("seen", "on disk", "confirmed", "pod started", "handler entered", "posted", "cleared"):
        assert word in said, word
    operator.goto(f"{site['console']}/audit")
    expect(operator.locator("main")).to_contain_text("operator")


def test_a_region_that_is_cut_off_looks_so_within_ten_seconds(operator: Page, site: dict[str, Any]) -> None:
    answering = f"{len(site['regions'])} regions answer"
    expect(operator.locator("header")).to_contain_text(answering, timeout=LONG_MS)
    with cut_off("busan"):
        began = time.monotonic()
        fewer = f"{len(site['regions']) - 1} of {len(site['regions'])} regions answer"
        expect(operator.locator("header")).to_contain_text(fewer, timeout=20_000)
        assert time.monotonic() - began < 12
        operator.goto(f"{site['console']}/regions/busan")
        operator.screenshot(path=SHOTS / "site-cut-off.png", full_page=True)
        expect(operator.locator("main")).to_contain_text("go on by themselves")
    operator.goto(site["console"])
    expect(operator.locator("header")).to_contain_text(answering, timeout=LONG_MS)
