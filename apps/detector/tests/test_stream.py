import itertools
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from koren_detector.stream import Frame, Stream


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds of a growing gray level: a stream that ends is what OpenCV makes of a file."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in range(20):
        writer.write(np.full((48, 64, 3), 10 * level, np.uint8))
    writer.release()
    return path


def take(stream: Stream, connections: int) -> list[Frame]:
    """The frames until there is one of so many connections."""
    frames: list[Frame] = []
    until = time.monotonic() + 60
    while len({frame.connection for frame in frames}) < connections:
        assert time.monotonic() < until, "the stream was not opened anew"
        if stream.wait(0.2) and (frame := stream.take()):
            frames.append(frame)
    return frames


def test_a_stream_that_ends_is_opened_anew(clip: Path) -> None:
    stream = Stream("cctv-01", str(clip), fps=10)
    stream.start()
    try:
        frames = take(stream, 3)
    finally:
        stream.stop()

    connections = [frame.connection for frame in frames]
    assert connections == sorted(connections)
    times = [frame.time_s for frame in frames]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


def test_who_comes_late_gets_the_newest_frame_only(clip: Path) -> None:
    stream = Stream("cctv-01", str(clip), fps=10)
    stream.start()
    try:
        assert stream.wait(60)
        time.sleep(0.5)
        # Of five frames that came; one more may come just now.
        assert 1 <= len(list(iter(stream.take, None))) <= 2
    finally:
        stream.stop()


def test_a_camera_that_is_away_is_tried_until_it_comes(clip: Path, tmp_path: Path) -> None:
    away = tmp_path / "later.avi"
    stream = Stream("cctv-01", str(away), fps=10)
    stream.start()
    try:
        assert not stream.wait(0.5)
        clip.rename(away)
        assert stream.wait(60)
    finally:
        stream.stop()
