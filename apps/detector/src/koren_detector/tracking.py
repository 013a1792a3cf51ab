"""Follows vehicles from frame to frame by their boxes.

A constant-velocity Kalman filter for each box's centre, and matching in two rounds as ByteTrack
does: sure detections first, then the unsure ones for the tracks that are left, so that a vehicle
that is half hidden keeps its number. Everything is in arrays, a row a track.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .boxes import KINDS, Array, Bools, Ints, affinities, overlaps

SURE = 0.35
"""Detections at least this sure may begin a track."""
CONFIRMED_HITS = 3
_MEASURED = 0.05  # noise of a box's centre, in box sizes
_MANOEUVRE = 6.0  # unforeseen acceleration, in box sizes per s²
_FIRST_SPEED = 8.0  # spread of a new track's speed, in box sizes per s
_AFFINITY_KNOWN = 0.25  # or a standing car's number goes off with a car that passes before it
_AFFINITY_LOST = -0.1  # out of sight or young: its prediction is less sure
_AFFINITY_NEW = -0.35  # a new track's speed is not known yet, so its next box may lie apart
_AFFINITY_UNSURE = 0.3  # in overlap
_LOST_S = 0.6
_TWIN = 0.5
_KEEP_MOVING_S = 1.2
_KEEP_STANDING_S = 4.0
_KEEP_TENTATIVE_S = 0.5
_STANDING = 0.3  # box sizes per s


@dataclass(frozen=True)
class Detections:
    """What one frame shows: boxes (n, 4) px, scores (n,) 0..1, kinds (n,) indices of KINDS."""

    boxes: Array
    scores: Array
    kinds: Ints

    @classmethod
    def none(cls) -> Detections:
        """A frame that shows no vehicle."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Tracks:
    """The confirmed tracks after a frame.

    `boxes` are measured where `seen`, else predicted; `detections` is the index of the detection
    that was matched, -1 where not seen.
    """

    numbers: Ints
    boxes: Array
    kinds: Ints
    seen: Bools
    detections: Ints

    def take(self, which: Bools) -> Tracks:
        """The tracks that `which` marks."""
        return Tracks(*(getattr(self, field.name)[which] for field in fields(self)))


@dataclass
class _Rows:
    """All tracks, tentative ones too. `spread` holds the filter's variances (pp, pv, vv)."""

    number: Ints
    centre: Array
    speed: Array
    spread: Array
    size: Array
    votes: Array
    hits: Ints
    unseen_s: Array
    detection: Ints

    def __len__(self) -> int:
        return len(self.number)

    def take(self, which: Bools) -> _Rows:
        return _Rows(*(getattr(self, field.name)[which] for field in fields(self)))

    def plus(self, other: _Rows) -> _Rows:
        return _Rows(
            *(np.concatenate([getattr(self, field.name), getattr(other, field.name)]) for field in fields(self))
        )

    def boxes(self) -> Array:
        return np.hstack([self.centre - self.size / 2, self.centre + self.size / 2])


class Tracker:
    """Numbers vehicles; `first` is the first number given, so that numbers can go on after a gap."""

    def __init__(self, first: int = 1) -> None:
        self.next_number = first
        self._time_s: float | None = None
        self._rows = self._begin(Detections.none(), np.zeros(0, np.int64))

    def update(self, time_s: float, found: Detections) -> Tracks:
        """Take in the detections of the frame of `time_s`, which must not go backwards."""
        dt = 0.0 if self._time_s is None else time_s - self._time_s
        self._time_s = time_s
        rows = self._rows
        self._predict(rows, dt)
        rows.detection = np.full(len(rows), -1)
        unmatched = np.ones(len(found.boxes), bool)
        for sure in (True, False):
            self._match(rows, found, unmatched, sure=sure)
        standing = np.linalg.norm(rows.speed, axis=1) < _STANDING * _scale(rows.size)
        keep_s = np.where(standing, _KEEP_STANDING_S, _KEEP_MOVING_S)
        keep_s = np.where(rows.hits < CONFIRMED_HITS, _KEEP_TENTATIVE_S, keep_s)
        rows = rows.take(rows.unseen_s <= keep_s)
        fresh = np.flatnonzero(unmatched & (found.scores >= SURE))
        if len(fresh) and len(rows):
            matched = rows.take(rows.detection >= 0)
            twin = overlaps(found.boxes[fresh], matched.boxes()).max(1, initial=0) > _TWIN
            fresh = fresh[~twin]
        self._rows = rows.plus(self._begin(found, fresh))
        return self._confirmed()

    def _confirmed(self) -> Tracks:
        rows = self._rows.take(self._rows.hits >= CONFIRMED_HITS)
        seen = rows.detection >= 0
        return Tracks(rows.number, rows.boxes(), rows.votes.argmax(1), seen, rows.detection)

    @staticmethod
    def _predict(rows: _Rows, dt: float) -> None:
        rows.centre = rows.centre + rows.speed * dt
        # What is out of sight is as likely to have stopped as to have gone on.
        rows.speed = np.where((rows.unseen_s > 0)[:, None], rows.speed * 0.5**dt, rows.speed)
        noise = _MANOEUVRE**2 * dt
        pp, pv, vv = rows.spread.T
        rows.spread = np.stack(
            [pp + 2 * dt * pv + dt**2 * vv + noise * dt**2 / 3, pv + dt * vv + noise * dt / 2,
             vv + noise], axis=1,
        )  # fmt: skip
        rows.unseen_s = rows.unseen_s + dt

    @staticmethod
    def _match(rows: _Rows, found: Detections, unmatched: Bools, *, sure: bool) -> None:
        """Match, and correct the matched tracks; marks both in `rows` and `unmatched`."""
        tracks = np.flatnonzero(rows.detection < 0)
        seen = np.flatnonzero(unmatched & ((found.scores >= SURE) == sure))
        if not len(tracks) or not len(seen):
            return
        predicted = rows.boxes()[tracks]
        if sure:
            affinity = affinities(predicted, found.boxes[seen])
            lost = (rows.hits[tracks] < 4) | (rows.unseen_s[tracks] > _LOST_S)
            least = np.where(lost, _AFFINITY_LOST, _AFFINITY_KNOWN)
            least[rows.hits[tracks] < 2] = _AFFINITY_NEW
        else:
            affinity = overlaps(predicted, found.boxes[seen])
            least = np.full(len(tracks), _AFFINITY_UNSURE)
        # Established tracks choose first where the affinity is about the same.
        rank = affinity + 0.1 * (rows.hits[tracks] >= CONFIRMED_HITS)[:, None]
        allowed = affinity >= least[:, None]
        pairs = np.argwhere(allowed)
        order = np.argsort(-rank[allowed], kind="stable")
        free_track, free_seen = np.ones(len(tracks), bool), np.ones(len(seen), bool)
        chosen: list[tuple[int, int]] = []
        for t, s in pairs[order]:
            if free_track[t] and free_seen[s]:
                free_track[t] = free_seen[s] = False
                chosen.append((tracks[t], seen[s]))
        if chosen:
            pair = np.array(chosen)
            unmatched[pair[:, 1]] = False
            _correct(rows, pair[:, 0], found, pair[:, 1])

    def _begin(self, found: Detections, which: Ints) -> _Rows:
        boxes = found.boxes[which]
        count = len(which)
        numbers = np.arange(self.next_number, self.next_number + count)
        self.next_number += count
        spread = np.tile([_MEASURED**2, 0.0, _FIRST_SPEED**2], (count, 1))
        votes = np.zeros((count, len(KINDS)))
        votes[np.arange(count), found.kinds[which]] = found.scores[which]
        return _Rows(
            numbers, (boxes[:, :2] + boxes[:, 2:]) / 2, np.zeros((count, 2)), spread,
            boxes[:, 2:] - boxes[:, :2], votes, np.ones(count, np.int64), np.zeros(count),
            which.astype(np.int64),
        )  # fmt: skip


def _scale(size: Array) -> Array:
    """The size of a box as one length, px."""
    scale: Array = np.sqrt(np.maximum(size.prod(1), 1.0))
    return scale


def _correct(rows: _Rows, at: Ints, found: Detections, which: Ints) -> None:
    box = found.boxes[which]
    centre, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
    pp, pv, vv = rows.spread[at].T
    gain_p, gain_v = pp / (pp + _MEASURED**2), pv / (pp + _MEASURED**2)
    off = centre - rows.centre[at]
    rows.speed[at] += gain_v[:, None] * off
    rows.spread[at] = np.stack([(1 - gain_p) * pp, (1 - gain_p) * pv, vv - gain_v * pv], axis=1)
    # Where the vehicle is seen its measured place counts; the filter's is for prediction only.
    rows.centre[at] = centre
    rows.size[at] += 0.5 * (size - rows.size[at])
    rows.votes[at, found.kinds[which]] += found.scores[which]
    rows.hits[at] += 1
    rows.unseen_s[at] = 0.0
    rows.detection[at] = which
