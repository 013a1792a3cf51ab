# SPDX-License-Identifier: Apache-2.0
"""What the page says when there is nothing, nothing yet, nothing new, or no answer."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect
from reading import Reader, Site, accessible, fits, shot

from koren_console.simulation import Mood

PATHS = {
    "now": "/",
    "incidents": "/incidents",
    "functions": "/functions",
    "regions": "/regions",
    "held": "/held",
    "events": "/events?span=1h",
    "dead-letters": "/dead-letters",
    "alerts": "/alerts",
    "alerts-past": "/alerts/past",
    "saved": "/saved",
}


@pytest.mark.parametrize("mood", [Mood.EMPTY, Mood.LOADING, Mood.DOWN, Mood.CUT])
def test_mood(site: Site, reader: Reader, mood: Mood) -> None:
    served = site(every_s=0, mood=mood)
    page = reader.open(served.url, language="ko-KR" if mood is Mood.CUT else "en-GB")
    for name, path in PATHS.items():
        answer = page.goto(served.url + path)
        assert answer and answer.status == 200, path
        fits(page)
        shot(page, f"state-{mood.value}-{name}")
        accessible(page)


def test_empty_says_what_will_appear(site: Site, reader: Reader) -> None:
    served = site(every_s=0, mood=Mood.EMPTY)
    page = reader.open(f"{served.url}/incidents")
    expect(page.get_by_text("When a camera sees one, it appears here by itself.")).to_be_visible()
    page.goto(f"{served.url}/functions")
    expect(page.get_by_text("No function is deployed.")).to_be_visible()
    page.goto(f"{served.url}/alerts/past")
    expect(page.get_by_text("An alert that has ended is kept here.")).to_be_visible()


def test_before_the_first_answer_no_figure_is_zero(site: Site, reader: Reader) -> None:
    served = site(every_s=0, mood=Mood.LOADING)
    page = reader.open(served.url)
    expect(page.locator("#status")).to_contain_text("Asking the regions")
    figures = page.locator("section:has(#h-figures) dd").all_inner_texts()
    assert "–" in figures[0] and "–" in figures[2] and not any(one.startswith("0") for one in figures)
    expect(page.locator("main")).to_contain_text("Nothing has been heard yet")
    page.goto(f"{served.url}/alerts/past")
    expect(page.locator("main")).to_contain_text("Nothing has been heard yet")


def test_old_figures_are_shown_and_called_old(site: Site, reader: Reader) -> None:
    served = site(every_s=0, mood=Mood.DOWN)
    page = reader.open(f"{served.url}/functions")
    expect(page.locator("tbody tr")).not_to_have_count(0)
    expect(page.locator(".asof.stale")).to_contain_text(re.compile("No newer figures have arrived.*9 min ago"))
    for path in ("/dead-letters", "/alerts/past"):
        page.goto(served.url + path)
        expect(page.locator(".notice.act")).to_contain_text("The centre's store does not answer")
    expect(page.locator(".asof.stale")).to_be_visible()


def test_region_that_is_cut_off_looks_it_and_says_since_when(site: Site, reader: Reader) -> None:
    served = site(every_s=0)
    page = reader.open(served.url)
    expect(page.locator("#status")).to_contain_text("3 regions answer")
    served.do(served.board.cut, "busan")
    expect(page.locator("#status")).to_contain_text("2 of 3 regions answer")
    expect(page.locator("main .notice")).to_contain_text("2 of 3 regions answer. No word from Busan")
    expect(page.locator(".map .region.unknown")).to_have_count(1)
    page.goto(f"{served.url}/regions/busan")
    expect(page.locator(".notice")).to_contain_text("its functions go on by themselves")
    expect(page.locator(".figures.old")).to_be_visible()
    shot(page, "state-cut-region")
    served.do(served.board.mend, "busan")
    expect(page.locator("#status")).to_contain_text("3 regions answer")


def test_lost_connection_is_said_and_mended(site: Site, reader: Reader) -> None:
    served = site(every_s=0)
    page = reader.open(served.url)
    expect(page.locator("#status")).to_contain_text("regions")
    expect(page.locator("time").first).to_be_visible()
    served.stop()
    expect(page.locator("#connection")).to_contain_text("The connection to the console is lost")
    shot(page, "state-connection-lost")
