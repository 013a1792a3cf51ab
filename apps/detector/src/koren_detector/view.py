"""Whether a camera's picture may be trusted: it shows a view that is known, and shows it well."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np

from .boxes import Picture
from .landmarks import SWAY, Gray, Landmarks, Sighting, Where, small

Reason = Literal["moved", "zoomed", "shaking", "covered", "dirty", "black", "dark", "frozen"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why a picture may not be trusted; "moved" is whatever shows another view, until that is known too."""

# An incident takes four frames with an alarm: a view is suspended before the fourth.
_FRAMES_SHIFTED, _FRAMES_LOST, _FRAMES_STOPPED = 2, 3, 3
_FRAMES_BACK = 3
_HISTORY = 8
_CALM_S = 3.0
_STABLE_S = 20.0
_OTHER_LIGHT_EVERY_S = 1.0
_ZOOMED = 0.015
_COVERED = 0.7
_DIRTY, _DIRTY_S = 0.3, 180.0
_BLACK, _BLACK_S = 24, 0.7
_DARK, _DARK_S, _LIGHT_S = 40, 10.0, 3.0
_STOPPED_S = 30.0
_BUSY_LEVELS, _BUSY = 20, 0.002
_MOST_VIEWS = 8


@dataclass(frozen=True)
class Verdict:
    """Whether a frame may be trusted: `reason` is None where it may.

    `view` is the number of the view that it shows. View 0 is the one that the camera was set up for, and the only one
    where its ground holds.
    """

    reason: Reason | None
    view: int


@dataclass
class _View:
    number: int
    marks: Landmarks
    since_s: float
    last_s: float


class ViewWatch:
    """Watches one camera's frames, a few each second.

    The first view is trusted at once. Another one is trusted when it has been there for 20 s, and known from then on.
    """

    def __init__(self) -> None:
        self._views: list[_View] = []
        self._numbered = 0
        self._at: _View | None = None
        self._reason: Reason | None = None
        self._candidate: _View | None = None
        self._back: tuple[_View, float, int] | None = None
        self._past: deque[Sighting] = deque(maxlen=_HISTORY)
        self._light = _Light()
        self._motion = _Motion()
        self._other_light_s = -np.inf
        self._dirty_since_s: float | None = None

    def to_dict(self, time_s: float) -> dict[str, Any]:
        """The views that are settled at `time_s`, for JSON."""
        settled = self.settled
        return {
            "saved_s": time_s,
            "numbered": self._numbered,
            "views": [
                {"number": v.number, "since_s": v.since_s, "last_s": v.last_s, "marks": v.marks.to_dict()}
                for v in self._views if v.number in settled
            ],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], time_s: float) -> ViewWatch:
        """A watch that knows views from an earlier run, and trusts the first frame only if it shows one of them.

        Raises ValueError, KeyError or TypeError for values that `to_dict` did not give.
        """
        watch = cls()
        later_s = time_s - float(values["saved_s"])
        for entry in values["views"]:
            marks = Landmarks.from_dict(entry["marks"], later_s)
            view = _View(int(entry["number"]), marks, entry["since_s"] + later_s, entry["last_s"] + later_s)
            watch._views.append(view)
        watch._views.sort(key=lambda view: view.number)
        numbers = [view.number for view in watch._views]
        if len(numbers) > _MOST_VIEWS or len(set(numbers)) < len(numbers) or numbers[:1] not in ([], [0]):
            raise ValueError(f"views {numbers} can't be")
        watch._numbered = max([int(values["numbered"]), *(number + 1 for number in numbers)])
        watch._reason = "moved" if numbers else None
        return watch

    @property
    def settled(self) -> frozenset[int]:
        """The numbers of the views that are known well enough to be kept."""
        return frozenset(v.number for v in self._views if v.last_s - v.since_s >= _STABLE_S and v.marks.enough)

    def update(self, picture: Picture, time_s: float) -> Verdict:
        """Take in the frame of `time_s` (seconds that never go backwards)."""
        gray = small(picture)
        stopped = self._motion.stopped(gray, time_s)
        bad = self._light.judge(gray, time_s) or stopped
        if bad is not None:
            self._suspend(bad)
        elif self._reason is None and self._at is not None:
            self._follow(self._at, gray, time_s)
        else:
            self._recognise(gray, time_s)
        return Verdict(self._reason, self._at.number if self._at else 0)

    def _follow(self, view: _View, gray: Gray, time_s: float) -> None:
        seen = view.marks.look(gray, time_s, learn=True)
        view.last_s = time_s
        self._past.append(seen)
        away = [past.where for past in self._past if past.where is not Where.IN_PLACE]
        lately = [past.where for past in self._past]
        if seen.flat < _DIRTY:
            self._dirty_since_s = None
        elif self._dirty_since_s is None:
            self._dirty_since_s = time_s
        turns = self._turns()
        if turns >= 2:
            self._suspend("shaking")
        elif lately[-_FRAMES_SHIFTED:] == [Where.SHIFTED] * _FRAMES_SHIFTED:
            self._suspend("shaking" if turns else "zoomed" if abs(seen.scale - 1) > _ZOOMED else "moved")
        elif len(away) >= _FRAMES_LOST and Where.IN_PLACE not in lately[-_FRAMES_LOST:]:
            covered = seen.flat > _COVERED
            if covered and self._young():
                # On a bare road the first landmarks may all be of one vehicle, which has left.
                view.marks = Landmarks(gray, time_s)
                self._past.clear()
            else:
                self._suspend("covered" if covered else "moved")
        elif self._dirty_since_s is not None and time_s - self._dirty_since_s > _DIRTY_S:
            # Whatever stands still in front of a camera is gone by then, or has corners of its own.
            self._suspend("dirty")

    def _turns(self) -> int:
        """How often the picture has gone back lately, where each time it went further than a mast may sway."""
        shifts = np.array([past.shift for past in self._past if past.shift is not None])
        steps = np.diff(shifts, axis=0) if len(shifts) > 1 else np.zeros((0, 2))
        steps = steps[np.abs(steps).max(axis=1, initial=0) > 2 * SWAY]
        return int(((steps[1:] * steps[:-1]).sum(axis=1) < 0).sum())

    def _young(self) -> bool:
        return self._at is not None and self._at.last_s - self._at.since_s < _STABLE_S

    def _suspend(self, reason: Reason) -> None:
        if self._at is not None and self._young() and reason in ("moved", "zoomed", "shaking"):
            # It was not there long enough to be a view: the camera was moving when it was first seen.
            self._views.remove(self._at)
            self._at = None
        self._reason = reason
        self._back = self._candidate = self._dirty_since_s = None
        self._past.clear()

    def _resume(self, view: _View, time_s: float) -> None:
        if view not in self._views:
            view.number = self._numbered if self._views else 0
            self._numbered = view.number + 1
            self._views.append(view)
        view.last_s = time_s
        if len(self._views) > _MOST_VIEWS:
            self._views.remove(min(self._views[1:], key=lambda known: known.last_s))
        self._at, self._reason = view, None
        self._back = self._candidate = None
        self._past.clear()

    def _recognise(self, gray: Gray, time_s: float) -> None:
        """Look for a view that is known, or for one that stays."""
        if not self._views and self._reason is None:
            self._resume(_View(0, Landmarks(gray, time_s), time_s, time_s), time_s)
            return
        if self._reason == "dirty" and self._at is not None and self._at.marks.look(gray, time_s).flat >= _DIRTY:
            return
        if self._reason == "moved" and self._at is not None and len(self._past) < _HISTORY:
            self._past.append(self._at.marks.look(gray, time_s))
            if self._turns() >= 2:
                self._reason = "shaking"
        known = self._known(gray, time_s)
        if known is not None:
            same = self._back is not None and self._back[0] is known
            since_s, frames = (self._back[1], self._back[2] + 1) if same and self._back else (time_s, 1)
            self._back = (known, since_s, frames)
            if frames >= _FRAMES_BACK and (self._reason != "shaking" or time_s - since_s >= _CALM_S):
                self._resume(known, time_s)
            return
        self._back = None
        candidate = self._candidate
        if candidate is None or candidate.marks.look(gray, time_s, learn=True).where is not Where.IN_PLACE:
            self._candidate = _View(0, Landmarks(gray, time_s), time_s, time_s)
        # What has nothing to be known by is a cover rather than a view.
        elif time_s - candidate.since_s >= _STABLE_S and (candidate.marks.enough or not self._views):
            self._resume(candidate, time_s)

    def _known(self, gray: Gray, time_s: float) -> _View | None:
        for view in self._views:
            if view.marks.known_again(gray):
                return view
        if time_s - self._other_light_s < _OTHER_LIGHT_EVERY_S:
            return None
        self._other_light_s = time_s
        return next((view for view in self._views if view.marks.same_in_other_light(gray, time_s)), None)


class _Light:
    """Tells whether a picture is black, or too dark to see anything in it."""

    def __init__(self) -> None:
        self._black_since_s: float | None = None
        self._dark_since_s: float | None = None
        self._light_since_s: float | None = None
        self._dark = False

    def judge(self, gray: Gray, time_s: float) -> Reason | None:
        dark, bright = np.percentile(gray[::4, ::4], (95, 99.5))
        self._black_since_s = _since(bright < _BLACK, self._black_since_s, time_s)
        self._dark_since_s = _since(dark < _DARK, self._dark_since_s, time_s)
        self._light_since_s = _since(dark >= _DARK, self._light_since_s, time_s)
        if self._dark_since_s is not None and time_s - self._dark_since_s >= _DARK_S:
            self._dark = True
        elif self._light_since_s is not None and time_s - self._light_since_s >= _LIGHT_S:
            self._dark = False
        if self._black_since_s is not None and time_s - self._black_since_s >= _BLACK_S:
            return "black"
        return "dark" if self._dark else None


class _Motion:
    """Tells whether a stream has stopped: exactly the same picture comes again and again.

    A road that lies still may look so too, for a while, where there is no noise. A road with traffic can't: from one
    frame to the next everything would have stopped, which is what an accident looks like.
    """

    def __init__(self) -> None:
        self._last: Gray | None = None
        self._busy = False
        self._same, self._same_since_s = 0, 0.0
        self._stopped = False

    def stopped(self, gray: Gray, time_s: float) -> Reason | None:
        if self._last is not None and np.array_equal(self._last, gray):
            self._same += 1
            at_once = self._busy and self._same >= _FRAMES_STOPPED
            self._stopped = self._stopped or at_once or time_s - self._same_since_s >= _STOPPED_S
        else:
            if self._last is not None:
                changed = cv2.absdiff(self._last, gray) > _BUSY_LEVELS
                self._busy = float(changed.mean()) > _BUSY
            # One new picture may be the last before it stops again.
            self._stopped = self._stopped and self._same > 0
            self._same, self._same_since_s, self._last = 0, time_s, gray
        return "frozen" if self._stopped else None


def _since(holds: bool, since_s: float | None, time_s: float) -> float | None:
    if not holds:
        return None
    return time_s if since_s is None else since_s
