"""Vehicles that stand, in drawn pictures: a road with texture and noise, and boxes of one colour on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from koren_detector.boxes import Array, Picture
from koren_detector.queue_map import LEARNING_S, QueueMap
from koren_detector.standstill import Standing, Standstill
from koren_detector.tracking import Detections

FPS = 1
WIDTH, HEIGHT = 320, 192
NOISE = [np.random.default_rng(seed).integers(0, 6, (HEIGHT, WIDTH, 3), np.uint8) for seed in range(8)]
Car = tuple[float, float]

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Road:
    """A camera above a road, and what watches it. Cars are named by their middles in pixels."""

    standstill: Standstill
    time_s: float = 1.7e9
    light: float = 0.0
    parts: list[Picture] = field(default_factory=list)

    def see(self, seconds: float, cars: list[Car], moving: float = 0.0) -> list[Standing]:
        """Show the cars for a while; each second another one passes them where `moving` is set to a row."""
        found: list[Standing] = []
        for number in range(int(seconds * FPS)):
            self.time_s += 1 / FPS
            passing = [((number * 130.0) % WIDTH, moving)] if moving else []
            found += self.standstill.update(self._draw(cars + passing), self.time_s, self._find)
        return found

    def _draw(self, cars: list[Car]) -> Picture:
        coarse = np.random.default_rng(1).integers(60, 110, (12, 20, 3), np.uint8)
        picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for x, y in cars:
            cv2.rectangle(picture, (int(x) - 15, int(y) - 8), (int(x) + 15, int(y) + 8), (40, 40, 220), -1)
        picture = cv2.add(picture, NOISE[int(self.time_s * FPS) % len(NOISE)])
        return np.clip(picture + self.light, 0, 255).astype(np.uint8)

    def _find(self, part: Picture) -> Detections:
        """Stands for the network: finds what is red."""
        self.parts.append(part)
        red = (part[:, :, 2].astype(int) - part[:, :, 1] > 90).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        boxes = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:] if area > 30]
        boxes_px: Array = np.array(boxes, float).reshape(-1, 4)
        return Detections(boxes_px, np.full(len(boxes), 0.8), np.zeros(len(boxes), np.int64))


def road(*, learned: bool = True) -> Road:
    queues = QueueMap()
    queues.watched_s = LEARNING_S if learned else 0.0
    there = Road(Standstill(queues))
    assert there.see(10, []) == []
    return there


def middle(one: Standing) -> Car:
    return (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2


def test_a_car_that_stops_where_none_does_is_found_within_fifteen_seconds_and_where_it_is() -> None:
    there = road()
    stopped_s = there.time_s

    assert there.see(8, [(150, 100)]) == []
    found = there.see(7, [(150, 100)])

    assert middle(found[0]) == pytest.approx((150, 100), abs=2)
    assert found[0].since_s == pytest.approx(stopped_s, abs=2)
    assert 0.5 <= found[0].confidence < 0.6
    assert there.see(60, [(150, 100)])[-1].confidence > 0.7


def test_traffic_that_passes_before_it_hides_it_from_nobody() -> None:
    there = road()

    assert there.see(16, [(150, 100)], moving=104.0) != []
    assert there.see(30, [], moving=104.0) == []


def test_nothing_is_told_before_the_queues_are_learned() -> None:
    assert road(learned=False).see(60, [(150, 100)]) == []


def test_a_queue_at_a_red_light_is_learned_also_when_it_grows_longer_than_ever() -> None:
    there = road(learned=False)
    queue = [(100.0, 100.0), (140.0, 100.0)]
    for _ in range(3):
        there.see(40, queue)
        there.see(20, [], moving=100.0)
    there.standstill.queues.watched_s = LEARNING_S

    for cars in (queue, [*queue, (180.0, 100.0), (220.0, 100.0)]):
        assert there.see(40, cars) == []
        assert there.see(20, [], moving=100.0) == []
    assert there.see(200, queue) != [], "but nobody waits for so long"


def test_a_jam_is_no_accident() -> None:
    jam = [(40.0 + 38 * column, 100.0) for column in range(6)]

    assert road().see(30, jam) == []


def test_a_parked_car_belongs_to_the_place_and_does_not_hide_what_stops_before_it() -> None:
    there = road()
    parked: Car = (150, 100)
    assert there.see(20, [parked]) != []
    there.see(600, [parked])

    there.parts.clear()
    assert there.see(60, [parked]) == []
    assert there.parts == [], "it costs nothing any more"
    found = there.see(20, [parked, (150, 130)])
    assert {round(middle(one)[1]) for one in found} == {130}


def test_where_a_parked_car_was_nothing_stands() -> None:
    queues = QueueMap()
    queues.watched_s = LEARNING_S
    there = Road(Standstill(queues))
    there.see(10, [(150, 100)])

    assert there.see(60, []) == []
    looked = len(there.parts)
    assert there.see(60, []) == [] and len(there.parts) == looked <= 4, "the bare road is soon the usual"


def test_what_stands_there_when_the_view_begins_is_not_told_of() -> None:
    there = road()
    there.standstill.begin()

    assert there.see(60, [(150, 100)]) == []


def test_light_that_changes_makes_no_car_stand() -> None:
    there = Road(Standstill(QueueMap()))
    there.standstill.queues.watched_s = LEARNING_S
    there.see(10, [(150, 100)])

    for light in (25.0, -20.0, 60.0, 0.0):
        there.light = light
        assert there.see(20, [(150, 100)]) == []


def test_a_stream_that_was_cut_goes_on() -> None:
    there = road()
    there.see(6, [(150, 100)])
    there.time_s += 120
    there.standstill.interrupted()

    assert there.see(4, [(150, 100)]) == [], "what was not seen is no time at rest"
    assert there.see(16, [(150, 100)]) != []


def test_pictures_that_change_their_size_keep_what_is_known() -> None:
    there = road()
    picture = there._draw([])
    for number in range(10 * FPS):
        large = cv2.resize(picture, (2 * WIDTH, 2 * HEIGHT))
        assert there.standstill.update(large, there.time_s + number / FPS, there._find) == []
    there.time_s += 10

    assert there.see(16, [(150, 100)]) != []
