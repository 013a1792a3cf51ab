"""Boxes in an image: left, top, right, bottom in pixels, arrays of shape (n, 4)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Picture = npt.NDArray[Any]
"""A frame, shape (height, width, 3), BGR, 8 bits."""

Kind = Literal["car", "van", "truck", "bus", "motorcycle"]
KINDS: tuple[Kind, ...] = ("car", "van", "truck", "bus", "motorcycle")
"""Vehicle kinds; a detection's or track's kind is an index into this."""
SIZES_M = np.array([(4.4, 1.8), (5.2, 2.0), (8.0, 2.4), (11.0, 2.5), (2.1, 0.8)])
"""Typical length and width of each kind."""


def areas(boxes: Array) -> Array:
    """Area of each box, px²; shape (n,)."""
    sides: Array = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area: Array = sides[:, 0] * sides[:, 1]
    return area


def intersections(a: Array, b: Array) -> Array:
    """Area shared by each box of `a` and each of `b`, px²; shape (len(a), len(b))."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared: Array = sides[..., 0] * sides[..., 1]
    return shared


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of each pair; shape (len(a), len(b))."""
    shared = intersections(a, b)
    share: Array = shared / np.maximum(areas(a)[:, None] + areas(b)[None] - shared, 1e-9)
    return share


def affinities(a: Array, b: Array) -> Array:
    """Generalized intersection over union of each pair: 1 same, 0 touching, towards -1 far."""
    shared = intersections(a, b)
    union = np.maximum(areas(a)[:, None] + areas(b)[None] - shared, 1e-9)
    low = np.minimum(a[:, None, :2], b[None, :, :2])
    high = np.maximum(a[:, None, 2:], b[None, :, 2:])
    hull = np.maximum((high - low).prod(2), 1e-9)
    affinity: Array = shared / union - (hull - union) / hull
    return affinity


def suppress(boxes: Array, scores: Array, limit: float) -> Ints:
    """Non-maximum suppression: indices of the boxes that stay, best score first."""
    order = np.argsort(-scores, kind="stable")
    if len(order) < 2:
        return order
    overlap = overlaps(boxes[order], boxes[order]) > limit
    gone = np.zeros(len(order), bool)
    for place in range(len(order) - 1):
        if not gone[place]:
            gone[place + 1 :] |= overlap[place, place + 1 :]
    return order[~gone]
