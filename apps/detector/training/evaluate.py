"""Judge the accident score with the detector's own incident rules: `python evaluate.py OBSERVED`.

An incident counts as found when one is opened near it within 15 s of the impact. A false alarm is
an incident that has no collision of any strength near it in the minute before.
"""

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from film import HARD_M_S, HARDER_M_S
from view import View  # noqa: F401  # old pickles

from koren_detector.accident import AccidentScore, Weights, load_weights
from koren_detector.incidents import IncidentLog, Opened, Rules
from koren_detector.measures import f1
from koren_detector.motion import Motion
from koren_detector.tracking import Tracks

THRESHOLDS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
NEAR_M = 15.0


@dataclass(frozen=True)
class Result:
    threshold: float
    recall: float
    recall_hard: float
    incidents: int
    incidents_hard: int
    found_hard: int
    false_alarms: int
    hours: float
    delay_median_s: float
    delay_p90_s: float

    @property
    def false_alarms_per_h(self) -> float:
        return self.false_alarms / max(self.hours, 1e-9)

    @property
    def f1_hard(self) -> float | None:
        """F1 for impacts of HARDER_M_S and more; softer ones count neither as missed nor as false alarms."""
        return f1(self.found_hard, self.false_alarms, self.incidents_hard - self.found_hard)

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold}: found {self.recall:.2f} of {self.incidents} with delta-v"
            f" >= {HARD_M_S:g} m/s, {self.recall_hard:.2f} of {self.incidents_hard} >="
            f" {HARDER_M_S:g} m/s; {self.false_alarms} false alarms in {self.hours:.1f} h ="
            f" {self.false_alarms_per_h:.2f}/h; delay median {self.delay_median_s:.1f} s,"
            f" p90 {self.delay_p90_s:.1f} s"
        )


def frames_of(junction: dict) -> list[tuple[float, list[tuple[int, int]]]]:
    """All frames with the (track, index in the track) that each shows, in order of time."""
    frames: dict[float, list[tuple[int, int]]] = {}
    for track, sequence in enumerate(junction["sequences"]):
        for index, time_s in enumerate(sequence["time"]):
            frames.setdefault(float(time_s), []).append((track, index))
    return sorted(frames.items())


def score_all(observed: list[dict], weights: Weights) -> list[list[np.ndarray]]:
    """The score of every frame of every track, by the network that the detector runs."""
    scored = []
    for junction in observed:
        sequences = junction["sequences"]
        lengths = np.array([len(sequence["time"]) for sequence in sequences])
        order = np.argsort(-lengths, kind="stable")
        out = [np.zeros(length) for length in lengths]
        # Tracks don't meet in the network, so all run as if they had begun together.
        score, before = AccidentScore(weights), 0
        for frame in range(int(lengths.max(initial=0))):
            running = order[: int((lengths > frame).sum())]
            features = np.stack([sequences[row]["features"][frame] for row in running])
            previous = np.arange(len(running)) if before else np.full(len(running), -1)
            before = len(running)
            for row, value in zip(running, score.update(_motion(features, previous)), strict=True):
                out[row][frame] = value
        scored.append(out)
    return scored


def _motion(features: np.ndarray, previous: np.ndarray, **known: np.ndarray) -> Motion:
    count = len(features)
    nothing = np.zeros(count)
    numbers = known.get("numbers", np.arange(count))
    tracks = Tracks(
        numbers, known.get("boxes", np.zeros((count, 4))), np.zeros(count, np.int64),
        np.ones(count, bool), numbers,
    )  # fmt: skip
    return Motion(
        tracks=tracks,
        places=known.get("places", np.zeros((count, 2))),
        velocities=np.zeros((count, 2)),
        speeds=known.get("speeds", nothing),
        headings=np.full(count, np.nan),
        gaps=np.full((count, count), 40.0),
        change=known.get("change", nothing),
        changed_s=known.get("changed_s", nothing),
        before=np.zeros((count, 2)),
        previous=previous,
        features=features,
    )


def evaluate(observed: list[dict], scored: list[list[np.ndarray]], threshold: float, **rules: float) -> Result:
    found = {HARD_M_S: 0, HARDER_M_S: 0}
    there = {HARD_M_S: 0, HARDER_M_S: 0}
    false_alarms, hours, delays = 0, 0.0, []
    for junction, scores in zip(observed, scored, strict=True):
        log = IncidentLog(Rules(score=threshold, **rules))
        opened = []
        sequences = junction["sequences"]
        worth_s = -np.inf
        for time_s, shown in frames_of(junction):
            score = np.array([scores[t][i] for t, i in shown])
            if score.max(initial=0) > threshold:
                worth_s = time_s
            if not log.open and time_s - worth_s > 2.0:
                continue
            values = {
                "numbers": np.array([track for track, _ in shown]),
                "places": np.array([sequences[t]["place"][i] for t, i in shown], float),
                "speeds": np.array([sequences[t]["speed"][i] for t, i in shown], float),
                "change": np.array([sequences[t]["change"][i] for t, i in shown], float),
                "changed_s": np.array([sequences[t]["changed_s"][i] for t, i in shown], float),
                "boxes": np.array([sequences[t]["box"][i] for t, i in shown], float),
            }
            motion = _motion(np.zeros((len(shown), 1)), np.full(len(shown), -1), **values)
            for decision in log.update(time_s, motion, score, lambda wreck: False):
                if isinstance(decision, Opened):
                    opened.append((time_s, decision.incident))
        hits = [(hit[0] / 10, hit[3], hit[4], hit[5]) for hit in junction["hits"]]
        used = set()
        for hit_s, delta_v, x, y in _merged(hits, junction):
            near = [
                (time_s, number)
                for number, (time_s, incident) in enumerate(opened)
                if -1 <= time_s - hit_s <= 60 and np.hypot(incident.x - x, incident.y - y) < NEAR_M
            ]
            used |= {number for _, number in near}
            delay = min((time_s - hit_s for time_s, _ in near), default=np.inf)
            for least in there:
                if delta_v >= least:
                    there[least] += 1
                    found[least] += int(delay <= 15)
            if delta_v >= HARD_M_S and delay <= 15:
                delays.append(max(delay, 0.0))
        for hit_s, _, x, y in hits:
            used |= {
                number
                for number, (time_s, incident) in enumerate(opened)
                if -1 <= time_s - hit_s <= 60 and np.hypot(incident.x - x, incident.y - y) < 25
            }
        false_alarms += len(opened) - len(used)
        hours += junction["hours"]
    return Result(
        threshold,
        found[HARD_M_S] / max(there[HARD_M_S], 1), found[HARDER_M_S] / max(there[HARDER_M_S], 1),
        there[HARD_M_S], there[HARDER_M_S], found[HARDER_M_S], false_alarms, hours,
        float(np.median(delays)) if delays else np.nan,
        float(np.percentile(delays, 90)) if delays else np.nan,
    )  # fmt: skip


def _merged(hits: list[tuple], junction: dict) -> list[tuple]:
    """Collisions that a camera had in sight, pile-ups as one: the hardest of 40 s and 15 m."""
    merged: list[tuple] = []
    for hit in sorted(hits, key=lambda h: -h[1]):
        again = any(abs(hit[0] - m[0]) < 40 and np.hypot(hit[2] - m[2], hit[3] - m[3]) < NEAR_M for m in merged)
        if not again and _in_sight(hit, junction):
            merged.append(hit)
    return merged


def _in_sight(hit: tuple, junction: dict) -> bool:
    for start, end, view in junction["watched"]:
        # An impact as a stretch ends leaves no time to see it.
        if start + 10 <= hit[0] <= end - 15:
            pixel, depth = view.project(np.array([[hit[2], hit[3], 0.5]]))
            x, y = pixel[0]
            return bool(depth[0] > 3 and 25 < x < 935 and 25 < y < 535)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("observed", type=Path)
    parser.add_argument("--name", default="test")
    options = parser.parse_args()
    observed = [pickle.loads(path.read_bytes()) for path in sorted(options.observed.glob(f"{options.name}*.pickle"))]
    weights = load_weights()
    scored = score_all(observed, weights)
    print("chosen threshold", float(weights["threshold"]))
    for threshold in sorted({*THRESHOLDS, round(float(weights["threshold"]), 3)}):
        print(evaluate(observed, scored, threshold), flush=True)


if __name__ == "__main__":
    main()
