"""The ground plane that a fixed camera looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .boxes import Array

_FOOT = 0.2
"""How far above its lower edge, in heights, a box stands for the middle of the vehicle."""
_FAR_M = 300.0
_TALLEST_M = 3.5


@dataclass(frozen=True)
class Ground:
    """Maps pixels to metres by `homography`: ground (x, y, 1) m to image (u, v, 1) times a scale.

    Raises ValueError for a matrix that is not 3 by 3 or can't be inverted.
    """

    homography: Array

    def __post_init__(self) -> None:
        matrix = np.asarray(self.homography, float)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError("a ground homography is three rows of three finite numbers")
        if np.linalg.matrix_rank(matrix) < 3:
            raise ValueError("the ground homography is singular: it maps the ground to a line")
        object.__setattr__(self, "homography", matrix)

    @classmethod
    def typical(cls, width: int, height: int) -> Ground:
        """The ground of a usual street camera: 7 m high, looking 20° down, 60° wide.

        For a camera whose own is not known: distances are then rough, their changes less so.
        """
        focal = width / 2 / np.tan(np.deg2rad(30))
        down = np.deg2rad(20)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        # Columns: one metre to the right, one metre ahead, and the foot of the camera's mast.
        ground = np.array(
            [
                [1, 0, 0],
                [0, -np.sin(down), 7 * np.cos(down)],
                [0, np.cos(down), 7 * np.sin(down)],
            ]
        )
        return cls(intrinsics @ ground)

    @cached_property
    def inverse(self) -> Array:
        """Image to ground, shape (3, 3)."""
        inverse: Array = np.linalg.inv(self.homography)
        return inverse

    def metres(self, pixels: Array) -> Array:
        """Where each pixel (n, 2) lies on the ground; nan at or above the horizon or very far."""
        mapped = np.column_stack([pixels, np.ones(len(pixels))]) @ self.inverse.T
        with np.errstate(divide="ignore", invalid="ignore"):
            places: Array = mapped[:, :2] / mapped[:, 2:]
        # Straight down in the image always leads towards the camera, so this tells the ground's
        # side of the horizon whatever sign the matrix was given.
        below = mapped[:, 2] * self.inverse[2, 1] > 0
        places[~below | (np.abs(places) > _FAR_M).any(1)] = np.nan
        return places

    def top(self, width: int, height: int, far_m: float) -> int:
        """The frame's row above which there is no vehicle nearer than `far_m` to the lower edge."""
        rows = np.arange(height, dtype=float)
        middle = self.metres(np.column_stack([np.full(height, width / 2), rows]))
        aside = self.metres(np.column_stack([np.full(height, width / 2 + 1), rows]))
        away = np.linalg.norm(middle - middle[-1], axis=1)
        near = np.flatnonzero(away < far_m)
        if not len(near):
            return 0
        across_m = float(np.linalg.norm(aside[near[0]] - middle[near[0]]))
        return max(int(near[0] - _TALLEST_M / max(across_m, 1e-3)), 0)

    def places(self, boxes: Array) -> Array:
        """Where each boxed vehicle stands, m; shape (n, 2), nan where that can't be told."""
        foot = boxes[:, 3] - _FOOT * (boxes[:, 3] - boxes[:, 1])
        return self.metres(np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, foot]))

    def metres_per_pixel(self, boxes: Array) -> Array:
        """How many metres on the ground one pixel up or down is at each box's foot; (n,)."""
        middle = np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]])
        step: Array = np.linalg.norm(self.metres(middle + [0.0, 1.0]) - self.metres(middle), axis=1)
        return step
