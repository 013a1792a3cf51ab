"""Where in a camera's picture vehicles usually stand, and for how long: at lights, at stops, where they park."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .boxes import Array

COLUMNS, ROWS = 40, 24
LEAST_S = 12.0
"""A vehicle that stands for less is never unusual."""
LEARNING_S = 86_400.0
"""So long a camera is watched before its map may be believed: a day has each rush hour."""
_LONGER, _SPARE_S = 1.5, 5.0
_FORGET_S = 7 * 86_400.0

Seconds = npt.NDArray[np.float32]


class QueueMap:
    """The longest time that a vehicle has stood in each cell of the picture, half forgotten after five days.

    `watched_s` is for how long the camera has been watched.
    """

    def __init__(self) -> None:
        self.watched_s = 0.0
        self._longest_s: Seconds = np.zeros((ROWS, COLUMNS), np.float32)

    @property
    def learned(self) -> bool:
        """Whether it was watched for long enough to be believed."""
        return self.watched_s >= LEARNING_S

    def pass_time(self, dt: float) -> None:
        """Take note that the camera was watched for `dt` seconds."""
        self.watched_s += dt
        self._longest_s *= np.float32(np.exp(-dt / _FORGET_S))

    def stood(self, x: Array, y: Array, seconds: Seconds) -> None:
        """Learn how long vehicles stood at places (n,), as shares of the picture's width and height."""
        cells = (np.minimum((y * ROWS).astype(int), ROWS - 1), np.minimum((x * COLUMNS).astype(int), COLUMNS - 1))
        np.maximum.at(self._longest_s, cells, seconds)

    def limits_s(self, width: int, height: int) -> Seconds:
        """From when on a vehicle stands unusually long, for each pixel of a picture of that size."""
        around = cv2.dilate(self._longest_s, np.ones((3, 3), np.uint8))
        limits = np.where(around < LEAST_S / 2, LEAST_S, np.maximum(_LONGER * around + _SPARE_S, LEAST_S))
        wide: Seconds = cv2.resize(limits.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
        return wide

    def to_dict(self) -> dict[str, Any]:
        """All that was learned, for JSON."""
        longest = np.minimum(self._longest_s, 65_535).astype("<u2")
        return {"watched_s": self.watched_s, "longest_s": base64.b64encode(longest.tobytes()).decode()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QueueMap:
        """A map as `to_dict` gave it. Raises ValueError, KeyError or TypeError for anything else."""
        known = cls()
        known.watched_s = float(values["watched_s"])
        longest = np.frombuffer(base64.b64decode(values["longest_s"], validate=True), "<u2")
        known._longest_s = longest.reshape(ROWS, COLUMNS).astype(np.float32)
        if not known.watched_s >= 0:
            raise ValueError(f"watched for {known.watched_s} s can't be")
        return known
