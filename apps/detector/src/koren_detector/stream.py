"""Reads one camera's RTSP stream; whoever asks gets the newest frame."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

# OpenCV reads this when it is first used for a stream. Left alone, FFmpeg watches a stream for three seconds to learn
# its frame rate, which nothing here asks for.
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS",
    "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay|max_delay;200000|threads;1"
    "|fpsprobesize;0|analyzeduration;1000000",
)

import cv2

from .boxes import Picture

_log = logging.getLogger(__name__)

_OPEN_TIMEOUT_MS = 8000
_READ_TIMEOUT_MS = 3000
_RETRY_S = 0.25
_RETRY_LATER_S = 1.0


@dataclass(frozen=True)
class Frame:
    """A frame: when it was taken (unix seconds, as the stream's own clock has it), the connection
    it came by (a new number after each interruption), and whether the stream has more."""

    picture: Picture
    time_s: float
    connection: int


class Stream:
    """Keeps a connection to `url` open in a thread of its own, and makes it anew when it ends.

    Frames are decoded as they come, `fps` of them a second are kept; each takes the place of one
    that nobody took. `url` may hold credentials: logs use `name`.
    """

    def __init__(self, name: str, url: str, fps: float) -> None:
        self._name, self._url, self._fps = name, url, fps
        self._newest: Frame | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"stream {name}", daemon=True)
        self.connected = False

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End the connection; waits for the thread."""
        self._stopping.set()
        self._thread.join(_OPEN_TIMEOUT_MS / 1000 + 1)

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is a frame to take, at most `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest is not None, timeout_s)

    def take(self) -> Frame | None:
        """Take the newest frame, None when there is none."""
        with self._changed:
            frame, self._newest = self._newest, None
            return frame

    def _work(self) -> None:
        connection, failures = 0, 0
        while not self._stopping.is_set():
            connection += 1
            with self._open() as capture:
                read = self._read(capture, connection) if capture.isOpened() else 0
            self.connected = False
            failures = 0 if read else failures + 1
            if failures in (1, 10) or failures % 100 == 99:
                _log.warning("camera %s: no stream, trying on (attempt %d)", self._name, failures)
            elif read:
                _log.info("camera %s: stream ended after %d frames", self._name, read)
            self._stopping.wait(_RETRY_S if failures < 5 else _RETRY_LATER_S)

    @contextlib.contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        capture = cv2.VideoCapture(
            self._url, cv2.CAP_FFMPEG,
            [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS,
             cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS],
        )  # fmt: skip
        try:
            yield capture
        finally:
            capture.release()

    def _read(self, capture: cv2.VideoCapture, connection: int) -> int:
        """Read to the stream's end; returns how many frames came."""
        count, kept_s, time_s, epoch_s = 0, -1.0, 0.0, float("inf")
        while not self._stopping.is_set() and capture.grab():
            if count == 0:
                _log.info("camera %s: stream is there", self._name)
                self.connected = True
            count += 1
            now_s = time.time()
            # The stream's clock has none of the network's jitter, which would look like speed.
            epoch_s = min(epoch_s, now_s - capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            stream_s = epoch_s + capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            plausible = now_s - 5 < stream_s <= now_s
            time_s = max(stream_s if plausible else now_s, time_s + 0.001)
            # Half a frame's length of tolerance, or a steady 10/s would give 3.3/s for 4/s.
            if time_s - kept_s < 1 / self._fps - 0.02:
                continue
            kept_s = time_s
            found, picture = capture.retrieve()
            if found:
                with self._changed:
                    self._newest = Frame(picture, time_s, connection)
                    self._changed.notify()
        return count
