"""Finds people who are on foot on the carriageway, and stay there for longer than a moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .boxes import KINDS, Array, Bools, areas, intersections
from .ground import Ground
from .incidents import Sighting, Wreck, box_of
from .motion import Motion
from .road import Road
from .tracking import Detections, Tracker

LEAST_S = 5.0
"""Someone who is on the carriageway for less is not reported."""
FIRST_NUMBER = 1_000_000
"""Numbers of people begin here, so that they are none of vehicles."""

_RIDES, _SITS, _ABOVE = 0.2, 0.7, 0.1
_ON_FOOT_M_S = 3.0
_SPEED_OVER_S = 1.0
_TALL_M = (0.8, 2.6)
_AWAY_S = 1.0
_SEEN = 0.6
_MOST_CONFIDENCE = 0.9


def on_foot(people: Array, scores: Array, vehicles: Detections, bicycles: Array) -> Detections:
    """The people, boxes (n, 4), who neither ride a motorcycle or bicycle nor sit in a vehicle."""
    motorcycles = vehicles.kinds == KINDS.index("motorcycle")
    size = np.maximum(areas(people), 1e-9)[:, None]
    mounts = np.concatenate([vehicles.boxes[motorcycles], bicycles])
    rides = (intersections(people, mounts) / size > _RIDES).any(1)
    around = vehicles.boxes[~motorcycles]
    # Someone who stands in front of a vehicle is within its box, too, but with feet that are as low as its wheels.
    feet = around[:, 3] - _ABOVE * (around[:, 3] - around[:, 1])
    sits = ((intersections(people, around) / size > _SITS) & (people[:, 3:] < feet)).any(1)
    free = ~(rides | sits)
    return Detections(people[free], scores[free], np.zeros(np.count_nonzero(free), np.int64))


@dataclass
class _Walker:
    """Someone who is on the carriageway: since when, when last, in how many frames since, and how sure in each."""

    since_s: float
    on_s: float
    frames: int
    scores: list[float] = field(default_factory=list)


class PeopleOnRoad:
    """Follows the people that one view of a camera shows, on its ground."""

    def __init__(self, ground: Ground, road: Road) -> None:
        self._ground = ground
        self._road = road
        self._begin(FIRST_NUMBER)

    def _begin(self, first: int) -> None:
        self._tracker = Tracker(first)
        self._walkers: dict[int, _Walker] = {}
        self._places: dict[int, list[tuple[float, Array]]] = {}

    def interrupted(self) -> None:
        """The stream was cut: what comes next may be another moment."""
        self._begin(self._tracker.next_number)

    def update(self, time_s: float, found: Detections, motion: Motion) -> list[Sighting]:
        """Take in the people on foot in the frame of `time_s` (seconds, never backwards); returns those on the road.

        `motion` is that of the vehicles: where they drive is road.
        """
        self._road.learn(motion)
        tracks = self._tracker.update(time_s, found)
        feet = np.column_stack([(tracks.boxes[:, 0] + tracks.boxes[:, 2]) / 2, tracks.boxes[:, 3]])
        places = self._ground.metres(feet)
        on_road = tracks.seen & self._road.has(feet) & self._is_of_a_person(tracks.boxes, feet, places)
        present = set(tracks.numbers.tolist())
        self._walkers = {number: walker for number, walker in self._walkers.items() if number in present}
        self._places = {number: past for number, past in self._places.items() if number in present}
        sightings = []
        for row, number in enumerate(tracks.numbers.tolist()):
            if tracks.seen[row] and self._speed(number, time_s, places[row]) > _ON_FOOT_M_S:
                on_road[row] = False
            walker = self._walkers.get(number)
            if walker is not None:
                walker.frames += 1
                if time_s - walker.on_s > _AWAY_S:
                    del self._walkers[number]
                    walker = None
            if not on_road[row]:
                continue
            if walker is None:
                walker = self._walkers[number] = _Walker(time_s, time_s, frames=1)
            walker.on_s = time_s
            walker.scores.append(float(found.scores[tracks.detections[row]]))
            lasts = time_s - walker.since_s >= LEAST_S and len(walker.scores) >= _SEEN * walker.frames
            confidence = round(min(float(np.mean(walker.scores)), _MOST_CONFIDENCE), 3)
            x, y = (float(value) for value in places[row])
            wreck = Wreck(number, x, y, box_of(tracks.boxes[row]), kind="person")
            sightings.append(Sighting(wreck, walker.since_s, confidence, lasts))
        return sightings

    def _is_of_a_person(self, boxes: Array, feet: Array, places: Array) -> Bools:
        """Whether each box is as tall on the ground as people are."""
        across_m = np.linalg.norm(self._ground.metres(feet + [1.0, 0.0]) - places, axis=1)
        tall_m = (boxes[:, 3] - boxes[:, 1]) * across_m
        fits: Bools = (tall_m > _TALL_M[0]) & (tall_m < _TALL_M[1])
        return fits

    def _speed(self, number: int, time_s: float, place: Array) -> float:
        """How fast a person has moved in the last second, m/s; 0 where that is not known yet."""
        past = [one for one in self._places.get(number, []) if time_s - one[0] <= _SPEED_OVER_S]
        self._places[number] = [*past, (time_s, place)]
        if not past or time_s - past[0][0] < _SPEED_OVER_S / 2:
            return 0.0
        return float(np.linalg.norm(place - past[0][1])) / (time_s - past[0][0])
