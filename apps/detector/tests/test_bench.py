"""What `make bench-detector` says of simulated tracks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from bench import judge_tracks
from view import random_view


def test_a_collision_in_sight_that_no_track_tells_of_is_missed(tmp_path: Path) -> None:
    view = random_view(np.random.default_rng(1))
    places = np.array([(x, y, 0.5) for x in range(-60, 61, 5) for y in range(-60, 61, 5)], float)
    pixels, depth = view.project(places)
    x, y, _ = places[(depth > 3) & (np.abs(pixels - [480, 272]) < 200).all(axis=1)][0]
    frames = 40
    calm = {
        "time": np.arange(frames) / 4, "features": np.zeros((frames, 26), np.float16),
        "place": np.zeros((frames, 2), np.float32), "true": np.zeros(frames, np.int32),
        "box": np.tile(np.array([0, 0, 40, 30], np.float32), (frames, 1)),
        **{name: np.zeros(frames, np.float32) for name in ("speed", "change", "changed_s")},
    }  # fmt: skip
    hits = np.array([[1000, 1, 2, 8.0, x, y, 1400]])
    junction = {"sequences": [calm], "hits": hits, "hours": 0.25, "watched": [(0.0, 900.0, view)]}
    (tmp_path / "test-1-0.pickle").write_bytes(pickle.dumps(junction))

    result = json.loads(json.dumps(judge_tracks(tmp_path)))

    assert (result["accidents"], result["found"], result["false_alarms"], result["hours"]) == (1, 0, 0, 0.25)
    assert result["f1"] == 0 and result["delay_p50_s"] is None
