# SPDX-License-Identifier: Apache-2.0
"""Each view in both languages, dark and light, wide and narrow: it fits, is accessible, and is kept as a picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect
from reading import Reader, Served, accessible, fits, shot

VIEWS = {
    "now": ("/", "현황", "Now"),
    "now-zoomed": ("/?zoom=seoul", "현황", "Now"),
    "incidents": ("/incidents", "사고", "Incidents"),
    "incident": ("incident", "", ""),
    "functions": ("/functions", "함수", "Functions"),
    "function": ("/functions/seoul/report-incident", "report-incident", "report-incident"),
    "call": ("/functions/seoul/report-incident/call", "report-incident 호출", "Call report-incident"),
    "regions": ("/regions", "지역", "Regions"),
    "region": ("/regions/seoul", "서울", "Seoul"),
    "held": ("/held", "확인 대기", "To confirm"),
    "events": ("/events?span=24h", "이벤트·로그", "Events"),
    "dead-letters": ("/dead-letters", "처리 포기", "Dead letters"),
    "dead-letter": ("letter", "", ""),
    "alerts": ("/alerts", "경보", "Alerts"),
    "alert": ("alert", "", ""),
    "alerts-past": ("/alerts/past", "지난 경보", "Past alerts"),
    "saved": ("/saved", "절감", "Saved"),
    "audit": ("/audit", "변경 기록", "Audit"),
    "nothing-here": ("/nothing", "찾을 수 없습니다", "There is nothing here"),
}
LOOKS = [("ko-KR", "dark", 1440), ("en-GB", "light", 1440), ("ko-KR", "light", 360), ("en-GB", "dark", 360)]


def address(served: Served, wanted: str) -> str:
    """The address of a view whose address depends on what there is."""
    board = served.board
    if wanted == "incident":
        return f"/incidents/{next(one.subject for one in board.incidents() if one.retried and one.ended)}"
    if wanted == "letter":
        region, id = next(iter(board._letters))
        return f"/dead-letters/{region}/{id}"
    if wanted == "alert":
        return f"/alerts/{board.alerts()[0].fingerprint}"
    return wanted


@dataclass
class Window:
    """A reader's window, which goes from view to view."""

    reader: Reader
    page: Page
    language: str
    scheme: str
    width: int


@pytest.fixture(scope="module", params=LOOKS, ids=lambda look: "-".join(map(str, look)))
def window(request: pytest.FixtureRequest, browser: Browser, quiet: Served) -> Iterator[Window]:
    language, scheme, width = request.param
    reader = Reader(browser)
    page = reader.open(quiet.url, language=language, scheme=scheme, width=width)
    yield Window(reader, page, language, scheme, width)
    reader.close()


@pytest.mark.parametrize("view", VIEWS)
def test_view(quiet: Served, window: Window, view: str) -> None:
    path, korean, english = VIEWS[view]
    page, language, scheme = window.page, window.language, window.scheme
    window.reader.expected = {"404"} if view == "nothing-here" else set()
    page.goto(quiet.url + address(quiet, path))
    expect(page.locator("html")).to_have_attribute("lang", language[:2])
    heading = korean if language == "ko-KR" else english
    if heading:
        expect(page.locator("h1")).to_contain_text(heading)
    if view == "function":
        expect(page.locator(".chart canvas")).to_have_count(4)
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (dark == "rgb(15, 19, 23)") == (scheme == "dark")
    fits(page)
    shot(page, f"{view}-{language[:2]}-{scheme}-{window.width}")
    accessible(page)
    window.reader.check()


def test_korean_pages_have_no_english_left(quiet: Served, reader: Reader) -> None:
    """Names of alerts, functions, hosts and units are as they are; all that the page itself says is Korean."""
    page = reader.open(f"{quiet.url}/", language="ko-KR")
    for path in (
        "/",
        "/incidents",
        "/functions",
        "/regions",
        "/held",
        "/dead-letters",
        "/alerts",
        "/alerts/past",
        "/saved",
    ):
        page.goto(quiet.url + path)
        words = page.locator("main :is(th, dt, h1, h2, button, label, .state, .asof)").all_inner_texts()
        english = [word for word in words if re.fullmatch(r"[A-Za-z ]{4,}", word.strip())]
        known = {"English", "report-incident"} | {alert.name for alert in quiet.board.alerts()}
        assert not [word for word in english if word.strip() not in known and "CPU" not in word], path


def test_language_and_colours_are_kept(quiet: Served, reader: Reader) -> None:
    page = reader.open(f"{quiet.url}/regions?q=state%3Aok", language="en-GB")
    page.get_by_role("button", name="한국어").click()
    expect(page.locator("h1")).to_have_text("지역")
    assert page.url.endswith("/regions?q=state%3Aok")
    page.get_by_role("button", name=re.compile("화면 밝기")).click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto(f"{quiet.url}/alerts")
    expect(page.locator("h1")).to_have_text("경보")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_times_are_the_readers_with_the_exact_one_on_hover(quiet: Served, reader: Reader) -> None:
    page = reader.open(f"{quiet.url}/audit", zone="America/New_York")
    entry = page.locator("tbody time").last
    expect(entry).to_contain_text("min ago")
    assert re.search(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} E[SD]T · \d\d:\d\d:\d\d UTC", entry.get_attribute("title") or ""
    )


def test_lists_are_filtered_ordered_and_saved_by_their_address(quiet: Served, reader: Reader) -> None:
    page = reader.open(f"{quiet.url}/functions")
    page.fill("#q", "region:busan count")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "q=region%3Abusan+count" in page.url
    page.goto(f"{quiet.url}/functions")
    page.get_by_role("link", name="p95").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text(re.compile("p95"))
    shown = [function.p95 for function in sorted(quiet.board.functions(), key=lambda one: -(one.p95 or 0))]
    first = page.locator("tbody tr").first.locator("td").nth(7).inner_text()
    assert first.removeprefix("▲ ") == (f"{shown[0]:.2f} s")
    csv = page.request.get(f"{quiet.url}/functions?q=region%3Abusan&format=csv")
    lines = csv.text().lstrip("\ufeff").strip().split("\r\n")
    assert csv.headers["content-type"].startswith("text/csv")
    assert lines[0].startswith("name,region,status,pods") and len(lines) == 7
    page.goto(f"{quiet.url}/incidents?q=nothing-like-this")
    expect(page.get_by_text("Nothing matches this filter.")).to_be_visible()
    shot(page, "state-filtered-away")


def test_print_of_an_incident_fits_one_page(quiet: Served, reader: Reader) -> None:
    page = reader.open(quiet.url + address(quiet, "incident"))
    pdf = page.pdf(format="A4")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") == 1


def test_an_incident_leads_to_its_trace(quiet: Served, reader: Reader) -> None:
    path = address(quiet, "incident")
    [trace] = [one.trace for one in quiet.board.incidents() if path.endswith(one.subject)]
    page = reader.open(quiet.url + path)
    link = page.get_by_role("link", name="See the trace")
    expect(link).to_have_attribute("href", f"https://tempo.example/trace/{trace}")
    page.context.route("https://tempo.example/**", lambda route: route.fulfill(body="a trace"))
    with page.context.expect_page() as opened:
        link.click()
    expect(opened.value.locator("body")).to_have_text("a trace")
    assert opened.value.evaluate("[document.referrer, window.opener]") == ["", None]
    korean = reader.open(quiet.url + path, language="ko-KR")
    expect(korean.get_by_role("link", name="추적 보기")).to_be_visible()


def test_wall_is_larger_without_controls(quiet: Served, reader: Reader) -> None:
    page = reader.open(f"{quiet.url}/?wall=1", width=1920, scheme="dark")
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 20
    expect(page.locator("button:visible, nav:visible")).to_have_count(0)
    fits(page)
    shot(page, "wall")


def test_without_motion_nothing_moves(quiet: Served, reader: Reader) -> None:
    longest = """() => Math.max(...[...document.querySelectorAll("*")].map(one =>
        parseFloat(getComputedStyle(one).transitionDuration) || 0))"""
    assert reader.open(quiet.url).evaluate(longest) <= 0.15
    assert reader.open(quiet.url, reduced_motion="reduce").evaluate(longest) == 0


def test_works_without_scripts(quiet: Served, reader: Reader) -> None:
    page = reader.open(f"{quiet.url}/dead-letters", java_script_enabled=False)
    page.locator("tbody input").first.check()
    page.get_by_role("button", name="Redrive chosen").click()
    expect(page.locator("h1")).to_have_text("Redrive 1 dead letter?")
