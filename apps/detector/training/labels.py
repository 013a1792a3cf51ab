"""What the network is taught about each frame of a track."""

import numpy as np
from film import HARD_M_S

from koren_detector.motion import FEATURES

BEGUN_BEFORE_S = 2.0
"""A track that begins up to so long after the impact may still tell of it, by its neighbour."""
SHOWN_M_S = 2.0
SHOWN_NEAR = 0.5
"""How much of it the feature of the neighbours must show, in the feature's own unit."""
POSITIVE_S = (0.6, 12.0)
_NEAR = FEATURES.index("near_hardest_change_3s")


def labels(track: dict, hits: np.ndarray) -> np.ndarray:
    """1 in a crash lately, 0 not, -1 don't teach: it can't be told yet, or any more; (frames,).

    A track that shows no crash, by its own motion or by that of a vehicle next to it, is not taught as one: a truck
    that was hit by a motorcycle, a box that hides behind another, a track that begins long after.
    """
    time_s = track["time"]
    result = np.zeros(len(time_s), np.int8)
    near = track["features"][:, _NEAR]
    involved = np.isin(hits[:, 1:3], np.unique(track["true"])).any(1)
    for step, a, b, delta_v, *_ in hits[involved & (hits[:, 0] / 10 < time_s[-1] + 0.5)]:
        mine = np.isin(track["true"], (int(a), int(b)))
        since = time_s - step / 10
        after = mine & (since > -0.5)
        if not after.any():
            continue
        around = after & (since < 3.5)
        fresh = around & (track["changed_s"] < since + 1.5)
        shown = (fresh.any() and track["change"][fresh].max() > SHOWN_M_S) or (
            around.any() and near[around].max() > SHOWN_NEAR
        )
        told = delta_v >= HARD_M_S and time_s[0] < step / 10 + BEGUN_BEFORE_S and shown
        crash = mine & (since >= POSITIVE_S[0]) & (since <= POSITIVE_S[1]) & told
        result[after & (result == 0)] = -1
        result[crash] = 1
    return result
