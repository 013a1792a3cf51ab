from collections.abc import Callable

import numpy as np
import pytest
from scenes import FPS, GROUND, seen

from koren_detector.motion import FEATURES, Motion, MotionMeter
from koren_detector.tracking import Tracker


def watch(where: Callable[[float], list[tuple[float, float]]], seconds: float) -> Motion:
    tracker, meter = Tracker(), MotionMeter(GROUND)
    for number in range(round(seconds * FPS) + 1):
        time_s = number / FPS
        motion = meter.update(time_s, tracker.update(time_s, seen(where(time_s))))
    return motion


def test_speed_is_in_metres_a_second() -> None:
    motion = watch(lambda t: [(-12 + 10 * t, 25.0)], 2.4)

    assert motion.speeds[0] == pytest.approx(10, rel=0.1)
    assert np.cos(motion.headings[0]) == pytest.approx(1, abs=0.02)


def test_a_sudden_stop_is_a_hard_change_with_its_moment_and_the_speed_before() -> None:
    motion = watch(lambda t: [(-12 + 10 * min(t, 2.0), 25.0)], 4.0)

    assert motion.speeds[0] < 0.5
    assert motion.change[0] == pytest.approx(10, rel=0.2)
    assert motion.changed_s[0] == pytest.approx(2.0, abs=0.7)
    assert motion.before[0][0] == pytest.approx(10, rel=0.2)


def test_a_new_track_does_not_look_like_one_that_jumped() -> None:
    motion = watch(lambda t: [(-12 + 10 * t, 25.0)], 1.0)

    assert motion.change[0] < 2.5


def test_the_gap_between_two_cars_is_that_between_their_outlines() -> None:
    motion = watch(lambda t: [(-12 + 5 * t, 25.0), (-2 + 5 * t, 25.0)], 2.0)

    # 10 m between the middles of two cars of 4.4 m.
    assert motion.gaps[0, 1] == pytest.approx(5.6, abs=1.0)
    assert motion.gaps[0, 0] > 20


def test_features_are_bounded_and_finite() -> None:
    motion = watch(lambda t: [(-12 + 5 * t, 25.0), (-11 + 4 * t, 25.5), (0.0, 18.0)], 3.0)

    assert motion.features.shape == (3, len(FEATURES))
    assert np.isfinite(motion.features).all()
    assert np.abs(motion.features).max() <= 4


def test_rows_say_where_a_track_was_in_the_frame_before() -> None:
    tracker, meter = Tracker(), MotionMeter(GROUND)
    for number in range(12):
        time_s = number / FPS
        cars = [(10.0, 20.0)] * (number < 4) + [(-5.0, 20.0)]
        motion = meter.update(time_s, tracker.update(time_s, seen(cars)))

    assert motion.previous.tolist() == list(range(len(motion.previous)))
    assert 2 in motion.tracks.numbers
