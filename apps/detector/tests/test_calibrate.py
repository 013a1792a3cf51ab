from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from koren_detector.calibrate import CalibrationError, calibrate, draw, entry
from koren_detector.ground import Ground

SIZE = (960, 544)
TRUTH = Ground.typical(*SIZE)
CORNERS = [(-6.0, 14.0), (6.0, 14.0), (8.0, 40.0), (-8.0, 45.0), (1.0, 25.0), (-4.0, 30.0)]


def pixel(x: float, y: float) -> list[float]:
    u, v, w = TRUTH.homography @ [x, y, 1.0]
    return [float(u / w), float(v / w)]


def points(places: list[tuple[float, float]], shake: float = 0.0) -> dict[str, Any]:
    draw_from = np.random.default_rng(4)
    return {
        "points": [
            {"pixel": (np.array(pixel(*place)) + draw_from.normal(0, shake, 2)).tolist(), "metres": list(place)}
            for place in places
        ]
    }


def off_m(ground: Ground) -> float:
    there = [(x, y) for x in (-5.0, 0.0, 5.0) for y in (15.0, 25.0, 40.0)]
    return float(np.abs(ground.metres(np.array([pixel(*p) for p in there])) - there).max())


def test_four_points_give_the_ground_and_say_that_nothing_tells_their_error() -> None:
    found = calibrate(points(CORNERS[:4]), SIZE)

    assert off_m(found.ground) < 0.01
    assert found.error_m is None and "mark a fifth" in found.worst


def test_more_points_tell_how_wrong_they_are() -> None:
    assert (calibrate(points(CORNERS), SIZE).error_m or 0.0) < 0.01
    shaken = calibrate(points(CORNERS, shake=2.0), SIZE)
    assert shaken.error_m is not None and 0.1 < shaken.error_m < 5.0

    wrong = points(CORNERS)
    wrong["points"][4]["metres"] = [1.0, 29.0]
    found = calibrate(wrong, SIZE)
    assert found.error_m is not None and found.error_m > 0.5
    assert found.worst == "without point 5 the others agree to 0.00 m"
    del wrong["points"][5]
    assert "mark a sixth" in calibrate(wrong, SIZE).worst


def spans(*ends: tuple[tuple[float, float], tuple[float, float], float]) -> list[dict[str, Any]]:
    return [{"from": pixel(*a), "to": pixel(*b), "metres": metres} for a, b, metres in ends]


def test_lanes_and_vehicles_give_the_ground() -> None:
    horizon = pixel(0.0, 1e7)
    vehicles = spans(
        ((-3.0, 16.0), (-3.0, 20.6), 4.6), ((3.0, 24.0), (4.8, 24.0), 1.8), ((2.0, 30.0), (2.0, 41.0), 11.0)
    )  # fmt: skip

    found = calibrate({"vanishing_point": horizon, "vehicles": vehicles}, SIZE)

    assert found.error_m is not None and found.error_m < 0.05
    assert off_m(found.ground) < 0.3
    assert "camera 7.0 m high, 60° wide" in found.worst


def test_lanes_that_lead_aside_lead_along_y() -> None:
    aside = np.deg2rad(15)
    along = np.array([np.sin(aside), np.cos(aside)])
    across = np.array([along[1], -along[0]])
    start = np.array([-2.0, 18.0])
    vehicles = spans(
        (tuple(start), tuple(start + 5 * along), 5.0), (tuple(start), tuple(start + 2 * across), 2.0),
        (tuple(start + 8 * along), tuple(start + 19 * along), 11.0),
    )  # fmt: skip

    found = calibrate({"vanishing_point": pixel(*(1e7 * along)), "vehicles": vehicles}, SIZE)

    a, b = found.ground.metres(np.array([pixel(*start), pixel(*(start + 10 * along))]))
    assert b - a == pytest.approx([0.0, 10.0], abs=0.15)


def reordered(*order: int) -> dict[str, Any]:
    metres = [list(CORNERS[number]) for number in order]
    return {"points": [{"pixel": pixel(*a), "metres": b} for a, b in zip(CORNERS[:4], metres, strict=True)]}


LINE = [(0.0, 15.0), (0.0, 20.0), (0.0, 30.0), (0.0, 40.0)]
OUTSIDE = [{"pixel": [2000, 10], "metres": [0, 0]}]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (points(CORNERS[:3]), "3 are too few; mark at least four"),
        (points(LINE), "lie on one line; mark the corners of a large quadrangle"),
        (points([*LINE, (5.0, 20.0)]), "lie on one line"),
        ({"points": points(CORNERS)["points"] + OUTSIDE}, "points 7: pixel .* lies outside of the picture"),
        ({"points": [{"pixel": [1, 2]}]}, "points 1: metres must be two numbers"),
        (reordered(1, 0, 2, 3), "beyond the horizon; check that pixels and metres are in the same order"),
        (reordered(1, 0, 3, 2), "mirrored"),
        ({"vanishing_point": [480, 100], "vehicles": []}, "mark the length of one vehicle"),
        ({"vanishing_point": [480, 530], "vehicles": spans(*[((0, 20), (2, 20), 2.0)] * 2)}, "above the vanishing"),
        ({"vanishing_point": pixel(0, 1e7), "vehicles": spans(((0, 20), (2, 20), 2.0), ((0, 30), (2, 30), 2.0))},
         "fit any lens; mark lengths along the lanes"),
        ({}, "neither points nor vanishing_point"),
    ],
)  # fmt: skip
def test_marks_that_give_no_ground_are_refused_with_the_remedy(marks: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        calibrate(marks, SIZE)


def test_the_grid_is_drawn_where_the_metres_are() -> None:
    drawn = draw(np.zeros((544, 960, 3), np.uint8), TRUTH)

    for place in [(0.0, 20.0), (5.0, 25.0), (-5.0, 30.0)]:
        u, v = (round(value) for value in pixel(*place))
        assert drawn[v - 1 : v + 2, u - 1 : u + 2].max() > 150
    u, v = (round(value) for value in pixel(2.5, 22.5))
    assert drawn[v - 3 : v + 4, u - 3 : u + 4].max() == 0


def command(folder: Path, marks: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    cv2.imwrite(str(folder / "frame.png"), np.full((544, 960, 3), 80, np.uint8))
    (folder / "marks.json").write_text(json.dumps(marks))
    start = f"import sys; sys.path += {sys.path!r}; from koren_detector.calibrate import main; main()"
    files = ["--picture", "frame.png", "--marks", "marks.json", "--overlay", "grid.png"]
    return subprocess.run(
        [sys.executable, "-c", start, *files], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_command_prints_the_entry_and_writes_the_picture(tmp_path: Path) -> None:
    done = command(tmp_path, points(CORNERS))

    assert done.returncode == 0, done.stderr
    assert done.stdout == entry(calibrate(points(CORNERS), SIZE).ground, SIZE)
    rows = [json.loads(line.strip("- ")) for line in done.stdout.splitlines() if line.startswith("  - ")]
    assert off_m(Ground(np.array(rows))) < 0.01
    assert "ground_size: [960, 544]" in done.stdout
    assert "error 0.00 m" in done.stderr
    assert cv2.imread(str(tmp_path / "grid.png")).shape == (544, 960, 3)


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, points(LINE))

    assert done.returncode == 1 and done.stderr.startswith("koren-detector-calibrate: points: ")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "grid.png").exists()
