"""Look at simulated junctions through cameras, an imperfect vehicle detector, and the real tracker and motion meter.

`python observe.py SIMULATED OBSERVED [name ...]` writes one file a junction and camera. With `--films FOLDER` what the
vehicle detector reports is kept there, so that a change of tracks or features needs no new films.
"""

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from film import Film, Traffic, film_parts, film_whole

from koren_detector.motion import MotionMeter
from koren_detector.tracking import Tracker


def films_of(path: Path, view: int = 0, most_s: float = np.inf) -> dict[str, Any]:
    """A junction's films: parts of it for training, else the whole."""
    traffic = Traffic.load(path)
    if path.name.startswith("train"):
        films = film_parts(path, traffic)
        seconds = sum(film.end_s - film.start_s for film in films)
    else:
        films = film_whole(path, traffic, view, most_s)
        seconds = min(traffic.seconds, most_s)
    return {"films": films, "hits": traffic.hits, "hours": seconds / 3600}


def observe(filmed: dict[str, Any]) -> dict[str, Any]:
    """What the tracker and the motion meter make of a junction's films."""
    sequences, first = [], 1
    for number, film in enumerate(filmed["films"]):
        seen, first = _watch(film, first)
        sequences += [sequence | {"film": number} for sequence in seen]
    watched = [(film.start_s, film.end_s, film.view) for film in filmed["films"]]
    return {"sequences": sequences, "hits": filmed["hits"], "hours": filmed["hours"], "watched": watched}


def _watch(film: Film, first: int) -> tuple[list[dict[str, Any]], int]:
    tracker, meter = Tracker(first), MotionMeter(film.ground)
    rows: dict[int, list] = {}
    belongs: dict[int, int] = {}
    for time_s, found, owner in film.frames():
        motion = meter.update(time_s, tracker.update(time_s, found))
        matched = motion.tracks.detections
        for row, number in enumerate(motion.tracks.numbers):
            if matched[row] >= 0 and owner[matched[row]]:
                belongs[number] = int(owner[matched[row]])
            rows.setdefault(int(number), []).append(
                (time_s, motion.features[row].astype(np.float16), motion.places[row],
                 motion.speeds[row], motion.change[row], motion.changed_s[row],
                 belongs.get(number, 0), motion.tracks.boxes[row])
            )  # fmt: skip
    sequences = [
        {
            "time": np.array([r[0] for r in seq]),
            "features": np.stack([r[1] for r in seq]),
            "place": np.stack([r[2] for r in seq]).astype(np.float32),
            "speed": np.array([r[3] for r in seq], np.float32),
            "change": np.array([r[4] for r in seq], np.float32),
            "changed_s": np.array([r[5] for r in seq], np.float32),
            "true": np.array([r[6] for r in seq], np.int32),
            "box": np.stack([r[7] for r in seq]).astype(np.float32),
        }
        for seq in rows.values()
        if len(seq) >= 4
    ]
    return sequences, tracker.next_number


def write(path: Path, value: object) -> None:
    """Pickle a value to a file that is there as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(pickle.dumps(value))
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("simulated", type=Path)
    parser.add_argument("observed", type=Path)
    parser.add_argument("names", nargs="*", help="only files whose names begin so")
    parser.add_argument("--views", type=int, default=1, help="look at validation and tests through so many cameras")
    parser.add_argument("--hours", type=float, default=np.inf, help="look at validation and tests for so long")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="the first file and the step to the next")
    parser.add_argument("--films", type=Path, help="keep films in this folder, and use those that are there")
    options = parser.parse_args()
    options.observed.mkdir(parents=True, exist_ok=True)
    if options.films:
        options.films.mkdir(parents=True, exist_ok=True)
    names = tuple(options.names or [""])
    found = sorted(path for path in options.simulated.glob("*.npz") if path.name.startswith(names))
    first, step = options.share
    for path in found[first::step]:
        for view in range(1 if path.name.startswith("train") else options.views):
            target = options.observed / f"{path.stem}-{view}.pickle"
            if target.exists():
                continue
            kept = options.films and options.films / target.name
            if kept and kept.exists():
                filmed = pickle.loads(kept.read_bytes())
            else:
                filmed = films_of(path, view, options.hours * 3600)
                if kept:
                    write(kept, filmed)
            seen = observe(filmed)
            write(target, seen)
            print(target.stem, len(seen["sequences"]), "tracks", flush=True)


if __name__ == "__main__":
    main()
