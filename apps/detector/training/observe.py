"""Look at simulated junctions through cameras and an imperfect vehicle detector.

`python observe.py SIMULATED OBSERVED [name ...]`: what the real tracker and motion meter make of
it goes to one file a junction. Boxes shake, vehicles are missed (the small and the hidden more, and
for a while at a time), neighbours merge, trucks fall apart, shadows and signs are taken for cars:
so the tracker drops tracks and swaps numbers as it does on a street.
"""

import argparse
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from labels import HARD_M_S
from view import HEIGHT, WIDTH, View, random_view

from koren_detector.boxes import KINDS, areas, intersections, suppress
from koren_detector.motion import MotionMeter
from koren_detector.tracking import Detections, Tracker

TALL_M = np.array([1.5, 2.05, 3.05, 3.15, 1.65])
STEP_S = 0.1
LEAST_SCORE = 0.2
TRAIN_AROUND_S = (-25.0, 25.0)


class SeenBadly:
    """What a detector reports of true boxes; each vehicle has its own, slowly changing luck."""

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        self.view, self.rng = view, rng
        self.luck: dict[int, np.ndarray] = {}

    def detect(
        self, tracks: np.ndarray, kinds: np.ndarray, boxes: np.ndarray, depth: np.ndarray
    ) -> tuple[Detections, np.ndarray]:
        """Returns the detections and the true track of each (0 for none)."""
        rng, view = self.rng, self.view
        count = len(tracks)
        luck = np.zeros((count, 10))
        for row, track in enumerate(tracks):
            old = self.luck.get(int(track))
            fresh = rng.normal(0, 1, 10)
            if old is not None:
                # The first five change from frame to frame, the others are the vehicle's for good.
                fresh[:5] = 0.75 * old[:5] + 0.66 * fresh[:5]
                fresh[5:] = old[5:]
            self.luck[int(track)] = luck[row] = fresh
        size = boxes[:, 2:] - boxes[:, :2]
        nearer = depth[None] < depth[:, None]
        covered = (intersections(boxes, boxes) * nearer).max(1, initial=0) / np.maximum(areas(boxes), 1)
        tall = np.sqrt(size.prod(1)) * np.where(kinds == KINDS.index("motorcycle"), 0.6, 1.0)
        score = 0.65 / (1 + (view.half_seen_px / tall) ** 2.9) * (1 - 0.5 * covered)
        score += 0.07 * luck[:, 4] + 0.07 * luck[:, 9]
        score[rng.random(count) < view.misses] = 0
        shake = view.jitter * (0.7 * luck[:, :4] + 0.7 * luck[:, 5:9]) * (1 + covered[:, None])
        # Shadows belong to the box as the network sees it.
        seen = boxes + (shake + [-0.03, 0, 0.03, 0.03]) * np.tile(size, 2)
        # A half hidden vehicle's box often ends where the nearer one's begins.
        cut = (covered > 0.2) & (luck[:, 8] > 0.5)
        seen[cut, 3] -= 0.3 * size[cut, 1]
        kinds = np.where(rng.random(count) < 0.15, rng.integers(0, len(KINDS), count), kinds)
        extra, extra_score = [], []
        for ghost in view.ghosts:
            if rng.random() < 0.25:
                extra.append([*(ghost - 22), *(ghost + rng.uniform(10, 26, 2))])
                extra_score.append(rng.uniform(0.15, 0.5))
        for row in np.flatnonzero((kinds >= 2) & (kinds <= 3) & (rng.random(count) < 0.05)):
            x0, y0, x1, y1 = seen[row]
            extra.append([x0, y0, x0 + 0.5 * (x1 - x0), y1])
            extra_score.append(rng.uniform(0.2, 0.6))
        for row in np.flatnonzero((covered > 0.05) & (rng.random(count) < 0.15)):
            other = int((intersections(boxes[row : row + 1], boxes)[0] * nearer[row]).argmax())
            both = seen[[row, other]]
            extra.append([*both[:, :2].min(0), *both[:, 2:].max(0)])
            extra_score.append(rng.uniform(0.15, 0.4))
        owner = np.concatenate([tracks, np.zeros(len(extra), tracks.dtype)])
        if extra:
            seen = np.vstack([seen, extra])
            score = np.concatenate([score, extra_score])
            kinds = np.concatenate([kinds, np.zeros(len(extra), kinds.dtype)])
        keep = suppress(seen, score, 0.6)
        keep = keep[score[keep] > LEAST_SCORE]
        return Detections(seen[keep], score[keep], kinds[keep].astype(np.int64)), owner[keep]


def true_boxes(
    view: View, states: np.ndarray, sizes: np.ndarray, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes of the vehicles in sight, which of them, and their distance."""
    c, s = np.cos(states["heading"]), np.sin(states["heading"])
    along = np.stack([c, s], 1) * sizes[:, :1] / 2
    across = np.stack([-s, c], 1) * sizes[:, 1:] / 2
    middle = np.stack([states["x"], states["y"]], 1)
    corners = np.stack([middle + i * along + j * across for i in (-1, 1) for j in (-1, 1)], 1)
    low = np.concatenate([corners, np.full((*corners.shape[:2], 1), 0.15)], 2)
    # Roofs are narrower than the floor.
    roof = middle[:, None] + 0.86 * (corners - middle[:, None])
    high = np.concatenate([roof, np.broadcast_to(TALL_M[kinds][:, None, None], low.shape[:2] + (1,))], 2)
    pixels, depth = view.project(np.concatenate([low, high], 1))
    full = np.hstack([pixels.min(1), pixels.max(1)])
    boxes = np.clip(full, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    inside = areas(boxes) > 0.35 * areas(full)
    sight = (depth.min(1) > 2) & inside & ((boxes[:, 2:] - boxes[:, :2]).min(1) > 6)
    return boxes[sight], sight, depth.mean(1)[sight]


def observe(path: Path, *, whole: bool, most_s: float = np.inf, view: int = 0) -> dict[str, Any]:
    """What the real tracker makes of a junction, all of it or around its collisions."""
    rng = np.random.default_rng([zlib.crc32(path.name.encode()), view])
    data = np.load(path)
    states, numbers = data["states"], data["numbers"]
    kind_of = np.array([KINDS.index(kind) for kind in data["kinds"]])
    hits = data["collisions"]
    total_s = min(int(data["steps"]) * STEP_S, most_s)
    # A camera sees one stretch; another stretch is another camera, another seed.
    length_s = 900.0 if whole else 300.0
    sequences, watched = [], []
    for start in np.arange(0, total_s, length_s):
        end = min(start + length_s, total_s)
        times = _frame_times(rng, start, end)
        if not whole:
            near = np.zeros(len(times), bool)
            for step, *_ in hits[hits[:, 3] >= HARD_M_S]:
                since = times - step * STEP_S
                near |= (since > TRAIN_AROUND_S[0]) & (since < TRAIN_AROUND_S[1])
            if rng.random() < 0.15:
                near |= True
            times = times[near]
        if len(times) < 50:
            continue
        camera = random_view(rng)
        sequences += _watch(camera, times, states, numbers, kind_of, data["sizes"], rng)
        watched.append((start, end, camera))
    return {"sequences": sequences, "hits": hits, "hours": total_s / 3600, "watched": watched}


def _frame_times(rng: np.random.Generator, start: float, end: float) -> np.ndarray:
    rate = rng.uniform(2.4, 5.2)
    times = np.arange(start, end, 1 / rate)
    times = times + rng.uniform(-0.02, 0.02, len(times))
    return times[rng.random(len(times)) > 0.02]


def _watch(view, times, states, numbers, kind_of, sizes, rng):
    tracker, meter, eyes = Tracker(), MotionMeter(view.ground), SeenBadly(view, rng)
    rows: dict[int, list] = {}
    belongs: dict[int, int] = {}
    first = np.searchsorted(states["step"], np.round(times / STEP_S).astype(int))
    last = np.searchsorted(states["step"], np.round(times / STEP_S).astype(int), "right")
    before = None
    for time_s, low, high in zip(times, first, last, strict=True):
        if before is not None and time_s - before > 2.0:
            tracker, meter = Tracker(tracker.next_number), MotionMeter(view.ground)
            eyes = SeenBadly(view, rng)
        before = time_s
        now = states[low:high]
        which = np.searchsorted(numbers, now["track"])
        boxes, sight, depth = true_boxes(view, now, sizes[which], kind_of[which])
        found, owner = eyes.detect(now["track"][sight], kind_of[which][sight], boxes, depth)
        motion = meter.update(float(time_s), tracker.update(float(time_s), found))
        matched = motion.tracks.detections
        for row, number in enumerate(motion.tracks.numbers):
            if matched[row] >= 0 and owner[matched[row]]:
                belongs[number] = int(owner[matched[row]])
            rows.setdefault(int(number), []).append(
                (time_s, motion.features[row].astype(np.float16), motion.places[row],
                 motion.speeds[row], motion.change[row], motion.changed_s[row],
                 belongs.get(number, 0), motion.tracks.boxes[row])
            )  # fmt: skip
    return [
        {
            "time": np.array([r[0] for r in seq]),
            "features": np.stack([r[1] for r in seq]),
            "place": np.stack([r[2] for r in seq]).astype(np.float32),
            "speed": np.array([r[3] for r in seq], np.float32),
            "change": np.array([r[4] for r in seq], np.float32),
            "changed_s": np.array([r[5] for r in seq], np.float32),
            "true": np.array([r[6] for r in seq], np.int32),
            "box": np.stack([r[7] for r in seq]).astype(np.float32),
        }
        for seq in rows.values()
        if len(seq) >= 4
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("simulated", type=Path)
    parser.add_argument("observed", type=Path)
    parser.add_argument("names", nargs="*", help="only files whose names begin so")
    parser.add_argument("--views", type=int, default=1, help="look through so many cameras in turn")
    parser.add_argument("--hours", type=float, default=np.inf, help="look at each for so long")
    options = parser.parse_args()
    options.observed.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.simulated.glob("*.npz")):
        if options.names and not path.name.startswith(tuple(options.names)):
            continue
        for view in range(options.views):
            target = options.observed / f"{path.stem}-{view}.pickle"
            if target.exists():
                continue
            seen = observe(
                path, whole=not path.name.startswith("train"), most_s=options.hours * 3600,
                view=view,
            )  # fmt: skip
            target.write_bytes(pickle.dumps(seen))
            print(target.stem, len(seen["sequences"]), "tracks", flush=True)


if __name__ == "__main__":
    main()
