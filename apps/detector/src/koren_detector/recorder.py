"""What one camera has just shown, so that an incident can be kept with the moments before it."""

from __future__ import annotations

from collections import deque

import cv2

from koren_events import Event

from .boxes import Picture
from .clip_store import Clip, ClipStore, Shot
from .incidents import Incident
from .settings import CameraSettings

_BEFORE_S = 20.0
_AFTER_S = 10.0
_GAP_S = 3.0
_MOST_BYTES = 32 * 2**20
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 85]


class Recorder:
    """Keeps the last half minute of a camera's frames in memory, and gives `store` those around each incident.

    The frames take at most 32 MiB. They are as the camera sent them, with people and plates, and stay on this
    host.
    """

    def __init__(self, settings: CameraSettings, store: ClipStore) -> None:
        self._settings = settings
        self._store = store
        self._shots: deque[Shot] = deque()
        self._bytes = 0
        self._shape: tuple[int, ...] = ()
        self._due: list[tuple[float, Clip]] = []

    def add(self, picture: Picture, time_s: float) -> None:
        """Take in a frame, and give away the incidents that have been watched for long enough."""
        # A video has one size and no gaps.
        if self._shots and (picture.shape != self._shape or not 0 < time_s - self._shots[-1].time_s < _GAP_S):
            self.finish()
            self._shots.clear()
            self._bytes = 0
        self._shape = picture.shape
        made, coded = cv2.imencode(".jpg", picture, _QUALITY)
        if made:
            self._shots.append(Shot(time_s, coded.tobytes()))
            self._bytes += len(coded)
        while self._shots and (self._bytes > _MOST_BYTES or time_s - self._shots[0].time_s > _BEFORE_S + _AFTER_S):
            self._bytes -= len(self._shots.popleft().jpeg)
        due = [clip for due_s, clip in self._due if due_s <= time_s]
        self._due = [entry for entry in self._due if entry[0] > time_s]
        self._give(due)

    def opened(self, incident: Incident, event: Event) -> None:
        """Keep what is seen around a new incident, whose held event is `event`."""
        boxes = [wreck.box for wreck in incident.wrecks]
        clip = Clip(
            event_id=event.id,
            subject=event.subject,
            region=event.region,
            camera=event.source,
            opened_s=incident.opened_s,
            started_s=incident.started_s,
            box=(
                min(box[0] for box in boxes), min(box[1] for box in boxes),
                max(box[2] for box in boxes), max(box[3] for box in boxes),
            ),
            what=incident.what,
            ground=None if self._settings.ground is None else self._settings.ground.homography.tolist(),
        )  # fmt: skip
        self._store.expect(clip)
        self._due.append((incident.opened_s + _AFTER_S, clip))

    def finish(self) -> None:
        """Give away the incidents that are still watched, for no more frames come."""
        due, self._due = [clip for _, clip in self._due], []
        self._give(due)

    def _give(self, clips: list[Clip]) -> None:
        for clip in clips:
            self._store.keep(clip, list(self._shots))
