from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from koren_detector.incidents import Incident, Wreck
from koren_detector.reports import Reports
from koren_detector.settings import CameraSettings, Post
from koren_events import KINDS, Camera, Event, Evidence, Image, Kind, SpoolFull, Text, validate

CAMERA = CameraSettings(
    camera=Camera(
        id="cctv-seoul-01", name=Text("세종대로 사거리", "Sejong-daero junction"), latitude=37.57,
        longitude=126.977, road=Text("세종대로", "Sejong-daero"), direction=Text("시청", "City Hall"),
    ),
    region="seoul", url="rtsp://cctv:8554/seoul", ground=None, post="automatic",
)  # fmt: skip
INCIDENT = Incident(
    x=1.0, y=2.0, started_s=1_000_000.25, opened_s=1_000_003.5, confidence=0.93, what="side",
    severity="moderate", wrecks=(Wreck(7, 1.0, 2.0, (10.0, 20.0, 60.0, 50.0)),),
    evidence=(Evidence("motion", 0.93),),
)  # fmt: skip
IMAGE = Image(jpeg=b"\xff\xd8\xff" + bytes(90_000), width=960, height=544)
PATCH = np.arange(32 * 24, dtype=np.uint8).reshape(24, 32)


class Desk:
    """Where events are handed over; may be full, or take an event and then be killed."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.full = False

    def publish(self, event: Event) -> None:
        if self.full:
            raise SpoolFull("the spool is full")
        self.taken.append(event)


def test_events_keep_the_contract_and_follow_each_other(tmp_path: Path) -> None:
    desk = Desk()
    reports = Reports(CAMERA, tmp_path, desk.publish)

    reports.opened(INCIDENT, [], IMAGE, [PATCH])
    reports.cleared(INCIDENT, 1_000_030.0, 1_000_036.0)

    for event in desk.taken:
        validate(event)
    detected, cleared = desk.taken
    assert (detected.sequence, cleared.sequence) == (1, 2)
    assert cleared.subject == detected.subject
    assert detected.time.timestamp() == INCIDENT.opened_s
    assert detected.data["started_at"] == "1970-01-12T13:46:40.250Z"
    assert cleared.data["cleared_at"] == "1970-01-12T13:47:10.000Z"
    assert reports.open == []


@pytest.mark.parametrize(("post", "holds"), [("confirm", [True, True]), ("automatic", [False, False]), ("never", [])])
def test_what_becomes_of_an_incident_is_what_its_camera_says(tmp_path: Path, post: Post, holds: list[bool]) -> None:
    desk = Desk()
    reports = Reports(replace(CAMERA, post=post), tmp_path, desk.publish)
    before = [decisions(name, post) for name in ("detected", "cleared")]

    reports.opened(INCIDENT, [], IMAGE, [PATCH])
    assert [record.incident for record in reports.open] == [INCIDENT]
    reports.cleared(INCIDENT, 1_000_030.0, 1_000_036.0)

    assert [event.hold for event in desk.taken] == holds
    for event in desk.taken:
        validate(event)
    assert [decisions(name, post) for name in ("detected", "cleared")] == [count + 1 for count in before]
    assert reports.open == []


def test_what_standstill_alone_has_seen_waits_for_a_person(tmp_path: Path) -> None:
    desk = Desk()
    reports = Reports(CAMERA, tmp_path, desk.publish)
    stands = Evidence("standstill", 0.7)

    reports.opened(replace(INCIDENT, evidence=(stands,)), [], IMAGE, [PATCH])
    both = replace(INCIDENT, started_s=1_000_100.0, evidence=(stands, Evidence("motion", 0.9)))
    reports.opened(both, [], IMAGE, [PATCH])

    assert [event.hold for event in desk.taken] == [True, False]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_incident_of_another_kind_has_the_same_life_and_follows_its_cameras_post(tmp_path: Path, kind: Kind) -> None:
    desk = Desk()
    seen = replace(INCIDENT, kind=kind, evidence=(Evidence("standstill", 0.7),))
    for post in ("automatic", "confirm"):
        folder = tmp_path / post
        folder.mkdir()
        first = Reports(replace(CAMERA, post=post), folder, desk.publish)
        first.opened(seen, [], IMAGE, [PATCH])
        first.updated(replace(seen, confidence=0.8), [], IMAGE, 1_000_020.0)
        again = Reports(replace(CAMERA, post=post), folder, desk.publish)
        assert [record.incident.kind for record in again.open] == [kind], "a restart knows what it was"
        again.cleared(seen, 1_000_030.0, 1_000_036.0)

    for event in desk.taken:
        validate(event)
        assert "severity" not in event.data and "what" not in event.data
    happened = [f"kr.koren.traffic.{kind}.{one}" for one in ("detected", "updated", "cleared")]
    assert [event.type for event in desk.taken] == 2 * happened
    assert [event.hold for event in desk.taken] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("opened", "later", "holds"), [
    ("automatic", "confirm", [False, False]), ("confirm", "automatic", [True, True]),
    ("confirm", "never", [True, True]), ("never", "automatic", []),
])  # fmt: skip
def test_an_incident_keeps_what_its_camera_said_when_it_was_opened(
    tmp_path: Path, opened: Post, later: Post, holds: list[bool]
) -> None:
    desk = Desk()
    Reports(replace(CAMERA, post=opened), tmp_path, desk.publish).opened(INCIDENT, [], IMAGE, [PATCH])

    again = Reports(replace(CAMERA, post=later), tmp_path, desk.publish)
    again.cleared(INCIDENT, 1_000_030.0, 1_000_036.0)

    assert [event.hold for event in desk.taken] == holds


def test_an_incident_of_an_older_detector_is_cleared_as_it_was_opened(tmp_path: Path) -> None:
    desk = Desk()
    Reports(CAMERA, tmp_path, desk.publish).opened(INCIDENT, [], IMAGE, [PATCH])
    path = tmp_path / "cctv-seoul-01.json"
    state = json.loads(path.read_text())
    del state["open"][0]["post"]
    path.write_text(json.dumps(state))

    Reports(replace(CAMERA, post="confirm"), tmp_path, desk.publish).cleared(INCIDENT, 1_000_030.0, 1_000_036.0)

    assert [event.hold for event in desk.taken] == [False, False]


def decisions(decision: str, post: Post) -> float:
    labels = {"camera": CAMERA.camera.id, "region": CAMERA.region, "decision": decision, "post": post}
    return REGISTRY.get_sample_value("koren_detector_decisions_total", labels) or 0.0


def test_a_new_run_knows_what_is_open_and_clears_it(tmp_path: Path) -> None:
    desk = Desk()
    Reports(CAMERA, tmp_path, desk.publish).opened(INCIDENT, [], IMAGE, [PATCH])

    again = Reports(CAMERA, tmp_path, desk.publish)

    assert [record.incident for record in again.open] == [INCIDENT]
    patch = again.open[0].patches[0]
    assert patch is not None and (patch == PATCH).all()
    assert len(desk.taken) == 1
    again.cleared(INCIDENT, 1_000_030.0, 1_000_036.0)
    assert [event.sequence for event in desk.taken] == [1, 2]
    assert Reports(CAMERA, tmp_path, desk.publish).open == []


def test_an_event_that_was_not_handed_over_is_by_the_next_run_under_its_id(tmp_path: Path) -> None:
    desk = Desk()
    desk.full = True
    event = Reports(CAMERA, tmp_path, desk.publish).opened(INCIDENT, [], IMAGE, [PATCH])

    desk.full = False
    Reports(CAMERA, tmp_path, desk.publish)

    assert [taken.id for taken in desk.taken] == [event.id]
    assert desk.taken[0].data["image"] == event.data["image"]


def test_a_full_spool_is_tried_again_later(tmp_path: Path) -> None:
    desk = Desk()
    desk.full = True
    reports = Reports(CAMERA, tmp_path, desk.publish)
    reports.opened(INCIDENT, [], IMAGE, [PATCH])

    desk.full = False
    reports.follow([INCIDENT], 2_000_000.0)

    assert len(desk.taken) == 1


def test_pictures_are_not_kept_once_handed_over(tmp_path: Path) -> None:
    Reports(CAMERA, tmp_path, Desk().publish).opened(INCIDENT, [], IMAGE, [PATCH])

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000


def test_where_the_wrecks_are_now_is_kept(tmp_path: Path) -> None:
    reports = Reports(CAMERA, tmp_path, Desk().publish)
    reports.opened(INCIDENT, [], IMAGE, [PATCH])
    moved = replace(INCIDENT, wrecks=(Wreck(8, 3.0, 2.5, (30.0, 20.0, 80.0, 50.0)),))

    reports.follow([moved], 2_000_000.0)

    again = Reports(CAMERA, tmp_path, Desk().publish)
    assert again.open[0].incident.wrecks[0].x == 3.0


@pytest.mark.parametrize("content", ["", "{", json.dumps({"open": []})])
def test_a_damaged_state_is_put_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "cctv-seoul-01.json").write_text(content)

    assert Reports(CAMERA, tmp_path, Desk().publish).open == []
    assert (tmp_path / "cctv-seoul-01.damaged").exists()


OTHER = Wreck(9, 5.0, 2.0, (80.0, 20.0, 130.0, 50.0), kind="truck")
MORE = replace(INCIDENT, wrecks=(*INCIDENT.wrecks, OTHER)).with_evidence("standstill", 0.6)


def test_what_else_becomes_known_is_an_update(tmp_path: Path) -> None:
    desk = Desk()
    reports = Reports(CAMERA, tmp_path, desk.publish)
    reports.opened(INCIDENT, [], IMAGE, [PATCH])
    now_s = INCIDENT.opened_s + 20

    reports.joined(MORE, lambda _: None)
    assert reports.has_news(MORE, now_s)
    reports.updated(MORE, [], IMAGE, now_s)
    reports.cleared(MORE, now_s + 5, now_s + 11)

    for event in desk.taken:
        validate(event)
    assert [(event.type.split(".")[-1], event.sequence) for event in desk.taken] == [
        ("detected", 1), ("updated", 2), ("cleared", 3)
    ]  # fmt: skip
    detected, updated, cleared = (event.data for event in desk.taken)
    assert detected["evidence"] == [{"channel": "motion", "confidence": 0.93}]
    assert [one["channel"] for one in updated["evidence"]] == ["motion", "standstill"]
    assert updated["confidence"] > 0.93 and cleared["evidence"] == updated["evidence"]


def test_updates_are_few(tmp_path: Path) -> None:
    desk = Desk()
    reports = Reports(CAMERA, tmp_path, desk.publish)
    reports.opened(INCIDENT, [], IMAGE, [PATCH])
    incident = INCIDENT
    for second in range(1, 3600):
        now_s = INCIDENT.opened_s + second
        incident = replace(incident, confidence=0.5 + second / 10_000)
        if second > 600:
            incident = replace(incident, severity="severe" if second % 2 else "minor")
        if reports.has_news(incident, now_s):
            reports.updated(incident, [], IMAGE, now_s)

    moments = [event.time.timestamp() for event in desk.taken]
    assert moments[1] > INCIDENT.opened_s + 600, "a confidence alone is no news"
    assert min(np.diff(moments)) >= 15 and len(moments) <= 21


def test_a_new_run_does_not_say_again_what_was_said(tmp_path: Path) -> None:
    desk = Desk()
    reports = Reports(CAMERA, tmp_path, desk.publish)
    reports.opened(INCIDENT, [], IMAGE, [PATCH])
    reports.joined(MORE, lambda _: PATCH)
    reports.updated(MORE, [], IMAGE, INCIDENT.opened_s + 20)

    again = Reports(CAMERA, tmp_path, desk.publish)

    assert again.open[0].incident == MORE and len(again.open[0].patches) == 2
    assert not again.has_news(MORE, INCIDENT.opened_s + 100)


def test_a_state_of_before_there_were_channels_is_read(tmp_path: Path) -> None:
    Reports(CAMERA, tmp_path, Desk().publish).opened(INCIDENT, [], IMAGE, [PATCH])
    path = tmp_path / "cctv-seoul-01.json"
    values = json.loads(path.read_text())
    del values["open"][0]["incident"]["evidence"], values["open"][0]["says"]
    path.write_text(json.dumps(values))

    again = Reports(CAMERA, tmp_path, Desk().publish)

    assert again.open[0].incident == INCIDENT
    assert not again.has_news(INCIDENT, INCIDENT.opened_s + 100)
