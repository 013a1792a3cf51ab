"""Streams as cameras and services give them: RTSP by TCP and UDP, H.264 and H.265, HLS in segments, logins."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import math
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from koren_detector.settings import CameraSettings, Login, Settings
from koren_detector.stream import Frame, Stream, retry_s, why
from koren_events import Camera, Text

SERVER = Path(__file__).with_name("rtsp_server.py")
NEEDS = (
    "import gi; gi.require_version('GstRtspServer', '1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert all(map(Gst.ElementFactory.find, ('qtdemux', 'h264parse', 'rtph264pay', 'h265parse', 'rtph265pay')))"
)
NAME = Text("이름", "name")
LOGIN = Login("뷰어 @/?#%", 'p@ss:w/o?r#d%20 &"\\비밀')
RATE = 10


def encode(to: Path, seconds: int, size: str = "320x240", *options: str) -> Path:
    """A video whose picture is noisy, and whose seconds are told by how bright it is."""
    noise = "geq=lum='40+8*floor(T)+random(1)*6':cb=128:cr=128"
    picture = f"color=gray:size=80x60:rate={RATE},{noise},scale={size.replace('x', ':')}"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", picture, "-t", str(seconds), "-g", str(RATE), *options,
         str(to)],
        check=True,
    )  # fmt: skip
    return to


def second(frame: Frame) -> int:
    return round((float(frame.picture.mean()) - 49.5) / 9.3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def collect(stream: Stream, enough: Callable[[list[Frame]], bool]) -> list[Frame]:
    """Run a stream until there are frames enough."""
    frames: list[Frame] = []
    until = time.monotonic() + 120
    stream.start()
    try:
        while not enough(frames):
            assert time.monotonic() < until, f"{len(frames)} frames came"
            if stream.wait(0.2) and (frame := stream.take()):
                frames.append(frame)
    finally:
        stream.stop()
    return frames


def address(url: str, login: Login | None) -> str:
    """The address as the service has it of its settings."""
    camera = CameraSettings(
        Camera(id="cctv-01", name=NAME, latitude=0, longitude=0, road=NAME, direction=NAME), "seoul", url, None
    )
    logins = {} if login is None else {"cctv-01": login}
    none: dict[str, object] = dict.fromkeys(Settings.__dataclass_fields__)
    return Settings(**{**none, "cameras": (camera,), "rtsp_login": None, "logins": logins}).stream_url(camera)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if subprocess.run(["/usr/bin/python3", "-c", NEEDS], capture_output=True, check=False).returncode:
        pytest.skip("Debian's GStreamer RTSP server is not installed")
    folder = tmp_path_factory.mktemp("videos")
    return {
        "h264": encode(folder / "a.mp4", 12, "320x240", "-c:v", "libx264", "-bf", "0"),
        "h265": encode(folder / "b.mp4", 12, "320x240", "-c:v", "libx265", "-x265-params", "bframes=0:log-level=none"),
    }


@pytest.fixture
def rtsp(videos: dict[str, Path]) -> Iterator[Callable[[str, str, Login], str]]:
    servers = []

    def serve(transport: str, codec: str, login: Login) -> str:
        port = free_port()
        server = subprocess.Popen(
            ["/usr/bin/python3", str(SERVER), str(port), transport, str(videos[codec]), codec],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        servers.append(server)
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps([login.user, login.password]) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "ready\n"
        return f"rtsp://127.0.0.1:{port}/live"

    yield serve
    for server in servers:
        server.terminate()
        server.communicate(timeout=10)


@pytest.mark.parametrize(("transport", "codec"), [("tcp", "h264"), ("udp", "h264"), ("tcp", "h265")])
def test_rtsp(rtsp: Callable[[str, str, Login], str], transport: str, codec: str) -> None:
    url = address(rtsp(transport, codec, LOGIN), LOGIN)

    frames = collect(Stream("cctv-01", url, 5, transport), lambda frames: len(frames) >= 10)  # type: ignore[arg-type]

    assert frames[0].picture.shape == (240, 320, 3)
    pairs = itertools.pairwise(frames)
    steps = np.array([b.time_s - a.time_s for a, b in pairs if a.connection == b.connection])
    # In steps of the stream, whatever the network and this machine do; it takes a few to see which came quickest.
    assert np.median(np.abs(steps * 5 - np.rint(steps * 5))) < 0.05
    assert abs(frames[-1].time_s - time.time()) < 60


def test_cameras_of_both_transports_are_opened_at_the_same_time(rtsp: Callable[[str, str, Login], str]) -> None:
    login = Login("viewer", "secret")
    streams = [
        Stream(f"cctv-{transport}", address(rtsp(transport, "h264", login), login), 5, transport)  # type: ignore[arg-type]
        for transport in ("tcp", "udp")
    ]
    away = Stream("cctv-away", f"rtsp://127.0.0.1:{free_port()}/live", 5)
    for stream in [away, *streams]:
        stream.start()
    assert all(stream.wait(60) for stream in streams)
    for stream in [away, *streams]:
        stream.end()
    for stream in [away, *streams]:
        stream.stop()


def test_a_wrong_password_is_told_and_neither_it_nor_the_user_is_in_any_line(
    rtsp: Callable[[str, str, Login], str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    url = address(rtsp("tcp", "h264", LOGIN), Login("spy-user", "wr0ng-secret"))
    stream = Stream("cctv-01", url, 5)
    with caplog.at_level(logging.INFO):
        stream.start()
        until = time.monotonic() + 60
        while "no stream" not in caplog.text and time.monotonic() < until:
            assert not stream.wait(0.2)
        stream.stop()

    assert "camera cctv-01: no stream" in caplog.text and "its login or path may be wrong" in caplog.text
    out = caplog.text + "".join(capfd.readouterr()) + Path("/proc/self/cmdline").read_text()
    assert "spy-user" not in out and "wr0ng-secret" not in out


def test_why_there_is_no_stream() -> None:
    assert "refused" in why(f"rtsp://user:secret@127.0.0.1:{free_port()}/live").lower()
    assert "secret" not in why("rtsp://user:secret@camera.invalid/live")


def test_attempts_become_rare() -> None:
    waits = [retry_s(failures) for failures in range(1, 12)]

    assert waits[0] <= 0.5
    assert waits == sorted(waits) and waits[-1] == waits[-2] == 10.0
    assert retry_s(10**6) == 10.0


class Playlist(SimpleHTTPRequestHandler):
    """Serves a folder of segments as a live stream that began with the server; asks for LOGIN if `asks`."""

    begun_s = 0.0
    segment_s = 2.0
    asks = False

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"{LOGIN.user}:{LOGIN.password}".encode()).decode()
        if self.asks and self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="cameras"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/live.m3u8":
            names = sorted(path.name for path in Path(self.directory).glob("*.ts"))
            made = 3 + int((time.monotonic() - self.begun_s) / self.segment_s)
            first = max(made - 4, 0)
            lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{math.ceil(self.segment_s)}",
                     f"#EXT-X-MEDIA-SEQUENCE:{first}"]  # fmt: skip
            for name in names[first:made]:
                lines += [f"#EXTINF:{self.segment_s},", name]
            body = ("\n".join(lines) + "\n").encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def http() -> Iterator[Callable[..., str]]:
    servers = []

    def serve(folder: Path, *, asks: bool = False) -> str:
        kind = type("Live", (Playlist,), {"begun_s": time.monotonic(), "asks": asks})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/live.m3u8"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def segments(folder: Path, seconds: int) -> Path:
    folder.mkdir()
    hls = ["-c:v", "libx264", "-bf", "2", "-f", "hls", "-hls_time", "2", "-hls_list_size", "0"]
    encode(folder / "all.m3u8", seconds, "320x240", *hls, "-hls_segment_filename", str(folder / "%03d.ts"))
    return folder


def test_segments_that_come_in_bursts_are_shown_at_the_pace_of_the_recording(
    tmp_path: Path, http: Callable[..., str]
) -> None:
    url = address(http(segments(tmp_path / "live", 30), asks=True), LOGIN)
    arrived: list[float] = []

    def enough(frames: list[Frame]) -> bool:
        arrived.extend([time.monotonic()] * (len(frames) - len(arrived)))
        return len(frames) >= 50

    frames = collect(Stream("cctv-01", url, 5), enough)

    # Frames that this machine was too slow to take are missing; those of a burst would be, too.
    shown = [second(frame) for frame in frames]
    assert shown == sorted(shown) and len(set(shown)) >= shown[-1] - shown[0]
    times = np.array([frame.time_s for frame in frames])
    steps = np.diff(times) * 5
    assert np.abs(steps - np.rint(steps)).max() < 0.1
    assert len({frame.connection for frame in frames}) == 1
    assert all(0.0 <= frame.late_s < 30.0 for frame in frames)
    assert arrived[-1] - arrived[0] > 0.7 * (times[-1] - times[0]) > 5.0


def test_a_wrong_login_at_a_server_of_segments_is_in_no_line(
    tmp_path: Path, http: Callable[..., str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream("cctv-01", address(http(segments(tmp_path / "live", 6), asks=True), Login("spy", "wr0ng")), 5)
    stream.start()
    until = time.monotonic() + 60
    while "no stream" not in caplog.text and time.monotonic() < until:
        assert not stream.wait(0.2)
    stream.stop()

    assert "no stream" in caplog.text
    assert "wr0ng" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(("before", "after"), [("320x240", "640x480"), ("640x480", "320x240")])
def test_a_stream_whose_pictures_change_their_size_is_opened_anew(
    tmp_path: Path, http: Callable[..., str], before: str, after: str
) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    for number in range(20):
        size = before if number < 4 else after
        encode(
            folder / f"{number:03}.ts", 2, size, "-c:v", "libx264", "-bf", "0", "-output_ts_offset", str(2 * number)
        )  # fmt: skip
    width = int(after.split("x")[0])

    frames = collect(
        Stream("cctv-01", http(folder), 5),
        lambda frames: bool(frames) and frames[-1].picture.shape[1] == width,
    )

    assert frames[0].picture.shape[1] == int(before.split("x")[0])
    connections = [frame.connection for frame in frames]
    assert connections[-1] > connections[0]
    assert all(later > earlier for earlier, later in itertools.pairwise(frame.time_s for frame in frames))


def test_a_login_is_quoted_as_addresses_demand() -> None:
    assert (
        address("rtsp://camera/live", Login("a@b", "c/d"))
        == f"rtsp://{quote('a@b')}:{quote('c/d', safe='')}@camera/live"
    )
