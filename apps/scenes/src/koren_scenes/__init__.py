"""Simulated road junctions with collisions, filmed as CCTV, with the ground truth beside them.

`simulate` gives tracks and collisions alone, for training; `python -m koren_scenes render`
films one of the named scenes.
"""

from .junction import Junction, random_junction
from .traffic import Collision, Traffic, simulate

__all__ = ["Collision", "Junction", "Traffic", "random_junction", "simulate"]
