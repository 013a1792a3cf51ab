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
