"""One camera's worker: newest frame in, events out."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from koren_events import Camera, Event, Image, SeenObject

from . import metrics
from .accident import Weights
from .arms import located
from .boxes import KINDS, Array, Picture
from .ground import Ground
from .hiding import look_closely
from .incidents import Cleared, Decision, Incident, Joined, Opened, Rules, Wreck
from .picture import Stillness, alike, patch, snapshot
from .queue_store import QueueStore
from .recorder import Recorder
from .reports import Reports, is_same
from .resized import Size, resized_ground, resized_incident
from .road import Road
from .settings import CameraSettings
from .sight import Sight
from .standstill import Standing, Standstill
from .stream import Frame, Stream
from .tracking import Detections
from .vehicles import Found
from .view import REASONS, Verdict, ViewWatch
from .view_store import ViewStore
from .wrong_way import lanes_of

_log = logging.getLogger(__name__)

_WAIT_S = 1.0
_PEOPLE_KEPT_S = 1.5
_FPS_OVER_S = 5.0
_FAR_M = 80.0


class Network(Protocol):
    """Whatever finds vehicles and people in a picture."""

    def find(self, frame: Picture, top: int = 0) -> Found:
        """Find them below row `top`; boxes are in pixels of `frame`."""


class Turns:
    """A lock that is given in the order of asking: a plain one would let a camera starve."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = self._served = 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self._asked = self._asked, self._asked + 1
            self._changed.wait_for(lambda: self._served == mine)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


@dataclass(frozen=True)
class Finder:
    """The network, shared by all cameras: one frame at a time, each camera in its turn."""

    network: Network
    turns: Turns


class Worker:
    """Follows one camera in a thread of its own until `stop`."""

    def __init__(
        self,
        settings: CameraSettings,
        stream: Stream,
        finder: Finder,
        weights: Weights,
        rules: Rules,
        reports: Reports,
        recorder: Recorder | None = None,
        views: ViewStore | None = None,
        queues: QueueStore | None = None,
    ) -> None:
        self._settings = settings
        self._id = settings.camera.id
        self._labels = (settings.camera.id, settings.region)
        self._stream = stream
        self._finder = finder
        self._weights = weights
        self._rules = replace(rules, events=settings.events)
        self._reports = reports
        self._recorder = recorder
        self._sight: Sight | None = None
        self._sights: dict[int, Sight] = {}
        self._view_store = views
        self._views: ViewWatch | None = None
        self._queue_store = queues
        self._standstill: Standstill | None = None
        self._standing: list[Standing] = []
        self._verdict = Verdict(None, 0)
        self._still = Stillness()
        self._found: Found | None = None
        self._people: list[tuple[float, Array]] = []
        self._connection = 0
        self._top: int | None = None
        self._size: Size | None = None
        self._ground_size = settings.ground_size
        self._times: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"camera {self._id}", daemon=True)

    def start(self) -> None:
        """Begin to follow the camera."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for the thread."""
        self._stopping.set()
        self._thread.join(2 * _WAIT_S + 5)
        if self._recorder is not None:
            self._recorder.finish()

    @property
    def alive(self) -> bool:
        """Whether the worker still works."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                waiting = self._stream.wait(_WAIT_S)
                metrics.CONNECTED.labels(*self._labels).set(self._stream.connected)
                if waiting:
                    self._take_turn()
        except Exception:
            # The service ends when a worker does, and systemd starts it anew.
            _log.exception("camera %s: the worker failed", self._id)

    def _take_turn(self) -> None:
        with self._finder.turns:
            # Only now: while others had their turn, a newer frame may have come.
            frame = self._stream.take()
            found = None if frame is None else self.look(frame)
        if frame is not None and found is not None:
            self.decide(frame, found)

    def decide(self, frame: Frame, found: Found) -> None:
        """Take in what a frame shows, and report what that decides."""
        if self._recorder is not None:
            self._recorder.add(frame.picture, frame.time_s)
        if self._view_store is not None and self._views is not None:
            self._view_store.keep(self._views, frame.time_s)
        if self._queue_store is not None and self._standstill is not None:
            self._queue_store.keep(self._standstill.queues, frame.time_s)
        if self._verdict.reason is not None:
            self._follow_reports(frame)
            return
        sight = self._sights.get(self._verdict.view)
        if sight is None:
            sight = self._begin_sight()
        if sight is not self._sight:
            self._sight = sight
        elif frame.connection != self._connection:
            self._sight.interrupted()
        self._connection = frame.connection
        decisions = self._sight.update(
            frame.time_s, found.vehicles, self._standing,
            lambda wreck: self._looks_the_same(frame.picture, wreck), found.on_foot,
        )  # fmt: skip
        for decision in decisions:
            self._report(decision, frame)
        self._remember_looks(frame.picture)
        for incident in self._sight.log.open:
            if self._reports.has_news(incident, frame.time_s):
                self._log(
                    "updated", incident, frame,
                    self._reports.updated(
                        incident, self._objects(incident), self._snapshot(incident, frame.picture), frame.time_s
                    ),
                )  # fmt: skip
        self._follow_reports(frame)

    def _begin_sight(self) -> Sight:
        """The tracks and incidents of the view that the camera shows now."""
        view = self._verdict.view
        # What earlier runs left open is of the view that the camera was set up for.
        known = [] if view else [record.incident for record in self._reports.open]
        # Of other views only those that have an incident left are kept.
        self._sights = {number: sight for number, sight in self._sights.items() if number == 0 or sight.log.open}
        self._sights[view] = self._sight_of(view, known)
        return self._sights[view]

    def _sight_of(self, view: int, known: list[Incident]) -> Sight:
        ground = self._ground(view)
        if view != 0 or self._size is None or self._ground_size is None:
            # Arms and crossings are in the view that the camera was set up for.
            return Sight(ground, self._weights, self._rules, known)
        scale = np.divide(self._size, self._ground_size)
        settings = self._settings
        road = Road(
            self._size, [arm.polygon * scale for arm in settings.arms], [one * scale for one in settings.crossings]
        )
        # Settings are checked for headings on the ground only where wrong ways are reported.
        lanes = lanes_of(settings.arms, ground, scale) if "wrong-way" in settings.events else []
        return Sight(ground, self._weights, self._rules, known, road, lanes)

    def _follow_reports(self, frame: Frame) -> None:
        incidents = [incident for sight in self._sights.values() for incident in sight.log.open]
        self._reports.follow(incidents, time.time())
        metrics.OPEN.labels(*self._labels).set(len(incidents))
        self._measure(frame)

    def _watch_view(self, frame: Frame) -> None:
        if self._views is None:
            self._views = self._view_store.load(frame.time_s) if self._view_store is not None else ViewWatch()
        before, self._verdict = self._verdict, self._views.update(frame.picture, frame.time_s)
        reason, view = self._verdict.reason, self._verdict.view
        for known in REASONS:
            metrics.VIEW_SUSPENDED.labels(*self._labels, known).set(reason == known)
        metrics.VIEW.labels(*self._labels).set(view)
        if self._verdict == before:
            return
        self._found = self._top = None
        if reason is None:
            _log.info("camera %s: its view %d may be trusted", self._id, view)
        else:
            _log.warning("camera %s: suspended, its view is not to be trusted: %s", self._id, reason)
            # A moved picture tells nothing of what was followed, nor whether a wreck is gone.
            if self._sight is not None:
                self._sight.interrupted()
            if self._standstill is not None:
                self._standstill.begin()

    def look(self, frame: Frame) -> Found:
        """What a frame shows; what the last one did where nothing has moved since; nothing where it is suspended."""
        self._watch_size(frame.picture)
        self._watch_view(frame)
        if self._verdict.reason is not None:
            return Found(Detections.none(), np.zeros((0, 4)))
        still = self._still.is_still(frame.picture, frame.time_s)
        if self._found is None or not still:
            if self._top is None:
                height, width = frame.picture.shape[:2]
                self._top = self._ground(self._verdict.view).top(width, height, _FAR_M)
            with metrics.FIND.time():
                self._found = self._finder.network.find(frame.picture, self._top)
        else:
            metrics.STILL_FRAMES.labels(*self._labels).inc()
        self._people = [entry for entry in self._people if 0 <= frame.time_s - entry[0] < _PEOPLE_KEPT_S]
        self._people.append((frame.time_s, self._found.people))
        self._standing = self._look_for_standing(frame)
        return self._found

    def _look_for_standing(self, frame: Frame) -> list[Standing]:
        """The vehicles that stand unusually; only in the view that the camera was set up for."""
        if self._verdict.view != 0 or not self._rules.events & {"accident", "stopped-vehicle"}:
            return []
        if self._standstill is None:
            self._standstill = Standstill(self._queue_store.load() if self._queue_store is not None else None)
        elif frame.connection != self._connection:
            self._standstill.interrupted()
        return self._standstill.update(
            frame.picture, frame.time_s, lambda part: self._finder.network.find(part).vehicles
        )

    def _ground(self, view: int) -> Ground:
        assert self._size is not None and self._ground_size is not None
        # The camera's ground is that of the view which it was set up for.
        known = self._settings.ground if view == 0 else None
        return Ground.typical(*self._size) if known is None else resized_ground(known, self._ground_size, self._size)

    def _watch_size(self, picture: Picture) -> None:
        """Where pictures change their size, tracks begin anew; incidents and the views that are known stay."""
        height, width = picture.shape[:2]
        before, now = self._size, (width, height)
        if before == now:
            return
        self._size = now
        self._ground_size = self._ground_size or now
        if before is None:
            return
        _log.warning("camera %s: its pictures are %d x %d now, they were %d x %d", self._id, *now, *before)
        self._found = self._top = self._sight = None
        if self._standstill is not None:
            self._standstill.interrupted()
        self._still, self._people = Stillness(), []
        for record in self._reports.open:
            record.incident = resized_incident(record.incident, before, now)
        for view, sight in self._sights.items():
            known = [resized_incident(incident, before, now) for incident in sight.log.open]
            self._sights[view] = self._sight_of(view, known)

    def _looks_the_same(self, picture: Picture, wreck: Wreck) -> bool:
        for record in self._reports.open:
            for known, look in zip(record.incident.wrecks, record.patches, strict=True):
                if known == wreck and look is not None:
                    now = patch(picture, wreck.box)
                    return now is not None and alike(now, look)
        return False

    def _remember_looks(self, picture: Picture) -> None:
        """Keep how each wreck looks while its track says that it is there."""
        assert self._sight is not None and self._sight.motion is not None
        tracks = self._sight.motion.tracks
        seen = set(tracks.numbers[tracks.seen].tolist())
        for incident in self._sight.log.open:
            for record in self._reports.open:
                if is_same(record.incident, incident):
                    record.patches = [
                        (patch(picture, wreck.box) if wreck.track in seen else look)
                        for wreck, look in zip(incident.wrecks, record.patches, strict=True)
                    ]

    def _report(self, decision: Decision, frame: Frame) -> None:
        incident = decision.incident
        if isinstance(decision, Opened):
            camera = self._camera_of(incident)
            event = self._reports.opened(
                incident, self._objects(incident), self._snapshot(incident, frame.picture),
                [patch(frame.picture, wreck.box) for wreck in incident.wrecks], camera,
            )  # fmt: skip
            if self._recorder is not None and incident.kind == "accident":
                # Clips are for judging how accidents are found.
                self._recorder.opened(incident, event)
            self._log("detected", incident, frame, event, post=self._settings.post, link=camera.link)
        elif isinstance(decision, Joined):
            self._reports.joined(incident, lambda wreck: patch(frame.picture, wreck.box))
        else:
            assert isinstance(decision, Cleared)
            self._log("cleared", incident, frame, self._reports.cleared(incident, decision.since_s, time.time()))

    def _log(self, decided: str, incident: Incident, frame: Frame, event: Event, **more: object) -> None:
        line = {
            "event_id": event.id,
            "subject": event.subject,
            # A line's region is that of the host.
            "event_region": self._settings.region,
            "camera": self._id,
            "frame_time": round(frame.time_s, 3),
            "lag_s": round(time.time() - frame.time_s, 3),
            "started": round(incident.started_s, 3),
            "kind": incident.kind,
            "what": incident.what,
            "severity": incident.severity,
            "confidence": incident.confidence,
            "evidence": {one.channel: one.confidence for one in incident.evidence},
            "wrecks": len(incident.wrecks),
            **more,
        }
        _log.info("incident %s", decided, extra=line)

    def _camera_of(self, incident: Incident) -> Camera:
        """The camera with the road and direction of an incident; without them while it is turned away."""
        camera = self._settings.camera
        if self._verdict.view != 0 or self._size is None or self._ground_size is None:
            return replace(camera, road=None, direction=None)
        return located(camera, incident, self._settings.arms, self._ground_size, self._size)

    def _objects(self, incident: Incident) -> list[SeenObject]:
        assert self._sight is not None and self._sight.motion is not None
        tracks = self._sight.motion.tracks
        involved = {wreck.track for wreck in incident.wrecks}
        objects = []
        for row in np.flatnonzero(tracks.seen | np.isin(tracks.numbers, list(involved))):
            x0, y0, x1, y1 = (round(float(value), 1) for value in tracks.boxes[row])
            objects.append(
                SeenObject(
                    object_class=KINDS[tracks.kinds[row]],
                    track=int(tracks.numbers[row]),
                    box=(x0, y0, x1, y1),
                    involved=int(tracks.numbers[row]) in involved,
                )
            )
        followed = set(tracks.numbers.tolist())
        objects += [
            SeenObject(object_class=wreck.kind, track=wreck.track, box=wreck.box, involved=True)
            for wreck in incident.wrecks
            if wreck.track > 0 and wreck.track not in followed
        ]
        return objects

    def _snapshot(self, incident: Incident, picture: Picture) -> Image | None:
        """The event's picture; None where it can't be said whom and what to hide in it."""
        try:
            people, vehicles = look_closely(self._find_in_turn, picture)
            # Those of the last moments too, lest one is missed now.
            people = np.concatenate([people, *(boxes for _, boxes in self._people)])
            if self._found is not None:
                vehicles = np.concatenate([vehicles, self._found.vehicles.boxes])
            return snapshot(picture, [wreck.box for wreck in incident.wrecks], people, vehicles)
        except Exception:
            metrics.PICTURES_WITHHELD.labels(*self._labels).inc()
            _log.exception("camera %s: the event goes without a picture, whose people can't be hidden", self._id)
            return None

    def _find_in_turn(self, picture: Picture) -> Found:
        with self._finder.turns:
            return self._finder.network.find(picture)

    def _measure(self, frame: Frame) -> None:
        now_s = time.time()
        self._times = [t for t in self._times if now_s - t < _FPS_OVER_S] + [now_s]
        metrics.FRAMES.labels(*self._labels).inc()
        metrics.FPS.labels(*self._labels).set(len(self._times) / _FPS_OVER_S)
        metrics.LAG.labels(*self._labels).set(now_s - frame.time_s - frame.late_s)
        if self._sight is not None and self._sight.scores is not None:
            metrics.TRACKS.labels(*self._labels).set(len(self._sight.scores))
            metrics.SCORE.labels(*self._labels).set(float(self._sight.scores.max(initial=0.0)))
