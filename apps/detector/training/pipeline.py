"""Train the accident score from nothing: `python pipeline.py FOLDER WEIGHTS --simulator PYTHON` (make train).

Four stages, each with files of its own in FOLDER: simulated junctions, films of them, observed tracks, weights. A
stage's folder is named after a hash of the code that its files come from, a file after its junction and seed. What is
there is not made again, so a run that was cut goes on, and a change of code repeats only what depends on it.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from koren_detector.lineage import feature_modules, hash_of

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src/koren_detector"
SCENES = HERE.parents[1] / "scenes/src/koren_scenes"
SIMULATOR = HERE.parents[2] / "bundle/clips/requirements.txt"
EPOCHS = 12


def key(files: Sequence[Path], before: str = "") -> str:
    """A short hash of the code of `files` and of the stage `before`; comments do not change it."""
    return hash_of({file.name: file.read_text() for file in files} | {"": f"before = {before!r}"})[:16]


def folders(folder: Path) -> dict[str, Path]:
    """The folder of each stage's files; weights are in the last one."""
    modules = [SOURCE / f"{name}.py" for name in feature_modules()]
    judges = [SOURCE / "incidents.py", SOURCE / "accident.py"]
    simulated = key([*sorted(SCENES.glob("*.py")), HERE / "simulate.py"], SIMULATOR.read_text())
    films = key([HERE / "film.py", HERE / "view.py", SOURCE / "boxes.py", SOURCE / "ground.py"], simulated)
    observed = key([HERE / "observe.py", *modules], films)
    weights = key([*(HERE / f"{name}.py" for name in ("train", "labels", "network", "evaluate")), *judges], observed)
    keys = {"simulated": simulated, "films": films, "observed": observed, "weights": weights}
    return {name: folder / f"{name}-{value}" for name, value in keys.items()}


def run(commands: list[list[str | Path]], **environment: str) -> None:
    """Run programs side by side, each on one core. Raises SystemExit when one fails; the others are ended."""
    begun = [subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment) for command in commands]
    try:
        if any([program.wait() for program in begun]):
            sys.exit(f"pipeline.py: {Path(str(commands[0][1])).name} failed")
    finally:
        for program in begun:
            program.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path, help="where the weights are copied to")
    parser.add_argument("--simulator", required=True, help="the Python that has the simulator")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--names", nargs="*", default=["train", "validation"], help="junctions whose names begin so")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    stages = folders(options.folder)
    shares = [["--share", str(job), str(options.jobs)] for job in range(options.jobs)]
    simulate = [options.simulator, HERE / "simulate.py", stages["simulated"], *options.names]
    run([[*simulate, *share] for share in shares], PYTHONPATH=str(SCENES.parent))
    observe = [sys.executable, HERE / "observe.py", stages["simulated"], stages["observed"], *options.names]
    run([[*observe, "--films", stages["films"], *share] for share in shares])
    stages["weights"].mkdir(parents=True, exist_ok=True)
    made = stages["weights"] / "accident.npz"
    if not made.exists():
        run([[sys.executable, HERE / "train.py", stages["observed"], made, "--epochs", str(options.epochs)]])
    shutil.copyfile(made, options.weights)


if __name__ == "__main__":
    main()
