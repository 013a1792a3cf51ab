"""Training goes on after a cut, and gives the same weights again."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from koren_detector.motion import FEATURES

torch = pytest.importorskip("torch")

TRAINING = Path(__file__).parents[1] / "training"
KINDS = ["car", "car", "truck"]
STATES = np.dtype([("step", "i4"), ("track", "i4"), ("x", "f4"), ("y", "f4"), ("heading", "f4"), ("speed", "f4")])


def junction(path: Path, seconds: float) -> None:
    """A car that stands is struck by another after 30 s; a truck goes round. As simulate.py stores it."""
    steps = round(seconds * 10)
    rows = []
    for step in range(steps):
        time_s = step / 10
        x = min(-20 + 10 * max(time_s - 28, 0), 0.0)
        rows += [(step, 1, x, 0.0, 0.0, 10.0 * (28 <= time_s < 30)), (step, 2, 4.6, 0.0, 0.0, 0.0)]
        turn = time_s / 4
        rows.append((step, 3, 12 * np.cos(turn), 12 * np.sin(turn), turn + np.pi / 2, 3.0))
    np.savez(
        path, states=np.array(rows, STATES), steps=steps, numbers=np.array([1, 2, 3], np.int32), kinds=np.array(KINDS),
        sizes=np.array([(4.5, 1.8), (4.5, 1.8), (8.5, 2.4)], np.float32),
        collisions=np.array([(300, 1, 2, 9.0, 2.3, 0.0, steps)]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from observe import films_of, observe, write

    folder = tmp_path_factory.mktemp("observed")
    for name, seconds in (("train-1", 80.0), ("validation-1", 60.0)):
        path = folder / f"{name}.npz"
        junction(path, seconds)
        write(folder / f"{name}-0.pickle", observe(films_of(path)))
    return folder


def test_each_collision_is_taught_through_several_cameras_that_have_it_in_sight(observed: Path) -> None:
    from film import CAMERAS
    from labels import labels

    seen = pickle.loads((observed / "train-1-0.pickle").read_bytes())

    assert len([view for start, end, view in seen["watched"] if start < 30 < end and view.shows(2.3, 0.0)]) >= CAMERAS
    taught = {track["film"] for track in seen["sequences"] if (labels(track, seen["hits"]) == 1).any()}
    assert len(taught) >= CAMERAS
    assert all(track["features"].shape[1] == len(FEATURES) for track in seen["sequences"])


def test_the_same_seed_gives_the_same_tracks(observed: Path) -> None:
    from observe import films_of, observe

    again = observe(films_of(observed / "train-1.npz"))
    before = pickle.loads((observed / "train-1-0.pickle").read_bytes())

    for one, other in zip(again["sequences"], before["sequences"], strict=True):
        assert (one["features"] == other["features"]).all() and (one["true"] == other["true"]).all()


def train(observed: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    import train as program

    monkeypatch.setattr(sys, "argv", ["train.py", str(observed), str(weights), "--epochs", "3"])
    program.main()
    return dict(np.load(weights))


def test_training_that_was_cut_goes_on_and_ends_with_the_same_weights(
    observed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import Training

    at_once = train(observed, tmp_path / "at-once.npz", monkeypatch)

    epoch = Training._epoch
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_epoch", lambda self: epoch(self) if self.done < 2 else pytest.fail("cut"))
        with pytest.raises(pytest.fail.Exception, match="cut"):
            train(observed, tmp_path / "cut.npz", monkeypatch)
    assert not (tmp_path / "cut.npz").exists()
    begun = []
    monkeypatch.setattr(Training, "_epoch", lambda self: begun.append(self.done) or epoch(self))
    in_two = train(observed, tmp_path / "cut.npz", monkeypatch)

    assert begun == [2]
    assert at_once.keys() == in_two.keys()
    assert all((at_once[name] == in_two[name]).all() for name in at_once)


def test_a_stage_makes_only_what_is_missing(observed: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = [sys.executable, TRAINING / "observe.py", observed, made, "validation", "--films", tmp_path / "films"]

    def run() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout

    assert "validation-1-0" in run()
    assert run() == ""
    (made / "validation-1-0.pickle").unlink()
    assert "validation-1-0" in run()
    assert not list(made.glob("*.part")) and not list((tmp_path / "films").glob("*.part"))


def environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}


def test_a_change_of_a_stage_s_code_changes_its_folder_and_those_after_it(tmp_path: Path) -> None:
    from pipeline import key

    code = tmp_path / "film.py"
    code.write_text("CAMERAS = 2\n")
    before = key([code], "simulated")
    code.write_text("CAMERAS = 2  # a comment\n")

    assert key([code], "simulated") == before
    assert key([code], "other") != before
    code.write_text("CAMERAS = 3\n")
    assert key([code], "simulated") != before
