"""Figures of merit: intervals, precision and recall, AI City's S4, calibration, average precision. Arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .boxes import Array, Bools, overlaps

_Z95 = 1.959963984540054
_AI_CITY_WORST_RMSE_S = 300.0
_HALVINGS = 70  # more than a float can tell apart


def wilson(found: int, of: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion; (0, 1) of none. Raises ValueError unless 0 <= found <= of."""
    if not 0 <= found <= of:
        raise ValueError(f"{found} of {of} is no proportion")
    if of == 0:
        return 0.0, 1.0
    share, z2 = found / of, _Z95**2 / of
    middle = share + z2 / 2
    reach = math.sqrt(share * (1 - share) * z2 + z2**2 / 4)
    low = 0.0 if found == 0 else (middle - reach) / (1 + z2)
    high = 1.0 if found == of else (middle + reach) / (1 + z2)
    return low, high


def poisson(count: int) -> tuple[float, float]:
    """The exact 95 % interval of the mean of a Poisson count. Raises ValueError for a negative count."""
    if count < 0:
        raise ValueError(f"{count} is no count")
    low = 0.0 if count == 0 else _solve(lambda mean: _at_most(count - 1, mean) < 0.975, count)
    return low, _solve(lambda mean: _at_most(count, mean) < 0.025, count)


def _at_most(count: int, mean: float) -> float:
    """Probability of at most `count` where `mean` are expected."""
    log = math.log(mean) if mean else -math.inf
    return math.fsum(math.exp((k * log if k else 0.0) - mean - math.lgamma(k + 1)) for k in range(count + 1))


def _solve(above: Callable[[float], bool], near: int) -> float:
    low, high = 0.0, 10.0 + near + 10 * math.sqrt(near)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high


def f1(true: int, false: int, missed: int) -> float | None:
    """F1 of true alarms, false alarms and missed incidents; None where there is none of them."""
    total = 2 * true + false + missed
    return 2 * true / total if total else None


def s4(f1_score: float, rmse_s: float) -> float:
    """AI City's S4: F1 times 1 - NRMSE. The error of the start time is normalized by 0 and 300 s, and 1 above that."""
    return f1_score * (1 - min(rmse_s / _AI_CITY_WORST_RMSE_S, 1.0))


def root_mean_square(errors: Sequence[float]) -> float:
    """Root of the mean of the squares; 0 of none."""
    return math.sqrt(math.fsum(error**2 for error in errors) / len(errors)) if errors else 0.0


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float | None:
    """Expected calibration error: how far confidence is from the share that was right, in equal bins; None of none."""
    if not confidences:
        return None
    sure, was_right = np.array(confidences, float), np.array(right, float)
    bin_of = np.clip((sure * bins).astype(int), 0, bins - 1)
    off = [abs((sure - was_right)[bin_of == number].sum()) for number in range(bins)]
    return float(sum(off) / len(sure))


def hits(boxes: Array, scores: Array, truth: Array, least: float = 0.5) -> Bools:
    """Which boxes (n, 4) of a frame are right: the surest first, each takes a true box that it overlaps by `least`."""
    right = np.zeros(len(boxes), bool)
    overlap = overlaps(boxes, truth)
    for row in np.argsort(-scores, kind="stable"):
        if overlap.shape[1] and overlap[row].max() >= least:
            right[row] = True
            overlap[:, overlap[row].argmax()] = -1.0
    return right


def average_precision(scores: Array, right: Bools, positives: int) -> float | None:
    """Area below the precision-recall curve, each precision being the best at that recall or above (PASCAL VOC 2010).

    None where there is nothing to find.
    """
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    precision = found / np.arange(1, len(order) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right[order]].sum() / positives)


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Median and 90th percentile, as p50 and p90; None of none."""
    return {f"p{share}": float(np.percentile(np.array(values, float), share)) if values else None for share in (50, 90)}
