"""Runs SUMO for real, on short stretches."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from koren_scenes import simulate
from koren_scenes.geometry import Rectangle, contact
from koren_scenes.scenes import SCENES, Film, prepare


@pytest.fixture(scope="module")
def accident() -> Film:
    return prepare(SCENES["seoul-accident"])


def test_the_accident_comes_after_twenty_seconds_and_is_cleared(accident: Film) -> None:
    (collision,) = accident.collisions
    impact = collision.step - accident.first_step
    cleared = collision.cleared_step - accident.first_step
    assert 195 <= impact <= 205
    assert 430 <= cleared <= 460
    assert accident.frames == 600
    assert collision.kind == "side"
    assert collision.delta_v > 4
    after = {int(s["track"]) for s in accident.traffic.at(collision.cleared_step)}
    assert not after & set(collision.tracks)


def test_wrecks_rest_and_nobody_drives_through_them(accident: Film) -> None:
    (collision,) = accident.collisions
    at_rest = range(collision.step + 40, collision.cleared_step - 40, 10)
    for step in at_rest:
        outlines = {}
        for s in accident.traffic.at(step):
            look = accident.traffic.tracks[int(s["track"])]
            outlines[int(s["track"])] = Rectangle(
                float(s["x"]), float(s["y"]), float(s["heading"]), look.length, look.width
            )
            if int(s["track"]) in collision.tracks:
                assert s["speed"] == 0
        for wreck in collision.tracks:
            for track, other in outlines.items():
                if track not in collision.tracks:
                    touch = contact(outlines[wreck], other)
                    assert touch is None or touch.depth_m < 0.2


def test_traffic_queues_before_the_accident(accident: Film) -> None:
    (collision,) = accident.collisions
    before = accident.traffic.states["step"] < collision.step
    shown = accident.traffic.states["step"] >= accident.first_step
    standing = accident.traffic.states[before & shown & (accident.traffic.states["speed"] < 0.1)]
    assert len(set(standing["track"])) >= 2


@pytest.mark.parametrize("name", ["seoul-normal", "busan-normal"])
def test_normal_scenes_are_harmless_and_loop_without_a_jump(name: str) -> None:
    scene = SCENES[name]
    film = prepare(scene)
    assert film.traffic.collisions == ()
    assert film.frames >= 300
    for step in (film.first_step, film.first_step + film.frames - 1):
        for s in film.traffic.at(step):
            assert np.hypot(s["x"], s["y"]) > 55


def test_busan_holds_hard_negatives() -> None:
    film = prepare(SCENES["busan-normal"])
    states = film.traffic.states
    ordered = {stop.track for stop in film.traffic.stops}
    longest = max(
        int(((states["track"] == track) & (states["speed"] < 0.1)).sum()) for track in ordered
    )
    assert longest > 200


def test_the_same_seed_gives_the_same_traffic_and_collisions_move_wrecks() -> None:
    first = simulate(216, 60 / 3600, 0.3)
    second = simulate(216, 60 / 3600, 0.3)
    assert np.array_equal(first.states, second.states)
    assert first.collisions == second.collisions


def test_render_writes_a_film_and_its_truth(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "koren_scenes", "render", "seoul-accident", str(tmp_path),
         "--frames", "12"],
        check=True,
    )  # fmt: skip
    truth = json.loads((tmp_path / "seoul-accident.json").read_text())
    film = cv2.VideoCapture(str(tmp_path / "seoul-accident.mp4"))
    fourcc = int(film.get(cv2.CAP_PROP_FOURCC))
    assert fourcc.to_bytes(4, "little") in (b"avc1", b"h264")
    assert (truth["width"], truth["height"], truth["fps"]) == (960, 544, 10)
    count = 0
    while film.read()[0]:
        count += 1
    assert count == len(truth["frames"]) == 12
    homography = np.array(truth["homography"])
    for vehicle in truth["frames"][0]["vehicles"]:
        x0, y0, x1, y1 = vehicle["box"]
        if x0 > 0 and y0 > 0 and x1 < 960 and y1 < 544:
            u, v, w = homography @ [vehicle["x"], vehicle["y"], 1]
            assert x0 <= u / w <= x1
            assert y0 <= v / w <= y1


def test_encode_gives_a_key_frame_every_second_and_no_b_frames(tmp_path: Path) -> None:
    source, target = tmp_path / "in.avi", tmp_path / "out.mp4"
    pattern = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=10"]
    subprocess.run([*pattern, "-t", "3", "-c:v", "mpeg4", str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "koren_scenes", "encode", str(source), str(target)], check=True
    )
    shown = subprocess.run(
        ["ffprobe", "-loglevel", "error", "-select_streams", "v", "-show_entries",
         "frame=pict_type", "-of", "csv=p=0", str(target)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    kinds = "".join(line.strip(",") for line in shown.stdout.split())
    assert kinds == "IPPPPPPPPP" * 3
