"""Train the accident score on observed junctions: `python train.py OBSERVED WEIGHTS`.

Writes the weights with the threshold that the validation junctions choose. The test junctions are left to evaluate.py.
Each epoch ends with a checkpoint beside the weights, from which a run that was cut goes on.
"""

import argparse
import os
import pickle
import time
from pathlib import Path

import numpy as np
import torch
from evaluate import THRESHOLDS, Result, evaluate, score_all
from labels import labels
from network import Network
from stamp import commit, save
from torch.nn.functional import binary_cross_entropy_with_logits
from view import View  # noqa: F401  # pickles have it

from koren_detector.motion import FEATURES

SEED = 1
MOST_FRAMES = 180
BATCH = 64
CRASH_TIMES = 2
"""How often a track in a crash is shown in an epoch."""
CALM_SHARE = 0.5
"""Share of the tracks without a crash that an epoch shows: the likelier, the more the network erred on them before."""
POSITIVE_WEIGHT = 2.0
MOST_FALSE_ALARMS_PER_H = 0.1

Track = tuple[np.ndarray, np.ndarray]
"""Features and labels of a track's frames."""


def load(folder: Path, name: str) -> list[dict]:
    return [pickle.loads(path.read_bytes()) for path in sorted(folder.glob(f"{name}*.pickle"))]


def training_tracks(observed: list[dict]) -> list[Track]:
    """Features and labels of all tracks that something can be learned from."""
    tracks = []
    for junction in observed:
        for track in junction["sequences"]:
            label = labels(track, junction["hits"])
            if (label >= 0).any():
                # The end of a long wait tells more than its beginning.
                tracks.append((track["features"][-MOST_FRAMES:], label[-MOST_FRAMES:]))
    return tracks


class Training:
    """A network that learns, an epoch at a time. What it did so far is in `checkpoint`."""

    def __init__(self, tracks: list[Track], epochs: int, checkpoint: Path) -> None:
        self.tracks, self.epochs, self.checkpoint = tracks, epochs, checkpoint
        self.crash = np.array([(label == 1).any() for _, label in tracks])
        # How wrong the network was on a track when it last saw it.
        self.wrong = np.ones(len(tracks))
        self.rng = np.random.default_rng(SEED)
        torch.manual_seed(SEED)
        self.network = Network()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 3e-3, weight_decay=1e-3)
        shown = CRASH_TIMES * int(self.crash.sum()) + round(CALM_SHARE * int((~self.crash).sum()))
        batches = max(-(-shown // BATCH), 1)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 6e-3, epochs * batches)
        self.done = 0
        if checkpoint.exists():
            self._resume()

    def run(self) -> Network:
        """Learn for the epochs that are left."""
        while self.done < self.epochs:
            begun = time.time()
            loss = self._epoch()
            self.done += 1
            self._keep()
            print(f"epoch {self.done} of {self.epochs}: loss {loss:.4f}, {time.time() - begun:.0f} s", flush=True)
        return self.network

    def _epoch(self) -> float:
        calm = np.flatnonzero(~self.crash)
        chance = self.wrong[calm] + 0.02
        count = round(CALM_SHARE * len(calm))
        shown = self.rng.choice(calm, count, replace=False, p=chance / chance.sum()) if count else calm
        shown = np.concatenate([shown, *[np.flatnonzero(self.crash)] * CRASH_TIMES])
        shown = shown[np.argsort([len(self.tracks[row][1]) for row in shown], kind="stable")]
        batches = [shown[start : start + BATCH] for start in range(0, len(shown), BATCH)]
        total = sum(self._learn(batches[number]) for number in self.rng.permutation(len(batches)))
        return total / max(len(batches), 1)

    def _learn(self, rows: np.ndarray) -> float:
        longest = max(len(self.tracks[row][1]) for row in rows)
        features = np.zeros((len(rows), longest, len(FEATURES)), np.float32)
        target = np.zeros((len(rows), longest), np.float32)
        weight = np.zeros((len(rows), longest), np.float32)
        for place, row in enumerate(rows):
            seen, label = self.tracks[row]
            features[place, : len(label)] = seen
            target[place, : len(label)] = label == 1
            weight[place, : len(label)] = label >= 0
        # Features shake a little more than the simulated cameras let them.
        features += self.rng.normal(0, 0.02, features.shape).astype(np.float32)
        logits = self.network(torch.from_numpy(features))
        loss = binary_cross_entropy_with_logits(
            logits, torch.from_numpy(target), reduction="none", pos_weight=torch.tensor(POSITIVE_WEIGHT)
        )
        loss = (loss * torch.from_numpy(weight)).sum() / max(float(weight.sum()), 1.0)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        scores = torch.sigmoid(logits).detach().numpy()
        self.wrong[rows] = (np.abs(scores - target) * (weight > 0)).max(1)
        return float(loss)

    def _keep(self) -> None:
        part = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "done": self.done, "wrong": self.wrong, "rng": self.rng.bit_generator.state,
                "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            part,
        )  # fmt: skip
        os.replace(part, self.checkpoint)

    def _resume(self) -> None:
        kept = torch.load(self.checkpoint)
        self.done, self.wrong = kept["done"], kept["wrong"]
        self.rng.bit_generator.state = kept["rng"]
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.schedule.load_state_dict(kept["schedule"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("observed", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tracks = training_tracks(load(options.observed, "train"))
    training = Training(tracks, options.epochs, options.weights.with_suffix(".checkpoint"))
    print(len(tracks), "tracks to learn from,", int(training.crash.sum()), "in crashes", flush=True)
    weights = training.run().weights()
    validation = load(options.observed, "validation")
    scored = score_all(validation, weights)
    results = [evaluate(validation, scored, threshold) for threshold in THRESHOLDS]
    for result in results:
        print("validation", result, flush=True)
    best = choose(results)
    print("chosen", best.threshold)
    settings = {"threshold": np.array(best.threshold, np.float32), "features": np.array(FEATURES)}
    save(options.weights, weights | settings, commit())


def choose(results: list[Result]) -> Result:
    """The threshold with the best F1 of those with few enough false alarms, else the highest."""
    quiet = [r for r in results if r.false_alarms_per_h <= MOST_FALSE_ALARMS_PER_H]
    return max(quiet or results[-1:], key=lambda r: (r.f1_hard or 0.0, r.threshold))


if __name__ == "__main__":
    main()
