"""What the accident score looks at: how each track moves, and how its nearest neighbour does.

All in metres and seconds on the ground, from the frames so far only. Everything is in arrays, a
row a track, and a ring of the last frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .boxes import SIZES_M, Array, Ints, overlaps
from .ground import Ground
from .tracking import Tracks

RING = 40
"""Frames kept: 8 s at 5 frames a second."""
_FIT_S, _FIT_MOST = 0.9, 8  # what a speed's straight line goes through, at most so many frames
_NO_GAP_M = 40.0
_STANDING_M_S = 1.0
_HEADING_FROM_M_S = 1.5
_NEAR_M = 12.0
_TOUCHING_M = 4.0
_YOUNG = 3  # frames that a new track needs before its speed means something

FEATURES = (
    "speed", "acceleration", "hardest_braking_2s", "sideways", "change_1s", "hardest_change_3s",
    "fastest_3s", "standing", "gap", "closest_gap_2s", "closing", "neighbour_speed",
    "neighbour_hardest_braking_2s", "neighbour_hardest_change_3s", "neighbour_heading",
    "neighbour_standing", "near_hardest_change_3s", "near_count", "touching", "nearly_touching",
    "overlap", "most_overlap_2s", "unseen", "age", "grain", "since_change",
)  # fmt: skip
_SCALES = np.array([10, 4, 5, 4, 5, 8, 10, 10, 10, 5, 8, 10, 5, 8, 1, 10, 8, 4, 1, 1, 1, 1, 1, 2, 10, 4], float)


@dataclass(frozen=True)
class Motion:
    """How the tracks moved up to a frame; all arrays have a row a track.

    `places` (n, 2) m, `velocities` (n, 2) m/s, `headings` rad (nan while never moved),
    `gaps` (n, n) m between outlines, `change` m/s the hardest change of velocity within a second of
    the last 6 s, `changed_s` how long ago it was, `before` (n, 2) m/s the velocity before it,
    `previous` the row in the frame before, -1 when new. `features` (n, len(FEATURES)) feed the
    score. Tracks whose place on the ground can't be told are left out.
    """

    tracks: Tracks
    places: Array
    velocities: Array
    speeds: Array
    headings: Array
    gaps: Array
    change: Array
    changed_s: Array
    before: Array
    previous: Ints
    features: Array


class MotionMeter:
    """Follows one camera's tracks on its ground plane."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._times = np.full(RING, -np.inf)
        self._numbers = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)
        self._places = np.zeros((0, RING, 2))
        self._velocities = np.zeros((0, RING, 2))
        self._accelerations = np.zeros((0, RING))
        self._changes = np.zeros((0, RING))
        self._gaps = np.zeros((0, RING))
        self._overlaps = np.zeros((0, RING))
        self._headings = np.zeros(0)
        self._standing_s = np.zeros(0)
        self._unseen_s = np.zeros(0)

    def update(self, time_s: float, tracks: Tracks) -> Motion:
        """Take in the tracks of the frame of `time_s`, which must not go backwards."""
        places = self._ground.places(tracks.boxes)
        known = ~np.isnan(places).any(1)
        tracks, places = tracks.take(known), places[known]
        dt = min(time_s - self._times[-1], 1.0)
        previous = self._follow(tracks.numbers)
        self._times = np.append(self._times[1:], time_s)
        self._counts = np.minimum(self._counts + 1, RING)
        new = previous < 0
        self._places[new] = places[new, None]
        self._places[:, -1] = places

        velocities = self._fit()
        young = self._counts <= _YOUNG
        self._velocities[young] = velocities[young, None]
        self._velocities[:, -1] = velocities
        speeds = np.linalg.norm(velocities, axis=1)
        moving = speeds > _HEADING_FROM_M_S
        self._headings[moving] = np.arctan2(velocities[moving, 1], velocities[moving, 0])
        self._standing_s = np.where(speeds < _STANDING_M_S, self._standing_s + dt, 0.0)
        self._unseen_s = np.where(tracks.seen, 0.0, self._unseen_s + dt)
        lately, second = self._ago(0.6), self._ago(1.0)
        self._accelerations[:, -1] = (speeds - np.linalg.norm(self._velocities[:, lately], axis=1)) / max(
            time_s - self._times[lately], 0.1
        )
        self._changes[:, -1] = np.linalg.norm(velocities - self._velocities[:, second], axis=1)

        gaps = self._gaps_between(places, tracks.kinds)
        overlap = overlaps(tracks.boxes, tracks.boxes)
        np.fill_diagonal(overlap, 0)
        self._gaps[new] = _NO_GAP_M
        self._gaps[:, -1] = gaps.min(1, initial=_NO_GAP_M)
        self._overlaps[:, -1] = overlap.max(1, initial=0.0)

        since = self._ago(6.0)
        peak = self._changes[:, since:].argmax(1) + since
        # The line through the last frames lags behind the motion by half of its length.
        changed_s = time_s - self._times[peak] + 0.5
        begun = np.maximum(peak - (RING - 1 - second), 0)
        rows = np.arange(len(places))
        features = self._features(tracks, velocities, speeds, gaps, changed_s)
        return Motion(
            tracks=tracks,
            places=places,
            velocities=velocities,
            speeds=speeds,
            headings=self._headings.copy(),
            gaps=gaps,
            change=self._changes[rows, peak],
            changed_s=changed_s,
            before=self._velocities[rows, begun],
            previous=previous,
            features=features,
        )

    def _follow(self, numbers: Ints) -> Ints:
        """Bring the rings' rows into the order of `numbers`, and shift them by one frame."""
        rows = {int(number): row for row, number in enumerate(self._numbers)}
        previous = np.array([rows.get(int(number), -1) for number in numbers], np.int64)
        self._numbers = numbers
        known = previous >= 0
        old = previous[known]
        for name in (
            "_places", "_velocities", "_accelerations", "_changes", "_gaps", "_overlaps",
        ):  # fmt: skip
            ring = getattr(self, name)
            shifted = np.zeros((len(numbers), *ring.shape[1:]))
            shifted[known, :-1] = ring[old, 1:]
            setattr(self, name, shifted)
        for name, fresh in (("_headings", np.nan), ("_standing_s", 0.0), ("_unseen_s", 0.0)):
            values = np.full(len(numbers), fresh)
            values[known] = getattr(self, name)[old]
            setattr(self, name, values)
        counts = np.zeros(len(numbers), np.int64)
        counts[known] = self._counts[old]
        self._counts = counts
        return previous

    def _ago(self, seconds: float) -> int:
        """The ring's place of the frame that was about `seconds` ago."""
        return min(int(np.searchsorted(self._times, self._times[-1] - seconds - 0.05)), RING - 1)

    def _fit(self) -> Array:
        """Velocity of each track: the slope of a straight line through its last frames, m/s.

        The frames of _FIT_S, so that speeds mean the same at any frame rate; three at least.
        """
        last = slice(RING - _FIT_MOST, RING)
        since = np.maximum(self._times[last] - self._times[-1], -10.0)
        recent = (since > -_FIT_S) | (np.arange(_FIT_MOST) >= _FIT_MOST - 3)
        known = recent & (np.arange(RING - _FIT_MOST, RING) >= RING - self._counts[:, None])
        weighed = np.where(known, since, 0.0)
        weighed -= weighed.sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
        weighed = np.where(known, weighed, 0.0)
        spread = (weighed**2).sum(1)
        slope = (weighed[..., None] * self._places[:, last]).sum(1)
        velocity: Array = slope / np.where(spread > 1e-6, spread, np.inf)[:, None]
        return velocity

    def _gaps_between(self, places: Array, kinds: Ints) -> Array:
        """Distance between the outlines of each pair, taken as ellipses, m; far on the diagonal."""
        apart = places[None] - places[:, None]
        distance = np.linalg.norm(apart, axis=2)
        bearing = np.arctan2(apart[..., 1], apart[..., 0])
        half = SIZES_M[kinds] / 2
        turned = bearing - np.nan_to_num(self._headings)[:, None]
        reach = np.hypot(half[:, :1] * np.cos(turned), half[:, 1:] * np.sin(turned))
        # Without a heading a vehicle is taken as round.
        unknown = np.isnan(self._headings)
        reach[unknown] = half[unknown].mean(1)[:, None]
        gaps: Array = np.minimum(distance - reach - reach.T, _NO_GAP_M)
        np.fill_diagonal(gaps, _NO_GAP_M)
        return gaps

    def _features(self, tracks: Tracks, velocities: Array, speeds: Array, gaps: Array, changed_s: Array) -> Array:
        count = len(speeds)
        if not count:
            return np.zeros((0, len(FEATURES)))
        lately, two, three = self._ago(0.6), self._ago(2.0), self._ago(3.0)
        braking = self._accelerations[:, two:].min(1)
        change_3s = self._changes[:, three:].max(1)
        then = self._velocities[:, lately]
        aside = np.abs(then[:, 0] * velocities[:, 1] - then[:, 1] * velocities[:, 0])
        near = gaps.argmin(1)
        has = gaps[np.arange(count), near] < _NO_GAP_M
        towards = self._places[near, -1] - self._places[:, -1]
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-3)
        closing = ((velocities - velocities[near]) * towards).sum(1)
        alike = np.nan_to_num(np.cos(self._headings - self._headings[near]))
        touched = np.where(gaps < _TOUCHING_M, change_3s[None], 0.0).max(1)
        gap, closest = self._gaps[:, -1], self._gaps[:, two:].min(1)
        heights = tracks.boxes[:, 3] - tracks.boxes[:, 1]
        grain = np.nan_to_num(self._ground.metres_per_pixel(tracks.boxes), nan=1.0) * heights
        columns = [
            speeds,
            self._accelerations[:, -1],
            braking,
            np.where(speeds > _HEADING_FROM_M_S, aside / np.maximum(speeds, 1.0), 0.0),
            self._changes[:, -1],
            change_3s,
            np.linalg.norm(self._velocities[:, three:], axis=2).max(1),
            self._standing_s,
            gap,
            closest,
            closing * has,
            speeds[near] * has,
            braking[near] * has,
            change_3s[near] * has,
            alike * has,
            self._standing_s[near] * has,
            touched,
            (gaps < _NEAR_M).sum(1),
            np.exp(-np.maximum(gap, 0) / 2),
            np.exp(-np.maximum(closest, 0)),
            self._overlaps[:, -1],
            self._overlaps[:, two:].max(1),
            self._unseen_s,
            self._times[-1] - self._times[RING - self._counts],
            grain,
            changed_s,
        ]
        features: Array = np.minimum(np.maximum(np.column_stack(columns) / _SCALES, -4), 4)
        return features
