# SPDX-License-Identifier: Apache-2.0
"""What is shown of a post before a person confirms it, for events as the contract allows them and for others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from koren_console.sources.preview import NO_INCIDENT, NO_MESSAGE, NO_NETWORK, Preview, preview

FUNCTION = Path(__file__).resolve().parents[2] / "report-incident"
LIMITS = {"bluesky": 300, "mastodon": 500, "twitter": 280}
AS_THE_FUNCTION = """
import json, sys
from post_text.incident import Incident
from post_text import networks
from koren_runtime.contract import to_event
network, message = json.load(sys.stdin)
print(json.dumps(networks.ON[network](Incident(to_event(message))).as_dict()))
"""


def accident(**data: Any) -> dict[str, Any]:
    """A held event's message; `data` overrides what it says, and None leaves it out."""
    said: dict[str, Any] = {
        "camera": {
            "id": "cctv-seoul-01",
            "name": {"ko": "강남역 사거리", "en": "Gangnam Station Junction"},
            "latitude": 37.4979,
            "longitude": 127.0276,
            "road": {"ko": "강남대로", "en": "Gangnam-daero"},
            "direction": {"ko": "신논현역 방면", "en": "towards Sinnonhyeon Station"},
        },
        "severity": "severe",
        "confidence": 0.87,
        "what": "rear_end",
        "started_at": "2026-11-24T11:16:05.123Z",
        "objects": [{"class": "car", "track": one, "box": [0, 0, 9, 9], "involved": True} for one in (1, 2)],
    }
    return {
        "specversion": "1.0",
        "id": "event-1",
        "source": "cctv-seoul-01",
        "type": "kr.koren.traffic.accident.detected",
        "subject": "incident-1",
        "time": "2026-11-24T11:18:00.250Z",
        "datacontenttype": "application/json",
        "region": "seoul",
        "sequence": 1,
        "hold": True,
        "data": {name: value for name, value in (said | data).items() if value is not None},
    }


def posted(network: str, message: dict[str, Any]) -> dict[str, str]:
    """What the function posts of a message, run as in its own pod: from its own folder."""
    path = [str(FUNCTION), str(FUNCTION.parent / "runtime" / "src")]
    done = subprocess.run(
        [sys.executable, "-s", "-c", f"import sys; sys.path[:0] = {path}\n{AS_THE_FUNCTION}"],
        input=json.dumps([network, message]),
        capture_output=True,
        text=True,
        check=True,
    )
    texts: dict[str, str] = json.loads(done.stdout)
    return texts


@pytest.mark.parametrize("network", LIMITS)
def test_it_is_what_the_function_posts_of_the_released_event(network: str) -> None:
    message = accident()
    shown = preview(message, network)

    assert shown.text is not None and shown.missing is None and shown.first
    assert posted(network, message | {"releasedby": "console:kim"}) == {"ko": shown.text.ko, "en": shown.text.en}
    assert len(shown.text.ko) + 2 + len(shown.text.en) <= LIMITS[network]
    assert "담당자가 확인함" in shown.text.ko and "Confirmed by an operator" in shown.text.en
    assert "확인되지 않음" not in shown.text.ko and "not yet" not in shown.text.en


@pytest.mark.parametrize("kind", ["stopped-vehicle", "person-on-road", "wrong-way"])
def test_a_road_hazard_has_the_preview_of_its_post(kind: str) -> None:
    message = accident(severity=None, what=None) | {"type": f"kr.koren.traffic.{kind}.detected"}
    shown = preview(message, "bluesky")

    assert shown.text is not None and shown.first
    assert posted("bluesky", message | {"releasedby": "console"}) == {"ko": shown.text.ko, "en": shown.text.en}
    assert shown.text.en.startswith("[Road hazard] ")


def test_an_update_is_told_from_the_first_post() -> None:
    assert not preview(accident() | {"type": "kr.koren.traffic.accident.updated", "sequence": 2}, "bluesky").first


@pytest.mark.parametrize("name", ["camera", "what", "severity", "started_at"])
def test_an_event_that_lacks_something_has_no_preview_and_says_why(name: str) -> None:
    shown = preview(accident(**{name: None}), "bluesky")

    assert shown.text is None and shown.missing is not None
    for words in (shown.missing.ko, shown.missing.en):
        assert f"the event has no data.{name}" in words


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (None, NO_MESSAGE),
        ("text", NO_MESSAGE),
        ({}, NO_INCIDENT),
        (accident() | {"type": "kr.koren.weather.rain"}, NO_INCIDENT),
        (accident() | {"type": ["kr.koren.traffic.accident.detected"]}, NO_INCIDENT),
    ],
)
def test_what_is_no_incident_has_no_preview(message: Any, why: Any) -> None:
    assert preview(message, "bluesky") == Preview(None, why)


def test_without_a_known_network_there_is_no_preview() -> None:
    assert preview(accident(), "") == Preview(None, NO_NETWORK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": None},
        {"data": "text"},
        {"id": 7},
        {"time": None},
        {"time": "2026-11-24"},
        {"region": "x" * 64},
        {"region": "\ud800"},
        {"sequence": 10**400},
        {"data": accident()["data"] | {"image": {"base64": "?"}}},
        {"data": accident()["data"] | {"objects": 3}},
        {"data": accident()["data"] | {"what": "\ud800<script>"}},
        {"data_base64": "é"},
    ],
)
@pytest.mark.parametrize("network", LIMITS)
def test_bad_data_has_a_short_reason_that_can_be_shown(wrong: dict[str, Any], network: str) -> None:
    shown = preview(accident() | wrong, network)

    assert shown.text is None and shown.missing is not None
    assert len(shown.missing.en) < 500 and shown.missing.en.encode() and shown.missing.ko.encode()


def test_the_longest_names_still_make_a_text() -> None:
    long = {"ko": "가" * 2000, "en": "a.kr/" * 400}
    camera = accident()["data"]["camera"] | {"road": long, "direction": long, "name": long}
    for network, limit in LIMITS.items():
        shown = preview(accident(camera=camera), network)
        assert shown.text is not None and "…" in shown.text.ko
        assert network != "bluesky" or len(shown.text.ko) + 2 + len(shown.text.en) <= limit
