from __future__ import annotations

from dataclasses import replace

import numpy as np
from scenes import boxes

from koren_detector.boxes import Array
from koren_detector.incidents import Cleared, Decision, IncidentLog, Joined, Opened, Rules, Sighting, Wreck
from koren_detector.motion import FEATURES, Motion
from koren_detector.tracking import Tracks

RULES = Rules(score=0.8)
STEP_S = 0.2
Car = tuple[int, float, float, float, float]
"""Number, place (m), speed (m/s), score."""


def frame(cars: list[Car]) -> tuple[Motion, Array]:
    count = len(cars)
    numbers = np.array([car[0] for car in cars], np.int64)
    places = np.array([car[1:3] for car in cars], float).reshape(-1, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) - 3
    np.fill_diagonal(apart, 40)
    motion = Motion(
        tracks=Tracks(
            numbers, boxes([(x, y) for _, x, y, _, _ in cars]), np.zeros(count, np.int64),
            np.ones(count, bool), np.arange(count),
        ),
        places=places,
        velocities=np.zeros((count, 2)),
        speeds=np.array([car[3] for car in cars], float),
        headings=np.zeros(count),
        gaps=apart,
        change=np.array([7.0 * (car[4] > 0.3) for car in cars]),
        changed_s=np.full(count, 1.5),
        before=np.array([[0, 8.0] if car[0] % 2 else [8.0, 0] for car in cars]).reshape(-1, 2),
        previous=np.full(count, -1),
        features=np.zeros((count, len(FEATURES))),
    )  # fmt: skip
    return motion, np.array([car[4] for car in cars], float)


class Street:
    """A log and its clock."""

    def __init__(self, log: IncidentLog | None = None) -> None:
        self.log = log or IncidentLog(RULES)
        self.time_s = 1000.0
        self.wreck_in_picture = False

    def look(self, cars: list[Car], seconds: float = STEP_S) -> list[Decision]:
        decisions: list[Decision] = []
        for _ in range(round(seconds / STEP_S)):
            self.time_s += STEP_S
            motion, scores = frame(cars)
            decisions += self.log.update(self.time_s, motion, scores, self._same)
        return decisions

    def stand(self, track: int, x: float, y: float, confidence: float = 0.6) -> list[Decision]:
        (x0, y0, x1, y1) = boxes([(x, y)])[0]
        wreck = Wreck(track, x, y, (x0, y0, x1, y1))
        return self.log.stand(self.time_s, [Sighting(wreck, self.time_s - 12, confidence)])

    def _same(self, wreck: Wreck) -> bool:
        return self.wreck_in_picture


CRASH: list[Car] = [(1, 0.0, 20.0, 0.2, 0.95), (2, 3.5, 20.0, 0.4, 0.9)]
PASSING: list[Car] = [(9, 30.0, 40.0, 12.0, 0.1)]


def test_one_alarming_frame_opens_nothing() -> None:
    street = Street()

    assert street.look(CRASH, STEP_S) == []
    assert street.look(PASSING, 5.0) == []


def test_a_lasting_alarm_opens_one_incident_with_both_vehicles() -> None:
    street = Street()

    decisions = street.look(CRASH, 10.0)

    assert len(decisions) == 1 and isinstance(decisions[0], Opened)
    incident = decisions[0].incident
    assert [wreck.track for wreck in incident.wrecks] == [1, 2]
    assert (incident.what, incident.severity) == ("side", "moderate")
    assert incident.opened_s - incident.started_s == 1.5


def test_a_vehicle_that_drives_on_is_no_accident() -> None:
    assert Street().look([(1, 0.0, 20.0, 9.0, 0.99)], 5.0) == []


def test_one_vehicle_alone_is_not_said_to_be_a_single_vehicle_accident() -> None:
    decisions = Street().look(CRASH[:1], 3.0)

    assert isinstance(decisions[0], Opened)
    assert decisions[0].incident.what == "unknown"


def test_an_incident_far_from_an_open_one_is_another() -> None:
    street = Street()
    street.look(CRASH, 2.0)

    decisions = street.look([*CRASH, (5, 40.0, 30.0, 0.3, 0.95)], 3.0)

    assert [type(decision) for decision in decisions] == [Opened]


def test_it_is_cleared_once_the_last_wreck_is_gone_for_a_while() -> None:
    street = Street()
    street.look(CRASH, 2.0)

    assert street.look(CRASH[:1], 30.0) == []
    left_s = street.time_s
    decisions = street.look(PASSING, RULES.clear_after_s + 1)

    assert [type(decision) for decision in decisions] == [Cleared]
    assert isinstance(decisions[0], Cleared)
    assert abs(decisions[0].since_s - left_s) < 0.5


def test_wrecks_that_drive_off_clear_it() -> None:
    street = Street()
    street.look(CRASH, 2.0)

    moving: list[Car] = [(1, 15.0, 20.0, 8.0, 0.0), (2, 18.0, 20.0, 8.0, 0.0)]
    assert [type(d) for d in street.look(moving, 7.0)] == [Cleared]


def test_a_wreck_that_got_another_number_is_still_there() -> None:
    street = Street()
    street.look(CRASH, 2.0)

    assert street.look([(77, 0.5, 20.3, 0.1, 0.0)], 30.0) == []


def test_a_wreck_that_is_overlooked_but_in_the_picture_is_still_there() -> None:
    street = Street()
    street.look(CRASH, 2.0)

    street.wreck_in_picture = True
    assert street.look(PASSING, 30.0) == []
    street.wreck_in_picture = False
    assert [type(d) for d in street.look(PASSING, 8.0)] == [Cleared]


def test_an_interruption_neither_clears_nor_opens_anew() -> None:
    street = Street()
    street.look(CRASH, 2.0)

    street.log.forget_tracks()
    street.time_s += 120
    again: list[Car] = [(31, 0.1, 20.0, 0.2, 0.95), (32, 3.4, 20.0, 0.1, 0.9)]

    assert street.look(again, 10.0) == []


def test_an_incident_that_an_earlier_run_left_open_is_cleared_by_the_next() -> None:
    first = Street()
    first.look(CRASH, 2.0)

    second = Street(IncidentLog(RULES, list(first.log.open)))
    second.log.forget_tracks()

    assert [type(d) for d in second.look(PASSING, 8.0)] == [Cleared]


def test_the_place_stays_quiet_for_a_while_after_it_was_cleared() -> None:
    street = Street()
    street.look(CRASH, 2.0)
    street.look(PASSING, 8.0)

    assert street.look(CRASH, 5.0) == []
    assert street.look(PASSING, RULES.quiet_s) == []
    assert [type(d) for d in street.look(CRASH, 2.0)] == [Opened]


STANDING: list[Car] = [(1, 0.0, 20.0, 0.2, 0.0), (2, 3.5, 20.0, 0.1, 0.0)]


def test_a_vehicle_that_stands_unusually_opens_an_incident_and_is_followed_like_any_other() -> None:
    street = Street()
    street.look(STANDING[:1], 2.0)

    (opened,) = street.stand(1, 0.0, 20.0)

    assert isinstance(opened, Opened)
    assert (opened.incident.what, opened.incident.confidence) == ("unknown", 0.6)
    assert [(one.channel, one.confidence) for one in opened.incident.evidence] == [("standstill", 0.6)]
    assert opened.incident.opened_s - opened.incident.started_s == 12
    assert street.stand(1, 0.0, 20.0) == []
    assert street.look(STANDING[:1], 30.0) == []
    assert [type(decision) for decision in street.look(PASSING, 8.0)] == [Cleared]


def test_both_channels_are_one_incident_that_is_surer_than_each() -> None:
    first = Street()
    first.look(CRASH, 3.0)
    (joined,) = first.stand(1, 0.2, 20.0)
    assert isinstance(joined, Joined)
    assert [one.channel for one in joined.incident.evidence] == ["motion", "standstill"]
    assert 0.95 < joined.incident.confidence <= 0.99
    assert (joined.incident.what, joined.incident.severity, len(joined.incident.wrecks)) == ("side", "moderate", 2)
    assert first.log.open == [joined.incident]

    second = Street()
    second.look(STANDING, 3.0)
    second.stand(1, 0.0, 20.0)
    decisions = second.look(CRASH, 3.0)
    assert {type(decision) for decision in decisions} == {Joined}
    (incident,) = second.log.open
    assert (incident.what, incident.severity, len(incident.wrecks)) == ("side", "moderate", 2)
    assert second.look(CRASH, 3.0) == [], "what is known is not told again"


def test_another_vehicle_at_the_place_belongs_to_the_incident() -> None:
    street = Street()
    street.look(STANDING, 3.0)
    street.stand(1, 0.0, 20.0)

    (joined,) = street.stand(3, 8.0, 20.0)

    assert isinstance(joined, Joined)
    assert [wreck.track for wreck in joined.incident.wrecks] == [1, 3]


def test_nothing_stands_at_a_place_that_was_just_cleared() -> None:
    street = Street()
    street.look(CRASH, 2.0)
    street.look(PASSING, 8.0)

    assert street.stand(7, 0.0, 20.0) == []


def test_an_incident_ends_after_its_longest_time_though_a_vehicle_still_stands_there() -> None:
    street = Street(IncidentLog(replace(RULES, longest_s=60.0)))
    street.look(STANDING[:1], 2.0)
    street.stand(1, 0.0, 20.0)

    assert street.look(STANDING[:1], 55.0) == []
    assert [type(decision) for decision in street.look(STANDING[:1], 10.0)] == [Cleared]


EVENTS = replace(RULES, events=frozenset({"accident", "stopped-vehicle"}))


def test_a_vehicle_that_stands_is_a_stopped_vehicle_where_the_camera_reports_them() -> None:
    street = Street(IncidentLog(EVENTS))
    street.look(STANDING[:1], 2.0)

    (opened,) = street.stand(1, 0.0, 20.0)

    assert isinstance(opened, Opened)
    assert opened.incident.kind == "stopped-vehicle"
    assert [(one.channel, one.confidence) for one in opened.incident.evidence] == [("standstill", 0.6)]
    assert street.look(STANDING[:1], 30.0) == []
    assert [type(decision) for decision in street.look(PASSING, 8.0)] == [Cleared]


def test_a_vehicle_that_stands_at_an_accident_is_part_of_it() -> None:
    street = Street(IncidentLog(EVENTS))
    street.look(CRASH, 3.0)

    (joined,) = street.stand(1, 0.2, 20.0)

    assert isinstance(joined, Joined)
    assert (joined.incident.kind, joined.incident.what) == ("accident", "side")
    assert [one.channel for one in joined.incident.evidence] == ["motion", "standstill"]


def test_an_accident_at_a_stopped_vehicle_is_an_incident_of_its_own() -> None:
    street = Street(IncidentLog(EVENTS))
    street.look(STANDING, 3.0)
    street.stand(1, 0.0, 20.0)

    (opened,) = street.look(CRASH, 3.0)

    assert isinstance(opened, Opened) and opened.incident.kind == "accident"
    assert [incident.kind for incident in street.log.open] == ["stopped-vehicle", "accident"]


def test_a_camera_reports_only_the_events_that_it_names() -> None:
    stopped = Street(IncidentLog(replace(RULES, events=frozenset({"stopped-vehicle"}))))
    assert stopped.look(CRASH, 3.0) == []
    people = Street(IncidentLog(replace(RULES, events=frozenset({"person-on-road"}))))
    assert people.look(CRASH, 3.0) == [] and people.stand(1, 0.0, 20.0) == []
