"""The unmoving part of a view: asphalt with markings, pavements, lawns, houses, trees, sky."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image

from .camera import Camera
from .geometry import Array
from .junction import STOP_LINE_M
from .traffic import Lane, Roads

EXTENT_M = 90.0
PIXELS_PER_M = 16


@dataclass(frozen=True)
class House:
    """A building: centre (m), size along and across (m), turn (rad), height (m)."""

    x: float
    y: float
    length: float
    depth: float
    angle: float
    height: float


def draw(
    camera: Camera, roads: Roads, houses: tuple[House, ...], seed: int, oversampling: int
) -> Image:
    """Return the empty view at `oversampling` times the camera's size, BGR."""
    rng = np.random.default_rng(seed)
    ground = _ground(roads, rng)
    size = (camera.width * oversampling, camera.height * oversampling)
    scale = np.diag([oversampling, oversampling, 1.0])
    to_metres = np.array(
        [
            [1 / PIXELS_PER_M, 0, -EXTENT_M],
            [0, 1 / PIXELS_PER_M, -EXTENT_M],
            [0, 0, 1.0],
        ]
    )
    view = cv2.warpPerspective(
        ground,
        scale @ camera.homography @ to_metres,
        size,
        flags=cv2.INTER_AREA,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(104, 118, 112),
    )
    horizon = _horizon(camera) * oversampling
    if horizon > 0:
        rows = int(min(horizon, size[1]))
        fade = np.linspace(0, 1, rows)[:, None]
        sky = (1 - fade) * np.array([226, 200, 172]) + fade * np.array([236, 228, 220])
        view[:rows] = sky[:, None]
    eye = np.array(camera.eye[:2])
    for house in sorted(houses, key=lambda h: -np.hypot(h.x - eye[0], h.y - eye[1])):
        _house(view, camera, house, rng, oversampling)
    result: Image = cv2.GaussianBlur(view, (0, 0), 0.6 * oversampling)
    return result


def _horizon(camera: Camera) -> float:
    forward = camera.rotation[2]
    level = np.array([forward[0], forward[1], 0.0])
    point, _ = camera.project(np.array([np.array(camera.eye) + level * 1000]))
    return float(point[0, 1])


def _ground(roads: Roads, rng: np.random.Generator) -> Image:
    side = int(2 * EXTENT_M * PIXELS_PER_M)
    lawn = np.array([74, 108, 98]) + _mottle(rng, side, 24, 9) + _mottle(rng, side, 4, 6)
    asphalt = np.array([96, 97, 98]) + _mottle(rng, side, 40, 5) + _mottle(rng, side, 2, 4)
    paving = np.array([146, 152, 158]) + _mottle(rng, side, 10, 4) + _mottle(rng, side, 2, 3)
    joints = np.arange(side) % (PIXELS_PER_M * 2) < 1
    paving[joints] -= 14
    paving[:, joints] -= 14
    image = lawn
    for extra, surface in ((4.2, paving), (0.45, np.full_like(paving, 168)), (0.25, asphalt)):
        mask = np.zeros((side, side), np.uint8)
        for lane in roads.lanes:
            width = int((lane.width + 2 * extra) * PIXELS_PER_M)
            cv2.polylines(mask, [_pixels(lane.points)], False, 255, width)
        cv2.fillPoly(mask, [_pixels(roads.outline)], 255)
        if extra > 1:
            cv2.polylines(mask, [_pixels(roads.outline)], True, 255, int(2 * extra * PIXELS_PER_M))
        image[mask > 0] = surface[mask > 0]
    marked = np.clip(image, 0, 255).astype(np.uint8)
    for lane in roads.lanes:
        if lane.role != "across":
            _mark(marked, lane, roads)
    _wheel_paths(marked, roads)
    worn: Image = cv2.addWeighted(marked, 0.85, np.clip(image, 0, 255).astype(np.uint8), 0.15, 0)
    return worn


def _mottle(rng: np.random.Generator, side: int, cell: int, strength: float) -> Array:
    rough = rng.normal(0, strength, (side // cell + 1, side // cell + 1)).astype(np.float32)
    return cv2.resize(rough, (side, side), interpolation=cv2.INTER_CUBIC)[..., None].astype(float)


def _pixels(points: Array) -> npt.NDArray[np.int32]:
    return np.round((points + EXTENT_M) * PIXELS_PER_M).astype(np.int32)


def _mark(image: Image, lane: Lane, roads: Roads) -> None:
    """Paint a lane's edge lines, and its stop line and zebra crossing towards the junction."""
    white, yellow = (226, 230, 230), (70, 178, 218)
    points = lane.points if lane.role == "in" else lane.points[::-1]
    direction = points[-1] - points[-2]
    inward = direction / np.linalg.norm(direction)
    left = np.array([-inward[1], inward[0]])
    # SUMO ends a lane at its stop line; lanes that leave start where the crossing starts.
    stop = points[-1] if lane.role == "in" else points[-1] - inward * STOP_LINE_M
    reach = min(float(np.linalg.norm(stop - points[0])), EXTENT_M)
    half = lane.width / 2

    def line(a: Array, b: Array, colour: tuple[int, int, int], width_m: float) -> None:
        ends = _pixels(np.array([a, b]))
        thickness = max(round(width_m * PIXELS_PER_M), 1)
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, thickness, cv2.LINE_AA)

    for side in (1, -1):
        edge = left * side * half
        neighbour = _lane_beside(stop - inward * 3 + edge * 2, lane, roads)
        if neighbour is None:
            line(stop + edge, stop - inward * reach + edge, white, 0.12)
        elif neighbour.role != lane.role:
            line(stop + edge, stop - inward * reach + edge, yellow, 0.22)
        elif side == 1:
            for s in np.arange(0, reach, 8.0):
                line(stop - inward * s + edge, stop - inward * (s + 3) + edge, white, 0.12)
    for offset in np.arange(-half + 0.4, half, 0.9):
        start = stop + inward * 1.0 + left * offset
        line(start, start + inward * 3.0, white, 0.45)
    if lane.role == "in":
        line(stop + left * half * 0.95, stop - left * half * 0.95, white, 0.4)


def _lane_beside(point: Array, lane: Lane, roads: Roads) -> Lane | None:
    for other in roads.lanes:
        if other is lane or other.role == "across":
            continue
        for a, b in pairwise(other.points):
            along = np.clip((point - a) @ (b - a) / max(float((b - a) @ (b - a)), 1e-9), 0, 1)
            if np.linalg.norm(a + (b - a) * along - point) < other.width * 0.45:
                return other
    return None


def _wheel_paths(image: Image, roads: Roads) -> None:
    """Darken the two tracks that tyres leave in each lane."""
    mask = np.zeros(image.shape[:2], np.uint8)
    for lane in roads.lanes:
        steps = np.gradient(lane.points, axis=0)
        normals = np.column_stack([-steps[:, 1], steps[:, 0]])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        for side in (0.75, -0.75):
            path = _pixels(lane.points + normals * side)
            cv2.polylines(mask, [path], False, 255, int(0.5 * PIXELS_PER_M))
    soft = cv2.GaussianBlur(mask, (0, 0), 5).astype(np.float32)[..., None] / 255
    image[:] = (image * (1 - 0.07 * soft)).astype(np.uint8)


def _house(
    view: Image, camera: Camera, house: House, rng: np.random.Generator, oversampling: int
) -> None:
    c, s = np.cos(house.angle), np.sin(house.angle)
    along, across = np.array([c, s]), np.array([-s, c])
    centre = np.array([house.x, house.y])
    corners = [
        centre + along * a * house.length / 2 + across * b * house.depth / 2
        for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]
    tone = np.array([150, 160, 168]) + rng.normal(0, 5, 3) + rng.normal(0, 22)
    walls = []
    for i in range(4):
        a, b = corners[i], corners[(i + 1) % 4]
        outward = np.array([(b - a)[1], -(b - a)[0]])
        if outward @ (np.array(camera.eye[:2]) - a) > 0:
            walls.append((a, b, outward / np.linalg.norm(outward)))
    for a, b, outward in walls:
        light = 0.72 + 0.3 * max(0.0, float(outward @ [0.64, -0.76]))
        if not _quad(view, camera, a, b, 0, house.height, tone * light, oversampling):
            continue
        floors, bays = int(house.height // 3.2), int(np.linalg.norm(b - a) // 3)
        for floor in range(floors):
            low = 0.9 + floor * 3.2
            for bay in range(bays):
                p, q = (a + (b - a) * (bay + f) / bays for f in (0.22, 0.78))
                glass = np.array([112, 98, 84]) * light + rng.normal(0, 10)
                _quad(view, camera, p, q, low, low + 1.7, glass, oversampling)


def _quad(
    view: Image,
    camera: Camera,
    a: Array,
    b: Array,
    low: float,
    high: float,
    colour: Array,
    oversampling: int,
) -> bool:
    face = np.array([[*a, low], [*b, low], [*b, high], [*a, high]])
    pixels, depth = camera.project(face)
    if (depth < 1).any() or np.abs(pixels).max() > 20000:
        return False
    points = np.round(pixels * oversampling * 8).astype(np.int32)
    cv2.fillConvexPoly(view, points, np.clip(colour, 0, 255).tolist(), cv2.LINE_AA, 3)
    return True
