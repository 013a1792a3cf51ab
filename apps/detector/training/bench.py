"""Measure the detector as it is shipped: `python bench.py --model FILE …`; prints one JSON object.

Sets never mix: simulated tracks of junctions that training never saw, real footage, rendered clips, pans. A figure that
was not measured is null, and "why" has the reason. "ms_per_frame" is time of the processor, which other programs do not
lengthen; "sets" has that of the wall, too.
"""

import argparse
import json
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from evaluate import HARDER_M_S, evaluate, score_all
from view import View  # noqa: F401  # pickles have it

from koren_detector.accident import load_weights, trained_on
from koren_detector.annotations import Clip, ClipsError
from koren_detector.evaluate import Detector, Shot, Video, prepare
from koren_detector.formats import load_clips
from koren_detector.graph import GraphError
from koren_detector.ground import Ground
from koren_detector.lineage import feature_code_hash
from koren_detector.measures import poisson, wilson
from koren_detector.outcome import details, figures
from koren_detector.view import ViewWatch

FPS, NETWORK_WIDTH, WITHIN_S = 4.0, 384, 15.0
PANS = 20
_SEED = 7
_RUN_S = 24.0
_WINDOW = 0.7
"""Share of the picture's width and height that the camera which pans shows."""

WHY = {
    "f1_tracks_noisy": "tracks with noise of a given size are not simulated yet",
    "recall_no_ground": "there is no set of accidents without ground yet",
    "f1_video": "the rendered clips have one accident; a set of hours does not exist yet",
    "false_per_h_video": "the rendered clips last minutes; a set of hours does not exist yet",
    "facts_true": "not measured yet",
    "facts_stated": "not measured yet",
}


def judge_tracks(folder: Path) -> dict[str, Any]:
    """Incidents on simulated tracks, by the shipped weights and threshold."""
    observed = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("test*.pickle"))]
    weights = load_weights()
    result = evaluate(observed, score_all(observed, weights), float(weights["threshold"]))
    return {
        "junctions": len(observed),
        "hours": _round(result.hours),
        "delta_v_m_s": HARDER_M_S,
        "accidents": result.incidents_hard,
        "found": result.found_hard,
        "recall": _round(result.recall_hard),
        "recall_95": _round(*wilson(result.found_hard, result.incidents_hard)),
        "false_alarms": result.false_alarms,
        "false_per_h": _round(result.false_alarms_per_h),
        "false_per_h_95": _round(*(bound / result.hours for bound in poisson(result.false_alarms))),
        "f1": _round(result.f1_hard or 0.0),
        "delay_p50_s": _round(result.delay_median_s),
        "delay_p90_s": _round(result.delay_p90_s),
    }


def watch(clips: list[Clip], detector: Detector) -> dict[str, Any]:
    """The figures of a set of videos."""
    watched = []
    for clip in clips:
        print(clip.video, file=sys.stderr, flush=True)
        watched.append(detector.watch(clip))
    return {
        **figures(watched, WITHIN_S),
        "ms_per_frame": detector.network.figures(),
        "videos": [details(clip, WITHIN_S) for clip in watched],
    }


@dataclass(frozen=True)
class Pan:
    """A camera that shows a part of a wider picture, rests, then turns to another part and may zoom in.

    `way` is the direction, -1 to 1 of what the wider picture has to spare across and down.
    """

    begin_s: float
    length_s: float
    way: tuple[float, float]
    zoom: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Pan":
        """A turn within 1 to 5 s, mostly sideways."""
        across, down = rng.choice([-1.0, 1.0]), rng.uniform(-0.5, 0.5)
        return cls(rng.uniform(8, 11), rng.uniform(1, 5), (across, down), float(rng.choice([1.0, 1.0, 1.3])))

    def shown(self, time_s: float, width: int, height: int) -> np.ndarray:
        """The matrix (3, 3) from the wider picture's pixels to those of the camera's picture, which is as large."""
        done = float(np.clip((time_s - self.begin_s) / self.length_s, 0, 1))
        way, size = np.array(self.way), np.array([width, height], float)
        spare = (1 - _WINDOW) * size
        left, top = np.where(way > 0, 0, spare) + done * way * spare
        scale = (1 + done * (self.zoom - 1)) / _WINDOW
        return np.array([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1.0]])

    def shots(self, video: Video) -> Iterator[Shot]:
        """The camera's frames."""
        for shot in video:
            if shot.time_s > _RUN_S:
                return
            height, width = shot.picture.shape[:2]
            matrix = self.shown(shot.time_s, width, height)[:2]
            yield Shot(shot.number, shot.time_s, cv2.warpAffine(shot.picture, matrix, (width, height)))

    def ground(self, clip: Clip) -> Ground | None:
        """The ground of the view that the camera was set up for."""
        if clip.ground is None:
            return None
        first = next(iter(Video(clip.video, FPS)))
        height, width = first.picture.shape[:2]
        return Ground(self.shown(0.0, width, height) @ clip.ground.homography)


def watch_pans(clips: list[Clip], detector: Detector) -> dict[str, Any]:
    """In how many runs a camera above calm traffic raises an alarm once it has begun to turn."""
    rng = np.random.default_rng(_SEED)
    which, before = [], 0
    for run in range(PANS):
        clip, pan = clips[run % len(clips)], Pan.random(rng)
        alarms, _ = detector.look(pan.shots(Video(clip.video, FPS)), pan.ground(clip))
        before += any(alarm.t < pan.begin_s for alarm in alarms)
        later = [alarm.t for alarm in alarms if alarm.t >= pan.begin_s]
        print(f"pan {run + 1} of {PANS}: {len(later)} alarms", file=sys.stderr, flush=True)
        if later:
            which.append({"run": run, "begins_s": _round(pan.begin_s), "alarms_s": [_round(t) for t in later]})
    return {"runs": PANS, "false": len(which), "alarms_before_the_pan": before, "which": which}


def time_view(clips: list[Clip]) -> float:
    """Processor time, in ms a frame, of watching the cameras' views; "ms_per_frame" has it, too."""
    frames, spent_s = 0, 0.0
    for clip in clips:
        views = ViewWatch()
        for shot in Video(clip.video, FPS):
            begun = time.process_time()
            views.update(shot.picture, shot.time_s)
            spent_s += time.process_time() - begun
            frames += 1
    return 1000 * spent_s / max(frames, 1)


def _round(*values: float) -> Any:
    rounded = [None if np.isnan(value) else round(float(value), 4) for value in values]
    return rounded if len(rounded) > 1 else rounded[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="the vehicle network, nanodet.json")
    parser.add_argument("--tracks", type=Path, help="observed test junctions, as observe.py makes them")
    parser.add_argument("--renders", type=Path, required=True, help="folder of rendered clips with their ground truth")
    parser.add_argument("--real", type=Path, help="real footage: folder, manifest or annotations")
    options = parser.parse_args()
    why = dict(WHY)
    try:
        truths = sorted(options.renders.glob("*-*.json"))
        rendered = [clip for truth in truths for clip in load_clips(truth)]
        footage = load_clips(options.real) if options.real else []
        tracks = judge_tracks(options.tracks) if options.tracks else None
        renders = watch(rendered, prepare(options.model, FPS, NETWORK_WIDTH))
        real = watch(footage, prepare(options.model, FPS, NETWORK_WIDTH)) if footage else None
        view_ms = time_view(rendered)
        calm = [clip for clip in rendered if not clip.accidents]
        pans = watch_pans(calm, prepare(options.model, FPS, NETWORK_WIDTH))
    except (ClipsError, GraphError, ValueError, OSError) as error:
        sys.exit(f"bench.py: {error}")
    if tracks is None:
        keys = ("f1_tracks", "false_per_h_tracks", "delay_p50_s", "delay_p90_s")
        why |= dict.fromkeys(keys, "no observed junctions were named: --tracks")
    if real is None:
        why |= dict.fromkeys(("false_real", "ap50_real"), "no real footage was named: KOREN_FOOTAGE")
    values = {
        "f1_tracks": tracks and tracks["f1"],
        "false_per_h_tracks": tracks and tracks["false_per_h"],
        "delay_p50_s": tracks and tracks["delay_p50_s"],
        "delay_p90_s": tracks and tracks["delay_p90_s"],
        "ap50_renders": renders["ap50"],
        "ap50_real": real and real["ap50"],
        "false_real": real and real["false_alarms"],
        "pans_false": pans["false"],
        "ms_per_frame": renders["ms_per_frame"]["processor"],
        "ms_view": _round(view_ms),
    }
    sets = {"tracks": tracks, "renders": renders, "real": real, "pans": pans}
    lineage = {"weights_trained_on": trained_on(), "feature_code": feature_code_hash()}
    print(json.dumps({**values, **dict.fromkeys(WHY), "why": why, **lineage, "sets": sets}))


if __name__ == "__main__":
    main()
