"""Reads one camera's stream, RTSP or HLS; whoever asks gets the newest frame."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

# FFmpeg's own lines name no camera, and may have a stream's address with the login in it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from .boxes import Picture
from .stream_clock import Pacer, StreamClock

_log = logging.getLogger(__name__)

Transport = Literal["tcp", "udp"]
"""How the pictures of an RTSP stream come: over the same connection, or on UDP ports of their own."""

# Left alone, FFmpeg watches a stream for three seconds to learn its frame rate, which nothing here asks for.
_OPTIONS = "threads;1|fpsprobesize;0|analyzeduration;1000000"
_RTSP = "rtsp_transport;{}|allowed_media_types;video|fflags;nobuffer|flags;low_delay|max_delay;200000|" + _OPTIONS
_HLS = "live_start_index;-2|" + _OPTIONS
_OPEN_TIMEOUT_MS = 8000
_RTSP_READ_TIMEOUT_MS = 3000
_HLS_READ_TIMEOUT_MS = 20_000
"""A segment is 6 s long as a rule, and comes as a whole."""
_RETRY_S, _RETRY_MOST_S = 0.25, 10.0
_GOOD_S = 5.0
"""A stream that came for so long was no failure."""
_STAMPLESS = 10
"""A stream that gives so many frames the same stamp has none."""
_EDGE_ROWS = 16
_STALE_S, _STALE_MOST_S = 5.0, 600.0
_DEFAULT_PORTS = {"rtsp": 554, "http": 80, "https": 443}


@dataclass(frozen=True)
class Frame:
    """A frame: when it was taken (unix seconds, as the stream's own clock has it), and the connection it came by,
    a new number after each interruption. `late_s` is how much later a paced stream had it, as its segment came late."""

    picture: Picture
    time_s: float
    connection: int
    late_s: float = 0.0


class _Opening:
    """Keeps streams with other options from being opened at the same time.

    OpenCV takes FFmpeg's options from the environment, which all threads share.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: deque[object] = deque()
        self._options, self._busy = "", 0

    @contextlib.contextmanager
    def with_options(self, options: str) -> Iterator[None]:
        """Wait until these options may be set, in the order of asking; they hold inside."""
        mine = object()
        with self._changed:
            self._asked.append(mine)
            self._changed.wait_for(lambda: self._asked[0] is mine and (self._options == options or self._busy == 0))
            self._asked.popleft()
            if self._options != options:
                os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = self._options = options
            self._busy += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()


_opening = _Opening()


class Stream:
    """Keeps a connection to `url` open in a thread of its own, and makes it anew when it ends.

    Frames are decoded as they come, `fps` of them a second are kept; each takes the place of one that nobody took.
    HLS (an address that begins with http) comes in bursts and is paced by its own stamps. `url` may hold credentials:
    logs use `name`.
    """

    def __init__(self, name: str, url: str, fps: float, transport: Transport = "tcp") -> None:
        self._name, self._url, self._fps = name, url, fps
        self._paced = urlsplit(url).scheme in ("http", "https")
        self._options = _HLS if self._paced else _RTSP.format(transport)
        self._newest: Frame | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"stream {name}", daemon=True)
        self._clock = StreamClock()
        self._connection = 0
        self._stale_s = _STALE_S
        self.connected = False

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def end(self) -> None:
        """Ask for the connection to end, without waiting."""
        self._stopping.set()

    def stop(self) -> None:
        """End the connection; waits for the thread."""
        self.end()
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
        failures = 0
        while not self._stopping.is_set():
            begun_s = time.monotonic()
            with self._open() as capture:
                read = self._read(capture) if capture.isOpened() else 0
            self.connected = False
            failures = 0 if read and time.monotonic() - begun_s > _GOOD_S else failures + 1
            if read:
                _log.info("camera %s: stream ended after %d frames", self._name, read)
            elif failures in (1, 10) or failures % 100 == 99:
                _log.warning("camera %s: no stream, trying on (attempt %d): %s", self._name, failures, why(self._url))
            self._stopping.wait(retry_s(failures) * random.uniform(0.8, 1.2))

    @contextlib.contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        read_timeout_ms = _HLS_READ_TIMEOUT_MS if self._paced else _RTSP_READ_TIMEOUT_MS
        with _opening.with_options(self._options):
            capture = cv2.VideoCapture(
                self._url, cv2.CAP_FFMPEG,
                [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS,
                 cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_timeout_ms],
            )  # fmt: skip
        try:
            yield capture
        finally:
            capture.release()

    def _read(self, capture: cv2.VideoCapture) -> int:
        """Read to the stream's end; returns how many frames came."""
        self._clock.begin()
        pacer, stale = Pacer(), _Stale()
        count, same, last_stamp_s, kept_stamp_s = 0, 0, -1.0, -1.0
        while not self._stopping.is_set() and capture.grab():
            if count == 0:
                _log.info("camera %s: stream is there", self._name)
                self.connected = True
            count += 1
            stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            same, last_stamp_s = same + 1 if stamp_s == last_stamp_s else 0, stamp_s
            if same > _STAMPLESS:
                stamp_s = time.monotonic()
            # Half a frame's length of tolerance, or a steady 10/s would give 3.3/s for 4/s.
            if count > 1 and 0 <= stamp_s - kept_stamp_s < 1 / self._fps - 0.02:
                if not self._paced:
                    self._tell_time(stamp_s)
                continue
            kept_stamp_s = stamp_s
            found, picture = capture.retrieve()
            if self._paced:
                self._stopping.wait(pacer.wait_s(stamp_s, time.monotonic()))
            time_s = self._tell_time(stamp_s)
            if not found:
                continue
            stale_s = stale.for_s(picture, time_s)
            if stale.alive:
                self._stale_s = _STALE_S
            if stale_s >= self._stale_s:
                # OpenCV goes on with the old size where a stream's pictures change theirs.
                _log.warning("camera %s: its picture has stopped or changed its size, opening it anew", self._name)
                self._stale_s = min(2 * self._stale_s, _STALE_MOST_S)
                break
            with self._changed:
                late_s = max(time.time() - time_s, 0.0) if self._paced else 0.0
                self._newest = Frame(picture, time_s, self._connection, late_s)
                self._changed.notify()
        return count

    def _tell_time(self, stamp_s: float) -> float:
        time_s, continues = self._clock.read(stamp_s, time.time())
        if not continues:
            self._connection += 1
        return time_s


class _Stale:
    """Measures for how long the lowest rows of a picture have been the same to the bit, which no encoder does."""

    def __init__(self) -> None:
        self._rows: Picture | None = None
        self._since_s = 0.0
        self.alive = False

    def for_s(self, picture: Picture, time_s: float) -> float:
        rows = picture[-_EDGE_ROWS:]
        self.alive = self._rows is not None and not np.array_equal(self._rows, rows)
        if self._rows is None or self.alive:
            self._rows, self._since_s = rows.copy(), time_s
        return time_s - self._since_s


def retry_s(failures: int) -> float:
    """How long to wait before the next attempt after so many failures in a row."""
    return min(_RETRY_S * 2.0 ** min(failures, 20), _RETRY_MOST_S)


def why(url: str) -> str:
    """Why a stream can't be had, as far as its host tells; never holds the address' login."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return "its address names no host"
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 554)
    try:
        socket.create_connection((parts.hostname, port), timeout=3).close()
    except OSError as error:
        return f"{parts.hostname} port {port}: {error.strerror or error}"
    return (
        f"{parts.hostname} port {port} answers, but gives no stream: its login or path may be wrong,"
        " or its pictures are not H.264, H.265 or MJPEG"
    )
