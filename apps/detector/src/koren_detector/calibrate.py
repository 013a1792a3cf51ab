"""Finds a camera's ground, for the inventory: `koren-detector-calibrate --picture FRAME --marks FILE --overlay PNG`."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .boxes import Array, Picture
from .ground import Ground

_FLAT = 0.01
"""A triangle whose area is a smaller share of its longest side's square counts as a line."""
_LEAST_FOV, _MOST_FOV = np.deg2rad(10.0), np.deg2rad(120.0)
_CLEAR = 0.05
_GRID_M, _FAR_M = 5, 60


class CalibrationError(Exception):
    """The marks give no ground; the message says why and what to do."""


@dataclass(frozen=True)
class Calibration:
    """A ground, and by how much the marks disagree with it: root mean square in metres, None where nothing tells."""

    ground: Ground
    error_m: float | None
    worst: str


def from_points(pixels: Array, metres: Array) -> Calibration:
    """The ground on which each pixel (n, 2) lies at its metres (n, 2). Raises CalibrationError."""
    if len(pixels) < 4:
        raise CalibrationError(f"points: {len(pixels)} are too few; mark at least four, better six, far apart")
    for name, places in (("pixel", pixels), ("metres", metres)):
        if not _any_general(places):
            raise CalibrationError(
                f"points: by {name}, three of any four lie on one line; mark the corners of a large quadrangle"
            )
    ground = _homography(pixels, metres)
    if len(pixels) == 4:
        return Calibration(ground, None, "four points fit any ground; mark a fifth to learn the error")
    error_m = _error_m(ground, pixels, metres)
    if len(pixels) == 5:
        return Calibration(ground, error_m, "mark a sixth point to learn which one is wrong")
    doubted = []
    for left_out in range(len(pixels)):
        kept = np.arange(len(pixels)) != left_out
        if _any_general(pixels[kept]) and _any_general(metres[kept]):
            doubted.append((_error_m(_homography(pixels[kept], metres[kept]), pixels[kept], metres[kept]), left_out))
    best_m, worst = min(doubted)
    return Calibration(ground, error_m, f"without point {worst + 1} the others agree to {best_m:.2f} m")


def _error_m(ground: Ground, pixels: Array, metres: Array) -> float:
    """By how much points are off, with what the fit itself took away."""
    off = ground.metres(pixels) - metres
    if not np.isfinite(off).all():
        raise CalibrationError("points: some contradict each other; check that each pixel has its own metres")
    return float(np.sqrt((off**2).sum() / (len(pixels) - 4 + 1e-9)))


def from_vanishing_point(vanishing: Array, spans: Array, metres: Array, size: tuple[int, int]) -> Calibration:
    """The ground of a camera that is not tilted to a side, where lanes meet at the pixel `vanishing`.

    `spans` (n, 2, 2) are pairs of pixels on the ground that lie `metres` (n,) apart, such as the two ends and the two
    sides of vehicles at their wheels. y leads along the lanes. Raises CalibrationError.
    """
    if len(spans) < 2:
        raise CalibrationError("vehicles: mark the length of one vehicle and the width of another, at least")
    if (spans[..., 1] <= vanishing[1] + 1).any():
        raise CalibrationError("vehicles: a mark lies at or above the vanishing point; mark wheels on the road")
    found = []
    for fov in np.linspace(_LEAST_FOV, _MOST_FOV, 441):
        unscaled = _pinhole(float(size[0] / 2 / np.tan(fov / 2)), vanishing, size, 1.0)
        ends = unscaled.metres(spans.reshape(-1, 2)).reshape(-1, 2, 2)
        lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        if np.isfinite(lengths).all():
            # Relative errors, or the longest span alone would count.
            ratios = lengths / metres
            height = float(ratios.sum() / (ratios**2).sum())
            found.append((float(np.sqrt(np.mean((height * ratios - 1) ** 2))), height, float(fov)))
    if not found:
        raise CalibrationError("vanishing_point: no camera sees the marks so; check the vanishing point")
    error, height, fov = min(found)
    if max(found)[0] - error < _CLEAR:
        raise CalibrationError(
            "vehicles: these marks fit any lens; mark lengths along the lanes as well as widths across them"
        )
    ground = _pinhole(size[0] / 2 / np.tan(fov / 2), vanishing, size, height)
    ends = ground.metres(spans.reshape(-1, 2)).reshape(-1, 2, 2)
    off = np.abs(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1) - metres)
    worst = int(np.argmax(off))
    note = (
        f"mark {worst + 1} is off most, by {off[worst]:.2f} m; camera {height:.1f} m high, {np.rad2deg(fov):.0f}° wide"
    )
    return Calibration(ground, float(np.sqrt(np.mean(off**2))) if len(spans) > 2 else None, note)


def _pinhole(focal: float, vanishing: Array, size: tuple[int, int], height_m: float) -> Ground:
    middle_x, middle_y = size[0] / 2, size[1] / 2
    down = np.arctan((middle_y - vanishing[1]) / focal)
    aside = np.arctan((vanishing[0] - middle_x) * np.cos(down) / focal)
    intrinsics = np.array([[focal, 0, middle_x], [0, focal, middle_y], [0, 0, 1]])
    plane = np.array([
        [1, 0, 0], [0, -np.sin(down), height_m * np.cos(down)], [0, np.cos(down), height_m * np.sin(down)],
    ])  # fmt: skip
    turn = np.array([[np.cos(aside), np.sin(aside), 0], [-np.sin(aside), np.cos(aside), 0], [0, 0, 1]])
    return Ground(intrinsics @ plane @ turn)


def _any_general(places: Array) -> bool:
    return any(_general(places[list(four)]) for four in itertools.combinations(range(min(len(places), 12)), 4))


def _general(four: Array) -> bool:
    """Whether no three of four points lie on one line."""
    for three in itertools.combinations(four, 3):
        a, b, c = three
        longest = max(np.linalg.norm(a - b), np.linalg.norm(b - c), np.linalg.norm(c - a))
        area = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2
        if longest == 0 or area / longest**2 < _FLAT:
            return False
    return True


def _homography(pixels: Array, metres: Array) -> Ground:
    matrix, _ = cv2.findHomography(metres, pixels, 0)
    if matrix is None:
        raise CalibrationError("points: they give no ground; mark the corners of a large quadrangle")
    depths = np.column_stack([metres, np.ones(len(metres))]) @ matrix[2]
    if not ((depths > 0).all() or (depths < 0).all()):
        raise CalibrationError(
            "points: some would lie beyond the horizon; check that pixels and metres are in the same order"
        )
    middle, nearby = metres.mean(0), np.eye(2) * 0.1
    corners = np.column_stack([[middle, *(middle + nearby)], np.ones(3)]) @ matrix.T
    origin, right, ahead = corners[:, :2] / corners[:, 2:]
    if (right - origin)[0] * (ahead - origin)[1] > (right - origin)[1] * (ahead - origin)[0]:
        raise CalibrationError(
            "points: their metres are mirrored; seen from above, y lies a quarter turn to the left of x."
            " Check that pixels and metres are in the same order"
        )
    try:
        return Ground(matrix / matrix[2, 2])
    except ValueError as error:
        raise CalibrationError(f"points: {error}; mark the corners of a large quadrangle") from error


def draw(picture: Picture, ground: Ground) -> Picture:
    """The picture with a line each 5 m on the ground, and the metres at each second crossing."""
    drawn: Picture = picture.copy()
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[0:height:8, 0:width:8]
    seen = ground.metres(np.column_stack([columns.ravel(), rows.ravel()]).astype(float))
    seen = seen[np.isfinite(seen).all(1)]
    nearest = ground.metres(np.array([[width / 2, height - 1.0]]))[0]
    seen = seen[np.linalg.norm(seen - nearest, axis=1) < _FAR_M]
    if not len(seen):
        raise CalibrationError("the ground lies outside of the picture; check the marks")
    low = np.floor(seen.min(0) / _GRID_M).astype(int) * _GRID_M
    high = np.ceil(seen.max(0) / _GRID_M).astype(int) * _GRID_M
    lines = [[(x, y) for y in np.arange(low[1], high[1] + 0.5)] for x in range(low[0], high[0] + 1, _GRID_M)]
    lines += [[(x, y) for x in np.arange(low[0], high[0] + 0.5)] for y in range(low[1], high[1] + 1, _GRID_M)]
    for line in lines:
        pixels = _pixels(ground, np.array(line, float))
        for a, b in itertools.pairwise(pixels):
            if np.isfinite([a, b]).all() and np.abs([a, b]).max() < 4 * width:
                cv2.line(drawn, _whole(a), _whole(b), (0, 255, 255), 1, cv2.LINE_AA)
    for x in range(low[0], high[0] + 1, 2 * _GRID_M):
        for y in range(low[1], high[1] + 1, 2 * _GRID_M):
            u, v = _pixels(ground, np.array([[x, y]], float))[0]
            if 0 <= u < width and 0 <= v < height:
                cv2.putText(drawn, f"{x},{y}", _whole((u + 2, v - 2)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 255), 1)
    return drawn


def _pixels(ground: Ground, metres: Array) -> Array:
    mapped = np.column_stack([metres, np.ones(len(metres))]) @ ground.homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels: Array = mapped[:, :2] / mapped[:, 2:]
    back = ground.metres(pixels)
    pixels[~(np.abs(back - metres) < 0.01).all(1)] = np.nan
    return pixels


def _whole(point: Any) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def calibrate(marks: Mapping[str, Any], size: tuple[int, int]) -> Calibration:
    """The ground that marks in a picture of `size` give. Raises CalibrationError."""
    if "points" in marks:
        points = _entries(marks, "points")
        pixels = _array(points, "points", "pixel", size)
        return from_points(pixels, _array(points, "points", "metres", None))
    if "vanishing_point" in marks:
        vanishing = _array([marks], "marks", "vanishing_point", None)[0]
        vehicles = _entries(marks, "vehicles")
        spans = np.stack([_array(vehicles, "vehicles", end, size) for end in ("from", "to")], axis=1)
        lengths = [entry.get("metres") for entry in vehicles]
        if not all(isinstance(length, int | float) and 0 < length < 100 for length in lengths):
            raise CalibrationError("vehicles: metres must be the vehicle's length or width, such as 4.6")
        return from_vanishing_point(vanishing, spans, np.array(lengths, float), size)
    raise CalibrationError("the marks have neither points nor vanishing_point; give one of them")


def _entries(marks: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = marks.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CalibrationError(f"{key} must be a list of objects")
    return entries


def _array(entries: list[Mapping[str, Any]], name: str, key: str, size: tuple[int, int] | None) -> Array:
    pairs = []
    for number, entry in enumerate(entries, 1):
        pair = entry.get(key)
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(n, int | float) for n in pair):
            raise CalibrationError(f"{name} {number}: {key} must be two numbers, such as [410, 200]")
        if size is not None and not (0 <= pair[0] <= size[0] and 0 <= pair[1] <= size[1]):
            raise CalibrationError(f"{name} {number}: {key} {pair} lies outside of the picture, {size[0]} x {size[1]}")
        pairs.append(pair)
    return np.array(pairs, float).reshape(-1, 2)


def entry(ground: Ground, size: tuple[int, int]) -> str:
    """The ground as a camera's entry in the inventory has it, YAML."""
    matrix = ground.homography / ground.homography[2, 2]
    rows = "".join(f"  - [{', '.join(f'{value:.9g}' for value in row)}]\n" for row in matrix)
    return f"ground:\n{rows}ground_size: [{size[0]}, {size[1]}]\n"


def _picture(path: Path) -> Picture:
    picture = cv2.imread(str(path))
    if picture is None:
        found, picture = cv2.VideoCapture(str(path)).read()
        if not found:
            raise CalibrationError(f"{path} is no picture and no video that can be read")
    result: Picture = picture
    return result


def main() -> None:
    """Entry of the command: prints the inventory's entry, and the error on standard error."""
    parser = argparse.ArgumentParser(description="Find a camera's ground from marks in one of its pictures.")
    parser.add_argument("--picture", type=Path, required=True, help="a picture of the camera, or a video: its first")
    parser.add_argument("--marks", type=Path, required=True, help="JSON: points, or vanishing_point and vehicles")
    parser.add_argument("--overlay", type=Path, required=True, help="where to write the picture with a grid of 5 m")
    options = parser.parse_args()
    try:
        picture = _picture(options.picture)
        size = (picture.shape[1], picture.shape[0])
        marks = json.loads(options.marks.read_text())
        if not isinstance(marks, dict):
            raise CalibrationError(f"{options.marks} must hold a JSON object")
        found = calibrate(marks, size)
        if not cv2.imwrite(str(options.overlay), draw(picture, found.ground)):
            raise CalibrationError(f"{options.overlay} can't be written")
    except (CalibrationError, OSError, ValueError, cv2.error) as error:
        sys.exit(f"koren-detector-calibrate: {error}")
    error_m = "unknown" if found.error_m is None else f"{found.error_m:.2f} m"
    print(f"error {error_m}; {found.worst}. Look at {options.overlay} before you use it.", file=sys.stderr)
    print(entry(found.ground, size), end="")
