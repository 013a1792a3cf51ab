from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from koren_detector.boxes import Picture
from koren_detector.clip_store import Clip, ClipStore, Shot
from koren_detector.incidents import Incident, Wreck
from koren_detector.recorder import Recorder
from koren_detector.settings import CameraSettings
from koren_events import Camera, Event, Text, accident_detected

NAME = Text("이름", "name")
CAMERA = CameraSettings(
    camera=Camera(id="cctv-seoul-01", name=NAME, latitude=37.57, longitude=126.977, road=NAME, direction=NAME),
    region="seoul", url="rtsp://cctv:8554/seoul", ground=None,
)  # fmt: skip
FPS = 4
DARK: Picture = np.zeros((72, 96, 3), np.uint8)
BEGIN_S = 1_000_000.0


class Kept(ClipStore):
    """A store that shows what it is given, besides keeping it; a video of noise takes long."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, kept_days=1, most_bytes=10**9, hold_s=60)
        self.films = True
        self.given: list[tuple[Clip, list[Shot]]] = []

    def keep(self, clip: Clip, shots: list[Shot]) -> None:
        self.given.append((clip, shots))
        if self.films:
            super().keep(clip, shots)


def incident(opened_s: float) -> Incident:
    wrecks = (Wreck(7, 1.0, 2.0, (10.0, 20.0, 60.0, 50.0)), Wreck(8, 2.0, 2.0, (40.0, 15.0, 70.0, 45.0)))
    return Incident(
        x=1.0, y=2.0, started_s=opened_s - 3, opened_s=opened_s, confidence=0.9, what="side", severity="moderate",
        wrecks=wrecks,
    )  # fmt: skip


def event(opened_s: float) -> Event:
    return accident_detected(
        region="seoul", camera=CAMERA.camera, severity="moderate", confidence=0.9, what="side",
        started_at=datetime.fromtimestamp(opened_s - 3, UTC), objects=[], hold=True,
    )  # fmt: skip


def show(recorder: Recorder, from_s: float, seconds: float, picture: Picture = DARK) -> float:
    """Show the picture for some seconds; the time of the last frame."""
    times = [from_s + number / FPS for number in range(round(seconds * FPS))]
    for time_s in times:
        recorder.add(picture, time_s)
    return times[-1]


@pytest.fixture
def store(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "clips")


def test_an_incident_is_kept_from_before_to_after(store: Kept, tmp_path: Path) -> None:
    recorder = Recorder(CAMERA, store)
    opened_s = show(recorder, BEGIN_S, 60)
    recorder.opened(incident(opened_s), event(opened_s))
    show(recorder, opened_s + 1 / FPS, 9)
    assert store.given == []
    show(recorder, opened_s + 9 + 1 / FPS, 2)

    ((clip, shots),) = store.given
    assert shots[0].time_s < opened_s - 15 and shots[-1].time_s >= opened_s + 10
    assert clip.box == (10.0, 15.0, 70.0, 50.0)
    store.close()
    assert len(list((tmp_path / "clips" / "undecided").glob("*.mp4"))) == 1


@pytest.mark.parametrize("how", ["gap", "size", "end"])
def test_a_stream_that_breaks_or_ends_amid_an_incident_leaves_what_was_seen(store: Kept, how: str) -> None:
    recorder = Recorder(CAMERA, store)
    opened_s = show(recorder, BEGIN_S, 20)
    recorder.opened(incident(opened_s), event(opened_s))
    last_s = show(recorder, opened_s + 1 / FPS, 3)

    if how == "gap":
        show(recorder, last_s + 60, 1)
    elif how == "size":
        show(recorder, last_s + 1 / FPS, 1, np.zeros((144, 192, 3), np.uint8))
    else:
        recorder.finish()

    ((_, shots),) = store.given
    assert [shots[0].time_s, shots[-1].time_s] == [BEGIN_S, last_s]
    assert {cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), 1).shape for shot in shots} == {DARK.shape}
    store.close()


def test_large_pictures_do_not_take_more_memory(store: Kept) -> None:
    store.films = False
    recorder = Recorder(CAMERA, store)
    noise = np.random.default_rng(1).integers(0, 255, (1080, 1920, 3), np.uint8)
    opened_s = show(recorder, BEGIN_S, 8, noise)
    recorder.opened(incident(opened_s), event(opened_s))
    recorder.finish()

    ((_, shots),) = store.given
    assert 16 * 2**20 < sum(len(shot.jpeg) for shot in shots) <= 32 * 2**20
    store.close()
