from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import GROUND, boxes

from koren_detector.annotations import Accident
from koren_detector.ground import Ground
from koren_detector.outcome import Alarm, Watched, details, figures, judge

CRASH = Accident(t=20.0, place=(400, 200, 440, 230), cleared=50.0)


def alarm(t: float, box: tuple[float, ...] = (405, 205, 435, 228), confidence: float = 0.9) -> Alarm:
    return Alarm(t, t - 1.5, confidence, np.array([box], float), "unknown")


def watched(*alarms: Alarm, accidents: tuple[Accident, ...] = (CRASH,), ground: Ground | None = None) -> Watched:
    return Watched("clip.mp4", 3600.0, (960, 544), ground, accidents, alarms)


def verdicts(clip: Watched) -> list[str]:
    return [entry["verdict"] for entry in details(clip, 15.0)["alarms"]]


def test_the_first_alarm_in_time_and_place_is_true() -> None:
    clip = watched(alarm(10), alarm(23), alarm(24), alarm(23.5, (5, 5, 20, 20)), alarm(70))

    assert verdicts(clip) == ["false", "true", "repeated", "false", "repeated"]


def test_an_alarm_that_comes_too_late_finds_nothing_and_is_not_false() -> None:
    clip = watched(alarm(36))

    assert verdicts(clip) == ["late"]
    assert [accident.t for accident in judge(clip, 15.0).missed] == [20.0]


def test_an_alarm_after_the_accident_was_cleared_is_false() -> None:
    assert verdicts(watched(alarm(81))) == ["false"]


def test_an_accident_of_which_no_place_is_known_is_found_by_its_time() -> None:
    assert verdicts(watched(alarm(21, (5, 5, 20, 20)), accidents=(replace(CRASH, place=None),))) == ["true"]


def test_where_the_ground_is_known_metres_count() -> None:
    near, far = boxes([(0.0, 24.0)])[0], boxes([(0.0, 40.0)])[0]
    there = boxes([(0.0, 20.0)])[0]
    crash = Accident(20.0, tuple(map(float, there)))  # type: ignore[arg-type]

    assert verdicts(watched(alarm(21, tuple(near)), accidents=(crash,), ground=GROUND)) == ["true"]
    assert verdicts(watched(alarm(21, tuple(far)), accidents=(crash,), ground=GROUND)) == ["false"]
    errors = figures([watched(alarm(21, tuple(near)), accidents=(crash,), ground=GROUND)], 15.0)["place_error"]
    assert errors["m"]["p50"] == pytest.approx(4.0, abs=0.3)
    assert errors["of_diagonal"]["count"] == 0


def test_figures_by_hand() -> None:
    calm = Watched("calm.mp4", 20 * 3600.0, (960, 544), None, (), (alarm(9, confidence=0.7),))
    clips = [watched(alarm(23)), watched(), watched(alarm(25), alarm(30)), calm, replace(calm, alarms=())]

    result = figures(clips, 15.0)

    assert (result["clips"], result["hours"], result["accidents"]) == (5, 43.0, 3)
    assert result["recall"] == {"value": 0.6667, "of": 3, "low95": 0.2077, "high95": 0.9385}
    assert result["precision"]["value"] == 0.6667 and result["f1"] == 0.6667
    assert result["false_alarms"] == 1 and result["repeated"] == 1
    assert result["false_alarms_per_camera_day"]["value"] == pytest.approx(24 / 43, abs=1e-4)
    assert result["delay_s"] == {"p50": 4.0, "p90": 4.8}
    # Starts are at 21.5 and 23.5 s; one more alarm's, at 28.5 s, is AI City's false one, with that of the calm clip.
    assert result["s4"]["rmse_s"] == pytest.approx(np.sqrt((1.5**2 + 3.5**2) / 2), abs=1e-4)
    assert result["s4"]["f1"] == pytest.approx(4 / 7, abs=1e-4)
    # Three right at .9, one wrong at .7.
    assert result["calibration_error"] == pytest.approx((3 * 0.1 + 0.7) / 4)
    assert result["ap50"] is None


def test_nothing_is_claimed_of_nothing() -> None:
    result = figures([Watched("calm.mp4", 60.0, (960, 544), None, (), ())], 15.0)

    assert result["recall"] == {"value": None, "of": 0, "low95": 0.0, "high95": 1.0}
    assert result["f1"] is None and result["s4"]["value"] is None and result["calibration_error"] is None
    # A calm minute may still be one of a camera with thousands of false alarms a day.
    assert result["false_alarms_per_camera_day"]["value"] == 0
    assert result["false_alarms_per_camera_day"]["high95"] > 5000


moments = st.lists(st.floats(0, 200), max_size=8)


@given(moments, moments)
def test_every_alarm_and_every_accident_is_counted_once(alarms: list[float], accidents: list[float]) -> None:
    clip = watched(*(alarm(t) for t in alarms), accidents=tuple(Accident(t, CRASH.place) for t in accidents))
    judged = judge(clip, 15.0)

    assert len(judged.found) + len(judged.false) + len(judged.late) + len(judged.repeated) == len(alarms)
    assert len(judged.found) + len(judged.missed) == len(accidents)
    assert all(-1 <= found.t - accident.t <= 15 for accident, found, _ in judged.found)
