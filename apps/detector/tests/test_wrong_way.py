"""Vehicles that drive the wrong way, on a road whose arms say which way is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import GROUND, area, seen

from koren_detector.accident import load_weights
from koren_detector.arms import Arm
from koren_detector.boxes import Array
from koren_detector.incidents import Cleared, Decision, Joined, Opened, Rules
from koren_detector.sight import Sight
from koren_detector.wrong_way import lanes_of
from koren_events import Text

STEP_S = 0.25
RULES = Rules(score=1.0, events=frozenset({"wrong-way"}))
Place = tuple[float, float]
Way = Callable[[float], list[Place]]
ROAD = Text("강남대로", "Gangnam-daero")


def arm(polygon: Array, begin: Place, end: Place) -> Arm:
    return Arm(polygon, ROAD, Text("북쪽", "northbound"), heading=np.array([pixel(begin), pixel(end)]))


def pixel(place: Place) -> Place:
    u, v, w = GROUND.homography @ [*place, 1.0]
    return float(u / w), float(v / w)


AHEAD = arm(area(0, 5, 10, 80), (2, 20), (2, 40))
"""Vehicles on the right drive away from the camera."""


class Street:
    """A camera above a street, and its clock."""

    def __init__(self, *arms: Arm) -> None:
        self.sight = Sight(GROUND, load_weights(), RULES, lanes=lanes_of(arms or (AHEAD,), GROUND, np.ones(2)))
        self.time_s = 1000.0

    def see(self, seconds: float, way: Way) -> list[Decision]:
        decisions: list[Decision] = []
        for step in range(round(seconds / STEP_S)):
            self.time_s += STEP_S
            decisions += self.sight.update(self.time_s, seen(way(step * STEP_S)), [], lambda _: False)
        return decisions


def driving(begin: Place, m_s: Place) -> Way:
    return lambda t: [(begin[0] + m_s[0] * t, begin[1] + m_s[1] * t)]


def nobody(_: float) -> list[Place]:
    return []


def test_a_vehicle_against_its_arms_direction_is_one_incident_until_gone() -> None:
    street = Street()

    opened, *surer = street.see(5, driving((2.5, 60), (0, -8)))

    assert isinstance(opened, Opened) and all(isinstance(decision, Joined) for decision in surer)
    incident = opened.incident
    assert (incident.kind, [one.channel for one in incident.evidence]) == ("wrong-way", ["direction"])
    assert incident.opened_s - incident.started_s >= 2
    assert 0.5 <= incident.confidence <= 0.9
    assert [type(decision) for decision in street.see(10, nobody)] == [Cleared]


def turning(t: float) -> list[Place]:
    """Out of the arm on the left, round a curve, and away on the right."""
    if t < 2:
        return [(-8 + 4 * t, 20.0)]
    angle = min((t - 2) / 2, 1.0) * np.pi / 2
    return [(0 + 3 * np.sin(angle), 20 + 3 * (1 - np.cos(angle)) + max(t - 4, 0) * 6)]


@pytest.mark.parametrize(
    "way",
    [
        driving((2.5, 15), (0, 8)),
        driving((-3, 60), (0, -8)),
        turning,
        driving((-6, 25), (6, -1)),
        driving((2.5, 30), (0, -1.0)),
        lambda t: [(2.5, 30 - min(6 * t, 6))],
        lambda t: [(2.5, 30.0)],
    ],
    ids=[
        "the right way", "the other side", "turns into the arm", "crosses the arm", "rolls back slowly",
        "backs up six metres", "stands",
    ],
)  # fmt: skip
def test_what_only_turns_crosses_or_backs_up_is_none(way: Way) -> None:
    assert Street().see(6, way) == []


def test_where_arms_overlap_neither_direction_is_the_right_one() -> None:
    other = arm(area(0, 5, 10, 80), (2, 40), (2, 20))

    assert Street(AHEAD, other).see(5, driving((2.5, 60), (0, -8))) == []


def test_a_heading_that_most_vehicles_drive_against_is_doubted(caplog: pytest.LogCaptureFixture) -> None:
    street = Street()
    decisions = []
    for _ in range(6):
        decisions += street.see(5, driving((2.5, 60), (0, -8)))
        street.see(40, nobody)

    assert sum(isinstance(decision, Opened) for decision in decisions) == 2
    assert "check the heading" in caplog.text


@settings(max_examples=30)
@given(x=st.floats(1.0, 4.0), m_s=st.floats(3.0, 14.0), drift=st.floats(-0.3, 0.3), shake=st.integers(0, 2**32 - 1))
def test_the_right_way_is_never_wrong_however_tracks_shake(x: float, m_s: float, drift: float, shake: int) -> None:
    noise = np.random.default_rng(shake)

    def way(t: float) -> list[Place]:
        return [(x + drift * t + noise.normal(0, 0.2), 12 + m_s * t + noise.normal(0, 0.2))]

    assert Street().see(min(6, 55 / m_s), way) == []
