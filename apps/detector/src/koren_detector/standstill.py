"""Finds vehicles that stand where, or for longer than, vehicles usually stand. How fast they came does not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .boxes import KINDS, Array, Bools, Kind, Picture
from .incidents import Box, confidence_of
from .queue_map import LEAST_S, QueueMap, Seconds
from .still_scene import HEIGHT, LAG_S, USUAL_AFTER_S, WIDTH, StillScene, small_box
from .tracking import Detections

Find = Callable[[Picture], Detections]
"""Finds the vehicles of a picture; boxes are in its pixels."""

_SMALLEST = 16
_AGAIN, _TRIES = 1.5, 3
_COVERED = 0.35
_INNER = 0.2
_SURE = 0.3
_ZOOM = 2.0
_REACH = np.array([0.4, 0.15])
"""Vehicles wait behind each other at so small a gap across and down, in shares of the smaller one's box.

Down the picture the nearer one's roof hides most of the gap.
"""
_EDGE = 3.0
_MOST = 4
_LONGEST_LEARNED_S = 180.0


@dataclass(frozen=True)
class Standing:
    """A vehicle that stands unusually: its box in pixels of the frame, since when (unix s), and how sure, 0 to 1."""

    box: Box
    kind: Kind
    since_s: float
    confidence: float


class Standstill:
    """Watches one view of a camera for vehicles that have come to rest, and learns in `queues` where that is usual."""

    def __init__(self, queues: QueueMap | None = None) -> None:
        self.queues = queues or QueueMap()
        self.begin()

    def begin(self) -> None:
        """Begin anew: whatever stands in the next frames belongs to the place."""
        self._scene = StillScene()
        self._ask_s: Seconds = np.zeros((HEIGHT, WIDTH), np.float32)
        self._asked = np.zeros((HEIGHT, WIDTH), np.uint8)
        self._vehicle: Bools = np.zeros((HEIGHT, WIDTH), bool)
        self._told: Bools = np.zeros((HEIGHT, WIDTH), bool)

    def interrupted(self) -> None:
        """The stream was cut: what comes next may be another moment."""
        self._scene.interrupted()

    def update(self, frame: Picture, time_s: float, find: Find) -> list[Standing]:
        """Take in the frame of `time_s` (unix seconds, never backwards); returns what was found in it.

        `find` is asked where something new stands, and again later: after one and a half times as long. The same
        vehicle may be returned again then, surer.
        """
        step = self._scene.update(frame, time_s)
        if step is None or self._scene.picture is None:
            return []
        dt, ended = step
        self.queues.pass_time(dt)
        self._learn(ended)
        limits = self.queues.limits_s(WIDTH, HEIGHT)
        still_s = self._scene.still_s
        age_s = still_s + np.float32(LAG_S)
        fresh = still_s == 0
        self._asked[fresh], self._vehicle[fresh], self._told[fresh] = 0, False, False
        self._ask_s[fresh] = 0
        due = ~fresh & (age_s >= np.maximum(limits, self._ask_s))
        around = _large(due)
        if around is None:
            return []
        result = self._judge(self._scene.picture, around, age_s, limits, time_s, find)
        self._ask_s[due] = _AGAIN * age_s[due]
        self._asked[due] += 1
        # What is no vehicle after three looks is a shadow, a thing, or the road where a parked car was.
        self._scene.belongs((self._asked >= _TRIES) & ~self._vehicle)
        scale = frame.shape[1] / self._scene.picture.shape[1]
        return [replace(one, box=_scaled(one.box, scale)) for one in result]

    def _learn(self, ended: Seconds) -> None:
        """Take in how long what was still there has stood."""
        # A wreck stays for minutes; what was told by mistake and drove off sooner is learned like any other.
        learned = (ended > 0) & self._vehicle & (~self._told | (ended < _LONGEST_LEARNED_S))
        learned |= ended >= USUAL_AFTER_S
        y, x = np.nonzero(learned)
        if len(y):
            self.queues.stood((x + 0.5) / WIDTH, (y + 0.5) / HEIGHT, ended[y, x] + np.float32(LAG_S))

    def _judge(
        self, picture: Picture, around: Array, age_s: Seconds, limits: Seconds, time_s: float, find: Find
    ) -> list[Standing]:
        """The vehicles in and near the box `around` of small pixels that stand unusually; in pixels of `picture`."""
        height, width = picture.shape[:2]
        left, top, right, bottom = _window(around * np.tile([width / WIDTH, height / HEIGHT], 2), width, height)
        found = find(np.ascontiguousarray(picture[top:bottom, left:right]))
        sure = found.scores > _SURE
        boxes, kinds = found.boxes[sure] + np.tile([left, top], 2), found.kinds[sure]
        ages, own_limits = np.zeros(len(boxes)), np.zeros(len(boxes))
        for row, box in enumerate(boxes):
            sides = np.tile(box[2:] - box[:2], 2) * [1, 1, -1, -1]
            inner, about = small_box(box + _INNER * sides, picture), small_box(box - _INNER * sides, picture)
            if self._scene.looks_usual(about):
                self._scene.belongs(about)
                continue
            still = age_s[inner] > LAG_S
            if still.mean() >= _COVERED:
                ages[row] = np.percentile(age_s[inner][still], 40)
                own_limits[row] = limits[inner].max()
                self._vehicle[small_box(box, picture)] = True
        stands = ages > 0
        unusual = stands & (ages >= own_limits)
        if not self.queues.learned or not unusual.any():
            return []
        near = _near(boxes, np.array([left, top, right, bottom], float))
        in_queue = _spread(stands & ~unusual & (own_limits > LEAST_S), stands, near)
        told = unusual & ~in_queue
        result = []
        for row in np.flatnonzero(told):
            group = _spread(np.arange(len(boxes)) == row, stands, near)
            # Many that stand together are a jam.
            if np.count_nonzero(group) > _MOST:
                continue
            self._told[small_box(boxes[row], picture)] = True
            x0, y0, x1, y1 = (float(side) for side in boxes[row])
            confidence = confidence_of(ages[row] / own_limits[row])
            result.append(Standing((x0, y0, x1, y1), KINDS[kinds[row]], time_s - float(ages[row]), confidence))
        return result


def _large(due: Bools) -> Array | None:
    """The box around all that is due and large enough, in small pixels."""
    if np.count_nonzero(due) < _SMALLEST:
        return None
    _, _, stats, _ = cv2.connectedComponentsWithStats(due.astype(np.uint8))
    stats = stats[1:][stats[1:, cv2.CC_STAT_AREA] >= _SMALLEST]
    if not len(stats):
        return None
    around: Array = np.array([*stats[:, :2].min(0), *(stats[:, :2] + stats[:, 2:4]).max(0)], float)
    return around


def _window(around: Array, width: int, height: int) -> tuple[int, int, int, int]:
    """A part of the picture, of its shape, with `around` in its middle and as much again about it."""
    sides = around[2:] - around[:2]
    part = float(np.clip(2 * max(sides[0] / width, sides[1] / height), 1 / _ZOOM, 1.0))
    size = np.ceil(part * np.array([width, height])).astype(int)
    corner = np.clip((around[:2] + around[2:] - size) / 2, 0, [width, height] - size).astype(int)
    return int(corner[0]), int(corner[1]), int(corner[0] + size[0]), int(corner[1] + size[1])


def _near(boxes: Array, window: Array) -> Bools:
    """Which boxes are as near to each other as vehicles that wait behind each other; shape (n, n)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    # Of a vehicle that the window's edge cuts off the size can't be told.
    sides[(np.abs(boxes - window) <= _EDGE).any(axis=1)] = np.inf
    gaps = np.maximum(boxes[:, None, :2] - boxes[None, :, 2:], boxes[None, :, :2] - boxes[:, None, 2:])
    smaller = np.minimum(sides[:, None], sides[None])
    near: Bools = (gaps < _REACH * np.where(np.isinf(smaller), 0.0, smaller)).all(axis=2)
    return near


def _spread(begin: Bools, among: Bools, near: Bools) -> Bools:
    """Those of `among` that are near one of `begin`, or near one that is, and so on; `begin` included."""
    reached = begin.copy()
    for _ in range(len(begin)):
        reached |= among & near[reached].any(axis=0)
    return reached


def _scaled(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (round(side * scale, 1) for side in box)
    return x0, y0, x1, y1
