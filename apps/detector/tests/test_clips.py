"""Whole clips, from pictures to events: by the real network, without a stream in between."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from koren_detector.accident import load_weights
from koren_detector.boxes import Picture
from koren_detector.ground import Ground
from koren_detector.incidents import Rules
from koren_detector.reports import Reports
from koren_detector.settings import CameraSettings
from koren_detector.stream import Frame, Stream
from koren_detector.tracking import Detections
from koren_detector.vehicles import Found, VehicleFinder
from koren_detector.worker import Finder, Turns, Worker
from koren_events import Camera, Event, Text, validate

MODELS, CLIPS = os.environ.get("KOREN_MODELS"), os.environ.get("KOREN_CLIPS")
FPS = 4.0
START_S = 1_700_000_000.0
NAME = Text("이름", "name")

pytestmark = pytest.mark.skipif(not (MODELS and CLIPS), reason="KOREN_MODELS and KOREN_CLIPS must name the folders")


@dataclass(frozen=True)
class Clip:
    """A clip's frames at the detector's pace, with what the network finds in each."""

    name: str
    times_s: list[float]
    pictures: list[Picture]
    found: list[Found]
    length_s: float

    @property
    def truth(self) -> dict:
        path = Path(CLIPS or "") / f"{self.name}.json"
        return json.loads(path.read_text()) if path.exists() else {}


class Replay:
    """Stands for the network where a clip's frames were looked at before."""

    def __init__(self) -> None:
        self.known: dict[int, Found] = {}

    def find(self, frame: Picture, top: int = 0) -> Found:
        # Standstill asks about parts of pictures; it is silent until it has learned for a day.
        return self.known.get(id(frame)) or Found(Detections.none(), np.zeros((0, 4)))


@pytest.fixture(scope="module")
def network() -> VehicleFinder:
    # As the service does: two threads take half as much again of the processors.
    torch.set_num_threads(1)
    return VehicleFinder(Path(MODELS or "") / "nanodet.json")


def load(name: str, network: VehicleFinder) -> Clip:
    capture = cv2.VideoCapture(str(Path(CLIPS or "") / f"{name}.mp4"))
    rate = capture.get(cv2.CAP_PROP_FPS)
    times, pictures, number, due_s = [], [], 0, 0.0
    while capture.grab():
        if number / rate >= due_s - 0.02:
            due_s = number / rate + 1 / FPS
            times.append(number / rate)
            pictures.append(capture.retrieve()[1])
        number += 1
    assert pictures, f"{name} can't be read"
    path = Path(CLIPS or "") / f"{name}.json"
    height, width = pictures[0].shape[:2]
    ground = Ground.typical(width, height)
    if path.exists():
        ground = Ground(np.array(json.loads(path.read_text())["homography"]))
    top = ground.top(width, height, 80)
    return Clip(name, times, pictures, [network.find(p, top) for p in pictures], number / rate)


def watch(clip: Clip, folder: Path, loops: int = 1, cut: bool = True) -> list[tuple[float, Event]]:
    """Show the clip to a worker; returns its events with the seconds since the beginning."""
    truth = clip.truth
    settings = CameraSettings(
        Camera(id="cctv-01", name=NAME, latitude=37.5, longitude=127.0, road=NAME, direction=NAME),
        region="seoul", url="", ground=Ground(np.array(truth["homography"])) if truth else None,
    )  # fmt: skip
    events: list[tuple[float, Event]] = []
    clock = [0.0]
    replay = Replay()
    replay.known = {id(p): f for p, f in zip(clip.pictures, clip.found, strict=True)}
    weights = load_weights()
    worker = Worker(
        settings, Stream("cctv-01", "", FPS), Finder(replay, Turns()), weights,
        Rules(score=float(weights["threshold"])),
        Reports(settings, folder, lambda event: events.append((clock[0], event))),
    )  # fmt: skip
    for loop in range(loops):
        for time_s, picture in zip(clip.times_s, clip.pictures, strict=True):
            clock[0] = loop * clip.length_s + time_s
            frame = Frame(picture, START_S + clock[0], loop if cut else 0)
            worker.decide(frame, worker.look(frame))
    return events


def test_an_accident_is_detected_once_in_time_and_cleared_once(network: VehicleFinder, tmp_path: Path) -> None:
    clip = load("seoul-accident", network)
    impact = clip.truth["incidents"][0]

    events = watch(clip, tmp_path)

    first, *updates, last = [event.type.split(".")[-1] for _, event in events]
    assert (first, last) == ("detected", "cleared") and set(updates) <= {"updated"}
    (detected_s, detected), *more, (cleared_s, _) = events
    assert impact["time_s"] < detected_s < impact["time_s"] + 6
    assert impact["cleared_time_s"] < cleared_s < impact["cleared_time_s"] + 14
    for _, event in events:
        validate(event)
    assert abs(detected.data["confidence"] - 1) < 0.2
    started_s = datetime.fromisoformat(detected.data["started_at"]).timestamp() - START_S
    # By which frames are looked at it is 0 to 3.4 s before the impact: the first sign that the network takes for one.
    assert -4 < started_s - impact["time_s"] < 2
    involved = [o["box"] for o in detected.data["objects"] if o["involved"]]
    frame = clip.truth["frames"][round(detected_s * 10)]["vehicles"]
    struck = [v["box"] for v in frame if v["track"] in impact["tracks"]]
    involved += [o["box"] for _, update in more for o in update.data["objects"] if o["involved"]]
    for box in involved:
        assert max(overlap(box, other) for other in struck) > 0.3


def overlap(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", ["seoul-normal", "busan-normal"])
def test_ordinary_traffic_is_silent_for_minutes(
    name: str, cut: bool, network: VehicleFinder, tmp_path: Path, cache: dict[str, Clip]
) -> None:
    clip = cache.setdefault(name, cache.get(name) or load(name, network))

    assert watch(clip, tmp_path, loops=3, cut=cut) == []


def test_real_footage_of_people_and_parked_cars_is_silent(network: VehicleFinder, tmp_path: Path) -> None:
    assert watch(load("vtest", network), tmp_path, loops=2) == []


@pytest.fixture(scope="module")
def cache() -> dict[str, Clip]:
    return {}
