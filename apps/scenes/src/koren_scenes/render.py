"""Frames as a fixed street camera sees them: ground, houses, shaded vehicles, their shadows."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image

from . import bodies
from .bodies import Faces
from .camera import Camera
from .geometry import Array

OVERSAMPLING = 2
GRAIN = 1.6
SUN = np.array([0.42, -0.50, 0.76])
SKY_BGR = np.array([236.0, 222, 206])
PAINTS_BGR = np.array(
    [
        (238, 238, 236), (232, 232, 230), (62, 58, 56), (76, 72, 70), (150, 148, 146),
        (176, 174, 172), (112, 108, 104), (48, 40, 150), (130, 74, 38), (96, 62, 34),
        (70, 92, 120), (60, 80, 58), (190, 198, 202), (36, 60, 120),
    ],
    float,
)  # fmt: skip
BUS_PAINTS_BGR = np.array([(170, 90, 30), (70, 140, 50), (60, 60, 190), (215, 215, 215)], float)
_MATERIALS_BGR = np.zeros((11, 3))
_MATERIALS_BGR[bodies.GLASS] = (52, 44, 38)
_MATERIALS_BGR[bodies.RUBBER] = (34, 33, 32)
_MATERIALS_BGR[bodies.METAL] = (160, 160, 160)
_MATERIALS_BGR[bodies.HEADLAMP] = (240, 238, 232)
_MATERIALS_BGR[bodies.TAILLAMP] = (34, 30, 150)
_MATERIALS_BGR[bodies.TRIM] = (36, 35, 34)
_MATERIALS_BGR[bodies.CARGO] = (214, 216, 216)
_MATERIALS_BGR[bodies.SKIN] = (40, 40, 44)
_MATERIALS_BGR[bodies.CLOTH] = (78, 62, 54)
_MATERIALS_BGR[bodies.PLATE] = (226, 232, 232)


@dataclass(frozen=True)
class Actor:
    """A vehicle to draw: `braking` lights the tail lamps, `hazard` all lamps in amber."""

    track: int
    kind: str
    x: float
    y: float
    heading: float
    length: float
    width: float
    braking: bool = False
    hazard: bool = False


@dataclass(frozen=True)
class Seen:
    """Where an actor is in the image: box x0, y0, x1, y1 (px), share of it that is in sight."""

    track: int
    box: tuple[float, float, float, float]
    visible: float


class Renderer:
    """Draws actors on a background that never changes (the camera is fixed)."""

    def __init__(self, camera: Camera, background: Image, seed: int) -> None:
        """Take a background of OVERSAMPLING times the camera's size, and a seed for the noise."""
        self.camera = camera
        self.background = background
        rng = np.random.default_rng(seed)
        size = (camera.width, camera.height)
        # A few fields of grain in turn look like a sensor's noise and cost no time a frame.
        self._grain = [
            cv2.merge([cv2.resize(rng.normal(0, GRAIN, (size[1] // 2, size[0] // 2)), size)] * 3)
            for _ in range(7)
        ]
        self._drawn = 0

    def frame(self, actors: list[Actor]) -> tuple[Image, list[Seen]]:
        """Return the picture (height, width, 3) BGR and where each actor is in it."""
        shape = (self.camera.height, self.camera.width)
        drawn = self._with_shadows(actors)
        owner = np.zeros(shape, np.int16)
        eye = np.array(self.camera.eye)
        order = sorted(actors, key=lambda a: -np.hypot(a.x - eye[0], a.y - eye[1]))
        hulls: list[tuple[Actor, Array]] = []
        for number, actor in enumerate(order, 1):
            hull = self._draw(drawn, actor)
            if hull is not None:
                cv2.fillConvexPoly(owner, np.round(hull).astype(np.int32), number)
                hulls.append((actor, hull))
        seen = []
        for number, (actor, hull) in enumerate(hulls, 1):
            found = self._seen(actor, hull, int((owner == number).sum()))
            if found:
                seen.append(found)
        grain = self._grain[self._drawn % len(self._grain)]
        self._drawn += 1
        image = cv2.resize(drawn, shape[::-1], interpolation=cv2.INTER_AREA)
        return cv2.add(image, grain, dtype=cv2.CV_8U), seen

    def _seen(self, actor: Actor, hull: Array, pixels: int) -> Seen | None:
        x0, y0 = hull.min(0)
        x1, y1 = hull.max(0)
        left, top = max(x0, 0.0), max(y0, 0.0)
        right, bottom = min(x1, self.camera.width), min(y1, self.camera.height)
        if right - left < 6 or bottom - top < 6:
            return None
        area = max(float(cv2.contourArea(hull.astype(np.float32))), 1.0)
        visible = min(pixels / area, 1.0)
        if visible < 0.1:
            return None
        return Seen(actor.track, (float(left), float(top), float(right), float(bottom)), visible)

    def _with_shadows(self, actors: list[Actor]) -> Image:
        shape = (self.camera.height, self.camera.width)
        cast, under = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        for actor in actors:
            outline = _placed(_faces(actor, self.camera).corners, actor)
            shadow = outline * [1, 1, 0]
            shadow[:, :2] -= SUN[:2] / SUN[2] * outline[:, 2:]
            for points, mask in ((shadow, cast), (outline * [1, 1, 0], under)):
                pixels, depth = self.camera.project(points)
                if (depth > 1).all():
                    hull = cv2.convexHull(np.round(pixels * 8).astype(np.int32))
                    cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, 3)
        light = cv2.multiply(
            cv2.convertScaleAbs(cv2.GaussianBlur(cast, (0, 0), 1.5), alpha=-0.42, beta=255),
            cv2.convertScaleAbs(cv2.GaussianBlur(under, (0, 0), 2.5), alpha=-0.45, beta=255),
            scale=1 / 255,
        )
        light = cv2.resize(light, self.background.shape[1::-1])
        shaded: Image = cv2.multiply(self.background, cv2.merge([light] * 3), scale=1 / 255)
        return shaded

    def _draw(self, image: Image, actor: Actor) -> Array | None:
        """Draw one vehicle; returns its outline in pixels, None if it is behind the camera."""
        faces = _faces(actor, self.camera)
        pixels, depth = self.camera.project(_placed(faces.corners, actor))
        if (depth < 1).any():
            return None
        normals = faces.normals @ _turn(actor.heading).T
        views = np.array(self.camera.eye) - _placed(faces.centres, actor)
        views /= np.linalg.norm(views, axis=1, keepdims=True)
        facing = (normals * views).sum(1)
        colours = _shade(faces.materials, normals, views, facing, actor).tolist()
        fixed = np.round(pixels * OVERSAMPLING * 16).astype(np.int32)
        for i in np.flatnonzero(facing > 0.02):
            polygon = fixed[faces.starts[i] : faces.starts[i + 1]]
            cv2.fillConvexPoly(image, polygon, colours[i], cv2.LINE_8, 4)
        hull: Array = cv2.convexHull(pixels.astype(np.float32))[:, 0].astype(float)
        return hull


def _shade(
    materials: npt.NDArray[np.intp], normals: Array, views: Array, facing: Array, actor: Actor
) -> Array:
    """Colour of each face: sun, sky light, and the sky's mirror image in paint and glass."""
    paints = BUS_PAINTS_BGR if actor.kind == "bus" else PAINTS_BGR
    palette = _MATERIALS_BGR.copy()
    palette[bodies.PAINT] = paints[actor.track * 2654435761 // 2**16 % len(paints)]
    if actor.braking:
        palette[bodies.TAILLAMP] = (70, 60, 250)
    if actor.hazard:
        palette[[bodies.TAILLAMP, bodies.HEADLAMP]] = (40, 170, 255)
    light = 0.50 + 0.22 * (normals[:, 2] * 0.5 + 0.5) + 0.48 * np.maximum(normals @ SUN, 0)
    colour = palette[materials] * light[:, None]
    mirrored = 2 * facing[:, None] * normals - views
    sky = np.maximum(mirrored[:, 2], 0)
    fresnel = 0.04 + 0.96 * (1 - np.clip(facing, 0, 1)) ** 5
    paint, glass = materials == bodies.PAINT, materials == bodies.GLASS
    gloss = glass * (0.16 + fresnel) + paint * (0.10 + 0.6 * fresnel)
    glint = (paint | glass) * np.maximum(mirrored @ SUN, 0) ** 40
    colour += (gloss * sky)[:, None] * SKY_BGR + (110.0 * glint)[:, None]
    shaded: Array = np.clip(colour, 0, 255)
    return shaded


def _faces(actor: Actor, camera: Camera) -> Faces:
    mesh = bodies.mesh(actor.kind, actor.length, actor.width, actor.track)
    ahead = (camera.eye[0] - actor.x) * np.cos(actor.heading)
    ahead += (camera.eye[1] - actor.y) * np.sin(actor.heading)
    return mesh.faces(nose_first=bool(ahead < 0))


def _turn(heading: float) -> Array:
    c, s = np.cos(heading), np.sin(heading)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def _placed(points: Array, actor: Actor) -> Array:
    placed: Array = points @ _turn(actor.heading).T + np.array([actor.x, actor.y, 0.0])
    return placed
