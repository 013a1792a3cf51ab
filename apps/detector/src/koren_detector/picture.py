"""What is done to frames: has anything moved, is a wreck still there, the picture of an event."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from koren_events import Image

from .boxes import Array, Picture
from .hiding import hide
from .incidents import Box

MOST_BYTES = 300_000
_SMALL = (120, 68)
_MOVED_LEVELS = 9.0
_PATCH = (32, 24)
_ALIKE = 0.75
_RED, _WHITE = (40, 40, 230), (255, 255, 255)

Gray = npt.NDArray[np.uint8]


class Stillness:
    """Tells whether a frame shows the same as the last one that was looked at in full."""

    def __init__(self, most_s: float = 2.0) -> None:
        self._most_s = most_s
        self._seen: npt.NDArray[np.float32] | None = None
        self._seen_s = 0.0

    def is_still(self, frame: Picture, time_s: float) -> bool:
        """True when nothing has moved; when False the frame becomes the one to compare with.

        Never True for longer than `most_s`, so that what fades in slowly is seen too.
        """
        small = cv2.resize(frame, _SMALL, interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
        if (
            self._seen is not None
            and self._seen.shape == gray.shape
            and 0 <= time_s - self._seen_s < self._most_s
            and float(np.abs(gray - self._seen).max()) < _MOVED_LEVELS
        ):
            return True
        self._seen, self._seen_s = gray, time_s
        return False


def patch(frame: Picture, box: Box) -> Gray | None:
    """A small gray picture of what is in `box`; None where the box is outside the frame."""
    height, width = frame.shape[:2]
    x0, y0 = max(round(box[0]), 0), max(round(box[1]), 0)
    x1, y1 = min(round(box[2]), width), min(round(box[3]), height)
    if x1 - x0 < 4 or y1 - y0 < 4:
        return None
    cut = cv2.resize(frame[y0:y1, x0:x1], _PATCH, interpolation=cv2.INTER_AREA)
    gray: Gray = cv2.cvtColor(cut, cv2.COLOR_BGR2GRAY)
    return gray


def alike(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two patches show the same thing, whatever the light."""
    x, y = a.astype(float) - a.mean(), b.astype(float) - b.mean()
    return float((x * y).sum()) > _ALIKE * float(np.sqrt((x**2).sum() * (y**2).sum()) + 1e-9)


def encode_patch(gray: Gray) -> str:
    """A patch as text for the state file."""
    return base64.b64encode(gray.tobytes()).decode()


def decode_patch(text: str) -> Gray:
    """The patch of encode_patch. Raises ValueError for anything else."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(_PATCH[::-1])


def snapshot(frame: Picture, involved: list[Box], people: Array, vehicles: Array) -> Image:
    """The event's picture: people and vehicles coarsened, the involved ones framed, at most MOST_BYTES.

    `people` and `vehicles` are boxes (n, 4) px; the involved ones need not be among them.
    """
    shown = frame.copy()
    hide(shown, people, np.concatenate([vehicles, np.reshape(involved, (-1, 4))]))
    for box in involved:
        corner, opposite = (round(box[0]), round(box[1])), (round(box[2]), round(box[3]))
        cv2.rectangle(shown, corner, opposite, _WHITE, 4, cv2.LINE_AA)
        cv2.rectangle(shown, corner, opposite, _RED, 2, cv2.LINE_AA)
    for quality in (85, 70, 55, 40, 25):
        made, coded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if made and len(coded) <= MOST_BYTES:
            break
    else:
        shown = cv2.resize(shown, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        _, coded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 40])
    return Image(jpeg=coded.tobytes(), width=shown.shape[1], height=shown.shape[0])
