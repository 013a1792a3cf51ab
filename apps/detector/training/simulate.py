"""Simulate junctions for training: `python simulate.py FOLDER [name ...]` (needs koren-scenes).

One file a junction, named after what it is for. The seed decides geometry, control, demand and
behaviour, so a junction belongs to one split only. Files that exist are kept.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from koren_scenes import Traffic, simulate

# What for, first seed, junctions, hours each, share of reckless drivers, seconds a wreck stays.
PLAN = [
    ("train", 100, 24, 1.0, 0.25, 30.0),
    ("train-more", 200, 8, 1.0, 0.35, 25.0),
    ("train-hard", 500, 24, 1.0, 0.5, 25.0),
    ("train-calm", 150, 4, 1.0, 0.0, 30.0),
    ("validation", 300, 6, 1.5, 0.12, 40.0),
    ("validation-more", 208, 4, 1.0, 0.35, 25.0),
    ("test", 400, 11, 2.0, 0.12, 40.0),
    ("test-more", 460, 6, 1.0, 0.35, 25.0),
    ("test-calm", 450, 3, 1.0, 0.0, 30.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only junctions whose names begin so")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="the first one and the step to the next")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    wanted = [
        (name, seed, *how) for name, first, count, *how in PLAN for seed in range(first, first + count)
        if f"{name}-{seed}.npz".startswith(tuple(options.names or [""]))
    ]  # fmt: skip
    first, step = options.share
    for name, seed, hours, reckless, wreck_s in wanted[first::step]:
        path = options.folder / f"{name}-{seed}.npz"
        if not path.exists():
            store(path, simulate(seed, hours, reckless, wreck_s=wreck_s))


def store(path: Path, traffic: Traffic) -> None:
    """Write what happened to a file that is there as a whole or not at all."""
    numbers = sorted(traffic.tracks)
    kinds = [traffic.tracks[number] for number in numbers]
    hits = [(hit.step, *hit.tracks, hit.delta_v, hit.x, hit.y, hit.cleared_step) for hit in traffic.collisions]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            states=traffic.states,
            steps=traffic.steps,
            numbers=np.array(numbers, np.int32),
            kinds=np.array([kind.kind for kind in kinds]),
            sizes=np.array([(kind.length, kind.width) for kind in kinds], np.float32),
            collisions=np.array(hits, np.float64).reshape(-1, 7),
        )
    os.replace(part, path)
    print(f"{path.name}: {len(numbers)} vehicles, {len(traffic.collisions)} collisions", flush=True)


if __name__ == "__main__":
    main()
