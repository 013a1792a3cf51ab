"""Film simulated junctions: what an imperfect vehicle detector reports of what a random camera sees.

Boxes shake, vehicles are missed (the small and the hidden more, and for a while at a time), neighbours merge, trucks
fall apart, shadows and signs are taken for cars: so the tracker drops tracks and swaps numbers as it does on a street.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from view import HEIGHT, WIDTH, View, random_view

from koren_detector.boxes import KINDS, areas, intersections, suppress
from koren_detector.ground import Ground
from koren_detector.tracking import Detections

TALL_M = np.array([1.5, 2.05, 3.05, 3.15, 1.65])
STEP_S = 0.1
LEAST_SCORE = 0.2
STRETCH_S = 900.0
"""A camera sees one stretch of a junction that is watched as a whole; the next stretch has another camera."""
HARD_M_S, HARDER_M_S = 3.0, 5.0
"""A collision softer than the first is neither an accident nor a proof of peace."""
CAMERAS = 2
"""Cameras that have a collision in sight, in training; twice as many from HARDER_M_S on."""
TRIES = 200
"""How many random cameras are tried for that: some collisions are too far away."""
BEFORE_S, AFTER_S = (1.0, 22.0), (12.0, 22.0)
CALM_S, CALM_AN_HOUR = 60.0, 12
UNKNOWN_GROUND, WRONG_SCALE = 0.2, 0.4
"""Shares of training's cameras whose ground is a typical one, and whose ground is off by up to 30 %."""


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


@dataclass(frozen=True)
class Film:
    """What a detector reports from `start_s` to `end_s`; frame i has the rows from `ends[i - 1]` to `ends[i]`.

    `ground` is the one that the camera is set up with, `owners` the true track of each detection, 0 for none.
    """

    start_s: float
    end_s: float
    view: View
    ground: Ground
    times: np.ndarray
    ends: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    owners: np.ndarray

    def frames(self) -> Iterator[tuple[float, Detections, np.ndarray]]:
        """The second of each frame, its detections and their owners."""
        low = 0
        for time_s, high in zip(self.times, self.ends, strict=True):
            found = Detections(self.boxes[low:high], self.scores[low:high], self.kinds[low:high])
            yield float(time_s), found, self.owners[low:high]
            low = high


@dataclass(frozen=True)
class Traffic:
    """A junction as simulate.py stored it. `hits` are its collisions."""

    states: np.ndarray
    numbers: np.ndarray
    kinds: np.ndarray
    sizes: np.ndarray
    hits: np.ndarray
    seconds: float

    @classmethod
    def load(cls, path: Path) -> "Traffic":
        data = np.load(path)
        kinds = np.array([KINDS.index(kind) for kind in data["kinds"]])
        return cls(
            data["states"], data["numbers"], kinds, data["sizes"], data["collisions"], int(data["steps"]) * STEP_S
        )


def film_whole(path: Path, traffic: Traffic, view: int, most_s: float = np.inf) -> list[Film]:
    """The whole junction, for validation and tests: each stretch through a camera of its own."""
    rng = np.random.default_rng([zlib.crc32(path.name.encode()), view])
    total_s = min(traffic.seconds, most_s)
    films = []
    for start in np.arange(0, total_s, STRETCH_S):
        end = min(start + STRETCH_S, total_s)
        times = _frame_times(rng, start, end)
        if len(times) >= 50:
            camera = random_view(rng)
            films.append(_film(camera, camera.ground, start, end, times, traffic, rng))
    return films


def film_parts(path: Path, traffic: Traffic) -> list[Film]:
    """Parts of a junction, for training: each collision through cameras that have it in sight, and calm traffic."""
    rng = np.random.default_rng([zlib.crc32(path.name.encode()), 1000])
    films = []
    for step, _, _, delta_v, x, y, _ in traffic.hits:
        cameras = 0 if delta_v < HARD_M_S else CAMERAS if delta_v < HARDER_M_S else 2 * CAMERAS
        tried = (random_view(rng) for _ in range(TRIES))
        for camera in islice((view for view in tried if view.shows(x, y)), cameras):
            start = step * STEP_S - rng.uniform(*BEFORE_S)
            films.append(_film_part(camera, start, step * STEP_S + rng.uniform(*AFTER_S), traffic, rng))
    for start in rng.uniform(0, traffic.seconds - CALM_S, round(CALM_AN_HOUR * traffic.seconds / 3600)):
        films.append(_film_part(random_view(rng), start, start + CALM_S, traffic, rng))
    return films


def _film_part(view: View, start: float, end: float, traffic: Traffic, rng: np.random.Generator) -> Film:
    draw = rng.random()
    ground = view.ground
    if draw < UNKNOWN_GROUND:
        ground = Ground.typical(WIDTH, HEIGHT)
    elif draw < UNKNOWN_GROUND + WRONG_SCALE:
        scale = rng.uniform(0.7, 1.3)
        ground = Ground(ground.homography @ np.diag([1 / scale, 1 / scale, 1]))
    return _film(view, ground, start, end, _frame_times(rng, start, end), traffic, rng)


def _frame_times(rng: np.random.Generator, start: float, end: float) -> np.ndarray:
    rate = rng.uniform(2.4, 5.2)
    times = np.arange(start, end, 1 / rate)
    times = times + rng.uniform(-0.02, 0.02, len(times))
    return times[rng.random(len(times)) > 0.02]


def _film(
    view: View, ground: Ground, start: float, end: float, times: np.ndarray, traffic: Traffic, rng: np.random.Generator
) -> Film:
    eyes = SeenBadly(view, rng)
    steps = np.round(times / STEP_S).astype(int)
    first = np.searchsorted(traffic.states["step"], steps)
    last = np.searchsorted(traffic.states["step"], steps, "right")
    found, owners = [], []
    for low, high in zip(first, last, strict=True):
        now = traffic.states[low:high]
        which = np.searchsorted(traffic.numbers, now["track"])
        boxes, sight, depth = true_boxes(view, now, traffic.sizes[which], traffic.kinds[which])
        detections, owner = eyes.detect(now["track"][sight], traffic.kinds[which][sight], boxes, depth)
        found.append(detections)
        owners.append(owner)
    return Film(
        start, end, view, ground, times, np.cumsum([len(owner) for owner in owners]),
        np.concatenate([one.boxes for one in found]), np.concatenate([one.scores for one in found]),
        np.concatenate([one.kinds for one in found]), np.concatenate(owners),
    )  # fmt: skip
