"""The detector's settings: one JSON file, read once, into typed objects."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np

from koren_events import KINDS, Camera, ConfigurationError, Kind, Telemetry, Text

from .arms import Arm, checked_polygon
from .boxes import Array
from .ground import Ground
from .stream import Transport
from .wrong_way import heading_on

Post = Literal["confirm", "automatic", "never"]
"""What becomes of a camera's incidents: they wait for a person, start functions at once, or are not published."""
EVENTS: dict[str, Kind] = {kind.replace("-", "_"): kind for kind in KINDS}
"""Names of kinds of incident in settings, and the kinds."""

SCHEMES = ("rtsp", "http", "https")
_MOST_QUOTED = 127
"""FFmpeg cuts off what of a login is longer, percent signs included."""


class SettingsError(Exception):
    """The settings can't be used; the message names the entry and what it should be."""


@dataclass(frozen=True)
class CameraSettings:
    """One camera: where its stream is, and what its events say of it.

    `url` holds no credentials. `ground` maps its ground to pixels, None when not known; to those of a picture of
    `ground_size` (width, height), None for whatever size the stream has at first. `arms`, and `crossings`, polygons
    where people cross the road, are in pixels of the same. `events` are the kinds of incident that are reported.
    """

    camera: Camera
    region: str
    url: str
    ground: Ground | None
    post: Post = "confirm"
    ground_size: tuple[int, int] | None = None
    transport: Transport = "tcp"
    arms: tuple[Arm, ...] = ()
    crossings: tuple[Array, ...] = ()
    events: frozenset[Kind] = frozenset({"accident"})


@dataclass(frozen=True)
class Login:
    """A user and a password at a camera."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class BrokerSettings:
    """The central broker and the certificate to show it."""

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True)
class ClipsSettings:
    """How long clips of incidents that waited for a person are kept, and how much of them.

    `hold_s` is for how long a region waits for that person.
    """

    kept_days: float
    most_bytes: int
    hold_s: float


@dataclass(frozen=True)
class Settings:
    """All of the detector's settings."""

    cameras: tuple[CameraSettings, ...]
    broker: BrokerSettings
    model: Path
    state: Path
    fps: float
    network_width: int
    metrics_address: str
    metrics_port: int
    telemetry: Telemetry | None
    clips: ClipsSettings | None
    rtsp_login: Login | None
    """For the RTSP cameras that have no login of their own."""
    logins: Mapping[str, Login]
    """Logins of cameras, by their ids."""

    def stream_url(self, camera: CameraSettings) -> str:
        """The stream's address with the credentials in it: for opening it, never for a log."""
        parts = urlsplit(camera.url)
        login = self.logins.get(camera.camera.id) or (self.rtsp_login if parts.scheme == "rtsp" else None)
        if login is None:
            return camera.url
        return urlunsplit(parts._replace(netloc=f"{_quoted(login)}@{parts.netloc}"))


def _quoted(login: Login) -> str:
    return f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"


def load_settings(path: Path) -> Settings:
    """Read and check the settings file. Raises SettingsError."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"settings {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"settings {path} are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"settings {path} must be a JSON object")
    cameras = tuple(_camera(entry, f"cameras[{number}]") for number, entry in enumerate(_get(values, "cameras", list)))
    if not cameras:
        raise SettingsError("cameras: the list is empty; name at least one camera")
    ids = [camera.camera.id for camera in cameras]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise SettingsError(f"cameras: ids must be unique, {', '.join(twice)} is there twice")
    broker = _get(values, "broker", dict)
    fps = _get(values, "fps", int | float)
    if not 1 <= fps <= 10:
        raise SettingsError(f"fps: {fps} must be between 1 and 10; the score was taught at 4 to 5")
    return Settings(
        cameras=cameras,
        broker=BrokerSettings(
            host=_get(broker, "host", str, "broker."),
            port=_get(broker, "port", int, "broker."),
            ca=Path(_get(broker, "ca", str, "broker.")),
            cert=Path(_get(broker, "cert", str, "broker.")),
            key=Path(_get(broker, "key", str, "broker.")),
        ),
        model=Path(_get(values, "model", str)),
        # systemd names the folder that it made for the service.
        state=Path(os.environ.get("STATE_DIRECTORY") or _get(values, "state", str)),
        fps=float(fps),
        network_width=_get(values, "network_width", int),
        metrics_address=_get(values, "metrics_address", str),
        metrics_port=_get(values, "metrics_port", int),
        telemetry=_telemetry(_get(values, "telemetry", dict | None)),
        clips=_clips(_get(values, "clips", dict | None)),
        rtsp_login=_rtsp_login(values),
        logins=_logins(_get(values, "logins_file", str | None), ids),
    )


def _get(values: Mapping[str, Any], key: str, kind: Any, prefix: str = "") -> Any:
    if key not in values and not isinstance(None, kind):
        raise SettingsError(f"{prefix}{key} is missing")
    value = values.get(key)
    # bool is an int to Python, but not to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", str(kind))
        raise SettingsError(f"{prefix}{key} must be {wanted}, not {type(value).__name__}")
    return value


def _camera(entry: Any, at: str) -> CameraSettings:
    if not isinstance(entry, dict):
        raise SettingsError(f"{at} must be an object")
    prefix = f"{at}."
    url = _get(entry, "url", str, prefix)
    if urlsplit(url).password is not None:
        raise SettingsError(f"{prefix}url must not hold a password; use logins_file")
    if urlsplit(url).scheme not in SCHEMES:
        raise SettingsError(f"{prefix}url must begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    transport = entry.get("transport", "tcp")
    if transport not in get_args(Transport):
        raise SettingsError(f"{prefix}transport: {transport!r} must be one of {', '.join(get_args(Transport))}")
    ground = _get(entry, "ground", list | None, prefix)
    try:
        plane = None if ground is None else Ground(np.array(ground, float))
    except ValueError as error:
        raise SettingsError(f"{prefix}ground: {error}") from error
    name = _get(entry, "id", str, prefix)
    post = entry.get("post", "confirm")
    if post not in get_args(Post):
        raise SettingsError(f"{prefix}post of camera {name}: {post!r} must be one of {', '.join(get_args(Post))}")
    arms = tuple(
        _arm(arm, f"{prefix}arms[{number}]")
        for number, arm in enumerate(_get(entry, "arms", list | None, prefix) or [])
    )
    return CameraSettings(
        camera=Camera(
            id=name,
            name=_text(entry, "name", prefix),
            latitude=float(_get(entry, "latitude", int | float, prefix)),
            longitude=float(_get(entry, "longitude", int | float, prefix)),
            road=_text(entry, "road", prefix) if entry.get("road") is not None else None,
            direction=_text(entry, "direction", prefix) if entry.get("direction") is not None else None,
        ),
        region=_get(entry, "region", str, prefix),
        url=url,
        ground=plane,
        post=post,
        ground_size=_size(_get(entry, "ground_size", list | None, prefix), f"{prefix}ground_size"),
        transport=transport,
        arms=arms,
        crossings=tuple(
            _polygon(crossing, f"{prefix}crossings[{number}]")
            for number, crossing in enumerate(_get(entry, "crossings", list | None, prefix) or [])
        ),
        events=_events(entry.get("events", ["accident"]), plane, arms, f"{prefix}events of camera {name}"),
    )


def _events(names: Any, ground: Ground | None, arms: tuple[Arm, ...], at: str) -> frozenset[Kind]:
    """The kinds of incident that a camera reports, which must have what they need."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name in EVENTS for name in names):
        raise SettingsError(f"{at}: {names!r} must be a list of one or more of {', '.join(EVENTS)}")
    kinds = frozenset(EVENTS[name] for name in names)
    if ground is None and kinds & {"person-on-road", "wrong-way"}:
        raise SettingsError(f"{at}: person_on_road and wrong_way need the camera's ground; calibrate it")
    if ground is not None and "wrong-way" in kinds:
        headings = {number: arm.heading for number, arm in enumerate(arms) if arm.heading is not None}
        if not headings:
            raise SettingsError(f"{at}: wrong_way needs arms with a heading; give at least one arm its heading")
        for number, heading in headings.items():
            try:
                heading_on(ground, heading)
            except ValueError as error:
                raise SettingsError(f"{at}: the heading of arms[{number}]: {error}") from error
    return kinds


def _polygon(entry: Any, at: str) -> Array:
    try:
        return checked_polygon(np.array(entry, float))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{at}: {error}") from error


def _arm(entry: Any, at: str) -> Arm:
    if not isinstance(entry, dict):
        raise SettingsError(f"{at} must be an object")
    prefix = f"{at}."
    link = entry.get("link")
    # A link id of digits alone is a number to YAML, unless it is quoted.
    if link is not None and (not isinstance(link, str) or not link):
        raise SettingsError(f"{prefix}link must be a text; put it into quotation marks")
    heading = _get(entry, "heading", list | None, prefix)
    try:
        return Arm(
            road=_text(entry, "road", prefix),
            direction=_text(entry, "direction", prefix),
            polygon=_polygon(_get(entry, "polygon", list, prefix), f"{prefix}polygon"),
            link=link,
            heading=None if heading is None else np.array(heading, float),
        )
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{prefix}heading: {error}") from error


def _size(entry: list[Any] | None, at: str) -> tuple[int, int] | None:
    if entry is None:
        return None
    if len(entry) != 2 or not all(type(side) is int and side > 0 for side in entry):
        raise SettingsError(f"{at} must be the picture's width and height in pixels, such as [1920, 1080]")
    return entry[0], entry[1]


def _rtsp_login(values: Mapping[str, Any]) -> Login | None:
    user = _get(values, "rtsp_user", str | None)
    password = _secret("rtsp_password_file", _get(values, "rtsp_password_file", str | None))
    return None if user is None or password is None else _login(user, password, "rtsp_user")


def _logins(path: str | None, ids: list[str]) -> dict[str, Login]:
    """Logins of cameras from their file: a JSON object of `user` and `password` by the camera's id."""
    try:
        entries = json.loads(_secret("logins_file", path) or "{}")
    except ValueError:
        # Not even a part of it goes into a message.
        raise SettingsError("logins_file must hold JSON") from None
    if not isinstance(entries, dict):
        raise SettingsError("logins_file must hold an object of logins by camera")
    unknown = sorted(set(entries) - set(ids))
    if unknown:
        raise SettingsError(f"logins_file: there is no camera {', '.join(unknown)}")
    logins = {}
    for name, entry in entries.items():
        at = f"logins_file: {name}"
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("user", "password")):
            raise SettingsError(f"{at} must have user and password as texts")
        logins[name] = _login(entry["user"], entry["password"], at)
    return logins


def _login(user: str, password: str, at: str) -> Login:
    if not user or set(user) & set(':"\\') or not (user + password).isprintable():
        raise SettingsError(
            f"{at}: a user name may not be empty nor hold a colon, a quotation mark or a backslash, and neither it"
            " nor the password line breaks or the like; such a login can't be sent"
        )
    login = Login(user, password)
    if len(_quoted(login)) > _MOST_QUOTED:
        raise SettingsError(f"{at}: user and password take more than {_MOST_QUOTED} characters in an address; shorten")
    return login


def _text(entry: Mapping[str, Any], key: str, prefix: str) -> Text:
    both = _get(entry, key, dict, prefix)
    return Text(ko=_get(both, "ko", str, f"{prefix}{key}."), en=_get(both, "en", str, f"{prefix}{key}."))


def _telemetry(entry: Mapping[str, Any] | None) -> Telemetry | None:
    if entry is None:
        return None
    ca = _get(entry, "ca", str | None, "telemetry.")
    secret = _secret("telemetry.headers_file", _get(entry, "headers_file", str | None, "telemetry.")) or "{}"
    try:
        headers = json.loads(secret)
    except ValueError:
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise SettingsError("telemetry.headers_file must hold a JSON object of texts")
    try:
        return Telemetry(
            endpoint=_get(entry, "endpoint", str, "telemetry."),
            ca=None if ca is None else Path(ca),
            headers=headers,
            ratio=float(_get(entry, "ratio", int | float, "telemetry.")),
        )
    except ConfigurationError as error:
        raise SettingsError(f"telemetry: {error}") from error


def _clips(entry: Mapping[str, Any] | None) -> ClipsSettings | None:
    if entry is None:
        return None
    numbers = {key: _get(entry, key, int | float, "clips.") for key in ("kept_days", "max_mb", "hold_s")}
    for key, number in numbers.items():
        if number <= 0:
            raise SettingsError(f"clips.{key}: {number} must be above 0; leave clips out to keep none")
    return ClipsSettings(
        kept_days=float(numbers["kept_days"]),
        most_bytes=round(numbers["max_mb"] * 1_000_000),
        hold_s=float(numbers["hold_s"]),
    )


def _secret(name: str, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"{name} {path} can't be read: {error.strerror}") from error
