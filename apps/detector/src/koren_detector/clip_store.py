"""Videos of incidents that waited for a person, on this host's disk, with what the person decided.

`labelled` has a video and an annotation of the same name for each decision: a folder that the detector can be judged
with and taught from. `undecided` has those that still wait.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from koren_events import Receipt, ReceiptState

from .boxes import Picture
from .durable import write_json
from .incidents import Box

_log = logging.getLogger(__name__)

Label = Literal["confirmed", "dismissed"]

_RELEASED = (ReceiptState.RECEIVED, ReceiptState.STARTED, ReceiptState.SUCCEEDED, ReceiptState.FAILED)
_TIDY_S = 3600.0
_END_S = 8.0
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Shot:
    """A frame: when it was taken (unix seconds), and the picture."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True)
class Clip:
    """What is known of an incident that waits; times are unix seconds, `box` is around its vehicles in pixels.

    `label` is what a person decided, None before. `second` is when it happened, in seconds of the video; None before
    there is a video.
    """

    event_id: str
    subject: str
    region: str
    camera: str
    opened_s: float
    started_s: float
    box: Box
    what: str
    ground: list[list[float]] | None
    label: Label | None = None
    second: float | None = None

    @property
    def name(self) -> str:
        """Its files' name without the ending."""
        return f"{self.subject}-{self.event_id[:8]}".replace("/", "_")


class ClipStore:
    """Clips in `folder`, which nobody but this process' user can read.

    Clips go after `kept_days`, and the oldest go when all together have more than `most_bytes`. `hold_s` is how long a
    region waits for a person: a dismissal that comes later is nobody's decision, and its clip goes.

    Everything is done in a thread of its own: writing a video takes seconds, and a receipt must not wait.
    """

    def __init__(self, folder: Path, *, kept_days: float, most_bytes: int, hold_s: float) -> None:
        self._undecided, self._labelled = folder / "undecided", folder / "labelled"
        for path in (folder, self._undecided, self._labelled):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
        self._kept_s, self._most_bytes, self._hold_s = kept_days * _DAY_S, most_bytes, hold_s
        self._waiting = {clip.event_id: clip for clip in self._found()}
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._todo.put(self._resume)
        self._late = threading.Event()
        self._thread = threading.Thread(target=self._work, name="clips", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what was asked for; what takes more than some seconds is given up."""
        self._todo.put(None)
        self._thread.join(_END_S)
        self._late.set()
        self._thread.join()

    def expect(self, clip: Clip) -> None:
        """Take note of an incident whose frames will come; decisions on it count from now on."""
        self._waiting[clip.event_id] = clip
        self._todo.put(lambda: self._note(clip))

    def keep(self, clip: Clip, shots: list[Shot]) -> None:
        """Write the video of an incident that was expected. Fewer than two shots make none."""
        self._todo.put(lambda: self._film(clip.event_id, shots))

    def on_receipt(self, receipt: Receipt) -> None:
        """Take note of a receipt, of whichever event; may be called in any thread."""
        clip = self._waiting.get(receipt.id)
        if clip is None or (receipt.source, receipt.region) != (clip.camera, clip.region):
            return
        if receipt.state is ReceiptState.DISMISSED:
            held_s = receipt.phases.get("received", receipt.time).timestamp()
            in_time = receipt.time.timestamp() - held_s < self._hold_s
            self._todo.put(lambda: self._decided(receipt.id, "dismissed" if in_time else None))
        elif receipt.state in _RELEASED:
            self._todo.put(lambda: self._decided(receipt.id, "confirmed"))

    def _work(self) -> None:
        while True:
            try:
                job = self._todo.get(timeout=_TIDY_S)
            except queue.Empty:
                job = self._tidy
            if job is None:
                return
            try:
                job()
            except Exception:
                # A full disk, or a codec that is missing, must cost a clip and nothing else.
                _log.exception("a clip is lost")

    def _resume(self) -> None:
        """Go on where an earlier run ended."""
        known = {f"{clip.name}{ending}" for clip in self._waiting.values() for ending in (".mp4", ".json")}
        for path in self._undecided.iterdir():
            if path.name not in known:
                path.unlink()
        for clip in list(self._waiting.values()):
            if clip.label is not None:
                self._file(clip)
        self._tidy()

    def _note(self, clip: Clip) -> None:
        write_json(self._undecided / f"{clip.name}.json", asdict(clip))

    def _film(self, event_id: str, shots: list[Shot]) -> None:
        clip = self._waiting.get(event_id)
        if clip is None:
            return
        if len(shots) < 2:
            self._forget(clip)
            return
        rate = (len(shots) - 1) / (shots[-1].time_s - shots[0].time_s)
        try:
            _film(self._undecided / f"{clip.name}.mp4", [shot.jpeg for shot in shots], rate, self._late)
        except Exception:
            self._forget(clip)
            raise
        # Frames come less evenly than a video's: the second of the video is that of the frame.
        before = sum(shot.time_s < clip.started_s for shot in shots)
        clip = self._waiting[event_id] = replace(clip, second=round(before / rate, 2))
        self._note(clip)
        if clip.label is not None:
            self._file(clip)
        self._tidy()

    def _decided(self, event_id: str, label: Label | None) -> None:
        clip = self._waiting.get(event_id)
        if clip is None or clip.label is not None:
            return
        if label is None:
            self._forget(clip)
            return
        clip = self._waiting[event_id] = replace(clip, label=label)
        self._note(clip)
        if clip.second is not None:
            self._file(clip)

    def _file(self, clip: Clip) -> None:
        """Move a clip to those that are decided on."""
        accident = {"t": clip.second, "box": clip.box, "type": clip.what}
        annotation = {
            "video": f"{clip.name}.mp4",
            "incidents": [accident] if clip.label == "confirmed" else [],
            "camera": clip.camera,
            "label": clip.label,
            **({} if clip.ground is None else {"ground": clip.ground}),
        }
        # In this order, so that no video is ever without its annotation.
        write_json(self._labelled / f"{clip.name}.json", annotation)
        (self._undecided / f"{clip.name}.mp4").replace(self._labelled / f"{clip.name}.mp4")
        self._forget(clip)
        _log.info("clip %s", clip.label, extra={"subject": clip.subject, "camera": clip.camera})

    def _forget(self, clip: Clip) -> None:
        self._waiting.pop(clip.event_id, None)
        for ending in (".mp4", ".part.mp4", ".json"):
            (self._undecided / f"{clip.name}{ending}").unlink(missing_ok=True)

    def _found(self) -> list[Clip]:
        """The clips that an earlier run left undecided, with a whole video."""
        clips = []
        for path in sorted(self._undecided.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                clip = Clip(**json.loads(path.read_text()))
                if path.with_suffix(".mp4").exists():
                    clips.append(clip)
        return clips

    def _tidy(self) -> None:
        """Remove what is too old, then the oldest until the rest is small enough."""
        now_s = time.time()
        videos = [(path.stat(), path) for folder in (self._undecided, self._labelled) for path in folder.glob("*.mp4")]
        videos.sort(key=lambda entry: entry[0].st_mtime)
        total = sum(stat.st_size for stat, _ in videos)
        by_name = {clip.name: clip for clip in self._waiting.values()}
        for stat, path in videos:
            if total <= self._most_bytes and now_s - stat.st_mtime < self._kept_s:
                break
            total -= stat.st_size
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            if path.parent == self._undecided and path.stem in by_name:
                self._waiting.pop(by_name[path.stem].event_id, None)


def _film(path: Path, pictures: list[bytes], rate: float, late: threading.Event) -> None:
    """Write JPEG pictures as a video of `rate` pictures a second. Raises OSError, also once it is too late."""
    fresh = path.with_suffix(".part.mp4")
    height, width = _picture(pictures[0]).shape[:2]
    video = cv2.VideoWriter(str(fresh), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
    try:
        if not video.isOpened():
            raise OSError(f"{fresh} can't be written as a video")
        for picture in pictures:
            if late.is_set():
                raise OSError(f"{fresh} is given up: the detector ends")
            video.write(_picture(picture))
    finally:
        video.release()
    # OpenCV does not say when the disk is full.
    if round(cv2.VideoCapture(str(fresh)).get(cv2.CAP_PROP_FRAME_COUNT)) != len(pictures):
        raise OSError(f"{fresh} is not whole; is the disk full?")
    fresh.replace(path)


def _picture(jpeg: bytes) -> Picture:
    picture: Picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return picture
