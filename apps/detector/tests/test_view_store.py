"""A camera's views outlive the detector: they are known again, and none is taken for the camera's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from koren_detector.boxes import Picture
from koren_detector.ground import Ground
from koren_detector.settings import CameraSettings
from koren_detector.view import ViewWatch
from koren_detector.view_store import ViewStore
from koren_events import Camera, Text

NAME = Text("이름", "name")
CAMERA = CameraSettings(
    Camera(id="cctv-01", name=NAME, latitude=37.5, longitude=127.0, road=NAME, direction=NAME),
    "seoul", "rtsp://camera/live", Ground.typical(640, 384), ground_size=(640, 384),
)  # fmt: skip
FPS = 4
DAY_S = 86_400.0

pytestmark = pytest.mark.usefixtures("one_thread")


def scene(place: int) -> Picture:
    """What the camera shows where it is turned to `place`: corners all over, others at each place."""
    coarse = np.random.default_rng(place).integers(40, 220, (24, 40, 3), np.uint8)
    return cv2.resize(coarse, (640, 384), interpolation=cv2.INTER_CUBIC)


def show(watch: ViewWatch, store: ViewStore, place: int, seconds: float, from_s: float) -> list[tuple[str | None, int]]:
    shown, picture = [], scene(place)
    noises = [np.random.default_rng(number).integers(0, 6, picture.shape, np.uint8) for number in range(4)]
    for number in range(int(seconds * FPS)):
        time_s = from_s + number / FPS
        verdict = watch.update(cv2.add(picture, noises[number % 4]), time_s)
        store.keep(watch, time_s)
        shown.append((verdict.reason, verdict.view))
    return shown


@pytest.fixture
def two_views(tmp_path: Path) -> Path:
    """The state of a detector that saw the camera's own view and then another one."""
    store = ViewStore(CAMERA, tmp_path)
    watch = store.load(0.0)
    assert set(show(watch, store, 0, 30, 0.0)) == {(None, 0)}
    assert show(watch, store, 1, 50, 30.0)[-1] == (None, 1)
    return tmp_path


def test_a_detector_that_starts_while_its_camera_is_turned_away_waits_for_its_own_view(two_views: Path) -> None:
    store = ViewStore(CAMERA, two_views)
    watch = store.load(2 * DAY_S)

    away = show(watch, store, 7, 10, 2 * DAY_S)
    assert {reason for reason, _ in away} == {"moved"}
    assert show(watch, store, 7, 20, 2 * DAY_S + 10)[-1] == (None, 2), "a third view, and not the camera's own"
    assert show(watch, store, 0, 5, 2 * DAY_S + 30)[-1] == (None, 0)


def test_presets_are_known_at_once(two_views: Path) -> None:
    for place in (1, 0):
        store = ViewStore(CAMERA, two_views)
        shown = show(store.load(2 * DAY_S), store, place, 3, 2 * DAY_S)
        assert shown[0][0] == "moved" and shown[-1] == (None, place)


def test_with_another_ground_the_first_view_is_the_cameras_own(two_views: Path) -> None:
    for changed in (replace(CAMERA, ground=None), replace(CAMERA, ground_size=(1280, 768))):
        store = ViewStore(changed, two_views)
        assert set(show(store.load(2 * DAY_S), store, 7, 2, 2 * DAY_S)) == {(None, 0)}


def test_what_is_kept_has_a_bound(tmp_path: Path) -> None:
    store = ViewStore(CAMERA, tmp_path)
    watch = store.load(0.0)
    for place in range(10):
        show(watch, store, place, 26 if place else 45, 45.0 * place)

    values = json.loads((tmp_path / "cctv-01.json").read_text())
    assert 0 in [view["number"] for view in values["views"]] and len(values["views"]) <= 8
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000


@pytest.mark.parametrize("damage", ["cut", "number", "mark", "picture"])
def test_a_damaged_file_is_put_aside(two_views: Path, damage: str) -> None:
    path = two_views / "cctv-01.json"
    values = json.loads(path.read_text())
    if damage == "number":
        values["views"][0]["number"] = 5
    elif damage == "mark":
        values["views"][0]["marks"]["marks"][0][2] = 4000
    elif damage == "picture":
        values["views"][0]["marks"]["behind"] = "AAAA"
    path.write_text(path.read_text()[:500] if damage == "cut" else json.dumps(values))

    store = ViewStore(CAMERA, two_views)
    assert show(store.load(DAY_S), store, 7, 1, DAY_S)[-1] == (None, 0)
    assert (two_views / "cctv-01.damaged").exists()
