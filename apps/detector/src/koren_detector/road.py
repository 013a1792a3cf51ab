"""Where in a camera's picture the carriageway is: as its arms say, else where vehicles were seen to drive."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .boxes import Array, Bools, Ints
from .motion import Motion
from .resized import Size

_COLUMNS, _ROWS = 40, 24
_DRIVING_M_S = 2.0
_VEHICLES = 10
"""Vehicles that have driven over a part of the picture before it is taken for carriageway."""


class Road:
    """The carriageway in pictures of `size`, without `crossings`; polygons are in their pixels.

    Without `arms`, it is where vehicles have driven since this was made.
    """

    def __init__(self, size: Size, arms: Sequence[Array] = (), crossings: Sequence[Array] = ()) -> None:
        self._size = size
        self._arms = _mask(size, arms) if arms else None
        self._crossings = _mask(size, crossings)
        self._vehicles = np.zeros((_ROWS, _COLUMNS), np.int64)
        self._cells: dict[int, set[int]] = {}

    def has(self, feet: Array) -> Bools:
        """Which places (n, 2), in pixels, are on it."""
        x, y = (np.clip(feet[:, axis], 0, self._size[axis] - 1).astype(int) for axis in (0, 1))
        if self._arms is None:
            rows, columns = np.divmod(self._cells_of(feet), _COLUMNS)
            carriageway = self._vehicles[rows, columns] >= _VEHICLES
        else:
            carriageway = self._arms[y, x]
        on: Bools = carriageway & ~self._crossings[y, x]
        return on

    def learn(self, motion: Motion) -> None:
        """Take note of where vehicles drive in a frame."""
        tracks = motion.tracks
        driving = np.flatnonzero(tracks.seen & (motion.speeds > _DRIVING_M_S))
        for row in driving:
            left, _, right, bottom = tracks.boxes[row]
            across = left + (right - left) * np.array([0.25, 0.5, 0.75])
            cells = set(self._cells_of(np.column_stack([across, np.full(3, bottom)])).tolist())
            known = self._cells.setdefault(int(tracks.numbers[row]), set())
            self._vehicles.flat[list(cells - known)] += 1
            known |= cells
        present = set(tracks.numbers.tolist())
        self._cells = {number: cells for number, cells in self._cells.items() if number in present}

    def _cells_of(self, places: Array) -> Ints:
        shares = places / self._size
        columns = np.clip((shares[:, 0] * _COLUMNS).astype(int), 0, _COLUMNS - 1)
        rows = np.clip((shares[:, 1] * _ROWS).astype(int), 0, _ROWS - 1)
        cells: Ints = rows * _COLUMNS + columns
        return cells


def _mask(size: Size, polygons: Sequence[Array]) -> Bools:
    mask = np.zeros((size[1], size[0]), np.uint8)
    for corners in polygons:
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
    return mask.astype(bool)
