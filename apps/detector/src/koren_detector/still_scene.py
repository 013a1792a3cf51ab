"""What of a camera's picture stands still, and since when: two running backgrounds, one of seconds and one of minutes.

The quick one is the median of the last seconds: what moves is not in it. The slow one is what the place usually looks
like. Where they differ, something has come to rest or has gone for good.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

from .boxes import Array, Bools, Picture
from .picture import alike

WIDTH, HEIGHT = 320, 192
"""The small picture in which pixels are compared. Other shapes are squeezed, which does no harm."""
LAG_S = 2.0
"""What comes to rest is in the median so much later."""
USUAL_AFTER_S = 600.0
"""Whatever has stood for so long belongs to the place, such as a parked car."""
_LARGEST = 640
_EVERY_S, _SAMPLES = 0.9, 5
_GAP_S = 4.0
_UNLIKE, _STILL_UNLIKE, _MOVED = 16.0, 8.0, 20.0
_OTHER_LIGHT = 0.5
_LIGHT_FOLLOWS_S = 60.0

Seconds = npt.NDArray[np.float32]


class StillScene:
    """Compares one view's frames; `still_s` says for how long each pixel has been at rest and unlike the usual."""

    def __init__(self) -> None:
        self.still_s: Seconds = np.zeros((HEIGHT, WIDTH), np.float32)
        self.picture: Picture | None = None
        """The median of the last seconds, at most 640 pixels wide; None at first."""
        self._samples: deque[tuple[float, Picture]] = deque(maxlen=_SAMPLES)
        self._usual: npt.NDArray[np.float32] | None = None
        self._before: npt.NDArray[np.float32] | None = None

    def interrupted(self) -> None:
        """What comes next may be another moment."""
        self._samples.clear()

    def update(self, frame: Picture, time_s: float) -> tuple[float, Seconds] | None:
        """Take in the frame of `time_s` (seconds, never backwards).

        About once a second it returns the seconds since the last time, and for each pixel for how long there was
        something that now is no longer at rest, 0 where there was nothing; None otherwise.
        """
        last_s = self._samples[-1][0] if self._samples else None
        if last_s is not None and 0 <= time_s - last_s < _EVERY_S:
            return None
        if last_s is not None and not 0 <= time_s - last_s < _GAP_S:
            self.interrupted()
            last_s = None
        sample = _shrunk(frame)
        if self._samples and sample.shape != self._samples[-1][1].shape:
            self.interrupted()
        self._samples.append((time_s, sample))
        if len(self._samples) < _SAMPLES or last_s is None:
            return None
        self.picture = _median([picture for _, picture in self._samples])
        return time_s - last_s, self._compare(time_s - last_s)

    def belongs(self, where: Bools | tuple[slice, slice]) -> None:
        """What stands in some of the small picture's pixels belongs to the place from now on."""
        if self._usual is not None and self._before is not None:
            self._usual[where] = self._before[where]
            self.still_s[where] = 0

    def looks_usual(self, where: tuple[slice, slice]) -> bool:
        """Whether these rows and columns show what they usually do, only in another light."""
        if self._usual is None or self._before is None:
            return False
        return alike(self._usual[where].mean(axis=2), self._before[where].mean(axis=2))

    def _compare(self, dt: float) -> Seconds:
        smooth = cv2.blur(self.picture, (3, 3))
        now = cv2.resize(smooth, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        if self._usual is None or self._before is None:
            self._usual, self._before = now.copy(), now
            return np.zeros_like(self.still_s)
        # A camera that sets its exposure changes all pixels alike.
        offset = now - self._usual
        unlike = _most(offset - np.median(offset[::4, ::4], axis=(0, 1)).astype(np.float32))
        moved = _most(now - self._before) > _MOVED
        self._before = now
        different = unlike > np.where(self.still_s > 0, _STILL_UNLIKE, _UNLIKE)
        was_s = self.still_s
        if different.mean() > _OTHER_LIGHT:
            self._usual, self.still_s = now.copy(), np.zeros_like(was_s)
            return np.zeros_like(was_s)
        self.still_s = np.where(different & ~moved, was_s + np.float32(dt), np.float32(0))
        follows = 1 - np.exp(-dt / _LIGHT_FOLLOWS_S)
        cv2.accumulateWeighted(now, self._usual, follows, mask=(~different).astype(np.uint8))
        ended: Seconds = np.where((self.still_s == 0) & (was_s > 0), was_s, np.float32(0))
        old = self.still_s >= USUAL_AFTER_S
        if old.any():
            ended[old] = self.still_s[old]
            self.belongs(old)
        return ended


def _shrunk(frame: Picture) -> Picture:
    """The frame, at most 640 pixels wide; a copy."""
    height, width = frame.shape[:2]
    # Halves are quick to make, other parts of a large picture are not.
    while width >= 2 * _LARGEST:
        height, width = height // 2, width // 2
        frame = cv2.resize(frame[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    size = (min(width, _LARGEST), round(height * min(_LARGEST / width, 1.0)))
    shrunk: Picture = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    return shrunk if shrunk is not frame else frame.copy()


def _most(offset: npt.NDArray[np.float32]) -> Seconds:
    """How far each pixel is off in the colour where it is most."""
    blue, green, red = cv2.split(cv2.absdiff(offset, 0))
    most: Seconds = cv2.max(cv2.max(blue, green), red)
    return most


def _median(five: list[Picture]) -> Picture:
    """The median of five pictures, pixel by pixel."""
    a, b, c, d, e = five
    a, b = cv2.min(a, b), cv2.max(a, b)
    c, d = cv2.min(c, d), cv2.max(c, d)
    # Neither the least nor the most of four is the median of five.
    a, b = cv2.max(a, c), cv2.min(b, d)
    low, high = cv2.min(a, b), cv2.max(a, b)
    middle: Picture = cv2.max(low, cv2.min(high, e))
    return middle


def small_box(box: Array, picture: Picture) -> tuple[slice, slice]:
    """The rows and columns of a small picture that a box of `picture` covers, at least a pixel."""
    height, width = picture.shape[:2]
    left, right = (int(side) for side in np.clip(box[[0, 2]] * WIDTH / width, 0, WIDTH - 1))
    top, bottom = (int(side) for side in np.clip(box[[1, 3]] * HEIGHT / height, 0, HEIGHT - 1))
    return slice(top, bottom + 1), slice(left, right + 1)
