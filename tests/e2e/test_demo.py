"""What playbooks/demo.yml, which ran before, left: one accident seen, posted with its photo, and over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SITE_DIR, Cluster, faas, posts


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What the demo kept."""
    found: dict[str, Any] = json.loads((SITE_DIR / "demo" / "result.json").read_text())
    return found


def test_accident_has_one_post_with_both_languages(result: dict[str, Any]) -> None:
    told = posts("seoul", result["subject"])
    (post,) = [post for post in told if "reply" not in post["value"]]
    assert post["uri"] == result["post"]["uri"]
    assert "[교통사고] 강남대로" in post["value"]["text"] and "[Accident]" in post["value"]["text"]
    assert "아직 확인되지 않음" in post["value"]["text"], "nobody confirmed what an automatic camera saw"
    (end,) = [post for post in told if "[Cleared]" in post["value"]["text"]]
    assert "[상황 종료] 강남대로" in end["value"]["text"]
    assert end["value"]["reply"]["root"]["uri"] == post["uri"]


def test_post_has_the_photo(result: dict[str, Any]) -> None:
    photo = (SITE_DIR / "demo" / "photo.jpg").read_bytes()
    (shown,) = result["post"]["value"]["embed"]["images"]
    assert photo.startswith(b"\xff\xd8\xff") and photo.endswith(b"\xff\xd9"), "a whole JPEG"
    assert len(photo) == shown["image"]["size"]
    assert "CCTV 화면" in shown["alt"] and "CCTV image" in shown["alt"]


def test_busan_did_nothing(result: dict[str, Any], cluster: Callable[[str], Cluster]) -> None:
    assert posts("busan") == []
    assert cluster("busan").pods_ever("report-incident") == []
    # Its camera's incidents would wait for a person.
    held = json.loads(faas("event", "held", "--region", "busan", "-o", "json"))
    assert [one for one in held if one["event"]["source"] == "cctv-busan-01"] == []
