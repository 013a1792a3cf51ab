import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koren_detector.measures import (
    average_precision,
    calibration_error,
    f1,
    hits,
    percentiles,
    poisson,
    root_mean_square,
    s4,
    wilson,
)

counts = st.integers(0, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))
unit = st.floats(0, 1, allow_nan=False)


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_intervals_that_newcombe_published(found: int, of: int, low: float, high: float) -> None:
    assert wilson(found, of) == pytest.approx((low, high), abs=5e-5)


@given(counts)
def test_wilson_holds_the_share_and_mirrors(pair: tuple[int, int]) -> None:
    found, of = pair
    low, high = wilson(found, of)

    assert 0 <= low <= (found / of if of else 0.5) <= high <= 1
    assert wilson(of - found, of) == pytest.approx((1 - high, 1 - low))


def test_a_proportion_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (10, 4.795, 18.390)]
)
def test_poisson_gives_the_exact_intervals_of_the_tables(count: int, low: float, high: float) -> None:
    assert poisson(count) == pytest.approx((low, high), abs=1e-3)


@given(st.integers(0, 300))
def test_poisson_holds_the_count_and_grows_with_it(count: int) -> None:
    (low, high), (next_low, next_high) = poisson(count), poisson(count + 1)

    assert low <= count <= high
    assert low < next_low and high < next_high


def test_s4_is_that_of_the_winner_of_2020() -> None:
    assert s4(0.9855, 4.8737) == pytest.approx(0.9695, abs=5e-5)
    assert s4(0.9302, 3.4) == pytest.approx(0.9197, abs=5e-5)


def test_s4_is_nothing_where_times_are_off_by_more_than_five_minutes() -> None:
    assert s4(1.0, 301.0) == 0


@given(unit, st.floats(0, 1e4), st.floats(0, 1e4))
def test_s4_never_exceeds_f1_and_falls_with_the_error(score: float, a: float, b: float) -> None:
    assert 0 <= s4(score, max(a, b)) <= s4(score, min(a, b)) <= score


def test_f1_by_hand() -> None:
    # Precision 3/4, recall 3/5.
    assert f1(3, 1, 2) == pytest.approx(2 / 3)
    assert f1(0, 0, 0) is None


def test_root_mean_square_by_hand() -> None:
    assert root_mean_square([3.0, -4.0, 0.0, 0.0]) == pytest.approx(2.5)


def test_calibration_error_by_hand() -> None:
    # Two at .95 of which one is right, two at .6 that are both right.
    assert calibration_error([0.95, 0.95, 0.6, 0.6], [True, False, True, True]) == pytest.approx((0.9 + 0.8) / 4)
    assert calibration_error([], []) is None


@given(st.lists(st.tuples(unit, st.booleans()), min_size=1))
def test_calibration_error_is_a_share(alarms: list[tuple[float, bool]]) -> None:
    error = calibration_error([sure for sure, _ in alarms], [right for _, right in alarms])

    assert error is not None and 0 <= error <= 1


def test_average_precision_is_that_of_padillas_published_example() -> None:
    # 24 detections of 15 objects (Padilla et al., "A Survey on Performance Metrics for Object-Detection Algorithms").
    scores = [
        *(0.95, 0.95, 0.91, 0.88, 0.84, 0.80, 0.78, 0.74, 0.71, 0.70, 0.67, 0.62),
        *(0.54, 0.48, 0.45, 0.45, 0.44, 0.44, 0.43, 0.38, 0.35, 0.23, 0.18, 0.14),
    ]
    right = np.zeros(24, bool)
    right[[0, 2, 9, 11, 12, 13, 22]] = True

    assert average_precision(np.array(scores), right, 15) == pytest.approx(0.2457, abs=5e-5)


def test_average_precision_by_hand() -> None:
    # Precision 1 at recall 1/4, 2/3 at 2/4.
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4) == pytest.approx(5 / 12)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 4) == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 0) is None


@given(st.lists(st.tuples(unit, st.booleans())), st.integers(0, 20))
def test_average_precision_is_a_share_and_not_moved_by_how_scores_are_scaled(
    found: list[tuple[float, bool]], missed: int
) -> None:
    scores = np.round(np.array([score for score, _ in found], float), 3)
    right = np.array([hit for _, hit in found], bool)
    positives = int(right.sum()) + missed
    ap = average_precision(scores, right, positives)

    assert ap is None if not positives else 0 <= ap <= right.sum() / positives + 1e-9
    assert average_precision(scores / 2 + 0.1, right, positives) == ap


def test_a_true_box_is_taken_once_by_the_surest() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    boxes = np.array([[1, 0, 11, 10], [0, 0, 10, 10], [20, 0, 30, 5], [20, 0, 30, 4.9]])

    assert hits(boxes, np.array([0.5, 0.9, 0.8, 0.85]), truth).tolist() == [False, True, True, False]
    assert hits(boxes, np.ones(4), np.zeros((0, 4))).tolist() == [False] * 4


def test_percentiles_by_hand() -> None:
    assert percentiles([1, 2, 3, 4, 11]) == {"p50": 3.0, "p90": pytest.approx(8.2)}
    assert percentiles([]) == {"p50": None, "p90": None}
