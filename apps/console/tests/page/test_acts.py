# SPDX-License-Identifier: Apache-2.0
"""What changes something: shown before, done once, only for operators."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect
from reading import Reader, Served, Site, accessible, fits, shot

from koren_console.sources.preview import preview

ENGLISH = {"Accept-Language": "en"}


@pytest.fixture
def served(site: Site) -> Served:
    return site(every_s=0)


def test_confirm_shows_the_post_and_posts_it(served: Served, reader: Reader) -> None:
    page = reader.open(served.url)
    held = served.board.held()[0]
    page.get_by_role("link", name=re.compile("Review and confirm")).click()
    expect(page.locator("h1")).to_have_text(f"Confirm and post {held.place.en}?")
    assert held.preview is not None
    expect(page.locator(".post [lang=ko]")).to_have_text(held.preview.ko, use_inner_text=True)
    expect(page.locator(".post [lang=en]")).to_have_text(held.preview.en, use_inner_text=True)
    expect(page.locator(".post")).to_contain_text("Confirmed by an operator")
    expect(page.locator(".post img")).to_have_attribute("src", held.picture)
    fits(page)
    shot(page, "step-confirm")
    accessible(page)
    page.get_by_role("button", name=re.compile("Confirm and post")).click()
    expect(page.get_by_role("status").filter(has_text="Confirmed")).to_contain_text("1 done.")
    shot(page, "outcome-confirm")
    accessible(page)
    served.hurry()
    page.goto(f"{served.url}/incidents/{held.subject}")
    expect(page.locator("aside").get_by_role("link", name="See the post")).to_be_visible()
    page.goto(f"{served.url}/audit")
    expect(page.locator("tbody tr").first).to_contain_text("release")


@pytest.mark.parametrize(
    ("language", "about", "why"),
    [
        ("ko-KR", "게시할 글은 미리 볼 수 없습니다.", "함수가 이 이벤트로는 글을 작성할 수 없으므로"),
        ("en-GB", "What they post can't be shown here.", "the function can't write a text from this event"),
    ],
)
def test_an_event_of_which_no_text_can_be_made_says_so(
    served: Served, reader: Reader, language: str, about: str, why: str
) -> None:
    held = served.board.held()[0]
    broken = preview(
        {"id": "1", "source": "s", "type": "kr.koren.traffic.accident.detected", "subject": "s"}
        | {"region": "seoul", "sequence": 1, "time": "2026-11-24T11:18:00Z"}
        | {"data": {"camera": {"name": {"ko": "가", "en": "a"}}, "started_at": "<b>soon</b>"}},
        "bluesky",
    )
    served.board._held[held.id] = replace(held, preview=None, no_preview=broken.missing)
    for path in ("/held", f"/held/{held.region}/{held.id}/release"):
        page = reader.open(served.url + path, language=language)
        post = page.locator(".post").first
        expect(post).to_contain_text(why)
        expect(post).to_contain_text("<b>soon</b>")
        expect(post.locator("img")).to_be_visible()
        fits(page)
        accessible(page)
    expect(page.locator(".step")).to_contain_text(about)


def test_second_decision_is_refused_in_words(served: Served, reader: Reader) -> None:
    reader.expected.add("409")
    held = served.board.held()[0]
    first = reader.open(f"{served.url}/held/{held.region}/{held.id}/dismiss")
    second = reader.open(f"{served.url}/held/{held.region}/{held.id}/release")
    first.get_by_role("button", name=re.compile("Dismiss")).click()
    expect(first.get_by_role("status").filter(has_text="Nothing is posted")).to_be_visible()
    second.get_by_role("button", name=re.compile("Confirm and post")).click()
    expect(second.locator(".notice")).to_contain_text("Somebody else has decided this already.")
    shot(second, "outcome-refused")
    accessible(second)
    assert not served.board.held()


def test_redrive_of_chosen_letters_and_purge_of_one(served: Served, reader: Reader) -> None:
    page = reader.open(f"{served.url}/dead-letters?q=function%3Aflow-forecast")
    count = page.locator("tbody tr").count()
    page.get_by_role("checkbox", name="Choose all on this page").check()
    page.get_by_role("button", name="Redrive chosen").click()
    expect(page.locator("h1")).to_have_text(f"Redrive {count} dead letters?")
    expect(page.locator("main ul")).to_contain_text("go back to the queue of flow-forecast in Seoul")
    shot(page, "step-redrive")
    accessible(page)
    assert len(served.board._letters) == 7
    page.get_by_role("button", name=f"Redrive {count}").click()
    expect(page.get_by_role("status").filter(has_text="done")).to_contain_text(f"{count} done.")
    assert len(served.board._letters) == 7 - count
    page.goto(f"{served.url}/dead-letters")
    page.locator("tbody a.main").first.click()
    expect(page.locator("pre")).to_contain_text('"specversion": "1.0"')
    expect(page.locator("aside img")).to_be_visible()
    page.get_by_role("button", name="Purge").click()
    expect(page.locator("main")).to_contain_text("This can't be undone.")
    shot(page, "step-purge")
    page.get_by_role("button", name="Purge 1").click()
    expect(page.get_by_role("status").filter(has_text="done")).to_contain_text("1 done.")
    assert len(served.board._letters) == 7 - count - 1


def test_silence_says_what_it_does(served: Served, reader: Reader) -> None:
    page = reader.open(f"{served.url}/alerts")
    page.get_by_role("link", name="Silence", exact=True).first.click()
    expect(page.locator("main")).to_contain_text("nobody is told")
    page.get_by_label("4 hours", exact=True).check()
    page.get_by_label("Why").fill("work on the link until noon")
    page.get_by_role("button", name="Silence").click()
    expect(page.get_by_role("status").filter(has_text="silenced")).to_be_visible()
    page.goto(f"{served.url}/alerts?q=state%3Asilenced")
    expect(page.locator("main")).to_contain_text("Silenced by kim.jiyoung")


def test_call_shows_the_answer(served: Served, reader: Reader) -> None:
    page = reader.open(f"{served.url}/functions/seoul/report-incident")
    page.get_by_role("link", name="Call").click()
    page.get_by_label(re.compile("Payload")).fill('{"a": 1}')
    page.get_by_role("button", name="Call now").click()
    expect(page.locator("pre")).to_contain_text('"received": 8')
    shot(page, "outcome-call")
    accessible(page)


def test_viewer_sees_why_not_and_is_refused(served: Served, reader: Reader) -> None:
    reader.expected.add("403")
    page = reader.open(f"{served.url}/held", role="viewer")
    expect(page.get_by_text("You are signed in as a viewer.").locator("visible=true")).to_be_visible()
    expect(page.locator("[data-key]")).to_have_count(0)
    shot(page, "viewer-held")
    held = served.board.held()[0]
    for path in (
        "/dead-letters",
        "/alerts",
        f"/held/{held.region}/{held.id}/release",
        "/functions/seoul/report-incident/call",
    ):
        page.goto(served.url + path)
        expect(page.locator(".why")).to_have_count(1)
        expect(page.locator("main form[method=post]")).to_have_count(0 if path != "/dead-letters" else 1)
        expect(page.locator("main form[method=post] button")).to_have_count(0)
    for path, form in (
        (f"/held/{held.region}/{held.id}/release", {}),
        ("/dead-letters/act", {"act": "purge", "letter": "seoul/dl-0001"}),
        (f"/alerts/{served.board.alerts()[0].fingerprint}", {"act": "silence", "span": "1h"}),
        ("/functions/seoul/report-incident/call", {"payload": "{}"}),
    ):
        answer = page.request.post(served.url + path, form={"csrf": "simulated", **form}, headers=ENGLISH)
        assert answer.status == 403
        assert "Nothing was changed" in answer.text()
    assert served.board.held() and len(served.board._letters) == 7


def test_form_of_another_page_is_refused(served: Served, reader: Reader) -> None:
    page = reader.open(served.url)
    held = served.board.held()[0]
    for form in ({}, {"csrf": "guessed"}):
        assert page.request.post(f"{served.url}/held/{held.region}/{held.id}/release", form=form).status == 403
    assert served.board.held()


def test_too_large_a_form_is_refused(served: Served, reader: Reader) -> None:
    page = reader.open(served.url)
    large = {"csrf": "simulated", "payload": "x" * 2_000_000}
    assert page.request.post(f"{served.url}/functions/seoul/report-incident/call", form=large).status == 413


def test_keyboard_alone(served: Served, reader: Reader) -> None:
    second = served.do(served.board.hold, "busan")
    page = reader.open(served.url)
    press = page.keyboard.press
    press("g")
    press("i")
    expect(page.locator("h1")).to_have_text("Incidents")
    press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("state:cleared region:busan")
    press("Enter")
    expect(page.locator("#q")).to_have_value("state:cleared region:busan")
    press("j")
    press("j")
    press("k")
    expect(page.locator("tbody tr").first.locator("a.main")).to_be_focused()
    subject = page.locator("tbody tr").first.get_attribute("id")
    press("Enter")
    expect(page.locator(".crumbs")).to_contain_text(str(subject)[2:])
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    accessible(page)
    shot(page, "keys")
    press("Escape")
    press("g")
    press("h")
    expect(page.locator("h1")).to_contain_text("To confirm")
    expect(page.locator("article")).to_have_count(2)
    press("j")
    press("j")
    press("d")
    expect(page.get_by_role("status").filter(has_text="Nothing is posted")).to_be_visible()
    assert second not in [one.id for one in served.board.held()]
    press("Enter")
    expect(page.locator("article")).to_have_count(1)
    press("c")
    expect(page.get_by_role("status").filter(has_text="Confirmed")).to_be_visible()
    press("?")
    press("Space")
    press("Escape")
    press("g")
    press("r")
    expect(page.locator("h1")).to_have_text("What happened")
