"""A small world for tests: a camera above a straight road, and boxes of vehicles on it."""

from __future__ import annotations

import numpy as np

from koren_detector.boxes import Array
from koren_detector.ground import Ground
from koren_detector.tracking import Detections

GROUND = Ground.typical(960, 544)
FPS = 5


def boxes(places: list[tuple[float, float]]) -> Array:
    """Boxes of cars that stand at these places (m right of and ahead of the camera's mast)."""
    result = []
    for x, y in places:
        low = _pixel(x, y - 0.9)
        left, right = _pixel(x - 2.2, y), _pixel(x + 2.2, y)
        width = right[0] - left[0]
        result.append([low[0] - width / 2, low[1] - 0.55 * width, low[0] + width / 2, low[1]])
    return np.array(result, float).reshape(-1, 4)


def _pixel(x: float, y: float) -> Array:
    u, v, w = GROUND.homography @ [x, y, 1.0]
    pixel: Array = np.array([u / w, v / w])
    return pixel


def seen(places: list[tuple[float, float]], score: float = 0.8) -> Detections:
    """What a perfect network would find of cars at these places."""
    count = len(places)
    return Detections(boxes(places), np.full(count, score), np.zeros(count, np.int64))


def people(places: list[tuple[float, float]], score: float = 0.7) -> Detections:
    """What a perfect network would find of people on foot, 1.7 m tall, at these places."""
    result = []
    for x, y in places:
        foot, right = _pixel(x, y), _pixel(x + 0.25, y)
        half = right[0] - foot[0]
        result.append([foot[0] - half, foot[1] - 6.8 * half, foot[0] + half, foot[1]])
    count = len(places)
    return Detections(np.array(result, float).reshape(-1, 4), np.full(count, score), np.zeros(count, np.int64))


def area(left: float, right: float, near: float, far: float) -> Array:
    """The polygon of a part of the ground in the picture; m right of and ahead of the camera's mast."""
    return np.array([_pixel(left, near), _pixel(right, near), _pixel(right, far), _pixel(left, far)])
