"""Whether a view may be trusted: clips of the bundle, and what is made of them by cropping, warping and covering."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from koren_detector.accident import load_weights
from koren_detector.boxes import Picture
from koren_detector.ground import Ground
from koren_detector.incidents import Rules
from koren_detector.landmarks import WIDTH
from koren_detector.reports import Reports
from koren_detector.settings import CameraSettings
from koren_detector.stream import Frame, Stream
from koren_detector.tracking import Detections
from koren_detector.vehicles import Found, VehicleFinder
from koren_detector.view import Verdict, ViewWatch
from koren_detector.worker import Finder, Turns, Worker
from koren_events import Camera, Event, Text

MODELS, CLIPS = os.environ.get("KOREN_MODELS"), os.environ.get("KOREN_CLIPS")
NAME = Text("이름", "name")
FPS = 4.0
CALM = 48
"""Frames in place before anything happens."""

pytestmark = [
    pytest.mark.skipif(not CLIPS, reason="KOREN_CLIPS must name the folder of the clips"),
    pytest.mark.usefixtures("one_thread"),
]

NAMES = ["seoul-normal", "busan-normal", "vtest"]
Shown = list[tuple[str | None, int]]
_loaded: dict[str, list[Picture]] = {}


def load(name: str) -> list[Picture]:
    """A clip at the detector's pace."""
    if name not in _loaded:
        capture = cv2.VideoCapture(str(Path(CLIPS or "") / f"{name}.mp4"))
        every, pictures = capture.get(cv2.CAP_PROP_FPS) / FPS, []
        number = 0
        while capture.grab():
            if number >= len(pictures) * every - 0.01:
                pictures.append(capture.retrieve()[1])
            number += 1
        assert pictures, f"{name} can't be read"
        _loaded[name] = pictures
    return _loaded[name]


def clip(name: str, count: int) -> list[Picture]:
    pictures = load(name)
    return [pictures[number % len(pictures)] for number in range(count)]


def watch(pictures: list[Picture], known: ViewWatch | None = None, start: int = 0) -> Shown:
    watching = known or ViewWatch()
    verdicts = [watching.update(np.ascontiguousarray(p), (start + n) / FPS) for n, p in enumerate(pictures)]
    return [(verdict.reason, verdict.view) for verdict in verdicts]


def reasons(shown: Shown) -> set[str]:
    return {reason for reason, _ in shown if reason is not None}


def window(picture: Picture, x: float, y: float, part: float = 0.7) -> Picture:
    """What a camera sees that is turned to (x, y), each 0..1, of a larger picture."""
    height, width = picture.shape[:2]
    inner_h, inner_w = int(height * part), int(width * part)
    left, top = round(x * (width - inner_w)), round(y * (height - inner_h))
    return picture[top : top + inner_h, left : left + inner_w]


def zoomed(picture: Picture, factor: float) -> Picture:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, factor)
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def pan_places(count: int, speed: float, angle: float, frames: int = 10_000) -> list[np.ndarray]:
    """Where a camera looks that turns after CALM frames, for `frames`: `speed` in widths of its picture a second."""
    step = np.array([np.cos(angle), np.sin(angle)]) * speed * 0.7 / 0.3 / FPS
    begin = np.where(step > 0, 0.05, 0.95)
    return [np.clip(begin + step * np.clip(n - CALM + 1, 0, frames), 0, 1) for n in range(count)]


def pan(pictures: list[Picture], speed: float, angle: float) -> list[Picture]:
    places = pan_places(len(pictures), speed, angle)
    return [window(picture, *place) for picture, place in zip(pictures, places, strict=True)]


@pytest.mark.parametrize("name", [*NAMES, "seoul-accident"])
def test_ordinary_traffic_and_a_clip_that_begins_anew_are_trusted(name: str) -> None:
    shown = watch(clip(name, len(load(name)) + 40))

    assert set(shown) == {(None, 0)}


def test_each_of_twenty_pans_is_seen_before_a_false_incident_could_open() -> None:
    draw = np.random.default_rng(5)
    for number in range(20):
        speed, angle = float(np.exp(draw.uniform(np.log(0.05), np.log(2)))), float(draw.uniform(-np.pi, np.pi))
        shown = watch(pan(clip(NAMES[number % 3], CALM + 16), speed, angle))
        assert reasons(shown[:CALM]) == set()
        away = 0.01 / (speed / FPS)  # frames until it is off by a hundredth
        first = next(n for n, (reason, _) in enumerate(shown) if reason is not None)
        assert first - CALM < away + 4, f"speed {speed:.2f}, angle {angle:.2f}"
        assert all(reason is not None for reason, _ in shown[first:]), f"speed {speed:.2f}, angle {angle:.2f}"


class Replay:
    """Stands for the network where what a picture shows is known."""

    def __init__(self) -> None:
        self.known: dict[int, Found] = {}

    def find(self, frame: Picture, top: int = 0) -> Found:
        # Standstill asks about parts of other pictures; it is silent until it has learned for a day.
        of = frame if frame.base is None else frame.base
        return self.known.get(id(of)) or Found(Detections.none(), np.zeros((0, 4)))


def new_worker(replay: Replay, folder: Path, ground: Ground | None, events: list[Event]) -> Worker:
    folder.mkdir(parents=True)
    camera = Camera(id="cctv-01", name=NAME, latitude=37.5, longitude=127.0, road=NAME, direction=NAME)
    settings = CameraSettings(camera, region="seoul", url="", ground=ground, post="automatic")
    weights = load_weights()
    return Worker(
        settings, Stream("cctv-01", "", FPS), Finder(replay, Turns()), weights,
        Rules(score=float(weights["threshold"])),
        Reports(settings, folder, events.append),
    )  # fmt: skip


@pytest.fixture(scope="module")
def network() -> VehicleFinder:
    torch.set_num_threads(1)
    return VehicleFinder(Path(MODELS or "") / "nanodet.json")


@pytest.mark.skipif(not MODELS, reason="KOREN_MODELS must name the folder of the network")
def test_an_open_incident_outlives_a_picture_that_is_moved(network: VehicleFinder, tmp_path: Path) -> None:
    truth = json.loads((Path(CLIPS or "") / "seoul-accident.json").read_text())
    pictures = clip("seoul-accident", 240)
    replay, events = Replay(), []
    worker = new_worker(replay, tmp_path / "state", Ground(np.array(truth["homography"])), events)
    nothing = Found(Detections.none(), np.zeros((0, 4)))
    kinds: list[list[str]] = []
    away = range(120, 180)
    shown = [*pictures[: away.start], *[zoomed(pictures[away.start], 1.5)] * len(away), *pictures[away.start :]]
    for number, picture in enumerate(shown):
        replay.known[id(picture)] = nothing if number in away else network.find(picture)
        frame = Frame(picture, 1.7e9 + number / FPS, 0)
        worker.decide(frame, worker.look(frame))
        kinds.append([kind for event in events if (kind := event.type.split(".")[-1]) != "updated"])

    assert kinds[away.start - 1] == kinds[away.stop - 1] == ["detected"]
    assert kinds[-1] == ["detected", "cleared"]


@pytest.mark.skipif(not MODELS, reason="KOREN_MODELS must name the folder of the network")
def test_a_camera_that_turns_gives_no_incident_and_without_this_watch_would(
    network: VehicleFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = clip("seoul-normal", 160)
    found = [network.find(picture) for picture in whole]

    def run(number: int, folder: str) -> list[Event]:
        draw = np.random.default_rng(number)
        speed, angle = float(np.exp(draw.uniform(np.log(0.05), np.log(1)))), float(draw.uniform(-np.pi, np.pi))
        first, frames_turning = int(draw.integers(0, 60)), int(draw.integers(2, 16))
        replay, frames = Replay(), []
        places = pan_places(CALM + 32, speed, angle, frames_turning)
        for time_n, (picture, there, place) in enumerate(zip(whole[first:], found[first:], places, strict=False)):
            seen = window(picture, *place)
            height, width = picture.shape[:2]
            left, top = round(place[0] * (width - seen.shape[1])), round(place[1] * (height - seen.shape[0]))
            boxes = there.vehicles.boxes - [left, top, left, top]
            boxes = np.clip(boxes, 0, [seen.shape[1], seen.shape[0]] * 2)
            kept = ((boxes[:, 2:] - boxes[:, :2]) > 8).all(axis=1)
            vehicles = Detections(boxes[kept], there.vehicles.scores[kept], there.vehicles.kinds[kept])
            frames.append(Frame(np.ascontiguousarray(seen), 1.7e9 + time_n / FPS, 0))
            replay.known[id(frames[-1].picture)] = Found(vehicles, np.zeros((0, 4)))
        events: list[Event] = []
        worker = new_worker(replay, tmp_path / folder / str(number), None, events)
        for frame in frames:
            worker.decide(frame, worker.look(frame))
        return events

    assert [run(number, "watched") for number in range(20)] == [[]] * 20
    monkeypatch.setattr(ViewWatch, "update", lambda *_: Verdict(None, 0))
    assert any(run(number, "unwatched") for number in range(20))


def test_a_preset_is_left_and_known_again() -> None:
    pictures = clip("vtest", 420)
    known = 2 * CALM
    there = [*range(known), *range(known + 120, known + 140), *range(known + 200, known + 220)]
    seen = [window(p, 0.02, 0.5) if n in there else window(p, 0.98, 0.4) for n, p in enumerate(pictures)]

    shown = watch(seen)

    assert set(shown[:known]) == {(None, 0)}
    gone = shown[known : known + 120]
    assert gone[3][0] is not None and gone[60][0] is not None
    assert gone[-1] == (None, 1), "what stays becomes a view of its own"
    assert shown[known + 139] == (None, 0)
    assert shown[known + 150] == (None, 1), "and is known at once when it comes again"
    assert shown[known + 219] == (None, 0)


@pytest.mark.parametrize("factor", [1.06, 1.3, 0.9])
def test_zoom(factor: float) -> None:
    pictures = clip("vtest", CALM + 12)

    def lens(number: int) -> float:
        return float(1 + (factor - 1) * np.clip((number - CALM + 1) / 6, 0, 1))

    shown = watch([zoomed(zoomed(p, 1.15), lens(n)) for n, p in enumerate(pictures)])

    assert reasons(shown[:CALM]) == set()
    assert shown[-1][0] in {"zoomed", "moved"}
    assert reasons(shown) & {"zoomed"}


def test_a_mast_that_shakes_is_waited_for_and_one_that_sways_is_not() -> None:
    draw = np.random.default_rng(2)
    pictures = clip("vtest", 2 * CALM + 60)

    def shaken(most: float) -> list[Picture]:
        moves = []
        for number, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            off = draw.uniform(-most, most, 2) * width / WIDTH * (2 * CALM <= number < 2 * CALM + 24)
            matrix = np.array([[1, 0, off[0]], [0, 1, off[1]]])
            moves.append(cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT))
        return moves

    wild, slight = watch(shaken(9)), watch(shaken(1))

    assert wild[2 * CALM + 5][0] is not None and "shaking" in reasons(wild)
    assert wild[-1] == (None, 0)
    assert reasons(slight) == set()


Change = Callable[[Picture, int], Picture]


def black(picture: Picture, number: int) -> Picture:
    return np.full_like(picture, 3)


def covered(picture: Picture, number: int) -> Picture:
    width = picture.shape[1]
    cloth = np.linspace(60, 110, width).astype(np.uint8)[None, :, None]
    return np.broadcast_to(cloth, picture.shape) + np.random.default_rng(number).integers(0, 4, picture.shape, np.uint8)


@pytest.mark.parametrize("change,reason", [(black, "black"), (covered, "covered")])
def test_nothing_to_see_until_it_is_there_again(change: Change, reason: str) -> None:
    known = 2 * CALM
    pictures = clip("seoul-normal", known + 120 + 24)

    shown = watch([change(p, n) if known <= n < known + 120 else p for n, p in enumerate(pictures)])

    assert reasons(shown[:known]) == set()
    assert {r for r, _ in shown[known + 4 : known + 120]} == {reason}
    assert set(shown[-6:]) == {(None, 0)}


def test_night_without_light_is_dark_and_a_dull_evening_is_not() -> None:
    pictures = clip("vtest", CALM + 100)

    night = watch([(p * (0.12 if n >= CALM else 1)).astype(np.uint8) for n, p in enumerate(pictures)])
    evening = watch([(p * np.interp(n, [CALM, CALM + 50], [1, 0.35])).astype(np.uint8) for n, p in enumerate(pictures)])

    assert night[-1][0] == "dark"
    assert reasons(evening) == set()


def test_a_stream_that_stops_among_traffic_is_frozen_at_once() -> None:
    pictures = clip("seoul-accident", CALM + 60)
    busy = next(
        n for n in range(CALM, 200)
        if float((cv2.absdiff(load("seoul-accident")[n], load("seoul-accident")[n - 1]) > 40).mean()) > 0.004
    )  # fmt: skip
    pictures = load("seoul-accident")[: busy + 1]

    shown = watch([*pictures, *[pictures[-1]] * 40, *load("seoul-accident")[busy + 1 : busy + 9]])

    assert reasons(shown[: busy + 1]) == set()
    assert {reason for reason, _ in shown[busy + 3 : busy + 41]} == {"frozen"}
    assert set(shown[-3:]) == {(None, 0)}


@pytest.mark.parametrize("speed", [200, 40], ids=["fast", "slow"])
def test_on_a_bare_road_the_first_vehicle_may_leave(speed: int) -> None:
    """All that could be known again was on the vehicle."""
    draw = np.random.default_rng(6)
    lorry = cv2.resize(draw.integers(0, 256, (24, 36, 3), np.uint8), (540, 360), interpolation=cv2.INTER_NEAREST)

    def road(number: int) -> Picture:
        picture = draw.integers(86, 95, (480, 800, 3), np.uint8)
        left = 40 + speed * max(number - 8, 0)
        picture[60:420, left : left + 540] = lorry[:, : max(800 - left, 0)]
        return picture

    shown = watch([road(number) for number in range(130)])

    assert shown[-1] == (None, 0)
    # One that leaves slowly looks as if the camera turned, until the road has been there for 20 s.
    assert reasons(shown) == (set() if speed == 200 else {"moved"})


def test_a_road_that_lies_still_for_seconds_is_trusted() -> None:
    picture = load("seoul-normal")[0]

    assert reasons(watch([picture] * 40)) == set()


@pytest.mark.parametrize("name", NAMES)
def test_brightness_contrast_and_noise_are_no_reason(name: str) -> None:
    draw = np.random.default_rng(3)

    def lit(picture: Picture, number: int) -> Picture:
        gain, level = (draw.uniform(0.6, 1.3), draw.uniform(-25, 25)) if number % 5 == 0 else (1, 0)
        loud = picture * gain + level + draw.normal(0, 6, picture.shape)
        coded = cv2.imencode(".jpg", np.clip(loud, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 25])[1]
        return cv2.imdecode(coded, cv2.IMREAD_COLOR)

    assert reasons(watch([lit(p, n) for n, p in enumerate(clip(name, 80))])) == set()


def test_headlights_and_rain_are_no_reason() -> None:
    draw = np.random.default_rng(4)

    def rainy_night(picture: Picture, number: int) -> Picture:
        night = (picture * 0.4).astype(np.uint8)
        height, width = night.shape[:2]
        if number % 20 > 12:
            centre = (width * (number % 20 - 12) // 8, height * 2 // 3)
            glare = cv2.circle(np.zeros_like(night), centre, width // 8, (255, 255, 240), -1)
            glare = cv2.GaussianBlur(cv2.resize(glare, (96, 72)), (0, 0), 5)
            night = cv2.add(night, cv2.resize(glare, (width, height)))
        for x, y in draw.integers(0, (width, height), (150, 2)):
            cv2.line(night, (int(x), int(y)), (int(x) + 3, int(y) + 25), (150, 150, 150), 1)
        return night

    assert reasons(watch([rainy_night(p, n) for n, p in enumerate(clip("vtest", 80))])) == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_lorry_that_fills_most_of_the_picture_passes_and_may_stop(name: str) -> None:
    def lorry(picture: Picture, number: int) -> Picture:
        shown = picture.copy()
        height, width = shown.shape[:2]
        # Comes from the left in two seconds, stands for five, goes off to the right.
        place = np.interp(number - CALM, [0, 8, 28, 36], [-0.75, 0.15, 0.15, 1.0])
        left, right = int(max(place, 0) * width), int(np.clip(place + 0.75, 0, 1) * width)
        shown[int(height * 0.1) :, left:right] = (70, 120, 190)
        for stripe in range(left, right, 60):
            cv2.putText(shown, "KL", (stripe, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 3)
        return shown

    assert reasons(watch([lorry(p, n) for n, p in enumerate(clip(name, CALM + 60))])) == set()


def test_a_switch_to_infrared_is_the_same_view_within_seconds() -> None:
    def infrared(picture: Picture, number: int) -> Picture:
        if number < 2 * CALM:
            return picture
        blue, green, red = cv2.split(picture.astype(np.float32))
        height, width = picture.shape[:2]
        y, x = np.mgrid[0:height, 0:width]
        lamp = np.exp(-((x / width - 0.5) ** 2 + (y / height - 0.6) ** 2) * 3)
        # Plants are bright in infrared, and the sky is dark.
        gray = np.clip((0.2 * red + 1.2 * green - 0.6 * blue) * lamp, 0, 255).astype(np.uint8)
        return cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)

    shown = watch([infrared(p, n) for n, p in enumerate(clip("vtest", 2 * CALM + 40))])

    assert reasons(shown[: 2 * CALM]) == set()
    assert set(shown[2 * CALM + 20 :]) == {(None, 0)}


def test_dirt_on_the_lens_is_told_from_what_stands_before_it() -> None:
    pictures = clip("vtest", int(FPS * 190) + CALM * 3)

    def muddy(picture: Picture) -> Picture:
        shown, width = picture.copy(), picture.shape[1]
        shown[:, : width * 2 // 3] = cv2.blur(shown[:, : width * 2 // 3], (201, 201))
        return shown

    shown = watch([muddy(p) if n >= CALM * 3 else p for n, p in enumerate(pictures)])

    assert reasons(shown[: CALM * 3 + 400]) == set()
    assert shown[-1][0] == "dirty"


def test_a_camera_that_moves_when_it_is_first_seen_is_at_home_where_it_stops() -> None:
    pictures = clip("vtest", 120)

    shown = watch([window(p, min(0.05 + 0.05 * n, 0.95), 0.5) for n, p in enumerate(pictures)])

    assert reasons(shown[:24]) != set()
    assert shown[-1] == (None, 0)
