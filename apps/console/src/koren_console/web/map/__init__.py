# SPDX-License-Identifier: Apache-2.0
"""Where places are on the map, and cameras that are near each other as one dot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from koren_console.model import Camera, Health, Place

WORST = (Health.ACT, Health.UNKNOWN, Health.WATCH, Health.OK)


@dataclass(frozen=True)
class Frame:
    """What part of the earth the outline shows, in degrees, and the outline's size."""

    west: float
    south: float
    east: float
    north: float
    width: float
    height: float

    def point(self, place: Place) -> tuple[float, float]:
        """The place on the outline, by Mercator's projection, kept within its edges."""

        def stretched(latitude: float) -> float:
            return math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2))

        x = (place.longitude - self.west) / (self.east - self.west) * self.width
        top = stretched(self.north)
        y = (top - stretched(place.latitude)) / (top - stretched(self.south)) * self.height
        return round(min(max(x, 4), self.width - 4), 2), round(min(max(y, 4), self.height - 4), 2)


@dataclass(frozen=True)
class Box:
    """A part of the outline to look at."""

    x: float
    y: float
    width: float
    height: float

    @property
    def unit(self) -> float:
        """The length that is a 400th of the box's longer side, to size what is drawn."""
        return max(self.width, self.height) / 400


@dataclass(frozen=True)
class Dot:
    """One or more cameras at about one place."""

    x: float
    y: float
    health: Health
    cameras: Sequence[Camera]


@cache
def frame() -> Frame:
    """How the outline was projected."""
    known = json.loads(resources.files(__package__).joinpath("frame.json").read_text("utf-8"))
    return Frame(*(known[key] for key in ("west", "south", "east", "north", "width", "height")))


def whole() -> Box:
    """All of the outline."""
    return Box(0, 0, frame().width, frame().height)


def around(places: Sequence[Place]) -> Box:
    """A square around those places with room at the edges; the whole for none."""
    if not places:
        return whole()
    points = [frame().point(place) for place in places]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    side = max(max(xs) - min(xs), max(ys) - min(ys), 4.0) * 1.3
    return Box((max(xs) + min(xs) - side) / 2, (max(ys) + min(ys) - side) / 2, side, side)


def dots(cameras: Sequence[Camera], box: Box, cells: int = 28) -> list[Dot]:
    """The cameras in the box; those of one cell of a grid are one dot with the worst state of them."""
    step = max(box.width, box.height) / cells
    grid: dict[tuple[int, int], list[tuple[float, float, Camera]]] = {}
    for camera in cameras:
        if camera.place is None:
            continue
        x, y = frame().point(camera.place)
        if box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height:
            grid.setdefault((int(x / step), int(y / step)), []).append((x, y, camera))
    made = []
    for held in grid.values():
        worst = min((camera.health for _, _, camera in held), key=WORST.index)
        x = sum(one[0] for one in held) / len(held)
        y = sum(one[1] for one in held) / len(held)
        made.append(Dot(round(x, 2), round(y, 2), worst, [camera for _, _, camera in held]))
    return made
