"""When what channels see opens an incident, and when the incident is over. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from koren_events import Channel, Evidence, ObjectClass
from koren_events import Kind as IncidentKind

from .boxes import KINDS, Array
from .motion import Motion

Severity = Literal["minor", "moderate", "severe"]
What = Literal["rear_end", "side", "head_on", "single", "unknown"]
Box = tuple[float, float, float, float]
LooksTheSame = Callable[["Wreck"], bool]

_SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_MOST_SURE = 0.99
_LEAST_CONFIDENCE, _MOST_CONFIDENCE = 0.5, 0.9
_AT_REST: tuple[IncidentKind, ...] = ("accident", "stopped-vehicle")
"""Kinds of incident whose vehicles stay where they are. Those of other kinds move on."""


@dataclass(frozen=True)
class Rules:
    """When to believe the score; distances in metres, speeds in m/s."""

    score: float
    """A track's score that counts as an alarm; chosen on validation junctions."""
    frames: int = 4
    of_frames: int = 6
    resting_m_s: float = 2.5
    place_m: float = 15.0
    """One incident within this radius."""
    quiet_s: float = 30.0
    """After an incident is over its place opens no other for so long."""
    touching_m: float = 2.5
    wreck_m: float = 3.5
    """A standing vehicle this near to where a wreck was is the wreck, whatever its number."""
    standing_m_s: float = 1.2
    clear_after_s: float = 6.0
    longest_s: float = 7200.0
    """An incident ends after so long, whatever still stands there."""
    events: frozenset[IncidentKind] = frozenset({"accident"})
    """Kinds of incident that are reported."""


@dataclass(frozen=True)
class Wreck:
    """Who or what is involved: where it was last seen, and for how long it has been gone."""

    track: int
    x: float
    y: float
    box: Box
    gone_s: float = 0.0
    kind: ObjectClass = "car"


@dataclass(frozen=True)
class Incident:
    """An incident at a place; times are unix seconds.

    `evidence` says which channels saw it and how sure each was, `confidence` how sure they are together. `what` and
    `severity` are of accidents alone.
    """

    x: float
    y: float
    started_s: float
    opened_s: float
    confidence: float
    what: What
    severity: Severity
    wrecks: tuple[Wreck, ...]
    evidence: tuple[Evidence, ...] = ()
    kind: IncidentKind = "accident"

    def with_evidence(self, channel: Channel, confidence: float) -> Incident:
        """The incident, seen by a channel too; what a channel said before it does not take back."""
        known = {one.channel: one.confidence for one in self.evidence}
        known[channel] = max(known.get(channel, 0.0), round(confidence, 3))
        evidence = tuple(Evidence(name, sure) for name, sure in known.items())
        return replace(self, evidence=evidence, confidence=joined(evidence))


def joined(evidence: tuple[Evidence, ...]) -> float:
    """How sure channels are together: each is right by itself, as if they erred independently.

    They do not quite, so several are never surer than 0.99.
    """
    doubt = float(np.prod([1 - one.confidence for one in evidence]))
    return round(max(min(1 - doubt, _MOST_SURE), *(one.confidence for one in evidence)), 3)


def confidence_of(times: float) -> float:
    """How sure a channel is of what it has measured `times` as much of as it needs: from 0.5, rising to 0.9."""
    return round(float(min(1 - (1 - _LEAST_CONFIDENCE) / times, _MOST_CONFIDENCE)), 3)


@dataclass(frozen=True)
class Sighting:
    """Who or what a channel sees, on the ground (m); since when (unix s), and how sure that is, 0 to 1.

    What does not last yet opens no incident, but keeps one open that it belongs to.
    """

    wreck: Wreck
    since_s: float
    confidence: float
    lasts: bool = True


@dataclass(frozen=True)
class Opened:
    """A new incident."""

    incident: Incident


@dataclass(frozen=True)
class Joined:
    """Another channel, or someone else, belongs to an open incident; wrecks that were there keep their order."""

    incident: Incident


@dataclass(frozen=True)
class Cleared:
    """An incident is over: its last wreck has been gone since `since_s`, or it has been open for too long."""

    incident: Incident
    since_s: float


Decision = Opened | Joined | Cleared


@dataclass
class IncidentLog:
    """One camera's incidents: at most one open a kind and place."""

    rules: Rules
    open: list[Incident] = field(default_factory=list)
    _alarms: dict[int, list[bool]] = field(default_factory=dict)
    _quiet: list[tuple[float, Incident]] = field(default_factory=list)
    _last_s: float | None = None
    _dt_s: float = 0.0

    def forget_tracks(self) -> None:
        """Take note that the stream was interrupted: track numbers mean nothing any more."""
        self._alarms.clear()
        self.open = [
            replace(incident, wrecks=tuple(replace(w, track=-1) for w in incident.wrecks)) for incident in self.open
        ]

    def update(self, time_s: float, motion: Motion, scores: Array, looks_the_same: LooksTheSame) -> list[Decision]:
        """Take in a frame.

        `looks_the_same` is asked, where no track stands at a wreck's place any more, whether the
        picture there still shows the wreck: a network overlooks a vehicle at times, and a wreck
        that it overlooks must not count as gone.
        """
        # A frame tells of its moment only: an interruption is no time in which a wreck was gone.
        dt = self._dt_s = 0.0 if self._last_s is None else min(max(time_s - self._last_s, 0.0), 1.0)
        self._last_s = time_s
        self._quiet = [q for q in self._quiet if time_s - q[0] < self.rules.quiet_s]
        decisions = self._pass(
            time_s, _AT_REST, lambda incident: _watch(incident, motion, self.rules, dt, looks_the_same)
        )
        alarmed = self._alarmed(motion, scores)
        if "accident" in self.rules.events:
            for row in alarmed:
                decisions += self._tell(_open(time_s, row, motion, scores, self.rules))
        return decisions

    def stand(self, time_s: float, sightings: list[Sighting]) -> list[Decision]:
        """Take in the vehicles that stand unusually in the frame of `time_s`.

        They are stopped vehicles, unless an accident is open at their place. Where stopped vehicles are not reported,
        they are accidents of which nothing else is known.
        """
        kind: IncidentKind = "stopped-vehicle" if "stopped-vehicle" in self.rules.events else "accident"
        if kind not in self.rules.events:
            return []
        decisions: list[Decision] = []
        for one in sightings:
            decisions += self._tell(_told(kind, "standstill", time_s, [one]))
        return decisions

    def follow(
        self, kind: IncidentKind, channel: Channel, time_s: float, sightings: Sequence[Sighting]
    ) -> list[Decision]:
        """Take in those who move on, such as people on the road, in the frame of `time_s`, after `update`.

        A camera has one open incident of such a kind: all who are seen belong to it, wherever they go.
        """
        decisions = self._pass(time_s, (kind,), lambda incident: _follow(incident, sightings, self.rules, self._dt_s))
        lasting = [one for one in sightings if one.lasts]
        if not lasting:
            return decisions
        told = _told(kind, channel, time_s, lasting)
        for number, incident in enumerate(self.open):
            if incident.kind == kind:
                more = _take_in(incident, told, self.rules)
                self.open[number] = more
                return [*decisions, Joined(more)] if more != incident else decisions
        return decisions + self._tell(told)

    def _pass(
        self, time_s: float, kinds: tuple[IncidentKind, ...], watch: Callable[[Incident], Incident]
    ) -> list[Decision]:
        """Bring the open incidents of some kinds up to date; returns the decisions on those that are over."""
        decisions: list[Decision] = []
        still_open = []
        for incident in self.open:
            if incident.kind in kinds:
                incident = watch(incident)
                gone_s = min(wreck.gone_s for wreck in incident.wrecks)
                if gone_s >= self.rules.clear_after_s or time_s - incident.opened_s >= self.rules.longest_s:
                    decisions.append(Cleared(incident, time_s - gone_s))
                    self._quiet.append((time_s, incident))
                    continue
            still_open.append(incident)
        self.open = still_open
        return decisions

    def _tell(self, told: Incident) -> list[Decision]:
        """What a channel tells of: a new incident, or more of one that is open at its place."""
        for number, incident in enumerate(self.open):
            if self._is_part(told, incident):
                more = _join(incident, told, self.rules)
                self.open[number] = more
                return [Joined(more)] if more != incident else []
        if any(self._is_part(told, over) for _, over in self._quiet):
            return []
        self.open.append(told)
        return [Opened(told)]

    def _alarmed(self, motion: Motion, scores: Array) -> list[int]:
        """Rows of the tracks whose alarm has lasted, surest first."""
        alarms: dict[int, list[bool]] = {}
        rows = []
        for row, number in enumerate(motion.tracks.numbers):
            past = self._alarms.get(int(number), [])[-self.rules.of_frames + 1 :]
            alarms[int(number)] = [*past, bool(scores[row] > self.rules.score)]
            lasting = sum(alarms[int(number)]) >= self.rules.frames and alarms[int(number)][-1]
            if lasting and motion.speeds[row] < self.rules.resting_m_s:
                rows.append(row)
        self._alarms = alarms
        return sorted(rows, key=lambda row: -scores[row])

    def _is_part(self, told: Incident, known: Incident) -> bool:
        """Whether what is told is part of a known incident of its kind. A stopped vehicle may be one of an accident."""
        if told.kind != known.kind and (told.kind, known.kind) != ("stopped-vehicle", "accident"):
            return False
        return bool(np.hypot(told.wrecks[0].x - known.x, told.wrecks[0].y - known.y) < self.rules.place_m)


def _told(kind: IncidentKind, channel: Channel, time_s: float, sightings: Sequence[Sighting]) -> Incident:
    """What a channel tells of, as an incident that would be opened for it."""
    first = sightings[0].wreck
    confidence = max(one.confidence for one in sightings)
    return Incident(
        x=first.x, y=first.y, started_s=min(one.since_s for one in sightings), opened_s=time_s, confidence=confidence,
        what="unknown", severity="minor", wrecks=tuple(one.wreck for one in sightings),
        evidence=(Evidence(channel, confidence),), kind=kind,
    )  # fmt: skip


def _take_in(incident: Incident, told: Incident, rules: Rules) -> Incident:
    """An open incident with all who are told of; someone new takes the place of one who is gone."""
    wrecks = list(incident.wrecks)
    known = {wreck.track for wreck in wrecks}
    gone = [number for number, wreck in enumerate(wrecks) if wreck.gone_s >= rules.clear_after_s]
    for wreck in told.wrecks:
        if wreck.track in known:
            continue
        if gone:
            wrecks[gone.pop(0)] = wreck
        else:
            wrecks.append(wreck)
    for one in told.evidence:
        incident = incident.with_evidence(one.channel, one.confidence)
    return replace(incident, wrecks=tuple(wrecks))


def _follow(incident: Incident, sightings: Sequence[Sighting], rules: Rules, dt: float) -> Incident:
    """The incident with those involved where they are now: by their numbers, else whoever is where one was."""
    seen = {one.wreck.track: one.wreck for one in sightings}
    others = [wreck for track, wreck in seen.items() if all(track != known.track for known in incident.wrecks)]
    wrecks = []
    for wreck in incident.wrecks:
        now = seen.get(wreck.track)
        if now is None:
            now = next((one for one in others if np.hypot(one.x - wreck.x, one.y - wreck.y) < rules.wreck_m), None)
            if now is not None:
                others.remove(now)
        wrecks.append(now or replace(wreck, gone_s=wreck.gone_s + dt))
    return replace(incident, wrecks=tuple(wrecks))


def _join(incident: Incident, told: Incident, rules: Rules) -> Incident:
    """An open incident with what a channel tells of the same one."""
    first = all(one.channel != told.evidence[0].channel for one in incident.evidence)
    known = {wreck.track for wreck in incident.wrecks}
    # Later on only the vehicle that is told of itself: a neighbour may just wait behind it.
    more = [
        wreck for wreck in (told.wrecks if first else told.wrecks[:1])
        if wreck.track not in known
        and all(np.hypot(wreck.x - w.x, wreck.y - w.y) >= rules.wreck_m for w in incident.wrecks)
    ]  # fmt: skip
    for one in told.evidence:
        incident = incident.with_evidence(one.channel, one.confidence)
    if first:
        # What the motion was like tells more than that something stands.
        incident = replace(
            incident,
            what=told.what if incident.what == "unknown" else incident.what,
            severity=max(incident.severity, told.severity, key=_SEVERITIES.index),
        )
    return replace(incident, wrecks=(*incident.wrecks, *more))


def _watch(incident: Incident, motion: Motion, rules: Rules, dt: float, looks_the_same: LooksTheSame) -> Incident:
    """The incident with its wrecks where they are now."""
    taken: set[int] = set()
    wrecks = []
    for wreck in incident.wrecks:
        row = _find(wreck, motion, rules, taken)
        if row is not None:
            taken.add(row)
            x, y = (float(value) for value in motion.places[row])
            track = int(motion.tracks.numbers[row])
            wreck = Wreck(track, x, y, box_of(motion.tracks.boxes[row]), kind=KINDS[motion.tracks.kinds[row]])
        elif looks_the_same(wreck):
            wreck = replace(wreck, gone_s=0.0)
        else:
            wreck = replace(wreck, gone_s=wreck.gone_s + dt)
        wrecks.append(wreck)
    return replace(incident, wrecks=tuple(wrecks))


def _find(wreck: Wreck, motion: Motion, rules: Rules, taken: set[int]) -> int | None:
    """The row of the wreck's track: its own number first, else whoever stands at its place."""
    away = np.hypot(motion.places[:, 0] - wreck.x, motion.places[:, 1] - wreck.y)
    seen = motion.tracks.seen
    fit = seen & (motion.speeds < rules.standing_m_s) & (away < rules.wreck_m)
    own = seen & (motion.tracks.numbers == wreck.track) & (motion.speeds < rules.resting_m_s)
    for row in [*np.flatnonzero(own), *np.argsort(away)]:
        if (own[row] or fit[row]) and int(row) not in taken:
            return int(row)
    return None


def _open(time_s: float, row: int, motion: Motion, scores: Array, rules: Rules) -> Incident:
    partners = [
        other
        for other in np.argsort(motion.gaps[row])
        if motion.gaps[row, other] < rules.touching_m
        and motion.speeds[other] < rules.resting_m_s
        and (scores[other] > rules.score / 2 or motion.change[other] > 3.0)
    ]
    rows = [row, *partners]
    x, y = motion.places[rows].mean(0)
    hardest = float(max(motion.change[r] for r in rows))
    return Incident(
        x=float(x),
        y=float(y),
        started_s=time_s - float(max(motion.changed_s[r] for r in rows)),
        opened_s=time_s,
        confidence=round(float(scores[row]), 3),
        evidence=(Evidence("motion", round(float(scores[row]), 3)),),
        what=_what(motion, row, [int(p) for p in partners]),
        severity="minor" if hardest < 5 else "moderate" if hardest < 9 else "severe",
        wrecks=tuple(
            Wreck(
                int(motion.tracks.numbers[r]),
                float(motion.places[r, 0]),
                float(motion.places[r, 1]),
                box_of(motion.tracks.boxes[r]),
                kind=KINDS[motion.tracks.kinds[r]],
            )
            for r in rows
        ),
    )


def _what(motion: Motion, row: int, partners: list[int]) -> What:
    """How two vehicles met, by their directions before; "unknown" unless it can be told."""
    if not partners:
        # The other vehicle may be hidden or gone, so one vehicle alone proves nothing.
        return "unknown"
    directions = []
    for which in (row, partners[0]):
        velocity = motion.before[which]
        if np.hypot(*velocity) > 2.0:
            directions.append(float(np.arctan2(velocity[1], velocity[0])))
        elif not np.isnan(motion.headings[which]):
            directions.append(float(motion.headings[which]))
    if len(directions) < 2:
        return "unknown"
    apart = abs(np.rad2deg(np.angle(np.exp(1j * (directions[0] - directions[1])))))
    # A direction is known to some 20 degrees, so between the words there is room for no word.
    if apart < 30:
        return "rear_end"
    if apart > 160:
        return "head_on"
    return "side" if 50 < apart < 130 else "unknown"


def box_of(box: Array) -> Box:
    """The sides of a box, in tenths of a pixel."""
    x0, y0, x1, y1 = (round(float(value), 1) for value in box)
    return x0, y0, x1, y1
