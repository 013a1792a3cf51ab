"""The way of annotated videos through the detector to figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from koren_detector.accident import load_weights
from koren_detector.annotations import ClipsError
from koren_detector.boxes import Picture
from koren_detector.evaluate import Detector, Stopwatch, Video, evaluate
from koren_detector.formats import load_clips
from koren_detector.tracking import Detections
from koren_detector.vehicles import Found

MODELS, CLIPS = os.environ.get("KOREN_MODELS"), os.environ.get("KOREN_CLIPS")
RATE, FRAMES = 20, 100
with_clips = pytest.mark.skipif(not (MODELS and CLIPS), reason="KOREN_MODELS and KOREN_CLIPS must name the folders")


class Bright:
    """Takes bright rectangles for cars."""

    def find(self, frame: Picture, top: int = 0) -> Found:
        gray = (frame[..., 1] > 128).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(gray)
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, area in stats[1:] if area > 100], float).reshape(-1, 4)
        return Found(
            Detections(boxes, np.full(len(boxes), 0.9), np.zeros(len(boxes), np.int64)), np.zeros((0, 4))
        )  # fmt: skip


def car(number: int) -> list[int]:
    return [20 + 2 * number, 120, 60 + 2 * number, 150]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a video of five seconds, in which one car drives along."""
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (320, 192))
    for number in range(FRAMES):
        picture = np.zeros((192, 320, 3), np.uint8)
        left, top, right, bottom = car(number)
        picture[top:bottom, left:right] = 255
        writer.write(picture)
    writer.release()
    return tmp_path


def detector(fps: float = 4.0) -> Detector:
    return Detector(Stopwatch(Bright()), load_weights(), fps)


def annotate(folder: Path, **more: object) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps({"video": "a.avi", "incidents": []} | more))
    return path


def test_frames_come_at_the_detectors_pace_with_the_videos_times(folder: Path) -> None:
    video = Video(folder / "a.avi", 4.0)

    shots = list(video)

    assert [shot.time_s for shot in shots] == pytest.approx(np.arange(20) / 4, abs=0.03)
    assert len(video.times) == FRAMES
    assert video.seconds == pytest.approx(FRAMES / RATE, abs=0.06)


def test_calm_traffic_gives_its_time_and_no_alarm(folder: Path) -> None:
    result = evaluate(load_clips(annotate(folder)), detector(), 15.0)

    assert result["false_alarms"] == 0 and result["recall"]["value"] is None
    assert result["hours"] == pytest.approx(FRAMES / RATE / 3600, abs=1e-4)
    # All but the first two.
    assert result["ms_per_frame"]["frames"] == 18
    assert result["weights_trained_on"] and result["threshold"] > 0.5


@pytest.mark.parametrize("every", [1, 7])
def test_boxes_are_compared_in_each_annotated_frame(folder: Path, every: int) -> None:
    frames = [{"frame": number, "boxes": [car(number), [0, 0, 40, 30]]} for number in range(0, FRAMES, every)]

    result = evaluate(load_clips(annotate(folder, vehicles=frames)), detector(), 15.0)

    # The car is found, the other box never. Of boxes in all frames, those count that the detector looks at.
    assert result["ap50"] == 0.5
    assert result["vehicles"] == 2 * (20 if every == 1 else len(frames))


def test_an_accident_that_nobody_saw_is_missed(folder: Path) -> None:
    result = evaluate(load_clips(annotate(folder, incidents=[{"t": 2, "x": 5, "y": 5}])), detector(), 15.0)

    assert (result["recall"]["value"], result["recall"]["of"]) == (0, 1)
    assert result["videos"][0]["missed"] == [{"t": 2, "type": "unknown"}]


def test_an_accident_after_the_videos_end_is_named(folder: Path) -> None:
    with pytest.raises(ClipsError, match=r"a\.avi: .* at 60 s, but the video ends at 5\.0 s; correct its t"):
        evaluate(load_clips(annotate(folder, incidents=[{"t": 60}])), detector(), 15.0)


def test_a_video_that_is_none_is_named(folder: Path) -> None:
    (folder / "a.avi").write_text("no video")

    with pytest.raises(ClipsError, match=r"a\.avi: no frame can be decoded; convert it"):
        evaluate(load_clips(annotate(folder)), detector(), 15.0)


def command(*options: str | Path) -> subprocess.CompletedProcess[str]:
    """The console script, with the host's packages found as these tests find them."""
    code = "from koren_detector.evaluate import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, options)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wrong_annotations_end_the_command_before_anything_runs(folder: Path) -> None:
    done = command("--clips", annotate(folder, incidents=[{}]), "--model", folder / "none.json")

    assert done.returncode == 1 and done.stdout == ""
    assert "a.json: incidents[0] has no 't'" in done.stderr and "Traceback" not in done.stderr


@with_clips
def test_the_command_finds_the_accident_of_the_rendered_clip() -> None:
    done = command("--clips", f"{CLIPS}/seoul-accident.json", "--model", f"{MODELS}/nanodet.json")

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["recall"]["value"] == 1 and result["false_alarms"] == 0
    assert 0 < result["delay_s"]["p50"] < 6
    assert result["place_error"]["m"]["count"] == 1
    assert result["s4"]["value"] > 0.9
    assert 0.05 < result["ap50"] < 1
