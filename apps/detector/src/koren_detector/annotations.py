"""Videos and what happens in them: the annotations that an evaluation compares the detector with."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import Array
from .ground import Ground

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".ts")
MANIFEST = "manifest.json"
_CLIP_KEYS = {"video", "incidents", "ground", "vehicles", "camera", "label", "note"}
_INCIDENT_KEYS = {"t", "box", "x", "y", "type", "cleared"}


class ClipsError(Exception):
    """Annotations can't be used; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Accident:
    """An annotated accident.

    `t` and `cleared` are seconds of the video. `place` is a box in pixels, of no size for a point; None when it is not
    known. A `relative` place is in shares of the picture's width and height instead.
    """

    t: float
    place: tuple[float, float, float, float] | None
    type: str = "unknown"
    cleared: float | None = None
    relative: bool = False


@dataclass(frozen=True)
class Boxes:
    """All vehicles of the frame of a number, counted from 0."""

    frame: int
    boxes: Array


@dataclass(frozen=True)
class Clip:
    """A video, its accidents, its ground where that is known, and the vehicles of the frames that have boxes.

    Where `frame_times` is True, accidents' times are numbers of frames, not seconds.
    """

    video: Path
    accidents: tuple[Accident, ...]
    ground: Ground | None = None
    vehicles: tuple[Boxes, ...] = field(default=(), repr=False)
    frame_times: bool = False


class Entry:
    """A part of an annotation file, which knows its own name for errors."""

    def __init__(self, file: Path, at: str, value: Any) -> None:
        self.file, self.at, self.value = file, at, value

    def wrong(self, what: str) -> ClipsError:
        """An error about this entry."""
        return ClipsError(f"{self.file}: {self.at or 'the file'} {what}")

    def get(self, key: str, what: str) -> Entry:
        """A part that must be there; `what` says what it should be."""
        if not isinstance(self.value, Mapping):
            raise self.wrong(f"must be an object with {key!r}, {what}")
        if key not in self.value:
            raise self.wrong(f"has no {key!r}; add it: {what}")
        return self.at_key(key)

    def find(self, key: str) -> Entry | None:
        """A part that may be missing or null."""
        if not isinstance(self.value, Mapping):
            raise self.wrong("must be an object")
        return None if self.value.get(key) is None else self.at_key(key)

    def at_key(self, key: str) -> Entry:
        """The part of this name."""
        return Entry(self.file, f"{self.at}.{key}".lstrip("."), self.value[key])

    def items(self, what: str) -> list[Entry]:
        """The entries of a list."""
        if not isinstance(self.value, list):
            raise self.wrong(f"must be a list: {what}")
        return [Entry(self.file, f"{self.at}[{number}]", value) for number, value in enumerate(self.value)]

    def number(self, what: str) -> float:
        """A finite number."""
        value = self.value
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(f"is {self.value!r}; write a number: {what}")
        return float(value)

    def text(self, what: str) -> str:
        """A text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.wrong(f"is {self.value!r}; write a text: {what}")
        return self.value

    def box(self, what: str) -> tuple[float, float, float, float]:
        """Four numbers: left, top, right, bottom."""
        sides = [entry.number(what) for entry in self.items(what)]
        if len(sides) != 4 or sides[0] > sides[2] or sides[1] > sides[3]:
            raise self.wrong(f"is {self.value!r}; write left, top, right, bottom: {what}")
        return sides[0], sides[1], sides[2], sides[3]

    def only(self, keys: set[str]) -> None:
        """Refuse keys that nobody knows: a misspelt one would be left out in silence."""
        if unknown := sorted(set(self.value) - keys):
            raise self.wrong(f"has unknown {', '.join(map(repr, unknown))}; known are {', '.join(sorted(keys))}")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ClipsError."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ClipsError(f"{path}: can't be read: {error.strerror}; check the name and the permissions") from error
    except ValueError as error:
        raise ClipsError(f"{path}: is not JSON: {error}; check it with python -m json.tool") from error


def clips_of(document: Any, file: Path) -> list[Clip]:
    """The clips of a document in the detector's own format: one clip, a list of them, or {"clips": [...]}."""
    whole = Entry(file, "", document)
    if isinstance(document, dict) and "clips" in document:
        whole.only({"clips"})
        whole = whole.at_key("clips")
    entries = whole.items("one entry a video") if isinstance(whole.value, list) else [whole]
    if not entries:
        raise whole.wrong("has no clip; add one entry a video")
    return [_clip(entry) for entry in entries]


def _clip(entry: Entry) -> Clip:
    video = video_at(entry.get("video", "the video's path, from this file's folder"), [entry.file.parent])
    entry.only(_CLIP_KEYS)
    what = "an entry an accident, [] where there is none"
    accidents = tuple(_accident(part) for part in entry.get("incidents", what).items(what))
    vehicles = entry.find("vehicles")
    return Clip(
        video=video,
        accidents=accidents,
        ground=ground_of(entry.find("ground")),
        vehicles=tuple(_boxes(part) for part in vehicles.items("an entry an annotated frame")) if vehicles else (),
    )


def _accident(entry: Entry) -> Accident:
    t = entry.get("t", "the second of the video at which it happens").number("seconds of the video")
    entry.only(_INCIDENT_KEYS)
    if t < 0:
        raise entry.wrong(f"has t {t:g}; write seconds from the video's beginning")
    cleared = entry.find("cleared")
    end = None if cleared is None else cleared.number("seconds of the video")
    if end is not None and end < t:
        raise entry.wrong(f"is cleared at {end:g} s, before it happens at {t:g} s; correct one of them")
    kind = entry.find("type")
    return Accident(t, _place(entry), "unknown" if kind is None else kind.text("the kind of accident"), end)


def _place(entry: Entry) -> tuple[float, float, float, float] | None:
    box, x, y = entry.find("box"), entry.find("x"), entry.find("y")
    if box is not None:
        if x or y:
            raise entry.wrong("has a box and a point; leave out one of them")
        return box.box("in pixels, around the vehicles involved")
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise entry.wrong("has x or y alone; write both, in pixels, or a box")
    across, down = x.number("pixels"), y.number("pixels")
    return across, down, across, down


def _boxes(entry: Entry) -> Boxes:
    number = entry.get("frame", "the frame's number, from 0").number("the frame's number, from 0")
    entry.only({"frame", "boxes"})
    if number < 0 or number != int(number):
        raise entry.wrong(f"has frame {number:g}; write the frame's number, from 0")
    what = "left, top, right, bottom of each vehicle in pixels"
    boxes = [part.box(what) for part in entry.get("boxes", what).items(what)]
    return Boxes(int(number), box_array(boxes))


def box_array(boxes: Sequence[Sequence[float]]) -> Array:
    """Boxes as an array (n, 4)."""
    return np.array(boxes, float).reshape(-1, 4)


def ground_of(entry: Entry | None) -> Ground | None:
    """A camera's ground, as the detector's settings have it: three rows of three numbers."""
    if entry is None:
        return None
    try:
        return Ground(np.array(entry.value, float))
    except (ValueError, TypeError) as error:
        raise entry.wrong(f"can't be used: {error}; leave it out where the ground is not known") from error


def video_at(entry: Entry, folders: Sequence[Path]) -> Path:
    """The video that an entry names, in the first of the folders that has it."""
    name = entry.text("the video's path")
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = ", ".join(str(folder / name) for folder in folders)
    raise entry.wrong(f"names a video that is not there: {looked}; correct the path or bring the video")
