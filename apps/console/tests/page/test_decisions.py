# SPDX-License-Identifier: Apache-2.0
"""Decisions of the page that need no browser."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from koren_console.model import Camera, Health, Mark, Place, Words
from koren_console.settings import Settings, SettingsBroken
from koren_console.web import figures, timeline
from koren_console.web import map as atlas
from koren_console.web.lists import cell, matches, terms
from koren_console.web.pages.incidents import trace_address
from koren_console.web.words import preferred

T0 = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.0851, "85 ms"),
        (0.9996, "1.00 s"),
        (1.236, "1.24 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (11_520, "3 h 12 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_seconds(value: float | None, said: str) -> None:
    assert figures.seconds(value) == said


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("gangnam", True),
        ("region:seoul open", True),
        ("region:busan", False),
        ("-region:busan", True),
        ("-gangnam", False),
        ('"gangnam station"', True),
        ("state:held", False),
        ('"unclosed', False),
        ("nofield:gangnam", False),
    ],
)
def test_filter(query: str, found: bool) -> None:
    row = {"place": "Gangnam Station junction", "region": "seoul", "state": "open"}
    assert matches(row, terms(query)) is found


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "＝1+1", " =1+1", "\n=1+1"])
def test_spreadsheets_run_no_cell(text: str) -> None:
    assert cell(text) == "'" + text
    assert cell(-1.5) == "-1.5" and cell(None) == ""


@pytest.mark.parametrize(
    ("cookie", "accept", "language"),
    [
        ("en", "ko", "en"),
        (None, "en-GB,en;q=0.9,ko;q=0.8", "en"),
        (None, "fr, ko;q=0.5, en;q=0.7", "en"),
        (None, "fr", "ko"),
        ("xx", "ko-KR", "ko"),
        (None, "en;q=bad", "ko"),
    ],
)
def test_language(cookie: str | None, accept: str, language: str) -> None:
    assert preferred(cookie, accept) == language


def marks() -> list[Mark]:
    """A start whose first attempt fails."""

    def at(seconds: float) -> datetime:
        return T0 + timedelta(seconds=seconds)

    return [
        Mark("function", "failed", at(1.2), event="a", function="f", attempt=1, detail="503"),
        Mark("camera", "seen", at(0), event="a"),
        Mark("function", "entered", at(0.8), event="a", function="f", attempt=1),
        Mark("function", "entered", at(3.2), event="a", function="f", attempt=2),
        Mark("post", "posted", at(3.5), event="a"),
        Mark("function", "succeeded", at(3.6), event="a", function="f", attempt=2),
    ]


def test_axis_is_to_scale() -> None:
    lanes = dict(timeline.axis(timeline.spans(marks()), T0, T0 + timedelta(seconds=4), {}).lanes)
    entered = [bar for bar in lanes["function"] if bar.mark.what == "entered"]
    assert [(bar.x, round(bar.width, 6)) for bar in entered] == [(20.0, 10.0), (80.0, 10.0)]
    assert lanes["post"][0].x == 87.5
    assert lanes["camera"][0].x == 0


def test_labels_do_not_run_into_each_other() -> None:
    many = [Mark("camera", "updated", T0 + timedelta(seconds=index / 10), event=str(index)) for index in range(100)]
    bars = dict(timeline.axis(many, T0, T0 + timedelta(seconds=10), {}).lanes)["camera"]
    labelled = [bar for bar in bars if bar.label]
    assert 1 < len(labelled) < 20
    assert all(after.x - before.x > 5 for before, after in pairwise(labelled))


def test_attempts_are_in_order_with_what_became_of_them() -> None:
    tries = timeline.attempts(marks())
    assert [(one.number, one.outcome, one.detail) for one in tries] == [(1, "failed", "503"), (2, "succeeded", "")]
    assert timeline.first_post(marks()) == T0 + timedelta(seconds=3.5)


def test_cameras_that_are_near_are_one_dot_with_the_worst_state() -> None:
    def camera(name: str, latitude: float, health: Health = Health.OK) -> Camera:
        return Camera(name, "seoul", Words(name, name), Place(latitude, 127.0), health)

    cameras = [camera("a", 37.5), camera("b", 37.5001, Health.ACT), camera("c", 35.2)]
    found = atlas.dots(cameras, atlas.whole())
    assert sorted((len(dot.cameras), dot.health) for dot in found) == [(1, Health.OK), (2, Health.ACT)]
    north, south = sorted(found, key=lambda dot: dot.y)
    assert len(north.cameras) == 2 and north.y < south.y


@pytest.mark.parametrize(
    ("pattern", "trace", "address"),
    [
        ("https://tempo.example/trace/{trace_id}", "a1" * 16, f"https://tempo.example/trace/{'a1' * 16}"),
        ('https://g.example/?left={"q":"{trace_id}"}', "a1" * 16, f'https://g.example/?left={{"q":"{"a1" * 16}"}}'),
        ("", "a1" * 16, ""),
        ("https://tempo.example/trace/{trace_id}", "", ""),
        ("https://tempo.example/trace/{trace_id}", "a1" * 15 + "/x", ""),
        ("https://tempo.example/trace/{trace_id}", "A1" * 16, ""),
        ("https://tempo.example/trace/{trace_id}", "a1" * 16 + "\n", ""),
    ],
)
def test_only_a_trace_id_leads_to_a_trace(pattern: str, trace: str, address: str) -> None:
    assert trace_address(pattern, trace) == address


@pytest.mark.parametrize(
    "pattern",
    [
        "http://tempo.example/trace/{trace_id}",
        "https://tempo.example/trace/",
        "https://tempo.example/{trace_id}/{trace_id}",
        "https://{trace_id}/",
        "https://tempo.example/trace/{trace_id} ",
        "javascript:alert('{trace_id}')",
    ],
)
def test_an_address_that_leads_to_no_trace_is_refused_with_its_remedy(pattern: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"trace_url": pattern}))
    with pytest.raises(SettingsBroken, match=r"trace_url: .* give an https address with \{trace_id\} exactly once"):
        Settings.load(file)


def test_place_outside_the_map_is_at_its_edge() -> None:
    x, y = atlas.frame().point(Place(60.0, 10.0))
    assert (x, y) == (4, 4)
