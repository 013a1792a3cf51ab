"""Count the incidents that are no accidents on calm video or calm tracks: `python count_events.py …`; prints JSON.

On calm footage each one is a false alarm. Videos are watched as the service does, without arms, and with a map of
queues that is empty but taken as learned. Where a camera's ground is not known, it is that of a typical street camera.
Recorded tracks (CSV with t_s, id, x_m, y_m, v_mps, class) test the rules of people and wrong ways alone: a perfect
network, a camera above the ground, and arms that are each a cell of 20 m with the direction that vehicles have there.
"""

import argparse
import csv
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from koren_detector.accident import load_weights
from koren_detector.annotations import Clip
from koren_detector.boxes import Array
from koren_detector.evaluate import Video
from koren_detector.formats import load_clips
from koren_detector.ground import Ground
from koren_detector.incidents import Opened, Rules
from koren_detector.people import on_foot
from koren_detector.queue_map import LEARNING_S, QueueMap
from koren_detector.queue_store import QueueStore
from koren_detector.reports import Reports
from koren_detector.road import Road
from koren_detector.settings import CameraSettings
from koren_detector.sight import Sight
from koren_detector.stream import Frame, Stream
from koren_detector.tracking import Detections
from koren_detector.vehicles import VehicleFinder
from koren_detector.worker import Finder, Turns, Worker
from koren_detector.wrong_way import Lane
from koren_events import KINDS, Camera, Event, Text

FPS, NETWORK_WIDTH = 4.0, 384
_BEGIN_S = 1_700_000_000.0
_PX_A_M, _CELL_M, _HEADED, _ALIKE = 8.0, 20.0, 5, 0.9


def watch(clip: Clip, finder: Finder) -> tuple[float, list[Event]]:
    """The seconds of a video, and the first events of the incidents in it."""
    camera = Camera(id="count", name=Text("카메라", "camera"), latitude=0.0, longitude=0.0)
    settings = CameraSettings(camera, "count", "", clip.ground, events=frozenset(KINDS))
    events: list[Event] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "reports").mkdir()
        learned, keeper = QueueMap(), QueueStore(settings, Path(folder))
        learned.pass_time(LEARNING_S)
        for time_s in (0.0, 1000.0):
            keeper.keep(learned, time_s)
        weights = load_weights()
        worker = Worker(
            settings, Stream("count", "", FPS), finder, weights, Rules(score=float(weights["threshold"])),
            Reports(settings, Path(folder) / "reports", events.append), queues=QueueStore(settings, Path(folder)),
        )  # fmt: skip
        video = Video(clip.video, FPS)
        for shot in video:
            frame = Frame(shot.picture, _BEGIN_S + shot.time_s, 0)
            worker.decide(frame, worker.look(frame))
    return video.seconds, [event for event in events if event.type.endswith(".detected")]


def count_videos(path: Path, model: Path) -> dict[str, Any]:
    """Incidents in all videos of a folder or manifest."""
    finder = Finder(VehicleFinder(model, NETWORK_WIDTH), Turns())
    seconds, counts, which = 0.0, dict.fromkeys(KINDS, 0), []
    for clip in load_clips(path):
        lasted_s, events = watch(clip, finder)
        seconds += lasted_s
        for event in events:
            counts[event.kind] += 1
            t = round(event.time.timestamp() - _BEGIN_S, 1)
            which.append([clip.video.name, event.kind, t, event.data["confidence"]])
    return {"seconds": round(seconds, 1), "incidents": counts, "which": which}


Row = tuple[int, float, float, float, str]


def frames_of(path: Path, hz: float = 5.0) -> Iterator[tuple[float, list[Row]]]:
    """The rows of recorded tracks, a frame at a time, five frames a second."""
    frames: dict[float, list[Row]] = defaultdict(list)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            t = float(row["t_s"])
            if abs(t * hz - round(t * hz)) < 1e-3:
                place = float(row["x_m"]), float(row["y_m"])
                frames[round(t, 3)].append((int(float(row["id"])), *place, float(row["v_mps"]), row["class"]))
    yield from sorted(frames.items())


def count_tracks(path: Path) -> dict[str, Any]:
    """Incidents on recorded tracks of calm traffic."""
    frames = list(frames_of(path))
    places = np.array([row[1:3] for _, rows in frames for row in rows])
    corner, far = places.min(0) - 10, places.max(0) + 10
    # From above, y up: the nearer to the lower edge, the smaller y.
    homography = np.array([[_PX_A_M, 0, -corner[0] * _PX_A_M], [0, -_PX_A_M, far[1] * _PX_A_M], [0, 0, 1.0]])
    ground = Ground(homography)
    size = tuple(int(side) for side in np.ceil((far - corner) * _PX_A_M))
    lanes = _lanes(frames, ground)
    rules = Rules(score=1.1, events=frozenset({"person-on-road", "wrong-way"}))
    sight = Sight(ground, load_weights(), rules, None, Road((size[0], size[1])), lanes)
    counts, which, people = {"person-on-road": 0, "wrong-way": 0}, [], set()
    vehicles = set()
    for time_s, rows in frames:
        cars = [row for row in rows if row[4] in ("car", "van", "truck", "motorbike")]
        walkers = [row for row in rows if row[4] == "pedestrian"]
        people |= {row[0] for row in walkers}
        vehicles |= {row[0] for row in cars}
        found = _boxes(cars, ground, 2.0, 2.0)
        there = _boxes(walkers, ground, 0.6, 1.7)
        free = on_foot(there.boxes, there.scores, Detections.none(), np.zeros((0, 4)))
        for decision in sight.update(time_s, found, [], lambda _: False, free):
            if isinstance(decision, Opened):
                counts[decision.incident.kind] += 1
                x, y = round(decision.incident.x), round(decision.incident.y)
                which.append([decision.incident.kind, time_s, x, y])
    minutes = (frames[-1][0] - frames[0][0]) / 60
    return {
        "minutes": round(minutes, 1), "vehicles": len(vehicles), "people": len(people), "lanes": len(lanes),
        "incidents": counts, "which": which,
    }  # fmt: skip


def _lanes(frames: list[tuple[float, list[Row]]], ground: Ground) -> list[Lane]:
    """Cells of the ground in which vehicles have one direction, with it."""
    last: dict[int, Array] = {}
    ways: dict[tuple[int, int], dict[int, Array]] = defaultdict(dict)
    for _, rows in frames:
        for number, x, y, speed, kind in rows:
            place = np.array([x, y])
            if kind in ("car", "van", "truck") and speed > 3 and number in last:
                way = place - last[number]
                if np.linalg.norm(way) > 0.1:
                    cell = int(x // _CELL_M), int(y // _CELL_M)
                    ways[cell].setdefault(number, way / np.linalg.norm(way))
            last[number] = place
    lanes = []
    for (column, row), directions in ways.items():
        # Each vehicle has one voice. Cells with several directions, such as a junction's middle, are no arm.
        mean = np.median(np.array(list(directions.values())), axis=0)
        if len(directions) < _HEADED or np.linalg.norm(mean) < _ALIKE:
            continue
        x, y = column * _CELL_M, row * _CELL_M
        corners = np.array([(x, y), (x + _CELL_M, y), (x + _CELL_M, y + _CELL_M), (x, y + _CELL_M)])
        pixels = np.column_stack([corners, np.ones(4)]) @ ground.homography.T
        lanes.append(Lane(pixels[:, :2], mean / np.linalg.norm(mean), f"cell {column} {row}"))
    return lanes


def _boxes(rows: list[Row], ground: Ground, wide_m: float, tall_m: float) -> Detections:
    places = np.array([row[1:3] for row in rows], float).reshape(-1, 2)
    feet = (np.column_stack([places, np.ones(len(places))]) @ ground.homography.T)[:, :2]
    half, tall = wide_m / 2 * _PX_A_M, tall_m * _PX_A_M
    boxes = np.column_stack([feet[:, 0] - half, feet[:, 1] - tall, feet[:, 0] + half, feet[:, 1]])
    return Detections(boxes, np.full(len(rows), 0.8), np.zeros(len(rows), np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="the vehicle network, nanodet.json; needed with --clips")
    parser.add_argument("--clips", type=Path, help="calm videos: folder, manifest or annotations")
    parser.add_argument("--tracks", type=Path, nargs="*", default=[], help="calm recorded tracks, CSV in gzip")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    result = {path.name: count_tracks(path) for path in options.tracks}
    if options.clips:
        if options.model is None:
            parser.error("--clips needs --model")
        result["clips"] = count_videos(options.clips, options.model)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
