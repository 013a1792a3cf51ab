"""A fixed pinhole camera above a flat ground (z = 0, metres)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .geometry import Array


@dataclass(frozen=True)
class Camera:
    """A camera at `eye` that looks at `target` (both x, y, z in m), with a horizontal field."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    field_deg: float
    width: int = 960
    height: int = 544

    @cached_property
    def rotation(self) -> Array:
        """World to camera: rows are right, down, forward; shape (3, 3)."""
        forward = np.subtract(self.target, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    @cached_property
    def intrinsics(self) -> Array:
        """Camera to pixels, shape (3, 3)."""
        focal = self.width / 2 / np.tan(np.deg2rad(self.field_deg) / 2)
        return np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1.0]])

    @cached_property
    def homography(self) -> Array:
        """Ground (x, y, 1) in metres to image (u, v, 1) times a scale, shape (3, 3)."""
        eye = np.array(self.eye)
        r = self.rotation
        h: Array = self.intrinsics @ np.column_stack([r[:, 0], r[:, 1], -r @ eye])
        return h

    def project(self, points: Array) -> tuple[Array, Array]:
        """Project world points (n, 3); returns pixels (n, 2) and depth along the view (n,)."""
        seen = (points - np.array(self.eye)) @ self.rotation.T
        depth = seen[:, 2]
        pixels = (seen @ self.intrinsics.T)[:, :2] / np.maximum(depth, 0.1)[:, None]
        return pixels, depth
