"""H.264 files that an RTSP server can hand out without touching them."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import imageio_ffmpeg
from cv2.typing import MatLike as Image


class Encoder:
    """Writes BGR frames to an MP4 file: H.264 main profile, yuv420p, no B frames.

    A key frame starts every second, so that a viewer who joins late sees a picture within one.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self.path = path
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error",
            "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", str(fps),
            "-i", "-", "-an", "-c:v", "libx264", "-profile:v", "main", "-preset", "veryfast",
            "-crf", "22", "-bf", "0", "-g", str(fps), "-sc_threshold", "0", "-threads", "1",
            "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

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
