"""Keep weights for changed code: `python stamp.py WEIGHTS [--trained-on COMMIT]`.

For a change of the feature code after which the weights were measured again, and not trained again. The file then says
which code it was measured with and which commit's code trained it. Put the new figures into docs/model-card.md.
"""

import argparse
import subprocess
from pathlib import Path

import numpy as np

from koren_detector.lineage import feature_code_hash


def commit() -> str:
    """The checkout's commit, with "+" after it where tracked files were changed."""
    described = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--exclude=*"]
    found = subprocess.run([*described, "--dirty=+"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def save(path: Path, stored: dict[str, np.ndarray], trained_on: str) -> None:
    """Write weights with the hash of today's feature code."""
    stamped = {"feature_code": np.array(feature_code_hash()), "trained_on": np.array(trained_on)}
    np.savez_compressed(path, **{**stored, **stamped})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--trained-on", help="the commit whose code trained them; without it, what the file says")
    options = parser.parse_args()
    stored = dict(np.load(options.weights, allow_pickle=False))
    trained_on = options.trained_on or str(stored.get("trained_on", ""))
    if not trained_on:
        parser.error("the file does not say which commit trained it; give --trained-on")
    save(options.weights, stored, trained_on)


if __name__ == "__main__":
    main()
