"""Finds vehicles that move against the direction of their arm, for several metres and seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .arms import Arm
from .boxes import KINDS, Array
from .ground import Ground
from .incidents import Sighting, Wreck, box_of, confidence_of
from .motion import Motion

LEAST_M, LEAST_S = 10.0, 2.0
"""A vehicle that has moved against the direction for less is not reported."""

_log = logging.getLogger(__name__)

_DRIVING_M_S = 2.0
_AGAINST = -0.7
_ALONG = 0.7
_PAUSE_S = 1.0
_DOUBTFUL = 3
"""So many vehicles against an arm's heading, and more than along it, mean that the heading is wrong."""


@dataclass
class Lane:
    """A part of the picture whose vehicles move along `heading`, a vector of length 1 on the ground.

    `polygon` is in pixels, `name` is for the log. `along` and `against` count the vehicles that did and did not.
    """

    polygon: Array
    heading: Array
    name: str
    along: int = 0
    against: int = 0

    def has(self, foot: tuple[float, float]) -> bool:
        """Whether a pixel is in it."""
        return bool(cv2.pointPolygonTest(self.polygon.astype(np.float32), foot, False) >= 0)


def lanes_of(arms: Sequence[Arm], ground: Ground, scale: Array) -> list[Lane]:
    """The arms that have a heading, on `ground`; `scale` (2,) brings their pixels to those of its pictures."""
    return [
        Lane(arm.polygon * scale, heading_on(ground, arm.heading * scale), arm.direction.en)
        for arm in arms
        if arm.heading is not None
    ]


def heading_on(ground: Ground, heading: Array) -> Array:
    """The direction on the ground from the first of two pixels to the second, a vector of length 1.

    Raises ValueError where it can't be told.
    """
    begin, end = ground.metres(heading)
    way = end - begin
    length = float(np.linalg.norm(way))
    if not length >= 1.0:
        raise ValueError("its two points must be on the ground, below the horizon and a metre or more apart")
    unit: Array = way / length
    return unit


@dataclass
class _Stretch:
    """A vehicle's way within a lane, in one direction: where and when it began, and when it was last seen on it."""

    lane: Lane
    wrong: bool
    since_s: float
    place: Array
    on_s: float
    counted: bool = False


class WrongWay:
    """Follows the vehicles that one view of a camera shows in its lanes."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self.interrupted()

    def interrupted(self) -> None:
        """The stream was cut: what comes next may be another moment."""
        self._stretches: dict[int, _Stretch] = {}

    def update(self, time_s: float, motion: Motion) -> list[Sighting]:
        """Take in the frame of `time_s` (seconds, never backwards); returns those who drive the wrong way."""
        tracks = motion.tracks
        present = set(tracks.numbers.tolist())
        self._stretches = {
            number: one
            for number, one in self._stretches.items()
            if number in present and time_s - one.on_s <= _PAUSE_S
        }
        sightings = []
        for row in np.flatnonzero(tracks.seen):
            number = int(tracks.numbers[row])
            stretch = self._go_on(number, time_s, motion, int(row))
            if stretch is None:
                continue
            moved_m = abs(float((motion.places[row] - stretch.place) @ stretch.lane.heading))
            times = min(moved_m / LEAST_M, (time_s - stretch.since_s) / LEAST_S)
            if times >= 1 and not stretch.counted:
                stretch.counted = True
                _count(stretch)
            if stretch.wrong:
                lasts = times >= 1 and not _is_doubtful(stretch.lane)
                x, y = (float(value) for value in motion.places[row])
                wreck = Wreck(number, x, y, box_of(tracks.boxes[row]), kind=KINDS[tracks.kinds[row]])
                sightings.append(Sighting(wreck, stretch.since_s, confidence_of(max(times, 1.0)), lasts))
        return sightings

    def _go_on(self, number: int, time_s: float, motion: Motion, row: int) -> _Stretch | None:
        """The stretch that a vehicle is on, None where it is on none now."""
        left, _, right, bottom = motion.tracks.boxes[row]
        lanes = [lane for lane in self._lanes if lane.has(((left + right) / 2, bottom))]
        # Where lanes overlap, neither direction is known to be the right one.
        if len(lanes) != 1 or motion.speeds[row] < _DRIVING_M_S:
            return None
        along = float(motion.velocities[row] @ lanes[0].heading) / float(motion.speeds[row])
        if _AGAINST < along < _ALONG:
            return None
        known = self._stretches.get(number)
        if known is None or known.lane is not lanes[0] or known.wrong != (along < 0):
            known = _Stretch(lanes[0], along < 0, time_s, motion.places[row], time_s)
            self._stretches[number] = known
        known.on_s = time_s
        return known


def _count(stretch: _Stretch) -> None:
    lane = stretch.lane
    if stretch.wrong:
        lane.against += 1
        if _is_doubtful(lane):
            _log.warning(
                "arm %s: %d vehicles drove against its heading and %d along it; wrong ways are not reported there:"
                " check the heading", lane.name, lane.against, lane.along,
            )  # fmt: skip
    else:
        lane.along += 1


def _is_doubtful(lane: Lane) -> bool:
    return lane.against >= _DOUBTFUL and lane.against > lane.along
