# SPDX-License-Identifier: Apache-2.0
"""The first view is small and quick, also of a site of 100 regions, 5,000 functions and 10,000 cameras."""

from __future__ import annotations

import json
import resource
import time

from playwright.sync_api import Page, expect
from reading import SHOTS, Reader, Served, fits, serve, shot

FIRST_VIEW_BYTES = 200_000
FIRST_VIEW_S = 1.0
LARGE_FIRST_VIEW_S = 2.0


def first_view(reader: Reader, served: Served) -> tuple[Page, float, int]:
    """The first view in a browser that has nothing yet: the page, seconds until it can be used, bytes on the wire."""
    reader.expected.add("favicon.ico")
    page = reader.open(f"{served.url}/static/icon.svg")
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    bytes_: list[float] = []
    session.on("Network.loadingFinished", lambda event: bytes_.append(event["encodedDataLength"]))
    began = time.perf_counter()
    page.goto(served.url, wait_until="load")
    expect(page.locator("#h-figures")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    return page, time.perf_counter() - began, int(sum(bytes_))


def best_first_view(reader: Reader, served: Served, limit_s: float) -> tuple[Page, float, int]:
    """The quickest of some first views: others use the machine too, and the page is not slow because they do."""
    first_view(reader, served)
    best = first_view(reader, served)
    for _ in range(10):
        if best[1] <= limit_s:
            break
        best = min(best, first_view(reader, served), key=lambda one: one[1])
    return best


def test_first_view_is_small_and_quick(quiet: Served, reader: Reader) -> None:
    _, seconds, size = best_first_view(reader, quiet, FIRST_VIEW_S)
    (SHOTS / "first-view.json").write_text(json.dumps({"seconds": round(seconds, 3), "bytes": size}))
    assert 20_000 < size <= FIRST_VIEW_BYTES
    assert seconds <= FIRST_VIEW_S


def test_large_site(reader: Reader) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serve(regions=100, functions=5_000, cameras=10_000, every_s=0.5, pace=4) as served:
        page, seconds, size = best_first_view(reader, served, LARGE_FIRST_VIEW_S)
        page.keyboard.press("Escape")
        assert size <= FIRST_VIEW_BYTES
        assert seconds <= LARGE_FIRST_VIEW_S
        fits(page)
        shot(page, "large-now")
        figures = {"seconds": round(seconds, 3), "bytes": size}
        for path in ("/functions", "/regions", "/regions/seoul", "/?zoom=seoul", "/functions?q=ice&sort=-p95"):
            tries = []
            for _ in range(6):
                began = time.perf_counter()
                page.goto(served.url + path)
                tries.append(time.perf_counter() - began)
            figures[path] = round(min(tries), 3)
            assert figures[path] <= LARGE_FIRST_VIEW_S, path
        expect(page.locator("tbody tr")).to_have_count(100)
        page.goto(f"{served.url}/functions")
        shot(page, "large-functions")
        page.get_by_role("link", name="Next").click()
        expect(page.locator(".pages")).to_contain_text("Page 2 of 50")
    figures["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    (SHOTS / "large.json").write_text(json.dumps(figures))
    assert figures["megabytes"] < 300
