"""What the detector's alarms are worth: alarms against the accidents of the annotations, and the figures of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import measures
from .annotations import Accident, box_array
from .boxes import Array, Bools
from .ground import Ground

NEAR_M = 15.0
"""An alarm this near to an accident tells of it, where the ground is known: as near as two alarms are one incident."""
NEAR_SHARE = 0.1
"""The same in shares of the picture's diagonal, where it is not; boxes that touch are near, too."""
EARLY_S = 1.0
LASTS_S = 60.0
"""How long an accident lasts of which it is not known when it was cleared."""
_AI_CITY_WITHIN_S = 10.0
_DAY_S = 86400.0


@dataclass(frozen=True)
class Alarm:
    """An incident that the detector published. Times are seconds of the video, `boxes` (n, 4) px the vehicles in it."""

    t: float
    started: float
    confidence: float
    boxes: Array
    what: str
    cleared: float | None = None

    def around(self) -> tuple[float, float, float, float]:
        """The box around all vehicles, px."""
        left, top = self.boxes[:, :2].min(0)
        right, bottom = self.boxes[:, 2:].max(0)
        return float(left), float(top), float(right), float(bottom)


@dataclass(frozen=True)
class Watched:
    """A clip that was watched. Accidents' times are seconds, their places pixels.

    `vehicle_scores` and `vehicle_hits` are of all detections in frames with annotated boxes, `vehicles` how many boxes.
    """

    name: str
    seconds: float
    size: tuple[int, int]
    ground: Ground | None
    accidents: tuple[Accident, ...]
    alarms: tuple[Alarm, ...]
    vehicle_scores: Array = field(default_factory=lambda: np.zeros(0))
    vehicle_hits: Bools = field(default_factory=lambda: np.zeros(0, bool))
    vehicles: int = 0


@dataclass(frozen=True)
class Judged:
    """A clip's alarms by what they are. `found` has each accident's first alarm in time and how far off it is.

    An alarm that comes too late, or a second one for the same accident, is neither right nor false.
    """

    found: tuple[tuple[Accident, Alarm, float | None], ...]
    missed: tuple[Accident, ...]
    false: tuple[Alarm, ...]
    late: tuple[Alarm, ...]
    repeated: tuple[Alarm, ...]


def judge(clip: Watched, within_s: float) -> Judged:
    """Tell true alarms, at most `within_s` after an accident and near it, from false ones."""
    left = sorted(clip.alarms, key=lambda alarm: alarm.t)
    found, missed = [], []
    for accident in sorted(clip.accidents, key=lambda known: known.t):
        for alarm in left:
            if -EARLY_S <= alarm.t - accident.t <= within_s and _near(clip, alarm, accident):
                found.append((accident, alarm, _apart(clip, alarm, accident)))
                left.remove(alarm)
                break
        else:
            missed.append(accident)
    false, late, repeated = [], [], []
    for alarm in left:
        of = [accident for accident in clip.accidents if _in_time(alarm, accident) and _near(clip, alarm, accident)]
        if not of:
            false.append(alarm)
        elif any(accident not in missed for accident in of):
            repeated.append(alarm)
        else:
            late.append(alarm)
    return Judged(tuple(found), tuple(missed), tuple(false), tuple(late), tuple(repeated))


def figures(clips: Sequence[Watched], within_s: float) -> dict[str, Any]:
    """All figures of a set of clips, for JSON; None where one means nothing, such as recall without an accident."""
    judged = [judge(clip, within_s) for clip in clips]
    found = [pair for one in judged for pair in one.found]
    missed = sum(len(one.missed) for one in judged)
    false = sum(len(one.false) for one in judged)
    days = sum(clip.seconds for clip in clips) / _DAY_S
    right = [(alarm.confidence, True) for one in judged for alarm in _true(one)]
    right += [(alarm.confidence, False) for one in judged for alarm in one.false]
    apart = {
        unit: [off for clip, one in zip(clips, judged, strict=True) for _, _, off in one.found
               if off is not None and (clip.ground is not None) == (unit == "m")]
        for unit in ("m", "of_diagonal")
    }  # fmt: skip
    scores = np.concatenate([np.zeros(0), *(clip.vehicle_scores for clip in clips)])
    hits = np.concatenate([np.zeros(0, bool), *(clip.vehicle_hits for clip in clips)])
    return {
        "clips": len(clips),
        "hours": round(days * 24, 4),
        "accidents": len(found) + missed,
        "within_s": within_s,
        "recall": _proportion(len(found), len(found) + missed),
        "precision": _proportion(len(found), len(found) + false),
        "f1": _round(measures.f1(len(found), false, missed)),
        "false_alarms": false,
        "false_alarms_per_camera_day": _rate(false, days),
        "late": sum(len(one.late) for one in judged),
        "repeated": sum(len(one.repeated) for one in judged),
        "delay_s": _rounded(measures.percentiles([alarm.t - accident.t for accident, alarm, _ in found])),
        "place_error": {
            unit: {"count": len(off), **_rounded(measures.percentiles(off))} for unit, off in apart.items()
        },
        "s4": _s4(clips),
        "calibration_error": _round(
            measures.calibration_error([sure for sure, _ in right], [true for _, true in right])
        ),
        "ap50": _round(measures.average_precision(scores, hits, sum(clip.vehicles for clip in clips))),
        "vehicles": sum(clip.vehicles for clip in clips),
    }


def details(clip: Watched, within_s: float) -> dict[str, Any]:
    """What happened in one clip, for JSON."""
    judged = judge(clip, within_s)
    verdicts = {id(alarm): "true" for _, alarm, _ in judged.found}
    for verdict in ("false", "late", "repeated"):
        verdicts |= {id(alarm): verdict for alarm in getattr(judged, verdict)}
    return {
        "video": clip.name,
        "seconds": round(clip.seconds, 2),
        "missed": [{"t": accident.t, "type": accident.type} for accident in judged.missed],
        "alarms": [
            {
                "t": round(alarm.t, 2),
                "confidence": alarm.confidence,
                "box": [round(side, 1) for side in alarm.around()],
                "type": alarm.what,
                "cleared": None if alarm.cleared is None else round(alarm.cleared, 2),
                "verdict": verdicts[id(alarm)],
            }
            for alarm in clip.alarms
        ],
    }


def _true(judged: Judged) -> list[Alarm]:
    return [alarm for _, alarm, _ in judged.found] + [*judged.late, *judged.repeated]


def _in_time(alarm: Alarm, accident: Accident) -> bool:
    end = max(accident.cleared or 0.0, accident.t + LASTS_S)
    return accident.t - EARLY_S <= alarm.t <= end


def _near(clip: Watched, alarm: Alarm, accident: Accident) -> bool:
    if accident.place is None:
        return True
    apart = _apart(clip, alarm, accident)
    if clip.ground is not None:
        return apart is not None and apart <= NEAR_M
    a, b = alarm.around(), accident.place
    touching = a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
    return touching or (apart is not None and apart <= NEAR_SHARE)


def _apart(clip: Watched, alarm: Alarm, accident: Accident) -> float | None:
    """How far the alarm is from the accident: metres, or shares of the picture's diagonal without a ground."""
    if accident.place is None:
        return None
    place = box_array([accident.place])
    if clip.ground is not None:
        places = clip.ground.places(alarm.boxes)
        known = places[~np.isnan(places).any(1)]
        is_point = accident.place[:2] == accident.place[2:]
        there = (clip.ground.metres(place[:, :2]) if is_point else clip.ground.places(place))[0]
        if not len(known) or np.isnan(there).any():
            return None
        return float(np.linalg.norm(known.mean(0) - there))
    middle = (place[0, :2] + place[0, 2:]) / 2
    around = np.array(alarm.around())
    return float(np.linalg.norm((around[:2] + around[2:]) / 2 - middle) / np.hypot(*clip.size))


def _s4(clips: Sequence[Watched]) -> dict[str, Any]:
    """AI City's: the surest alarm whose start is within 10 s of the accident's is right, whatever its place."""
    errors, false, missed = [], 0, 0
    for clip in clips:
        left = sorted(clip.alarms, key=lambda alarm: -alarm.confidence)
        for accident in sorted(clip.accidents, key=lambda known: known.t):
            near = [alarm for alarm in left if abs(alarm.started - accident.t) <= _AI_CITY_WITHIN_S]
            if near:
                errors.append(near[0].started - accident.t)
                left.remove(near[0])
            else:
                missed += 1
        false += len(left)
    score = measures.f1(len(errors), false, missed) if errors or missed else None
    rmse = measures.root_mean_square(errors)
    return {
        "value": None if score is None else _round(measures.s4(score, rmse)),
        "f1": _round(score),
        "rmse_s": _round(rmse) if errors else None,
    }


def _proportion(found: int, of: int) -> dict[str, Any]:
    low, high = measures.wilson(found, of)
    return {"value": _round(found / of) if of else None, "of": of, "low95": _round(low), "high95": _round(high)}


def _rate(count: int, days: float) -> dict[str, Any]:
    if not days:
        return {"value": None, "low95": None, "high95": None}
    low, high = measures.poisson(count)
    return {"value": _round(count / days), "low95": _round(low / days), "high95": _round(high / days)}


def _rounded(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _round(value) for name, value in values.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
