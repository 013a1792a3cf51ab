from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from koren_detector.arms import Arm, located
from koren_detector.incidents import Incident, Wreck
from koren_detector.reports import Reports
from koren_detector.settings import CameraSettings
from koren_events import Camera, Event, Image, Text, validate

NORTH = Arm(
    np.array([[0, 0], [400, 0], [400, 300], [0, 300]]), Text("강남대로", "Gangnam-daero"), Text("북쪽", "northbound"),
    "1220012300",
)  # fmt: skip
EAST = replace(NORTH, polygon=np.array([[380, 0], [900, 0], [900, 300]]), direction=Text("동쪽", "eastbound"))
SIZE = (960, 544)


def incident(*feet: tuple[float, float]) -> Incident:
    wrecks = tuple(Wreck(n, 0.0, 0.0, (x - 20, y - 30, x + 20, y)) for n, (x, y) in enumerate(feet))
    return Incident(0.0, 0.0, 1e6, 1e6 + 3, 0.9, "unknown", "minor", wrecks)


CAMERA = Camera(
    id="cctv-01", name=Text("교차로", "junction"), latitude=37.5, longitude=127.0,
    road=Text("교차로", "junction"), direction=Text("서쪽", "westbound"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("feet", "arm"),
    [
        ([(200, 200)], NORTH),
        ([(800, 200)], EAST),
        ([(200, 200), (100, 290)], NORTH),
        ([(200, 200), (800, 200)], None),
        ([(390, 5)], None),
        ([(200, 400)], None),
    ],
    ids=["in one", "in another", "all in one", "each in its own", "where two overlap", "in none"],
)
def test_road_and_direction_are_known_only_where_all_wrecks_are_in_one_arm_alone(
    feet: list[tuple[float, float]], arm: Arm | None
) -> None:
    found = located(CAMERA, incident(*feet), (NORTH, EAST), SIZE, SIZE)
    assert (found.road, found.direction, found.link) == (
        (None, None, None) if arm is None else (arm.road, arm.direction, arm.link)
    )


def test_a_camera_without_arms_sees_one_road() -> None:
    assert located(CAMERA, incident((200, 200)), (), SIZE, SIZE) is CAMERA


def test_arms_hold_in_pictures_of_another_size() -> None:
    assert located(CAMERA, incident((390, 590)), (NORTH,), SIZE, (1920, 1088)).direction == NORTH.direction


@pytest.mark.parametrize("polygon", [[[0, 0], [5, 5]], [[0, 0], [5, 5], [10, 10]], [[0, 0, 1]] * 3, [1, 2, 3]])
def test_a_polygon_without_an_inside_is_refused(polygon: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="polygon"):
        replace(NORTH, polygon=np.array(polygon))


def test_all_events_of_an_incident_state_what_its_first_one_did(tmp_path: Path) -> None:
    events: list[Event] = []
    reports = Reports(CameraSettings(CAMERA, "seoul", "", None, arms=(NORTH,)), tmp_path, events.append)
    image = Image(jpeg=b"\xff\xd8\xff" + bytes(900), width=960, height=544)

    for number, foot in enumerate([(200, 200), (200, 400)]):
        one = replace(incident(foot), started_s=1e6 + 60 * number)
        reports.opened(one, [], image, [None], located(CAMERA, one, (NORTH,), SIZE, SIZE))
        reports.cleared(one, 1e6 + 100, 1e6 + 106)

    for event in events:
        validate(event)
    cameras = [event.data["camera"] for event in events]
    assert [camera.get("link") for camera in cameras] == ["1220012300", "1220012300", None, None]
    assert [camera.get("direction", {}).get("en") for camera in cameras] == ["northbound", "northbound", None, None]
    assert all("road" not in camera for camera in cameras[2:])
