"""Makes people, number plates and who sits in a vehicle unrecognizable in a picture.

Vehicles are coarsened as a whole, so that a plate needs no detector that could miss it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .boxes import Array, Picture
from .vehicles import Found

_MARGIN = 0.15
_PART_WIDTH = 0.55
# Of a person, blocks are as wide as a head. Of a vehicle they are measured on the square root of its box's area: a car
# has 1.65 m, so that blocks are 7 cm on the body, where a plate's letters are 8 cm high, and 14 cm on the windows.
_PERSON_BLOCKS = 8
_BODY_BLOCKS = 24
_WINDOW_BLOCKS = 12
_WINDOWS_TO = 0.55
"""Share of a vehicle's box, from its top, that its windows are in."""
_LEAST_PERSON_BLOCK = 4.0


def look_closely(find: Callable[[Picture], Found], picture: Picture) -> tuple[Array, Array]:
    """Boxes (n, 4) px of people and of vehicles, in the picture and in its enlarged left and right parts.

    The network sees a picture made small, and in a part of it what is small in the whole. Either look finds some that
    the other misses.
    """
    height, width = picture.shape[:2]
    found = find(picture)
    people, vehicles = [found.people], [found.vehicles.boxes]
    part = round(_PART_WIDTH * width)
    for left in (0, width - part):
        found = find(picture[:, left : left + part])
        for boxes, seen in ((people, found.people), (vehicles, found.vehicles.boxes)):
            # What is large was seen in the whole; the network takes scenes that are cut off for large things.
            small = (seen[:, 2:] - seen[:, :2] < [part / 2, height / 2]).all(axis=1)
            boxes.append(seen[small] + [left, 0, left, 0])
    return np.concatenate(people), np.concatenate(vehicles)


def hide(picture: Picture, people: Array, vehicles: Array) -> None:
    """Coarsen people and vehicles, boxes (n, 4) px, in place, so that no one and no plate is recognized."""
    for box in vehicles:
        x0, y0, x1, y1 = box
        size = float(np.sqrt(max(x1 - x0, 0) * max(y1 - y0, 0)))
        _coarsen(picture, box, size / _BODY_BLOCKS)
        _coarsen(picture, np.array([x0, y0, x1, y0 + _WINDOWS_TO * (y1 - y0)]), size / _WINDOW_BLOCKS)
    for x0, y0, x1, y1 in people:
        dx, dy = _MARGIN * (x1 - x0), _MARGIN * (y1 - y0)
        block = max((y1 - y0) / _PERSON_BLOCKS, _LEAST_PERSON_BLOCK)
        _coarsen(picture, np.array([x0 - dx, y0 - dy, x1 + dx, y1 + dy]), block)


def _coarsen(picture: Picture, box: Array, block: float) -> None:
    height, width = picture.shape[:2]
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    right, bottom = min(int(box[2]) + 1, width), min(int(box[3]) + 1, height)
    # Blocks below two pixels are of what is too small to be recognized.
    if right <= left or bottom <= top or block < 2:
        return
    region = picture[top:bottom, left:right]
    # Means of blocks are what is left: a blur alone can be undone.
    coarse = (max(round((right - left) / block), 1), max(round((bottom - top) / block), 1))
    blocks = cv2.resize(region, coarse, interpolation=cv2.INTER_AREA)
    picture[top:bottom, left:right] = cv2.resize(blocks, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
