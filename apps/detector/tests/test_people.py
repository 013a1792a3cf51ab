"""People on the road: who stays there is reported, who crosses, rides or walks beside it is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import GROUND, area, people, seen

from koren_detector.accident import load_weights
from koren_detector.boxes import Array
from koren_detector.incidents import Cleared, Decision, Incident, Joined, Opened, Rules
from koren_detector.people import FIRST_NUMBER, on_foot
from koren_detector.road import Road
from koren_detector.sight import Sight
from koren_detector.tracking import Detections

STEP_S = 0.25
SIZE = (960, 544)
LANE = area(-4, 4, 12, 60)
CROSSING = area(-4, 4, 18, 22)
RULES = Rules(score=0.95, events=frozenset({"accident", "person-on-road"}))
Place = tuple[float, float]
Way = Callable[[float], list[Place]]
"""Where people are after so many seconds."""


class Street:
    """A camera above a street, and its clock."""

    def __init__(self, road: Road | None = None, known: list[Incident] | None = None) -> None:
        road = road or Road(SIZE, [LANE], [CROSSING])
        self.sight = Sight(GROUND, load_weights(), RULES, known, road)
        self.time_s = 1000.0

    def see(self, seconds: float, way: Way, cars: Way = lambda _: [], *, riding: bool = False) -> list[Decision]:
        decisions: list[Decision] = []
        for step in range(round(seconds / STEP_S)):
            self.time_s += STEP_S
            there = people(way(step * STEP_S))
            if riding:
                there = on_foot(there.boxes, there.scores, Detections.none(), there.boxes)
            vehicles = seen([place for place in cars(step * STEP_S) if 8 < place[1] < 70])
            decisions += self.sight.update(self.time_s, vehicles, [], lambda _: False, there)
        return decisions


def standing(*places: Place) -> Way:
    return lambda _: list(places)


def walking(begin: Place, m_s: Place) -> Way:
    return lambda t: [(begin[0] + m_s[0] * t, begin[1] + m_s[1] * t)]


def nobody(_: float) -> list[Place]:
    return []


def kinds(decisions: list[Decision]) -> list[type]:
    return [type(decision) for decision in decisions]


def test_someone_who_stands_on_the_lane_is_one_incident_until_gone() -> None:
    street = Street()

    (opened,) = street.see(20, standing((1, 30)))

    assert isinstance(opened, Opened)
    incident = opened.incident
    assert (incident.kind, [one.channel for one in incident.evidence]) == ("person-on-road", ["people"])
    assert 5 <= incident.opened_s - incident.started_s <= 6
    (wreck,) = incident.wrecks
    assert wreck.kind == "person" and wreck.track >= FIRST_NUMBER
    assert (wreck.x, wreck.y) == pytest.approx((1, 30), abs=0.5)
    left_s = street.time_s
    (cleared,) = street.see(10, nobody)
    assert isinstance(cleared, Cleared) and cleared.since_s == pytest.approx(left_s, abs=0.5)


@pytest.mark.parametrize(
    "way",
    [
        walking((-4.5, 30), (3.0, 0)),
        standing((1, 20)),
        walking((-4, 20), (1.2, 0)),
        standing((6, 30)),
        walking((6, 15), (0, 1.3)),
        walking((0, 15), (0, 4.5)),
    ],
    ids=[
        "crosses the lane in three seconds", "waits on a crossing", "walks over a crossing", "stands on the pavement",
        "walks on the pavement", "is as fast as a bicycle",
    ],
)  # fmt: skip
def test_who_only_crosses_or_is_not_on_the_lane_is_none(way: Way) -> None:
    assert Street().see(8, way) == []


def test_who_rides_is_none() -> None:
    assert Street().see(20, standing((1, 30)), riding=True) == []


def test_who_walks_along_the_lane_is_followed_though_far_from_where_it_began() -> None:
    street = Street()

    assert kinds(street.see(24, walking((0, 24), (0, 1.3)))) == [Opened]
    assert kinds(street.see(10, nobody)) == [Cleared]


def test_a_second_person_joins_the_incident_wherever_it_is() -> None:
    street = Street()

    decisions = street.see(8, standing((1, 30))) + street.see(8, standing((1, 30), (-2, 50)))

    assert kinds(decisions) == [Opened, Joined]
    assert [round(wreck.y, -1) for wreck in decisions[1].incident.wrecks] == [30, 50]
    assert kinds(street.see(20, standing((-2, 50)))) == [], "one of them is still there"


def test_an_incident_of_an_earlier_run_goes_on_and_ends() -> None:
    first = Street()
    first.see(8, standing((1, 30)))

    second = Street(known=list(first.sight.log.open))

    assert second.see(20, standing((1, 30))) == []
    assert kinds(second.see(10, nobody)) == [Cleared]


def test_an_incident_ends_though_its_kind_is_reported_no_more() -> None:
    first = Street()
    first.see(8, standing((1, 30)))

    second = Street(known=list(first.sight.log.open))
    second.sight = Sight(GROUND, load_weights(), Rules(score=0.95), list(first.sight.log.open))

    assert kinds(second.see(10, standing((1, 30)))) == [Cleared]


def test_a_cut_stream_begins_no_second_incident() -> None:
    street = Street()
    street.see(8, standing((1, 30)))

    street.sight.interrupted()
    street.time_s += 60

    assert street.see(20, standing((1, 30))) == []
    assert kinds(street.see(10, nobody)) == [Cleared]


def test_without_arms_the_road_is_where_vehicles_have_driven() -> None:
    street = Street(Road(SIZE))
    there = standing((1, 30))
    assert street.see(10, there) == []

    def traffic(t: float) -> list[Place]:
        return [(1.0, 10 + (10 * t + 20 * car) % 240) for car in range(12)]

    assert street.see(24, nobody, traffic) == []
    assert kinds(street.see(10, there)) == [Opened]
    assert Street(street.sight._people._road).see(10, standing((9, 30))) == []  # type: ignore[union-attr]


@settings(max_examples=25)
@given(
    x=st.floats(-3.2, 3.2), y=st.floats(24, 45), seconds=st.floats(0, 15), score=st.floats(0.4, 0.99),
    missed=st.sets(st.integers(0, 200), max_size=15),
)  # fmt: skip
def test_only_who_stays_for_five_seconds_is_reported(
    x: float, y: float, seconds: float, score: float, missed: set[int]
) -> None:
    sight = Sight(GROUND, load_weights(), RULES, None, Road(SIZE, [LANE], [CROSSING]))
    decisions = []
    for step in range(round(seconds / STEP_S)):
        there = people([] if step in missed else [(x, y)], score)
        decisions += sight.update(step * STEP_S, Detections.none(), [], lambda _: False, there)

    assert len(decisions) <= 1
    if seconds < 5:
        assert decisions == []
    if seconds > 7 and not missed:
        (opened,) = decisions
        assert opened.incident.confidence == pytest.approx(min(score, 0.9), abs=0.01)


CAR = np.array([[100.0, 100, 200, 180]])


@pytest.mark.parametrize(
    ("box", "free"),
    [
        ([120, 110, 140, 140], False),
        ([120, 110, 145, 185], True),
        ([205, 100, 225, 180], True),
        ([190, 90, 215, 175], True),
    ],
    ids=["at the wheel", "in front of it", "beside it", "half behind it"],
)
def test_who_sits_in_a_vehicle_is_not_on_foot(box: list[float], free: bool) -> None:
    vehicles = Detections(CAR, np.ones(1), np.zeros(1, np.int64))
    boxes: Array = np.array([box], float)

    assert (len(on_foot(boxes, np.ones(1), vehicles, np.zeros((0, 4))).boxes) == 1) == free


def test_who_rides_a_motorcycle_is_not_on_foot() -> None:
    motorcycle = Detections(np.array([[100.0, 130, 140, 180]]), np.ones(1), np.array([4]))
    rider = np.array([[105.0, 100, 135, 165]])

    assert not len(on_foot(rider, np.ones(1), motorcycle, np.zeros((0, 4))).boxes)
