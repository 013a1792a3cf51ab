"""Random street cameras for simulated junctions."""

from dataclasses import dataclass

import numpy as np

from koren_detector.ground import Ground

WIDTH, HEIGHT = 960, 544


@dataclass(frozen=True)
class View:
    """A random camera and how well the detector sees through it."""

    eye: np.ndarray
    rotation: np.ndarray
    intrinsics: np.ndarray
    half_seen_px: float
    jitter: float
    misses: float
    ghosts: np.ndarray

    @property
    def ground(self) -> Ground:
        r = self.rotation
        return Ground(self.intrinsics @ np.column_stack([r[:, 0], r[:, 1], -r @ self.eye]))

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = (points - self.eye) @ self.rotation.T
        depth = seen[..., 2]
        return (seen @ self.intrinsics.T)[..., :2] / np.maximum(depth, 0.5)[..., None], depth

    def shows(self, x: float, y: float) -> bool:
        """Whether this place on the ground (m) is well inside the picture, and near enough to see a car there."""
        pixel, depth = self.project(np.array([x, y, 0.5]))
        inside = (pixel > 40).all() and (pixel < [WIDTH - 40, HEIGHT - 40]).all()
        return bool(inside and depth > 5 and self.intrinsics[0, 0] * 1.5 / depth > 0.7 * self.half_seen_px)


def random_view(rng: np.random.Generator) -> View:
    bearing, distance = rng.uniform(0, 2 * np.pi), rng.uniform(16, 50)
    eye = np.array([distance * np.cos(bearing), distance * np.sin(bearing), rng.uniform(6, 16)])
    forward = np.append(rng.uniform(-8, 8, 2), 0.0) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    focal = WIDTH / 2 / np.tan(np.deg2rad(rng.uniform(45, 78)) / 2)
    ghosts = rng.uniform([0, HEIGHT * 0.3], [WIDTH, HEIGHT], (rng.integers(0, 4), 2))
    return View(
        eye, np.stack([right, np.cross(forward, right), forward]),
        np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]]),
        half_seen_px=rng.uniform(20, 45), jitter=rng.uniform(0.02, 0.07),
        misses=rng.uniform(0.0, 0.06), ghosts=ghosts,
    )  # fmt: skip
