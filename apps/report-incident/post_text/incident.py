"""What an event says of an incident, checked."""

from binascii import a2b_base64
from datetime import datetime
from unicodedata import normalize

from koren_runtime import Reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LANGUAGES = ("ko", "en")
_TYPE = "kr.koren.traffic."
ACCIDENT = "accident"
_ABOUT = (ACCIDENT, "stopped-vehicle", "person-on-road", "wrong-way")
_KINDS = ("detected", "updated", "cleared")
_TYPES = tuple(f"{_TYPE}{about}.{kind}" for about in _ABOUT for kind in _KINDS)
_SEVERITIES = ("minor", "moderate", "severe")
_WHATS = ("rear_end", "side", "head_on", "single", "unknown")
_TEXT_MAX = 2000
_REGION_MAX = 63
_SEQUENCE_MAX = 2**31 - 1
_PIXELS_MAX = 16384
# Bluesky's record keys tell times from 1970 to 2255.
_YEARS = (1971, 2199)
# Neither network takes them: control characters that are no white space, and what is no character.
_UNWANTED = dict.fromkeys(
    (*range(9), *range(14, 28), *range(127, 133), *range(134, 160), 0xFEFF, 0xFFFE, 0xFFFF)
)


# Plain classes: importing `dataclasses` would add a third to this function's start.
class Image:
    """A JPEG; width and height in pixels."""

    __slots__ = ("height", "jpeg", "width")

    def __init__(self, jpeg: bytes, width: int, height: int) -> None:
        self.jpeg = jpeg
        self.width = width
        self.height = height


class Incident:
    """The state of an incident as of one event.

    Attributes:
        subject: which incident.
        region: where, as the site names it.
        sequence: place of the event among those of the incident.
        about: what the incident is, accident or another word of the event types.
        kind: detected, updated or cleared.
        time: when the event was emitted.
        started_at: when the incident began, the same in all events of an incident.
        cleared_at: when it was over, of `cleared` only.
        confirmed: whether a person released the event, which was held until then.
        camera: language to text.
        road, direction: language to text; None when the event does not say it.
        what: how vehicles met in an accident, as a word of the event's contract; else `about`.
        severity: a word of the event's contract; None of all but accidents.
        involved: class of object to how many of it are part of the incident.
        image: None when the event has none.
        describe: what the image shows, language to text; None when nobody says it. Whoever has a
            way to tell sets it: it is no part of the event.

    Texts are in Unicode's normal form C, each on one line.

    Raises Reject when the event is not one of such an incident; the message names what is wrong with it.
    """

    def __init__(self, event: "Mapping[str, Any]") -> None:
        attributes = _mapping(event, "extensions")
        data = _mapping(event, "data")
        camera = _mapping(data, "camera", "data.")
        self.subject = _text(attributes, "subject")
        self.region = _text(attributes, "region", most=_REGION_MAX)
        self.sequence = _whole_number(attributes, "sequence", most=_SEQUENCE_MAX)
        self.about, self.kind = _choice(event, "event-type", _TYPES)[len(_TYPE) :].split(".")
        self.time = _time(event, "event-time")
        self.started_at = _time(data, "started_at", "data.")
        self.cleared_at = _time(data, "cleared_at", "data.") if self.kind == "cleared" else None
        self.confirmed = bool(attributes.get("releasedby"))
        self.camera = _both(camera, "name")
        self.road = _both(camera, "road") if camera.get("road") else None
        self.direction = _both(camera, "direction") if camera.get("direction") else None
        is_accident = self.about == ACCIDENT
        self.what = _choice(data, "what", _WHATS, "data.") if is_accident else self.about
        self.severity = _choice(data, "severity", _SEVERITIES, "data.") if is_accident else None
        self.involved = _involved(data.get("objects") or [])
        self.image = _image(_mapping(data, "image", "data.")) if data.get("image") else None
        self.describe: Callable[[], dict[str, str] | None] = lambda: None

    def check_image(self, most_bytes: int) -> None:
        """Raises Reject when the image has more bytes than a post may have."""
        if self.image and len(self.image.jpeg) > most_bytes:
            raise Reject(
                f"the event's image has {len(self.image.jpeg)} bytes; {most_bytes} is the most"
                " that a post may have"
            )


def _get(holder: "Mapping[str, Any]", name: str, where: str = "") -> "Any":
    try:
        return holder[name]
    except KeyError:
        raise Reject(f"the event has no {where}{name}") from None


def _mapping(holder: "Mapping[str, Any]", name: str, where: str = "") -> "Mapping[str, Any]":
    value = _get(holder, name, where)
    if not isinstance(value, dict):
        raise Reject(f"the event's {where}{name} is no JSON object")
    return value


def _text(holder: "Mapping[str, Any]", name: str, where: str = "", *, most: int = _TEXT_MAX) -> str:
    value = _get(holder, name, where)
    if isinstance(value, str):
        if len(value) > most:
            raise Reject(
                f"the event's {where}{name} has {len(value)} characters; {most} is the most"
            )
        # On one line: what stands in a name must not become a line of the post.
        text = " ".join(normalize("NFC", value).translate(_UNWANTED).split())
        if text and not any("\ud800" <= letter <= "\udfff" for letter in text):
            return text
    raise Reject(f"the event's {where}{name} is {value!r:.80}, not a text")


def _both(camera: "Mapping[str, Any]", name: str) -> dict[str, str]:
    texts = _mapping(camera, name, "data.camera.")
    return {language: _text(texts, language, f"data.camera.{name}.") for language in LANGUAGES}


def _choice(
    holder: "Mapping[str, Any]", name: str, choices: tuple[str, ...], where: str = ""
) -> str:
    value = _text(holder, name, where)
    if value not in choices:
        raise Reject(f"the event's {where}{name} is {value!r:.80}, not one of {', '.join(choices)}")
    return value


def _whole_number(holder: "Mapping[str, Any]", name: str, where: str = "", *, most: int) -> int:
    value = _get(holder, name, where)
    # To JSON 1.0 is a whole number.
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= most:
        number = int(value)
        if number == value:
            return number
    raise Reject(f"the event's {where}{name} is {_shown(value)}, not a number from 1 to {most}")


def _time(holder: "Mapping[str, Any]", name: str, where: str = "") -> datetime:
    text = _text(holder, name, where)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Reject(f"the event's {where}{name} is {text!r:.80}, not a time of RFC 3339") from None
    if time.tzinfo is None:
        raise Reject(f"the event's {where}{name} is {text!r}, which names no time zone")
    first, last = _YEARS
    if not first <= time.year <= last:
        raise Reject(f"the event's {where}{name} is {text!r}, not a time from {first} to {last}")
    return time


def _involved(objects: "Any") -> dict[str, int]:
    if not isinstance(objects, list):
        raise Reject("the event's data.objects is no JSON array")
    counts: dict[str, int] = {}
    for seen in objects:
        if not isinstance(seen, dict):
            raise Reject("one of the event's data.objects is no JSON object")
        if seen.get("involved"):
            name = _text(seen, "class", "data.objects.")
            counts[name] = counts.get(name, 0) + 1
    return counts


def _image(image: "Mapping[str, Any]") -> Image:
    base64 = _get(image, "base64", "data.image.")
    try:
        jpeg = a2b_base64(base64, strict_mode=True)
    except (TypeError, ValueError) as error:
        raise Reject(f"the event's data.image.base64 is not base64: {error}") from None
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise Reject("the event's data.image is no JPEG")
    return Image(
        jpeg,
        _whole_number(image, "width", "data.image.", most=_PIXELS_MAX),
        _whole_number(image, "height", "data.image.", most=_PIXELS_MAX),
    )


def _shown(value: object) -> str:
    # Python refuses to write out a number of thousands of digits.
    return "too large" if isinstance(value, int) and value.bit_length() > 256 else f"{value!r:.80}"
