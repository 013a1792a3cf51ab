"""Train the accident score on observed junctions: `python train.py OBSERVED WEIGHTS`.

Writes the weights with the threshold that the validation junctions choose. The test junctions are
left to evaluate.py.
"""

import argparse
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
from view import View  # noqa: F401  # old pickles

from koren_detector.motion import FEATURES

MOST_FRAMES = 250
BATCH = 64
MOST_FALSE_ALARMS_PER_H = 0.5


def load(folder: Path, name: str) -> list[dict]:
    return [pickle.loads(path.read_bytes()) for path in sorted(folder.glob(f"{name}*.pickle"))]


def training_tracks(observed: list[dict], rng: np.random.Generator) -> list[tuple]:
    """Features and labels of all tracks in crashes, and a share of the others, by length."""
    chosen = []
    for junction in observed:
        for track in junction["sequences"]:
            label = labels(track, junction["hits"])
            lively = track["change"].max() > 4.0
            if (label != 0).any() or rng.random() < (0.8 if lively else 0.25):
                # The end of a long wait tells more than its beginning.
                pair = (track["features"][-MOST_FRAMES:], label[-MOST_FRAMES:])
                chosen += [pair] * (2 if (label == 1).any() else 1)
    chosen.sort(key=lambda pair: len(pair[0]))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("observed", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    tracks = training_tracks(load(options.observed, "train"), rng)
    validation = load(options.observed, "validation")
    struck = sum(bool((label == 1).any()) for _, label in tracks) // 2
    print(len(tracks), "tracks to learn from,", struck, "in crashes", flush=True)

    batches = [tracks[start : start + BATCH] for start in range(0, len(tracks), BATCH)]
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, options.epochs * len(batches))
    begun = time.time()
    for epoch in range(options.epochs):
        total = 0.0
        for number in rng.permutation(len(batches)):
            batch = batches[number]
            longest = max(len(label) for _, label in batch)
            features = np.zeros((len(batch), longest, len(FEATURES)), np.float32)
            target = np.zeros((len(batch), longest), np.float32)
            weight = np.zeros((len(batch), longest), np.float32)
            for row, (seen, label) in enumerate(batch):
                features[row, : len(label)] = seen
                target[row, : len(label)] = label == 1
                weight[row, : len(label)] = label >= 0
            # Features shake a little more than the simulated cameras let them.
            features += rng.normal(0, 0.02, features.shape).astype(np.float32)
            loss = binary_cross_entropy_with_logits(
                network(torch.from_numpy(features)), torch.from_numpy(target), reduction="none",
                pos_weight=torch.tensor(3.0),
            )  # fmt: skip
            loss = (loss * torch.from_numpy(weight)).sum() / max(float(weight.sum()), 1.0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss)
        print(f"epoch {epoch} loss {total / len(batches):.4f} {time.time() - begun:.0f} s", flush=True)

    torch.save(network.state_dict(), options.weights.with_suffix(".pt"))
    scored = score_all(validation, network.weights())
    results = [evaluate(validation, scored, threshold) for threshold in THRESHOLDS]
    for result in results:
        print("validation", result, flush=True)
    best = choose(results)
    print("chosen", best.threshold)
    settings = {"threshold": np.array(best.threshold, np.float32), "features": np.array(FEATURES)}
    save(options.weights, network.weights() | settings, commit())


def choose(results: list[Result]) -> Result:
    """The lowest threshold with few enough false alarms and no higher one a clear gain."""
    quiet = [r for r in results if r.false_alarms_per_h <= MOST_FALSE_ALARMS_PER_H]
    return max(quiet or results[-1:], key=lambda r: (r.recall_hard + r.recall, r.threshold))


if __name__ == "__main__":
    main()
