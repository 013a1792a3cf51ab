"""What is kept in pixels, for pictures that have changed their size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .ground import Ground
from .incidents import Incident

Size = tuple[int, int]
"""Width and height, px."""


def resized_ground(ground: Ground, before: Size, now: Size) -> Ground:
    """The same ground in pictures of another size."""
    if before == now:
        return ground
    return Ground(np.diag([now[0] / before[0], now[1] / before[1], 1.0]) @ ground.homography)


def resized_incident(incident: Incident, before: Size, now: Size) -> Incident:
    """The same incident in pictures of another size; its places in metres stay."""
    x, y = now[0] / before[0], now[1] / before[1]
    wrecks = (replace(w, box=(w.box[0] * x, w.box[1] * y, w.box[2] * x, w.box[3] * y)) for w in incident.wrecks)
    return replace(incident, wrecks=tuple(wrecks))
