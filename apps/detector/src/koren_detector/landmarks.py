"""What a fixed camera's view is known by: small corners in all parts of the picture, and how they lie now.

A vehicle hides some of them, a lorry most; a camera that moves takes all along. How alike two corners are does not
depend on brightness or contrast, only on where the light comes from, so a part of the picture may have several.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .boxes import Array, Picture

Gray = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 320, 192
"""The small picture, in whose pixels all lengths here are. Other shapes are squeezed, which does no harm."""
SWAY = 2.0
"""A camera on a mast may sway so far."""

_CELL = 32
_ASIDE, _ABOVE = 14, 28
"""No landmark is nearer to the edges: recorders write names and clocks there, which stay though the camera moves."""
_PATCH = 7
_NEAR, _FAR = 6, 20
"""A landmark is looked for so far from its place; further where few are found."""
_CORNER = 6e-4
_ENOUGH = 8
_ALIKE = 0.75
_IN_PLACE = 0.15
"""Share of the landmarks that proves a view though the rest is hidden: chance gives .1 at most."""
_PLAINLY = 0.6
_KNOWN_AGAIN = 0.3
_PRESET = 5.0
"""A camera comes back to a preset as near as this."""
_FLAT = 0.35
_SPARE, _TRIES = 3, 3
_PROVEN = 40
_UNPROVEN_S, _PROVEN_S = 20.0, 3600.0
_LOST_S, _RENEW_EVERY_S = 4.0, 2.0
_BEHIND_S, _LIGHT_S = 10.0, 20.0
_EDGES_REACH, _EDGES_ALIKE, _EDGES_UNLIKE = 12, 0.25, 0.1


def small(picture: Picture) -> Gray:
    """The small gray picture that is compared."""
    gray = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    # Halves are quick to make, other parts of a large picture are not.
    while gray.shape[1] >= 2 * WIDTH and gray.shape[0] >= 2 * HEIGHT:
        height, width = gray.shape[0] // 2 * 2, gray.shape[1] // 2 * 2
        gray = cv2.resize(gray[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    shrunk = cv2.resize(gray, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    result: Gray = cv2.GaussianBlur(shrunk, (3, 3), 0)
    return result


class Where(Enum):
    """How a view lies in a picture."""

    IN_PLACE = "in place"
    SHIFTED = "shifted"
    LOST = "lost"


@dataclass(frozen=True)
class Sighting:
    """A view in a picture: how it lies, how far it was shifted (px) and scaled as far as that can be told, the share
    of its landmarks that are seen in place, and the share of places that are flat where a landmark was."""

    where: Where
    shift: tuple[float, float] | None
    scale: float
    in_place: float
    flat: float


@dataclass
class _Landmark:
    x: int
    y: int
    patch: Gray
    contrast: float
    first_s: float
    seen_s: float
    seen_frames: int = 1


class Landmarks:
    """The landmarks of one view, first taken from the small picture `gray` of `time_s`."""

    def __init__(self, gray: Gray, time_s: float) -> None:
        self._cells: dict[tuple[int, int], list[_Landmark]] = {}
        self._offset = np.zeros(2, np.int64)
        self._behind = gray.astype(np.float32)
        self._frames = 1
        self._turn = False
        self._last_s = self._renewed_s = time_s
        self._renew(gray, time_s)

    def to_dict(self) -> dict[str, Any]:
        """All that the view is known by, for JSON."""
        return {
            "behind": _coded(self._behind.astype(np.uint8)),
            "frames": self._frames,
            "offset": self._offset.tolist(),
            "last_s": self._last_s,
            "marks": [
                [*cell, mark.x, mark.y, _coded(mark.patch), mark.contrast, mark.first_s, mark.seen_s, mark.seen_frames]
                for cell, known in self._cells.items() for mark in known
            ],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], later_s: float) -> Landmarks:
        """A view as `to_dict` gave it, as if the `later_s` since then had not passed.

        Raises ValueError, KeyError or TypeError where it did not.
        """
        view = cls.__new__(cls)
        view._behind = _decoded(values["behind"], (HEIGHT, WIDTH)).astype(np.float32)
        view._frames, view._turn = int(values["frames"]), False
        view._offset = np.array(values["offset"], np.int64).reshape(2)
        view._last_s = view._renewed_s = float(values["last_s"]) + later_s
        view._cells = {}
        side, cells = 2 * _PATCH + 1, set(_all_cells())
        for cell_x, cell_y, x, y, patch, contrast, first_s, seen_s, seen_frames in values["marks"]:
            known = view._cells.setdefault((int(cell_x), int(cell_y)), [])
            inside = _PATCH <= x < WIDTH - _PATCH and _PATCH <= y < HEIGHT - _PATCH
            if (cell_x, cell_y) not in cells or not inside or len(known) >= _SPARE:
                raise ValueError(f"a landmark at {x}, {y} of cell {cell_x}, {cell_y} can't be")
            gray = _decoded(patch, (side, side))
            known.append(_Landmark(
                int(x), int(y), gray, float(contrast), first_s + later_s, seen_s + later_s, int(seen_frames)
            ))  # fmt: skip
        return view

    @property
    def enough(self) -> bool:
        """Whether there are enough to tell this view from another."""
        return len(self._cells) >= _ENOUGH

    def look(self, gray: Gray, time_s: float, learn: bool = False) -> Sighting:
        """How the view lies in a picture; where it is in place, what looks otherwise by now is learned.

        A view without enough landmarks is always in place.
        """
        # Half of them prove it as a rule.
        self._turn = not self._turn
        marks, alike, shifts = self._find(gray, _NEAR, self._turn)
        if not self.enough or _near(alike, shifts).mean() < _PLAINLY:
            others = self._find(gray, _NEAR, not self._turn)
            marks, alike, shifts = (
                marks + others[0], np.concatenate([alike, others[1]]), np.vstack([shifts, others[2]]),
            )  # fmt: skip
        near = _near(alike, shifts)
        in_place = float(near.mean()) if len(near) else 1.0
        where, shift, scale = Where.IN_PLACE, (0.0, 0.0), 1.0
        if near.any():
            shift = _pair(np.median(shifts[near], axis=0))
        if self.enough and in_place < _PLAINLY:
            # The first landmarks may be vehicles, of a queue that moves on: a young view is given up later.
            young = self._frames < _PROVEN
            far = self._find(gray, _FAR) if in_place < 2 * _IN_PLACE else (marks, alike, shifts)
            moved = _fit(*far)
            least = max(_ENOUGH, 1.5 * near.sum(), (0.5 if young else 0.25) * len(marks))
            if moved is not None and moved[2] >= least:
                where, shift, scale = Where.SHIFTED, moved[0], moved[1]
            elif in_place < (_IN_PLACE / 2 if young else _IN_PLACE):
                return Sighting(Where.LOST, None, 1.0, in_place, self._flat(gray, marks))
        flat = 0.0
        if where is Where.IN_PLACE and in_place < _PLAINLY:
            flat = self._flat(gray, [mark for mark, there in zip(marks, near, strict=True) if not there], len(marks))
        if learn and where is Where.IN_PLACE:
            self._learn(gray, time_s, [m for m, there in zip(marks, near, strict=True) if there], max(map(abs, shift)))
        return Sighting(where, shift, scale, in_place, flat)

    def known_again(self, gray: Gray) -> bool:
        """Whether a picture shows this view, about where it was; if so it is expected just there from now on."""
        if not self.enough:
            return not Landmarks(gray, 0.0).enough
        _, alike, shifts = self._find(gray, _NEAR)
        if alike.mean() < _KNOWN_AGAIN:
            return False
        middle = np.median(shifts[alike], axis=0)
        there = _near(alike, shifts - middle)
        off = np.rint(middle).astype(np.int64)
        if there.mean() < _KNOWN_AGAIN or np.abs(self._offset + off).max() > _PRESET:
            return False
        if np.abs(off).max() > 1:
            self._take_along(int(off[0]), int(off[1]))
        return True

    def _take_along(self, x: int, y: int) -> None:
        """The camera came back to its preset beside where it was: everything is expected so far off."""
        self._offset += (x, y)
        self._behind = np.roll(self._behind, (y, x), (0, 1))
        for cell, known in list(self._cells.items()):
            for mark in known:
                mark.x, mark.y = mark.x + x, mark.y + y
            inside = [
                mark for mark in known
                if _PATCH <= mark.x < WIDTH - _PATCH and _PATCH <= mark.y < HEIGHT - _PATCH
            ]  # fmt: skip
            if inside:
                self._cells[cell] = inside
            else:
                del self._cells[cell]

    def same_in_other_light(self, gray: Gray, time_s: float) -> bool:
        """Whether a picture has this view's edges in the same places; if so its landmarks are learned."""
        if not self.enough:
            return False
        here = _edges(gray)[_ABOVE + _EDGES_REACH : -_ABOVE - _EDGES_REACH, 2 * _EDGES_REACH : -2 * _EDGES_REACH]
        there = _edges(self._behind.astype(np.uint8))[_ABOVE:-_ABOVE, _EDGES_REACH:-_EDGES_REACH]
        likeness = cv2.matchTemplate(there, here, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(likeness)
        aside = likeness.copy()
        aside[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = -1
        if max(abs(x - _EDGES_REACH), abs(y - _EDGES_REACH)) > SWAY:
            return False
        if best < _EDGES_ALIKE or best - aside.max() < _EDGES_UNLIKE:
            return False
        self._behind = gray.astype(np.float32)
        for cell in list(_all_cells()):
            self._take(cell, gray, time_s)
        return True

    def _find(
        self, gray: Gray, reach: int, half: bool | None = None
    ) -> tuple[list[_Landmark], npt.NDArray[np.bool_], Array]:
        """Of each cell the landmark that is seen, else its newest; whether it is seen, and how far from its place."""
        marks, alike, shifts = [], [], []
        for (x, y), known in self._cells.items():
            if half is not None and (x + y) // _CELL % 2 == half:
                continue
            best = (-1.0, known[0], (0.0, 0.0))
            for mark in known:
                best = max(best, _locate(gray, mark, reach), key=lambda one: one[0])
                if best[0] >= _ALIKE:
                    break
            marks.append(best[1])
            alike.append(best[0] >= _ALIKE)
            shifts.append(best[2])
        return marks, np.array(alike, bool), np.array(shifts, float).reshape(-1, 2)

    @staticmethod
    def _flat(gray: Gray, marks: list[_Landmark], of: int | None = None) -> float:
        flat = sum(float(_around(gray, mark.x, mark.y).std()) < _FLAT * mark.contrast for mark in marks)
        return flat / max(of or len(marks), 1)

    def _learn(self, gray: Gray, time_s: float, seen: list[_Landmark], off: float) -> None:
        dt, self._last_s = min(max(time_s - self._last_s, 0.0), 1.0), time_s
        self._frames += 1
        cv2.accumulateWeighted(gray, self._behind, max(min(dt / _BEHIND_S, 1.0), 1 / self._frames))
        for mark in seen:
            mark.seen_s = time_s
            mark.seen_frames += 1
            # Else a camera that moves very slowly would take its landmarks along.
            if off < 1:
                now = _around(gray, mark.x, mark.y)
                mark.patch = cv2.addWeighted(mark.patch, 1 - dt / _LIGHT_S, now, dt / _LIGHT_S, 0)
        if time_s - self._renewed_s >= _RENEW_EVERY_S:
            self._renew(gray, time_s)

    def _renew(self, gray: Gray, time_s: float) -> None:
        """Take new landmarks where none is seen, and leave those that are gone."""
        self._renewed_s = time_s
        behind = self._behind.astype(np.uint8)
        corners = cv2.cornerMinEigenVal(behind, 7, 3)
        for cell in _all_cells():
            known = self._cells.get(cell, [])
            if not known or time_s - max(mark.seen_s for mark in known) > _LOST_S:
                self._take(cell, behind, time_s, gray, corners)
            kept = [mark for mark in self._cells.get(cell, []) if time_s - mark.seen_s < _keep_s(mark)]
            if kept:
                self._cells[cell] = kept[:_SPARE]
            else:
                self._cells.pop(cell, None)

    def _take(
        self, cell: tuple[int, int], behind: Gray, time_s: float, now: Gray | None = None, corners: Array | None = None
    ) -> None:
        """A new landmark of a cell, where it has a corner that the picture shows just now."""
        x0, y0, x1, y1 = _bounds(cell)
        strength = (cv2.cornerMinEigenVal(behind, 7, 3) if corners is None else corners)[y0:y1, x0:x1].copy()
        tried: list[_Landmark] = []
        for _ in range(_TRIES):
            _, best, _, (x, y) = cv2.minMaxLoc(strength)
            if best < _CORNER:
                break
            patch = _around(behind, x0 + x, y0 + y).copy()
            tried.append(_Landmark(x0 + x, y0 + y, patch, float(patch.std()), time_s, time_s))
            if _distinct(behind, tried[-1]):
                tried = tried[-1:]
                break
            strength[max(y - _PATCH, 0) : y + _PATCH + 1, max(x - _PATCH, 0) : x + _PATCH + 1] = 0
        if tried and (now is None or _locate(now, tried[0], 1)[0] >= _ALIKE):
            self._cells[cell] = [tried[0], *self._cells.get(cell, [])]


def _coded(gray: Gray) -> str:
    return base64.b64encode(cv2.imencode(".png", gray)[1].tobytes()).decode()


def _decoded(text: str, shape: tuple[int, int]) -> Gray:
    coded = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    gray: Gray | None = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE) if len(coded) else None
    if gray is None or gray.shape != shape:
        raise ValueError(f"no gray picture of {shape[1]} x {shape[0]}")
    return gray


def _keep_s(mark: _Landmark) -> float:
    return _PROVEN_S if mark.seen_frames >= _PROVEN else _UNPROVEN_S


def _distinct(gray: Gray, mark: _Landmark) -> bool:
    """Whether nothing around a landmark looks like it: windows of a house do."""
    left, top = max(mark.x - _PATCH - _FAR, 0), max(mark.y - _PATCH - _FAR, 0)
    window = gray[top : mark.y + _PATCH + _FAR + 1, left : mark.x + _PATCH + _FAR + 1]
    alike = cv2.matchTemplate(window, mark.patch, cv2.TM_CCOEFF_NORMED)
    x, y = mark.x - _PATCH - left, mark.y - _PATCH - top
    alike[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 0
    return float(np.nan_to_num(alike, posinf=1.0).max()) < _ALIKE


def _all_cells() -> list[tuple[int, int]]:
    return [(x, y) for y in range(0, HEIGHT, _CELL) for x in range(0, WIDTH, _CELL)]


def _bounds(cell: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y = cell
    return max(x, _ASIDE), max(y, _ABOVE), min(x + _CELL, WIDTH - _ASIDE), min(y + _CELL, HEIGHT - _ABOVE)


def _around(gray: Gray, x: int, y: int) -> Gray:
    return gray[y - _PATCH : y + _PATCH + 1, x - _PATCH : x + _PATCH + 1]


def _locate(gray: Gray, mark: _Landmark, reach: int) -> tuple[float, _Landmark, tuple[float, float]]:
    """How alike the best place within `reach` is, and how far from the landmark's own."""
    left, top = max(mark.x - _PATCH - reach, 0), max(mark.y - _PATCH - reach, 0)
    window = gray[top : mark.y + _PATCH + reach + 1, left : mark.x + _PATCH + reach + 1]
    _, alike, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(window, mark.patch, cv2.TM_CCOEFF_NORMED))
    # Of a flat patch OpenCV says anything.
    sure = alike if np.isfinite(alike) and alike <= 1.01 else -1.0
    return sure, mark, (float(left + x + _PATCH - mark.x), float(top + y + _PATCH - mark.y))


def _pair(values: Array) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _near(alike: npt.NDArray[np.bool_], shifts: Array) -> npt.NDArray[np.bool_]:
    near: npt.NDArray[np.bool_] = alike & (np.abs(shifts) <= SWAY).all(axis=1)
    return near


def _fit(
    marks: list[_Landmark], alike: npt.NDArray[np.bool_], shifts: Array
) -> tuple[tuple[float, float], float, int] | None:
    """How the picture moved, if most landmarks that went off went together: shift of its middle, scale, how many."""
    off = alike & (np.abs(shifts) > SWAY).any(axis=1)
    if off.sum() < _ENOUGH / 2 or alike.sum() < _ENOUGH:
        return None
    at = np.array([(mark.x - WIDTH / 2, mark.y - HEIGHT / 2) for mark in marks])[alike]
    matrix, inliers = cv2.estimateAffinePartial2D(at, at + shifts[alike], ransacReprojThreshold=2.0)
    if matrix is None:
        return None
    together = inliers.ravel().astype(bool) & off[alike]
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return _pair(matrix[:, 2]), scale, int(together.sum())


def _edges(gray: Gray) -> npt.NDArray[np.float32]:
    """How strong the edges are, each as measured by those around it."""
    blurred = cv2.GaussianBlur(gray, (0, 0), 1.5).astype(np.float32)
    strength = cv2.magnitude(cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1))
    edges: npt.NDArray[np.float32] = strength / (cv2.blur(strength, (41, 41)) + 4)
    return edges
