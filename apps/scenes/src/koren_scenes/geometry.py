"""Oriented rectangles on the ground: corners, overlap, contact. Metres and radians."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rectangle:
    """A vehicle's outline on the ground: centre, heading (0 = east, counter-clockwise), size."""

    x: float
    y: float
    heading: float
    length: float
    width: float

    @property
    def axes(self) -> Array:
        """Unit vectors along the length and the width, shape (2, 2)."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        return np.array([[c, s], [-s, c]])

    @property
    def corners(self) -> Array:
        """The four corners, counter-clockwise, shape (4, 2)."""
        half = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [self.length / 2, self.width / 2]
        return np.array([self.x, self.y]) + half @ self.axes


@dataclass(frozen=True)
class Contact:
    """Where two rectangles meet: a point, the unit normal towards the second, the depth."""

    point: Array
    normal: Array
    depth_m: float


def contact(a: Rectangle, b: Rectangle) -> Contact | None:
    """Return how `a` and `b` overlap, or None if they are apart (separating axes)."""
    pa, pb = a.corners, b.corners
    best_depth, best_normal = np.inf, np.zeros(2)
    for axis in np.vstack([a.axes, b.axes]):
        qa, qb = pa @ axis, pb @ axis
        depth = min(qa.max() - qb.min(), qb.max() - qa.min())
        if depth <= 0:
            return None
        if depth < best_depth:
            best_depth = depth
            towards_b = np.sign((pb.mean(0) - pa.mean(0)) @ axis) or 1.0
            best_normal = axis * towards_b
    polygon = clip(pa, pb)
    point = polygon.mean(0) if len(polygon) else (pa.mean(0) + pb.mean(0)) / 2
    return Contact(point, best_normal, float(best_depth))


def clip(subject: Array, window: Array) -> Array:
    """Return the part of the convex polygon `subject` inside the convex `window` (both ccw)."""
    polygon = subject
    for start, end in zip(window, np.roll(window, -1, axis=0), strict=True):
        if not len(polygon):
            break
        edge = end - start
        side = edge[0] * (polygon[:, 1] - start[1]) - edge[1] * (polygon[:, 0] - start[0])
        kept: list[Array] = []
        for i in range(len(polygon)):
            j = (i + 1) % len(polygon)
            if side[i] >= 0:
                kept.append(polygon[i])
            if side[i] * side[j] < 0:
                kept.append(polygon[i] + (polygon[j] - polygon[i]) * side[i] / (side[i] - side[j]))
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def angle_between(a: float, b: float) -> float:
    """Return the unsigned angle between two headings, 0 to pi."""
    return abs((a - b + np.pi) % (2 * np.pi) - np.pi)
