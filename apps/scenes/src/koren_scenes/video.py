"""H.264 files that an RTSP server can hand out without touching them."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from cv2.typing import MatLike as Image

FFMPEG = ("ffmpeg", "-y", "-loglevel", "error")


def output(path: Path, fps: int) -> list[str]:
    """Return ffmpeg's options for an MP4 file: H.264 main profile, yuv420p, no B frames.

    A key frame starts every second, so that a viewer who joins late sees a picture within one.
    """
    return [
        "-an", "-r", str(fps), "-c:v", "libx264", "-profile:v", "main", "-preset", "veryfast",
        "-crf", "22", "-bf", "0", "-g", str(fps), "-sc_threshold", "0", "-threads", "1",
        "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
    ]  # fmt: skip


def transcode(source: Path, target: Path, fps: int) -> None:
    """Write a film of any format as such an MP4 file; raises CalledProcessError if it can't."""
    subprocess.run([*FFMPEG, "-i", str(source), *output(target, fps)], check=True)


class Encoder:
    """Writes BGR frames to such an MP4 file."""

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self.path = path
        frames = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}"]
        self._process = subprocess.Popen(
            [*FFMPEG, *frames, "-r", str(fps), "-i", "-", *output(path, fps)],
            stdin=subprocess.PIPE,
        )

    def write(self, frame: Image) -> None:
        """Append one frame."""
        assert self._process.stdin is not None
        self._process.stdin.write(frame.tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() and error is None:
            raise RuntimeError(f"ffmpeg could not write {self.path}; its message is above")
