"""The camera server of the role `cctv`, driven as its viewers and its operator do."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest

ROLE = Path(__file__).resolve().parents[3] / "roles" / "cctv" / "files"
PYTHON = "/usr/bin/python3"
NEEDS = (
    "import gi; gi.require_version('GstRtspServer', '1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert all(map(Gst.ElementFactory.find, ('qtdemux', 'h264parse', 'rtph264pay')))"
)


@dataclass
class Site:
    port: int
    control: str

    def watch(self, camera: str, password: str = "pass word") -> cv2.VideoCapture:
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
        user = "viewer:" + password.replace(" ", "%20")
        address = f"rtsp://{user}@127.0.0.1:{self.port}/{camera}"
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG)

    def play(self, camera: str, clip: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROLE / "cctv-play"), camera, clip],
            env={**os.environ, "CCTV_CONTROL": self.control},
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def colour(capture: cv2.VideoCapture) -> str:
    ok, image = capture.read()
    assert ok
    blue, _, red = image.reshape(-1, 3).mean(0)
    return "red" if red > blue else "blue"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if subprocess.run([PYTHON, "-c", NEEDS], capture_output=True, check=False).returncode:
        pytest.skip("Debian's GStreamer RTSP server is not installed")
    folder = tmp_path_factory.mktemp("cctv")
    for name in ("blue", "red"):
        raw = folder / f"{name}.avi"
        subprocess.run(
            ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i",
             f"color={name}:size=320x240:rate=10", "-t", "2", str(raw)],
            check=True,
        )  # fmt: skip
        encode = [sys.executable, "-m", "koren_scenes", "encode"]
        subprocess.run([*encode, str(raw), str(folder / f"{name}.mp4")], check=True)
    (folder / "password").write_text("pass word")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "address": "127.0.0.1",
        "port": port,
        "user": "viewer",
        "password_file": str(folder / "password"),
        "clips": str(folder),
        "control": str(folder / "control.sock"),
        "cameras": [{"id": "one", "clip": "blue"}, {"id": "two", "clip": "red"}],
    }
    (folder / "cameras.json").write_text(json.dumps(settings))
    server = subprocess.Popen([PYTHON, str(ROLE / "server.py"), str(folder / "cameras.json")])
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Site(port, settings["control"])
    finally:
        server.terminate()
        server.wait(10)


def test_a_clip_loops_at_the_pace_of_its_recording(site: Site) -> None:
    viewer = site.watch("one")
    # What came while the stream was opened waits in the buffer: read up to now first.
    until = time.monotonic() + 2
    while time.monotonic() < until:
        colour(viewer)
    begun = time.monotonic()
    assert {colour(viewer) for _ in range(30)} == {"blue"}
    # A busy machine is late with a picture, and never early; a clip that does not loop ends before.
    assert 2.4 < time.monotonic() - begun < 30


def test_another_clip_plays_once_at_once_and_for_everybody(site: Site) -> None:
    viewers = [site.watch("one"), site.watch("one")]
    asked = time.monotonic()
    done = site.play("one", "red")
    assert done.returncode == 0
    assert done.stdout.strip().endswith("Z")
    for viewer in viewers:
        while colour(viewer) == "blue":
            # Long before the viewers' clip would be at its end: they are told in seconds, not in loops.
            assert time.monotonic() - asked < 30
        reds = 1
        while colour(viewer) == "red":
            reds += 1
        assert reds == 20


def test_a_camera_can_be_watched_again_after_all_have_left(site: Site) -> None:
    for _ in range(2):
        viewer = site.watch("two")
        assert colour(viewer) == "red"
        viewer.release()


def test_a_wrong_password_sees_nothing(site: Site) -> None:
    assert not site.watch("one", "guess").isOpened()


@pytest.mark.parametrize(
    ("camera", "clip", "complaint"),
    [("nine", "red", "no camera nine; there are one, two"), ("one", "x", "no clip x; there are")],
)
def test_what_does_not_exist_is_named(site: Site, camera: str, clip: str, complaint: str) -> None:
    done = site.play(camera, clip)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_recording_with_b_frames_is_refused(site: Site, tmp_path: Path) -> None:
    subprocess.run(
        ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=10",
         "-t", "2", "-c:v", "libx264", "-bf", "2", str(tmp_path / "b.mp4")],
        check=True,
    )  # fmt: skip
    settings = {"clips": str(tmp_path), "cameras": [{"id": "one", "clip": "b"}]}
    (tmp_path / "cameras.json").write_text(json.dumps(settings))
    checked = subprocess.run(
        [PYTHON, str(ROLE / "server.py"), "--check", str(tmp_path / "cameras.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 1
    assert "B frames" in checked.stderr
