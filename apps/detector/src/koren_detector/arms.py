"""Arms of a junction that a camera sees: which road an accident is on, and in which direction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from koren_events import Camera, Text

from .boxes import Array
from .incidents import Incident
from .resized import Size


@dataclass(frozen=True)
class Arm:
    """A part of the picture where vehicles are on one road and go in one direction.

    `polygon` is in pixels of a picture of the camera's `ground_size`, shape (n, 2). `link` is the road network's own
    name of it, such as a standard link id. `heading`, shape (2, 2), is a pixel and another one that vehicles drive
    towards from there; None where it is not known. Raises ValueError for a polygon that has no inside, and for a
    heading that is not two pixels.
    """

    polygon: Array
    road: Text
    direction: Text
    link: str | None = None
    heading: Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "polygon", checked_polygon(self.polygon))
        if self.heading is not None:
            heading = np.asarray(self.heading, float)
            if heading.shape != (2, 2) or not np.isfinite(heading).all():
                raise ValueError("a heading is two points, each two numbers")
            object.__setattr__(self, "heading", heading)


def checked_polygon(polygon: Array) -> Array:
    """The corners of a polygon, (n, 2). Raises ValueError for one that has no inside."""
    corners = np.asarray(polygon, float)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError("a polygon is a list of three or more corners, each two numbers")
    if cv2.contourArea(corners.astype(np.float32)) < 1:
        raise ValueError("the polygon's corners lie on one line")
    return corners


def located(camera: Camera, incident: Incident, arms: tuple[Arm, ...], arms_size: Size, size: Size) -> Camera:
    """The camera with the road and direction of an incident; without them where they are not known.

    They are those of the arm that all wrecks stand in, if it is exactly one. A camera without arms sees one road.
    """
    if not arms:
        return camera
    found = []
    for arm in arms:
        corners = (arm.polygon * np.divide(size, arms_size)).astype(np.float32)
        feet = [((wreck.box[0] + wreck.box[2]) / 2, wreck.box[3]) for wreck in incident.wrecks]
        if all(cv2.pointPolygonTest(corners, foot, False) >= 0 for foot in feet):
            found.append(arm)
    if len(found) != 1:
        return replace(camera, road=None, direction=None)
    return replace(camera, road=found[0].road, direction=found[0].direction, link=found[0].link)
