"""Shapes of vehicles as small meshes: rounded bodies, cabins, windows, wheels, lamps.

A mesh is made of convex parts in the order in which they are drawn; faces turned away from the
camera are left out, so nothing needs a depth buffer. Coordinates are metres: x forward, y left,
z up, the origin on the ground below the vehicle's centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .geometry import Array

PAINT, GLASS, RUBBER, METAL, HEADLAMP, TAILLAMP, TRIM, CARGO, SKIN, CLOTH, PLATE = range(11)


@dataclass
class Part:
    """A convex piece of a vehicle, or marks on its surface: polygons and what each is made of."""

    faces: list[Array] = field(default_factory=list)
    materials: list[int] = field(default_factory=list)

    def add(self, face: Sequence[Sequence[float]] | Array, material: int) -> None:
        """Append one flat polygon, counter-clockwise as seen from outside, shape (n, 3)."""
        self.faces.append(np.asarray(face, float))
        self.materials.append(material)


@dataclass(frozen=True)
class Faces:
    """Polygons in drawing order: all corners (n, 3), where each face starts in them (m + 1,),
    and each face's unit normal (m, 3), centre (m, 3) and material (m,)."""

    corners: Array
    starts: npt.NDArray[np.intp]
    normals: Array
    centres: Array
    materials: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Mesh:
    """A vehicle's parts, from tail to nose where one can hide another."""

    parts: tuple[Part, ...]
    hides_itself: bool = False

    def faces(self, nose_first: bool) -> Faces:
        """Return the faces in drawing order; `nose_first` where the camera is behind."""
        return self._backward if nose_first and self.hides_itself else self._forward

    @cached_property
    def _forward(self) -> Faces:
        return _joined(self.parts)

    @cached_property
    def _backward(self) -> Faces:
        return _joined(self.parts[::-1])


def _joined(parts: tuple[Part, ...]) -> Faces:
    polygons = [face for part in parts for face in part.faces]
    normals = []
    for polygon in polygons:
        normal = np.cross(polygon, np.roll(polygon, -1, axis=0)).sum(0)
        normals.append(normal / max(float(np.linalg.norm(normal)), 1e-9))
    return Faces(
        np.vstack(polygons),
        np.concatenate([[0], np.cumsum([len(p) for p in polygons])]).astype(np.intp),
        np.array(normals),
        np.array([p.mean(0) for p in polygons]),
        np.array([m for part in parts for m in part.materials], np.intp),
    )


@dataclass(frozen=True)
class _Shell:
    """Proportions of a passenger car or van, lengths as shares of the vehicle's length."""

    height: float
    belt: float
    hood: float
    boot: float
    screen_base: float
    screen_top: float
    rear_top: float
    rear_base: float
    pillars: tuple[float, ...]


_SEDAN = _Shell(1.46, 0.93, 0.80, 0.94, 0.21, 0.05, -0.20, -0.37, (-0.20, -0.04))
_HATCH = _Shell(1.52, 0.95, 0.86, 0.98, 0.24, 0.09, -0.36, -0.455, (-0.24, -0.06))
_SUV = _Shell(1.70, 1.06, 0.98, 1.08, 0.24, 0.10, -0.40, -0.47, (-0.26, -0.07))
_VAN = _Shell(2.05, 1.15, 1.02, 1.16, 0.37, 0.22, -0.455, -0.485, (-0.22, 0.04))


_CAR_STYLES = (_SEDAN, _HATCH, _SEDAN, _SUV)


def mesh(kind: str, length: float, width: float, variant: int) -> Mesh:
    """Return the mesh of a vehicle class; `variant` picks among the body styles of cars."""
    return _mesh(kind, length, width, variant * 7 // 3 % len(_CAR_STYLES))


@cache
def _mesh(kind: str, length: float, width: float, style: int) -> Mesh:
    if kind == "car":
        return _shell_mesh(_CAR_STYLES[style], length, width)
    if kind == "van":
        return _shell_mesh(_VAN, length, width)
    if kind == "bus":
        return _bus(length, width)
    if kind == "truck":
        return _truck(length, width)
    return _motorcycle(length, width)


def _shell_mesh(s: _Shell, length: float, width: float) -> Mesh:
    body = Part()
    # Stations from tail to nose: x, plan width, deck height, underside.
    stations = [
        (-0.500, 0.80, 0.86 * s.boot, 0.42),
        (-0.488, 0.91, 0.95 * s.boot, 0.30),
        (-0.440, 0.97, s.boot, 0.24),
        (-0.300, 1.00, s.belt, 0.20),
        (0.150, 1.00, s.belt, 0.20),
        (0.240, 0.99, (s.belt + s.hood) / 2 + 0.03, 0.20),
        (0.400, 0.96, s.hood, 0.22),
        (0.465, 0.90, 0.92 * s.hood, 0.26),
        (0.492, 0.82, 0.80 * s.hood, 0.32),
        (0.500, 0.74, 0.70 * s.hood, 0.40),
    ]
    section = [
        (0.90, 0.0), (0.98, 0.16), (1.0, 0.45), (0.985, 0.70), (0.945, 0.90), (0.84, 0.985),
        (0.45, 1.0), (-0.45, 1.0), (-0.84, 0.985), (-0.945, 0.90), (-0.985, 0.70), (-1.0, 0.45),
        (-0.98, 0.16), (-0.90, 0.0),
    ]  # fmt: skip
    rings = [
        np.array([[x * length, y * wide * width / 2, low + z * (deck - low)] for y, z in section])
        for x, wide, deck, low in stations
    ]
    for back, front in pairwise(rings):
        for i in range(len(section) - 1):
            sill = TRIM if section[i][1] + section[i + 1][1] < 0.2 else PAINT
            body.add([back[i], back[i + 1], front[i + 1], front[i]], sill)
    body.add(rings[0][::-1], PAINT)
    body.add(rings[-1], PAINT)

    marks = Part()
    _wheels(marks, length, width, (0.315, -0.29), 0.325 if s.height < 1.6 else 0.36)
    nose, tail = length * 0.497, -length * 0.4985
    for side in (1, -1):
        outer, inner = side * width * 0.405, side * width * 0.235
        _rect(marks, nose, outer, inner, s.hood * 0.60, s.hood * 0.76, True, HEADLAMP)
        _rect(marks, tail, outer, inner * 1.15, s.boot * 0.66, s.boot * 0.86, False, TAILLAMP)
        corner = side * width * 0.455
        marks.add(
            _wind(
                [
                    [length * 0.478, corner, s.hood * 0.62],
                    [length * 0.432, side * width * 0.482, s.hood * 0.70],
                    [length * 0.432, side * width * 0.470, s.hood * 0.84],
                    [length * 0.478, side * width * 0.44, s.hood * 0.80],
                ],
                [0.4, side, 0.2],
            ),
            HEADLAMP,
        )
    _rect(marks, nose, width * 0.22, -width * 0.22, s.hood * 0.50, s.hood * 0.72, True, TRIM)
    _rect(marks, nose, width * 0.33, -width * 0.33, 0.34, s.hood * 0.42, True, TRIM)
    _rect(marks, tail, width * 0.30, -width * 0.30, 0.34, 0.46, False, TRIM)
    _rect(marks, tail, width * 0.13, -width * 0.13, s.boot * 0.66, s.boot * 0.78, False, PLATE)

    return Mesh((body, marks, *_cabin(s, length, width)))


def _cabin(s: _Shell, length: float, width: float) -> tuple[Part, Part]:
    base_w, top_w = width * 0.465, width * 0.36
    low, edge = s.belt - 0.03, s.height - 0.07
    base = [
        (s.rear_base, base_w * 0.90),
        (s.rear_base + 0.06, base_w),
        (s.screen_base - 0.09, base_w),
        (s.screen_base, base_w * 0.84),
    ]
    top = [
        (s.rear_top, top_w * 0.92),
        (s.rear_top + 0.05, top_w),
        (s.screen_top - 0.04, top_w),
        (s.screen_top, top_w * 0.90),
    ]
    roof = [
        (s.rear_top + 0.035, top_w * 0.80),
        (s.rear_top + 0.07, top_w * 0.86),
        (s.screen_top - 0.07, top_w * 0.86),
        (s.screen_top - 0.045, top_w * 0.78),
    ]

    def ring(outline: list[tuple[float, float]], z: float) -> Array:
        right = [[x * length, -y, z] for x, y in outline]
        left = [[x * length, y, z] for x, y in reversed(outline)]
        return np.array(right + left)

    levels = [ring(base, low), ring(top, edge), ring(roof, s.height)]
    shell, glass = Part(), Part()
    count = len(levels[0])
    for lower, upper in pairwise(levels):
        for i in range(count):
            j = (i + 1) % count
            shell.add([lower[i], lower[j], upper[j], upper[i]], PAINT)
    shell.add(levels[2], PAINT)

    bottom, rim = levels[0], levels[1]

    def pane(i: int, j: int, a: float, b: float, lo: float = 0.10, hi: float = 0.93) -> None:
        p, q = bottom[i] + (bottom[j] - bottom[i]) * a, bottom[i] + (bottom[j] - bottom[i]) * b
        r, t = rim[i] + (rim[j] - rim[i]) * b, rim[i] + (rim[j] - rim[i]) * a
        glass.add([p + (t - p) * lo, q + (r - q) * lo, q + (r - q) * hi, p + (t - p) * hi], GLASS)

    pane(3, 4, 0.04, 0.96)
    pane(2, 3, 0.55, 1.0)
    pane(4, 5, 0.0, 0.45)
    pane(7, 0, 0.05, 0.95, 0.15)
    span = base[2][0] - base[1][0]
    cuts = [0.02, *((p - base[1][0]) / span for p in s.pillars), 1.08]
    for a, b in pairwise(cuts):
        pane(1, 2, a + 0.02, min(b - 0.02, 1.0))
        pane(5, 6, 1 - min(b - 0.02, 1.0), 1 - a - 0.02)
    return shell, glass


def _bus(length: float, width: float) -> Mesh:
    height, skirt = 3.15, 0.32
    shell = _box(-length / 2, length / 2, width, skirt, height, 0.22, PAINT)
    marks = Part()
    _wheels(marks, length, width, (0.27, -0.24), 0.48)
    half = width / 2 + 0.005
    panes = 7
    for side in (1, -1):
        for i in range(panes):
            a = -length * 0.46 + i * length * 0.92 / panes
            b = a + length * 0.92 / panes - 0.12
            face = [
                [a, side * half, 1.35],
                [b, side * half, 1.35],
                [b, side * half, 2.55],
                [a, side * half, 2.55],
            ]
            marks.add(_wind(face, [0, side, 0]), GLASS)
        face = [
            [-length * 0.49, side * half, 0.75],
            [length * 0.49, side * half, 0.75],
            [length * 0.49, side * half, 1.0],
            [-length * 0.49, side * half, 1.0],
        ]
        marks.add(_wind(face, [0, side, 0]), TRIM)
    nose, tail = length / 2 + 0.005, -length / 2 - 0.005
    _rect(marks, nose, width * 0.44, -width * 0.44, 1.15, 2.55, True, GLASS)
    _rect(marks, nose, width * 0.36, -width * 0.36, 2.65, 2.95, True, TRIM)
    _rect(marks, tail, width * 0.38, -width * 0.38, 1.7, 2.6, False, GLASS)
    for side in (1, -1):
        _rect(marks, nose, side * width * 0.44, side * width * 0.28, 0.6, 0.85, True, HEADLAMP)
        _rect(marks, tail, side * width * 0.46, side * width * 0.36, 0.7, 1.2, False, TAILLAMP)
    return Mesh((shell, marks))


def _truck(length: float, width: float) -> Mesh:
    split = length * 0.27
    cargo = _box(-length / 2, split - 0.15, width, 0.75, 3.05, 0.03, CARGO)
    frame = _box(-length / 2 + 0.1, split, width * 0.8, 0.45, 0.75, 0.02, TRIM)
    cab = _box(split, length / 2, width * 0.94, 0.42, 2.45, 0.20, PAINT)
    for i in range(len(cargo.faces)):
        frame.faces.append(cargo.faces[i])
        frame.materials.append(cargo.materials[i])
    tail, nose, half = -length / 2 - 0.005, length / 2 + 0.005, width * 0.47 + 0.005
    _wheels(frame, length, width, (-0.27, -0.38), 0.46)
    for side in (1, -1):
        _rect(frame, tail, side * width * 0.45, side * width * 0.3, 0.5, 0.72, False, TAILLAMP)
        _rect(cab, nose, side * width * 0.42, side * width * 0.28, 0.62, 0.85, True, HEADLAMP)
        window = [
            [split + 0.5, side * half, 1.4],
            [length / 2 - 0.3, side * half, 1.35],
            [length / 2 - 0.42, side * half, 2.15],
            [split + 0.5, side * half, 2.15],
        ]
        cab.add(_wind(window, [0, side, 0]), GLASS)
    _rect(frame, tail, width * 0.02, -width * 0.02, 0.8, 3.0, False, TRIM)
    _rect(cab, nose, width * 0.41, -width * 0.41, 1.35, 2.2, True, GLASS)
    _rect(cab, nose, width * 0.25, -width * 0.25, 0.6, 1.1, True, TRIM)
    _wheels(cab, length, width * 0.96, (0.36,), 0.46)
    return Mesh((frame, cab), hides_itself=True)


def _motorcycle(length: float, width: float) -> Mesh:
    tyres = Part()
    for x in (0.36, -0.36):
        for side in (1, -1):
            tyres.add(_disc(x * length, side * 0.06, 0.31, side, 10), RUBBER)
            tyres.add(_disc(x * length, side * 0.065, 0.17, side, 8), METAL)
    machine = _box(-0.36 * length, 0.30 * length, 0.34, 0.35, 0.82, 0.06, PAINT)
    _rect(machine, 0.305 * length, 0.12, -0.12, 0.66, 0.8, True, HEADLAMP)
    _rect(machine, -0.365 * length, 0.12, -0.12, 0.6, 0.72, False, TAILLAMP)
    for side in (1, -1):
        leg = _box(-0.12, 0.28, 0.14, 0.4, 0.86, 0.04, CLOTH)
        for face, material in zip(leg.faces, leg.materials, strict=True):
            machine.add(face + np.array([0, side * 0.22, 0]), material)
    rider = _box(-0.30, 0.06, 0.46, 0.78, 1.42, 0.08, CLOTH)
    head = _box(-0.20, 0.08, 0.25, 1.42, 1.68, 0.08, SKIN)
    return Mesh((tyres, machine, rider, head))


def _box(
    x0: float, x1: float, width: float, z0: float, z1: float, bevel: float, material: int
) -> Part:
    """A box with bevelled upper edges and vertical corners."""
    part = Part()

    def ring(inset: float, z: float) -> Array:
        a, b, h, c = x0 + inset, x1 - inset, width / 2 - inset, bevel * 0.8
        return np.array(
            [[a + c, -h, z], [b - c, -h, z], [b, -h + c, z], [b, h - c, z], [b - c, h, z],
             [a + c, h, z], [a, h - c, z], [a, -h + c, z]]
        )  # fmt: skip

    rings = [
        ring(0, z0),
        ring(0, z1 - bevel),
        ring(bevel * 0.35, z1 - bevel * 0.3),
        ring(bevel, z1),
    ]
    for lower, upper in pairwise(rings):
        for i in range(8):
            j = (i + 1) % 8
            part.add([lower[i], lower[j], upper[j], upper[i]], material)
    part.add(rings[-1], material)
    return part


def _wheels(
    part: Part, length: float, width: float, axles: tuple[float, ...], radius: float
) -> None:
    for x in axles:
        for side in (1, -1):
            y = side * (width / 2 + 0.002)
            arch = _disc(x * length, y, radius * 1.17, side, 14)
            part.add(np.column_stack([arch[:, 0], arch[:, 1], np.maximum(arch[:, 2], 0.17)]), TRIM)
            part.add(_disc(x * length, y * 1.004, radius, side, 14), RUBBER)
            part.add(_disc(x * length, y * 1.006, radius * 0.66, side, 12, radius), METAL)
            part.add(_disc(x * length, y * 1.008, radius * 0.22, side, 8, radius), TRIM)


def _disc(
    x: float, y: float, radius: float, side: int, corners: int, z: float | None = None
) -> Array:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) * -side
    height = radius if z is None else z
    return np.column_stack(
        [x + radius * np.cos(angle), np.full(corners, y), height + radius * np.sin(angle)]
    )


def _rect(
    part: Part, x: float, y0: float, y1: float, z0: float, z1: float, front: bool, material: int
) -> None:
    face = [[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]]
    part.add(_wind(face, [1 if front else -1, 0, 0]), material)


def _wind(face: list[list[float]], outward: Sequence[float]) -> Array:
    """Return the polygon wound counter-clockwise as seen from the side `outward` points to."""
    points = np.array(face, float)
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    return points if normal @ np.array(outward, float) > 0 else points[::-1]
