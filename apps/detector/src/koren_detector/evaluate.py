"""Runs the detector on annotated videos and prints how well it does: `koren-detector-evaluate --clips … --model …`.

Frames go the way that they go in the service, from a camera's worker to the events that it publishes, only that they
come from a file, as fast as they are decoded, and that time is the video's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from koren_events import Camera, Event, Text

from .accident import Weights, load_weights, trained_on
from .annotations import Accident, Clip, ClipsError, box_array
from .boxes import Picture
from .formats import load_clips
from .graph import GraphError
from .ground import Ground
from .incidents import Rules
from .lineage import feature_code_hash
from .measures import hits
from .outcome import Alarm, Watched, details, figures
from .reports import Reports
from .settings import CameraSettings
from .stream import Frame, Stream
from .vehicles import Found, VehicleFinder
from .worker import Finder, Network, Turns, Worker

_START_S = 1_700_000_000.0  # the unix time at which all videos begin
_NAME = Text("평가", "evaluation")
_CAMERA = Camera(id="evaluation", name=_NAME, latitude=0.0, longitude=0.0, road=_NAME, direction=_NAME)
_WARMING_UP = 2
"""Frames of a clip that do not count for the time a frame takes: the network is compiled for their size."""


@dataclass(frozen=True)
class Shot:
    """A frame of a video: its number, its second, and whether it is its turn at the detector's pace."""

    number: int
    time_s: float
    picture: Picture
    due: bool = True


class Video:
    """A video's frames at the detector's pace, with the times that the file gives them, from the first frame on.

    Frames whose numbers are in `wanted` come, too. `times` has the seconds of all frames so far, also of those that
    were passed over.
    """

    def __init__(self, path: Path, fps: float, wanted: Set[int] = frozenset()) -> None:
        self.path, self._fps, self._wanted = path, fps, wanted
        self.times: list[float] = []

    def __iter__(self) -> Iterator[Shot]:
        """The frames. Raises ClipsError when there is none."""
        capture = cv2.VideoCapture(str(self.path))
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        due_s = first_s = 0.0
        try:
            while capture.grab():
                stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if not self.times:
                    # Recordings of streams begin at any time, and some versions of OpenCV are a frame ahead.
                    first_s = stamp_s
                time_s = stamp_s - first_s
                if self.times and time_s <= self.times[-1]:
                    time_s = self.times[-1] + 1 / rate
                number = len(self.times)
                self.times.append(time_s)
                # As the stream does: half a frame's length of tolerance.
                due = time_s >= due_s - 0.02
                if due:
                    due_s = time_s + 1 / self._fps
                if due or number in self._wanted:
                    found, picture = capture.retrieve()
                    if found:
                        yield Shot(number, time_s, picture, due)
        finally:
            capture.release()
        if not self.times:
            raise ClipsError(f"{self.path}: no frame can be decoded; convert it, for example with ffmpeg to H.264")

    @property
    def seconds(self) -> float:
        """How long the video is."""
        return self.times[-1] + (self.times[-1] / max(len(self.times) - 1, 1) if len(self.times) > 1 else 0.0)


@dataclass
class Stopwatch:
    """Measures where time goes: seconds of the wall and of the processor a frame, and of the wall in the network."""

    network: Network
    frames: int = 0
    wall_s: float = 0.0
    processor_s: float = 0.0
    calls: int = 0
    network_s: float = 0.0
    _counts: bool = False

    def find(self, frame: Picture, top: int = 0) -> Found:
        """What the network finds."""
        begun = time.perf_counter()
        found = self.network.find(frame, top)
        if self._counts:
            self.calls += 1
            self.network_s += time.perf_counter() - begun
        return found

    @contextmanager
    def frame(self, *, counts: bool) -> Iterator[None]:
        """Around all that is done for one frame."""
        wall, processor, self._counts = time.perf_counter(), time.process_time(), counts
        yield
        if counts:
            self.frames += 1
            self.wall_s += time.perf_counter() - wall
            self.processor_s += time.process_time() - processor
        self._counts = False

    def figures(self) -> dict[str, Any]:
        """Milliseconds a frame, for JSON."""

        def each(seconds: float, count: int) -> float | None:
            return round(1000 * seconds / count, 1) if count else None

        return {
            "frames": self.frames,
            "wall": each(self.wall_s, self.frames),
            "processor": each(self.processor_s, self.frames),
            "network": each(self.network_s, self.calls),
        }


@dataclass
class Seen:
    """The size of a video's pictures, and what was found in the frames that have annotated boxes."""

    size: tuple[int, int] = (0, 0)
    annotated: dict[int, Found] = field(default_factory=dict)


@dataclass
class Detector:
    """What all clips are watched with."""

    network: Stopwatch
    weights: Weights
    fps: float
    turns: Turns = field(default_factory=Turns)

    def watch(self, clip: Clip) -> Watched:
        """Watch a clip from its beginning, as a camera that was just set up. Raises ClipsError."""
        boxes = {frame.frame: frame.boxes for frame in clip.vehicles}
        # Of a video with boxes in all frames, those are enough that the detector looks at anyway.
        wanted = frozenset() if any(number + 1 in boxes for number in boxes) else frozenset(boxes)
        video = Video(clip.video, self.fps, wanted)
        alarms, seen = self.look(iter(video), clip.ground, boxes.keys())
        vehicles = {number: found.vehicles for number, found in seen.annotated.items()}
        right = [hits(found.boxes, found.scores, boxes[number]) for number, found in vehicles.items()]
        return Watched(
            name=clip.video.name,
            seconds=video.seconds,
            size=seen.size,
            ground=clip.ground,
            accidents=tuple(_in_pixels(accident, clip, video, seen.size) for accident in clip.accidents),
            alarms=tuple(alarms),
            vehicle_scores=np.concatenate([np.zeros(0), *(found.scores for found in vehicles.values())]),
            vehicle_hits=np.concatenate([np.zeros(0, bool), *right]),
            vehicles=sum(len(boxes[number]) for number in vehicles),
        )

    def look(
        self, shots: Iterator[Shot], ground: Ground | None, annotated: Set[int] = frozenset()
    ) -> tuple[list[Alarm], Seen]:
        """Show frames to a camera's worker; returns what it published, and what it found in annotated frames."""
        events: list[Event] = []
        seen = Seen()
        settings = CameraSettings(_CAMERA, "evaluation", "", ground)
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(
                settings, Stream("evaluation", "", self.fps), Finder(self.network, self.turns), self.weights,
                Rules(score=float(self.weights["threshold"])), Reports(settings, Path(folder), events.append),
            )  # fmt: skip
            for count, shot in enumerate(shots):
                seen.size = (shot.picture.shape[1], shot.picture.shape[0])
                if shot.due:
                    with self.network.frame(counts=count >= _WARMING_UP):
                        frame = Frame(shot.picture, _START_S + shot.time_s, 0)
                        found = worker.look(frame)
                        worker.decide(frame, found)
                else:
                    found = self.network.find(shot.picture)
                if shot.number in annotated:
                    seen.annotated[shot.number] = found
        return _alarms(events), seen


def _in_pixels(accident: Accident, clip: Clip, video: Video, size: tuple[int, int]) -> Accident:
    """The accident with seconds for times and pixels for its place. Raises ClipsError for a time after the end."""
    t, cleared = accident.t, accident.cleared
    if clip.frame_times:
        last = len(video.times) - 1
        if t > last:
            raise ClipsError(f"{clip.video}: an accident is at frame {t:g}, but the last is {last}; correct its frame")
        t = video.times[int(t)]
        cleared = None if cleared is None or cleared > last else video.times[int(cleared)]
    elif t > video.seconds:
        raise ClipsError(
            f"{clip.video}: an accident is at {t:g} s, but the video ends at {video.seconds:.1f} s; correct its t"
        )
    place = accident.place
    if place is not None and accident.relative:
        place = place[0] * size[0], place[1] * size[1], place[2] * size[0], place[3] * size[1]
    return Accident(t, place, accident.type, cleared)


def _alarms(events: list[Event]) -> list[Alarm]:
    """Published events as alarms."""
    alarms: list[Alarm] = []
    of_subject: dict[str, int] = {}
    for event in events:
        if event.type.endswith(".detected"):
            involved = [thing["box"] for thing in event.data["objects"] if thing["involved"]]
            of_subject[event.subject] = len(alarms)
            alarms.append(
                Alarm(
                    t=event.time.timestamp() - _START_S,
                    started=_seconds(event.data["started_at"]),
                    confidence=event.data["confidence"],
                    boxes=box_array(involved),
                    what=event.data["what"],
                )
            )
        elif event.type.endswith(".cleared"):
            number = of_subject[event.subject]
            alarms[number] = replace(alarms[number], cleared=_seconds(event.data["cleared_at"]))
    return alarms


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() - _START_S


def evaluate(clips: list[Clip], detector: Detector, within_s: float) -> dict[str, Any]:
    """Watch all clips; the figures, for JSON. Raises ClipsError."""
    watched: list[Watched] = []
    for clip in clips:
        print(f"{clip.video} ({len(watched) + 1} of {len(clips)})", file=sys.stderr, flush=True)
        watched.append(detector.watch(clip))
    return {
        **figures(watched, within_s),
        "ms_per_frame": detector.network.figures(),
        "fps": detector.fps,
        "threshold": round(float(detector.weights["threshold"]), 4),
        "weights_trained_on": trained_on(),
        "feature_code": feature_code_hash(),
        "videos": [details(clip, within_s) for clip in watched],
    }


def prepare(model: Path, fps: float, network_width: int) -> Detector:
    """The detector as the service has it, on one thread. Raises GraphError, ValueError."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return Detector(Stopwatch(VehicleFinder(model, network_width)), load_weights(), fps)


def main() -> None:
    """Entry of the command: `koren-detector-evaluate --clips PATH --model FILE`."""
    parser = argparse.ArgumentParser(description="Run the detector on annotated videos, and print figures as JSON.")
    parser.add_argument(
        "--clips", type=Path, required=True,
        help="folder with videos and annotations, a manifest, or annotations: own JSON, OpenLABEL, ACCIDENT's CSV",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, required=True, help="the vehicle network, nanodet.json")
    parser.add_argument("--fps", type=float, default=4.0, help="frames looked at a second (4)")
    parser.add_argument("--network-width", type=int, default=384, help="pixels, a multiple of 32 (384)")
    parser.add_argument("--within", type=float, default=15.0, help="an alarm comes at most so many seconds late (15)")
    options = parser.parse_args()
    try:
        clips = load_clips(options.clips)
        if not 1 <= options.fps <= 10:
            raise ValueError(f"--fps {options.fps:g} must be between 1 and 10; the score was taught at 4 to 5")
        figures_of = evaluate(clips, prepare(options.model, options.fps, options.network_width), options.within)
    except (ClipsError, GraphError, ValueError, OSError) as error:
        sys.exit(f"koren-detector-evaluate: {error}")
    print(json.dumps(figures_of, ensure_ascii=False, indent=1))
