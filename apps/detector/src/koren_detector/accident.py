"""The accident score: a small recurrent network over each track's motion, in plain numpy.

Learned on simulated junctions (see training/). One step a frame; a track's state goes with it.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from .boxes import Array
from .lineage import feature_code_hash, feature_modules
from .motion import FEATURES, Motion

Weights = dict[str, npt.NDArray[np.float32]]


class WeightsError(ValueError):
    """The weights do not fit the code; the message names the file and the remedy."""


def load_weights() -> Weights:
    """The trained weights and the threshold that come with the package.

    Raises WeightsError when the code that makes features, tracks and ground is other than the weights were made for.
    """
    stored = _stored()
    if tuple(stored.pop("features")) != FEATURES:
        raise WeightsError("accident.npz was trained on other features; train it again (training/train.py)")
    made_for, here = str(stored.pop("feature_code")), feature_code_hash()
    if made_for != here:
        modules = ", ".join(f"{name}.py" for name in feature_modules())
        raise WeightsError(
            f"accident.npz was made for other code of {modules} (its hash {made_for[:12]}, the code's {here[:12]});"
            " install the package anew, or after a change of the code train the weights again (training/train.py),"
            " or measure the old ones with the new code and record that (training/stamp.py)"
        )
    stored.pop("trained_on")
    return stored


def trained_on() -> str:
    """The commit of the project whose code trained the weights. It may be older than the code that they run with."""
    return str(_stored()["trained_on"])


def _stored() -> dict[str, npt.NDArray[Any]]:
    with files("koren_detector").joinpath("accident.npz").open("rb") as file:
        stored = dict(np.load(file, allow_pickle=False))
    if missing := {"features", "feature_code", "trained_on"} - stored.keys():
        names = ", ".join(sorted(missing))
        raise WeightsError(f"accident.npz does not say {names}; write it anew (training/train.py or training/stamp.py)")
    return stored


class AccidentScore:
    """Scores one camera's tracks: the probability that each was in a crash seconds ago."""

    def __init__(self, weights: Weights) -> None:
        self._w = weights
        self._state: Array = np.zeros((0, weights["hidden"].shape[1]))

    def update(self, motion: Motion) -> Array:
        """Scores (n,) 0..1 in the order of the motion's tracks."""
        w = self._w
        state = np.zeros((len(motion.previous), self._state.shape[1]))
        known = motion.previous >= 0
        state[known] = self._state[motion.previous[known]]
        entry = np.maximum(motion.features @ w["entry"].T + w["entry_bias"], 0)
        from_entry = np.split(entry @ w["input"].T + w["input_bias"], 3, axis=1)
        from_state = np.split(state @ w["hidden"].T + w["hidden_bias"], 3, axis=1)
        reset = _sigmoid(from_entry[0] + from_state[0])
        keep = _sigmoid(from_entry[1] + from_state[1])
        fresh = np.tanh(from_entry[2] + reset * from_state[2])
        self._state = (1 - keep) * fresh + keep * state
        scores: Array = _sigmoid(np.hstack([self._state, entry]) @ w["exit"][0] + float(w["exit_bias"][0]))
        return scores


def _sigmoid(x: Array) -> Array:
    value: Array = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return value
