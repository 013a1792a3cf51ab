from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from koren_detector.arms import Arm, arm_of
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
def test_an_arm_is_known_only_where_all_wrecks_are_in_it_alone(
    feet: list[tuple[float, float]], arm: Arm | None
) -> None:
    assert arm_of(incident(*feet), (NORTH, EAST), SIZE, SIZE) is arm


def test_arms_hold_in_pictures_of_another_size() -> None:
    assert arm_of(incident((390, 590)), (NORTH,), SIZE, (1920, 1088)) is NORTH


@pytest.mark.parametrize("polygon", [[[0, 0], [5, 5]], [[0, 0], [5, 5], [10, 10]], [[0, 0, 1]] * 3, [1, 2, 3]])
def test_a_polygon_without_an_inside_is_refused(polygon: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="polygon"):
        replace(NORTH, polygon=np.array(polygon))


def test_the_event_states_the_arms_road_and_direction_and_else_the_cameras(tmp_path: Path) -> None:
    junction = Text("교차로", "junction")
    camera = Camera(id="cctv-01", name=junction, latitude=37.5, longitude=127.0, road=junction, direction=junction)
    events: list[Event] = []
    reports = Reports(CameraSettings(camera, "seoul", "", None, arms=(NORTH,)), tmp_path, events.append)
    image = Image(jpeg=b"\xff\xd8\xff" + bytes(900), width=960, height=544)

    reports.opened(incident((200, 200)), [], image, [None], NORTH)
    reports.opened(replace(incident((200, 400)), started_s=1e6 + 60), [], image, [None], None)
    reports.cleared(incident((200, 200)), 1e6 + 30, 1e6 + 36)

    for event in events:
        validate(event)
    assert [event.data["camera"]["direction"]["en"] for event in events] == ["northbound", "junction", "northbound"]
    assert [event.data["camera"]["road"]["en"] for event in events] == ["Gangnam-daero", "junction", "Gangnam-daero"]
