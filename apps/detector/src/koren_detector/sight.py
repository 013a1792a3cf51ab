"""From the vehicles and people in each frame of one camera to decisions about incidents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .accident import AccidentScore, Weights
from .boxes import Array, overlaps
from .ground import Ground
from .incidents import Decision, Incident, IncidentLog, LooksTheSame, Rules, Sighting, Wreck
from .motion import Motion, MotionMeter
from .people import PeopleOnRoad
from .road import Road
from .standstill import Standing
from .tracking import Detections, Tracker
from .wrong_way import Lane, WrongWay

_SAME = 0.4
"""A standing vehicle and a track whose boxes overlap by so much are one."""


class Sight:
    """One camera's tracks, their score, and the incidents on its ground.

    `open_incidents` are those that an earlier run left open. Where the rules' events have them, people are looked for
    on `road`, and vehicles that drive the wrong way in `lanes`.
    """

    def __init__(
        self,
        ground: Ground,
        weights: Weights,
        rules: Rules,
        open_incidents: list[Incident] | None = None,
        road: Road | None = None,
        lanes: Sequence[Lane] = (),
    ) -> None:
        self._ground = ground
        watched = "person-on-road" in rules.events
        self._people = PeopleOnRoad(ground, road) if road is not None and watched else None
        self._wrong_way = WrongWay(lanes if "wrong-way" in rules.events else ())
        self._weights = weights
        self.log = IncidentLog(rules, list(open_incidents or ()))
        self.log.forget_tracks()
        self._begin(first_track=1)

    def _begin(self, first_track: int) -> None:
        self._tracker = Tracker(first_track)
        self._meter = MotionMeter(self._ground)
        self._score = AccidentScore(self._weights)
        self.motion: Motion | None = None
        self.scores: Array | None = None

    def interrupted(self) -> None:
        """The stream was cut: what comes next may be another moment, so tracks begin anew."""
        self._begin(self._tracker.next_number)
        if self._people is not None:
            self._people.interrupted()
        self._wrong_way.interrupted()
        self.log.forget_tracks()

    def update(
        self,
        time_s: float,
        found: Detections,
        standing: list[Standing],
        looks_the_same: LooksTheSame,
        on_foot: Detections | None = None,
    ) -> list[Decision]:
        """Take in the frame of `time_s` (unix seconds, never backwards).

        Its vehicles, which of them stand unusually, and the people in it who are on foot.
        """
        self.motion = self._meter.update(time_s, self._tracker.update(time_s, found))
        self.scores = self._score.update(self.motion)
        decisions = self.log.update(time_s, self.motion, self.scores, looks_the_same)
        decisions += self.log.stand(time_s, self._standers(standing, self.motion))
        people = []
        if self._people is not None:
            people = self._people.update(time_s, on_foot or Detections.none(), self.motion)
        decisions += self.log.follow("person-on-road", "people", time_s, people)
        against = self._wrong_way.update(time_s, self.motion)
        return decisions + self.log.follow("wrong-way", "direction", time_s, against)

    def _standers(self, standing: list[Standing], motion: Motion) -> list[Sighting]:
        """The standing vehicles whose place on the ground can be told, with their tracks' numbers."""
        boxes = np.array([one.box for one in standing]).reshape(-1, 4)
        share = overlaps(boxes, motion.tracks.boxes)
        standers = []
        for row, (one, (x, y)) in enumerate(zip(standing, self._ground.places(boxes), strict=True)):
            if np.isnan(x):
                continue
            if share[row].max(initial=0.0) > _SAME:
                number = int(motion.tracks.numbers[share[row].argmax()])
            else:
                # The network overlooks it in single frames, so it has no track.
                number, self._tracker.next_number = self._tracker.next_number, self._tracker.next_number + 1
            standers.append(
                Sighting(Wreck(number, float(x), float(y), one.box, kind=one.kind), one.since_s, one.confidence)
            )
        return standers
