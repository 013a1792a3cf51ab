#!/usr/bin/python3
"""RTSP cameras that play recorded clips: each camera loops its own, at the pace of the recording.

All viewers of a camera see the same moment, whoever came first. A line `CAMERA CLIP` on the
control socket makes a camera play that clip once from its start, now; the answer is a JSON object
with the `started` time or an `error`. The stream stays up over the change.
"""

import argparse
import json
import logging
import os
import socketserver
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

CAPS = "video/x-h264,stream-format=byte-stream,alignment=au"
LAUNCH = (
    "( appsrc name=source is-live=true format=time do-timestamp=true max-buffers=50 "
    f"leaky-type=downstream caps={CAPS} ! h264parse ! "
    "rtph264pay name=pay0 pt=96 config-interval=-1 )"
)
ROLE = "viewer"
log = logging.getLogger("cctv")


class ClipError(Exception):
    """A clip cannot be played; the message says which and why."""


@dataclass(frozen=True)
class Picture:
    """One coded picture: its bytes, its time in the clip (s), whether decoding can start here."""

    data: bytes
    time_s: float
    key: bool


@dataclass(frozen=True)
class Clip:
    """A recording in memory."""

    name: str
    pictures: list[Picture]
    length_s: float


class Library:
    """The clips in a folder, read when they are first wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clips: dict[str, Clip] = {}

    def get(self, name: str) -> Clip:
        """Return a clip by its file's name without `.mp4`; raises ClipError."""
        if name not in self._clips:
            known = sorted(path.stem for path in self._folder.glob("*.mp4"))
            if name not in known:
                raise ClipError(f"there is no clip {name}; there are {', '.join(known) or 'none'}")
            self._clips[name] = read_clip(self._folder / f"{name}.mp4")
        return self._clips[name]


def read_clip(path: Path) -> Clip:
    """Take an MP4 file apart into coded pictures; raises ClipError if it is not as needed."""
    pipeline = Gst.parse_launch(
        "filesrc name=file ! qtdemux ! h264parse config-interval=-1 ! "
        f"{CAPS} ! appsink name=sink sync=false"
    )
    pipeline.get_by_name("file").set_property("location", str(path))
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    pictures: list[Picture] = []
    spacing_s = 0.0
    try:
        while (sample := sink.emit("pull-sample")) is not None:
            buffer = sample.get_buffer()
            key = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
            picture = Picture(
                buffer.extract_dup(0, buffer.get_size()), buffer.pts / Gst.SECOND, key
            )
            if pictures and picture.time_s <= pictures[-1].time_s:
                raise ClipError(f"{path} has B frames; encode it without")
            if pictures:
                spacing_s = picture.time_s - pictures[-1].time_s
            pictures.append(picture)
        problem = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        if problem is not None:
            raise ClipError(f"{path} cannot be played: {problem.parse_error()[0].message}")
    finally:
        pipeline.set_state(Gst.State.NULL)
    if not pictures or not pictures[0].key:
        raise ClipError(f"{path} does not start with a picture that can be decoded alone")
    start_s = pictures[0].time_s
    length_s = pictures[-1].time_s + spacing_s - start_s
    pictures = [Picture(p.data, p.time_s - start_s, p.key) for p in pictures]
    return Clip(path.stem, pictures, length_s)


@dataclass
class Wish:
    """A clip to play now; `started` is set, and `time` known, once its first picture was sent."""

    clip: Clip
    started: threading.Event = field(default_factory=threading.Event)
    time: datetime | None = None


class Camera(threading.Thread):
    """Plays clips against the clock, whether somebody watches or not."""

    def __init__(self, name: str, loop: Clip) -> None:
        super().__init__(name=name, daemon=True)
        self._loop = loop
        self._changed = threading.Condition()
        self._wanted: Wish | None = None
        # Sources of prepared media, and whether each has got a picture to start from.
        self._sources: dict[Gst.Element, bool] = {}

    def play(self, clip: Clip) -> datetime:
        """Play a clip once from its start, now; returns when its first picture was sent."""
        wish = Wish(clip)
        with self._changed:
            self._wanted = wish
            self._changed.notify()
        if not wish.started.wait(timeout=5) or wish.time is None:
            raise ClipError(f"another clip was started on {self.name} at the same time")
        return wish.time

    def configure(
        self, _factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia
    ) -> None:
        """Feed a medium that the server makes for viewers, until the last one has left."""
        source = media.get_element().get_by_name("source")
        media.connect("unprepared", lambda _media: self._sources_without(source))
        with self._changed:
            self._sources[source] = False

    def _sources_without(self, source: Gst.Element) -> None:
        with self._changed:
            self._sources.pop(source, None)

    def run(self) -> None:
        """Send each picture when its time comes, for ever."""
        clip, start, sent = self._loop, time.monotonic(), 0
        while True:
            wanted = self._show(clip, start, sent)
            if wanted is None:
                # On the schedule of what was shown, or seams would add up; but a machine that
                # stood still does not make up for it at double pace.
                start = max(start + clip.length_s, time.monotonic() - 1)
                clip, sent = self._loop, 0
            else:
                clip, start, sent = wanted.clip, time.monotonic(), 1
                wanted.time = datetime.now(UTC)
                self._send(clip.pictures[0])
                wanted.started.set()
                log.info("camera %s plays %s once", self.name, clip.name)

    def _show(self, clip: Clip, start: float, sent: int) -> Wish | None:
        """Show a clip that began at `start`, but for its first `sent` pictures.

        Returns what is wanted instead as soon as something is, None at the clip's end.
        """
        rest = [(picture.time_s, picture) for picture in clip.pictures[sent:]]
        for due_s, picture in [*rest, (clip.length_s, None)]:
            with self._changed:
                while self._wanted is None and (wait_s := start + due_s - time.monotonic()) > 0:
                    self._changed.wait(wait_s)
                wanted, self._wanted = self._wanted, None
            if wanted is not None:
                return wanted
            if picture is not None:
                self._send(picture)
        return None

    def _send(self, picture: Picture) -> None:
        with self._changed:
            sources = list(self._sources.items())
            for source, fed in sources:
                self._sources[source] = fed or picture.key
        for source, fed in sources:
            if fed or picture.key:
                source.emit("push-buffer", Gst.Buffer.new_wrapped(picture.data))


class Control(socketserver.ThreadingUnixStreamServer):
    """The control socket."""

    daemon_threads = True

    def __init__(self, path: str, cameras: dict[str, Camera], library: Library) -> None:
        Path(path).unlink(missing_ok=True)
        super().__init__(path, Request)
        os.chmod(path, 0o600)
        self.cameras = cameras
        self.library = library


class Request(socketserver.StreamRequestHandler):
    """One line in, one line out."""

    timeout = 5
    server: Control

    def handle(self) -> None:
        """Obey `CAMERA CLIP`."""
        words = self.rfile.readline(200).decode(errors="replace").split()
        try:
            if len(words) != 2:
                raise ClipError("a camera and a clip are needed")
            camera = self.server.cameras.get(words[0])
            if camera is None:
                known = ", ".join(sorted(self.server.cameras))
                raise ClipError(f"there is no camera {words[0]}; there are {known}")
            started = camera.play(self.server.library.get(words[1]))
            answer = {"started": started.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        except ClipError as error:
            answer = {"error": str(error)}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def serve(settings: dict[str, Any], password: str) -> GstRtspServer.RTSPServer:
    """Start the cameras and their RTSP server, on the default main context."""
    library = Library(Path(settings["clips"]))
    server = GstRtspServer.RTSPServer()
    server.set_address(settings["address"])
    server.set_service(str(settings["port"]))
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    auth.add_digest(settings["user"], password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(ROLE, "media.factory.access", True)
    permissions.add_permission_for_role(ROLE, "media.factory.construct", True)
    cameras = {}
    for entry in settings["cameras"]:
        camera = Camera(entry["id"], library.get(entry["clip"]))
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(LAUNCH)
        factory.set_shared(True)
        # One port for everything: what a firewall between sites lets through.
        factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)
        factory.set_permissions(permissions)
        factory.connect("media-configure", camera.configure)
        server.get_mount_points().add_factory(f"/{camera.name}", factory)
        cameras[camera.name] = camera
    for camera in cameras.values():
        camera.start()
    control = Control(settings["control"], cameras, library)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    if server.attach(None) == 0:
        raise SystemExit(f"cannot listen on {settings['address']}:{settings['port']}")

    def forget_silent_viewers() -> bool:
        server.get_session_pool().cleanup()
        return True

    GLib.timeout_add_seconds(10, forget_silent_viewers)
    return server


def main() -> None:
    """Read the settings and serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path, help="JSON file")
    parser.add_argument("--check", action="store_true", help="only read settings and clips")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    Gst.init(None)
    settings = json.loads(arguments.settings.read_text())
    try:
        if arguments.check:
            library = Library(Path(settings["clips"]))
            for entry in settings["cameras"]:
                library.get(entry["clip"])
            return
        password = Path(settings["password_file"]).read_text().strip()
        server = serve(settings, password)
    except ClipError as error:
        raise SystemExit(f"cctv: {error}") from error
    log.info("cameras at rtsp://%s:%s/", settings["address"], settings["port"])
    GLib.MainLoop().run()
    del server


if __name__ == "__main__":
    main()
