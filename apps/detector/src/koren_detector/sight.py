"""From the vehicles in each frame of one camera to decisions about accidents."""

from __future__ import annotations

from .accident import AccidentScore, Weights
from .boxes import Array
from .ground import Ground
from .incidents import Decision, Incident, IncidentLog, LooksTheSame, Rules
from .motion import Motion, MotionMeter
from .tracking import Detections, Tracker


class Sight:
    """One camera's tracks, their score, and the incidents on its ground.

    `open_incidents` are those that an earlier run left open.
    """

    def __init__(
        self,
        ground: Ground,
        weights: Weights,
        rules: Rules,
        open_incidents: list[Incident] | None = None,
    ) -> None:
        self._ground = ground
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
        self.log.forget_tracks()

    def update(self, time_s: float, found: Detections, looks_the_same: LooksTheSame) -> list[Decision]:
        """Take in the vehicles of the frame of `time_s` (unix seconds, never backwards)."""
        self.motion = self._meter.update(time_s, self._tracker.update(time_s, found))
        self.scores = self._score.update(self.motion)
        return self.log.update(time_s, self.motion, self.scores, looks_the_same)
