"""What the network is taught about each frame of a track."""

import numpy as np

HARD_M_S = 3.0
"""A softer touch is neither an accident nor a proof of peace: the network isn't taught on it."""
SEEN_BEFORE_S = 1.0
SHOWN_M_S = 2.0
POSITIVE_S = (0.6, 8.0)


def labels(track: dict, hits: np.ndarray) -> np.ndarray:
    """1 in a crash lately, 0 not, -1 don't teach: it can't be told yet, or any more; (frames,).

    A track that begins after the impact, or whose own motion shows none (a truck that was hit by a
    motorcycle, a box that hides behind another), is not taught as a crash: nothing in it tells.
    """
    time_s = track["time"]
    result = np.zeros(len(time_s), np.int8)
    for step, a, b, delta_v, *_ in hits:
        mine = np.isin(track["true"], (int(a), int(b)))
        since = time_s - step / 10
        after = mine & (since > -0.5)
        if not after.any():
            continue
        around = after & (since < 3.5)
        fresh = around & (track["changed_s"] < since + 1.5)
        shown = fresh.any() and track["change"][fresh].max() > SHOWN_M_S
        told = delta_v >= HARD_M_S and time_s[0] < step / 10 - SEEN_BEFORE_S and shown
        crash = mine & (since >= POSITIVE_S[0]) & (since <= POSITIVE_S[1]) & told
        result[after & (result == 0)] = -1
        result[crash] = 1
    return result
