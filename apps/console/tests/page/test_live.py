# SPDX-License-Identifier: Apache-2.0
"""The page follows what happens, without taking anything out of the reader's hands."""

from __future__ import annotations

import time

from playwright.sync_api import expect
from reading import Reader, serve, shot


def test_incident_from_its_event_until_zero(reader: Reader) -> None:
    with serve(every_s=0, pace=8) as served:
        now = reader.open(served.url)
        expect(now.locator("section:has(#h-open)")).to_contain_text("No incident is open.")
        function = reader.open(f"{served.url}/functions/busan/report-incident")
        expect(function.get_by_text("It has no pods.")).to_be_visible()
        subject = served.do(served.board.begin, "busan")
        row = now.locator(f"article[id='open-{subject}']")
        expect(row).to_be_visible()
        expect(row).to_contain_text("pods 1")
        expect(function.locator("tr[id^=pod-]")).to_contain_text("Ready")
        expect(row.get_by_role("link", name="Post")).to_be_visible()
        shot(now, "live-now")
        shot(function, "live-function")
        row.locator("a.main").click()
        expect(now.locator("h1 + .state")).to_contain_text("Open")
        expect(now.locator(".posted").first).to_contain_text("[교통사고]")
        shot(now, "live-incident")
        expect(now.locator("h1 + .state")).to_contain_text("Cleared", timeout=20_000)
        now.locator("#marks summary").click()
        expect(now.locator("#marks tbody")).to_contain_text("back to zero", timeout=20_000)
        expect(function.get_by_text("It has no pods.")).to_be_visible()
        words = now.locator("#marks tbody tr td:nth-child(4)").all_inner_texts()
        for word in ("seen", "sent", "on disk", "scaled up", "pod started", "handler entered", "posted", "cleared"):
            assert word in words, word
        shot(now, "live-incident-ended")


def test_pod_is_shown_within_a_second(reader: Reader) -> None:
    with serve(every_s=0) as served:
        page = reader.open(f"{served.url}/functions/seoul/report-incident")
        expect(page.get_by_text("It has no pods.")).to_be_visible()
        page.wait_for_timeout(500)
        subject = served.do(served.board.begin, "seoul")
        expect(page.locator("tr[id^=pod-]")).to_contain_text("Ready")
        seen = time.time()
        incident = next(one for one in served.board.incidents() if one.subject == subject)
        ready = next(mark.at for mark in incident.marks if mark.what == "pod-started")
        assert seen - ready.timestamp() < 1.0


def test_a_swap_leaves_focus_text_and_open_rows(reader: Reader) -> None:
    with serve(every_s=0, pace=8) as served:
        subject = next(one.subject for one in served.board.incidents() if one.ended)
        page = reader.open(f"{served.url}/incidents/{subject}")
        page.locator("#marks summary").click()
        with page.expect_response(lambda answer: answer.url.endswith(subject)):
            served.do(served.board.begin, "seoul")
        expect(page.locator("#marks")).to_have_attribute("open", "")
        page.goto(f"{served.url}/incidents")
        page.locator("#q").press_sequentially("state:op")
        page.evaluate("scrollTo(0, 120)")
        served.do(served.board.begin, "busan")
        expect(page.locator("tbody")).to_contain_text("Open")
        expect(page.locator("#q")).to_be_focused()
        expect(page.locator("#q")).to_have_value("state:op")
        assert page.evaluate("scrollY") == 120
        page.goto(f"{served.url}/dead-letters")
        page.locator("tbody input").nth(2).check()
        chosen = page.locator("tbody input").nth(2).get_attribute("value")
        with page.expect_response(lambda answer: answer.url.endswith("/dead-letters")):
            served.do(served.board.cut, "busan")
        expect(page.locator(".notice")).to_contain_text("Busan")
        assert page.locator("tbody input:checked").get_attribute("value") == chosen


def test_a_tab_that_nobody_sees_takes_no_connection(reader: Reader) -> None:
    with serve(every_s=0) as served:
        page = reader.open(served.url)

        def readers(count: int) -> None:
            end = time.monotonic() + 15
            while len(served.board._changes) != count:
                assert time.monotonic() < end, len(served.board._changes)
                page.wait_for_timeout(50)

        def look(hidden: bool) -> None:
            page.evaluate(
                """(hidden) => {
                  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                  document.dispatchEvent(new Event("visibilitychange"));
                }""",
                hidden,
            )

        readers(1)
        look(hidden=True)
        readers(0)
        subject = served.do(served.board.begin, "busan")
        look(hidden=False)
        readers(1)
        expect(page.locator(f"article[id='open-{subject}']")).to_be_visible()
        expect(page.locator("#connection")).to_be_hidden()


def test_logs_are_followed(reader: Reader) -> None:
    with serve(every_s=0) as served:
        page = reader.open(f"{served.url}/functions/seoul/report-incident")
        page.get_by_role("button", name="Follow live").click()
        served.do(served.board.begin, "seoul")
        expect(page.locator("#followed")).to_contain_text("handler entered, attempt 1")
        page.get_by_role("button", name="Stop following").click()


def test_what_waits_is_counted_on_every_view(reader: Reader) -> None:
    with serve(every_s=0) as served:
        page = reader.open(f"{served.url}/saved")
        expect(page.locator("#views .badge")).to_have_text("1")
        served.do(served.board.hold, "busan")
        expect(page.locator("#views .badge")).to_have_text("2")
