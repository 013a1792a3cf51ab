"""What an event says of an incident, checked as far as a record needs it."""

from datetime import datetime

from koren_runtime import Reject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ACCIDENT = "accident"
_TYPES = {
    f"kr.koren.traffic.{about}.{happened}": (about, happened)
    for about in (ACCIDENT, "stopped-vehicle", "person-on-road", "wrong-way")
    for happened in ("detected", "updated", "cleared")
}
_COLLISIONS = ("rear_end", "side", "head_on", "single", "unknown")
_WHAT = {
    "rear_end": ("추돌 사고", "rear-end collision"),
    "side": ("측면 충돌 사고", "side collision"),
    "head_on": ("정면 충돌 사고", "head-on collision"),
    "single": ("단독 사고", "single-vehicle accident"),
    "unknown": ("사고", "accident"),
    "stopped-vehicle": ("정지 차량", "stopped vehicle"),
    "person-on-road": ("차도 위 보행자", "person in the roadway"),
    "wrong-way": ("역주행 차량", "wrong-way vehicle"),
}
_AFTER_CONSONANT = ("stopped-vehicle", "wrong-way")
SEVERITIES = ("minor", "moderate", "severe")


class Incident:
    """The state of an incident as of one event.

    Attributes:
        id: region and subject.
        version: place of the event among those of the incident.
        about: what the incident is, accident or another word of the event types.
        time: when the event was emitted.
        started_at: when the incident began, the same in all events of an incident.
        cleared_at: when it was over, None before.
        confirmed: whether a person released the event, which was held until then.
        camera: its id.
        name, road, direction: of the camera, in Korean and English; empty texts where the event has none.
        latitude, longitude: where the camera is, in degrees (WGS 84).
        what: how vehicles met in an accident, as a word of the event's contract; else `about`.
        severity: a word of the event's contract; None of all but accidents.

    Texts are printable characters on one line.

    Raises Reject when the event is not one of such an incident; the message names what is wrong with it.
    """

    def __init__(self, event: "Mapping[str, Any]") -> None:
        try:
            self._fill(event)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Reject(f"the event is none of an incident: {type(error).__name__}: {error!s:.200}") from None

    def _fill(self, event: "Mapping[str, Any]") -> None:
        attributes, data = event["extensions"], event["data"]
        camera = data["camera"]
        type = event["event-type"]
        if type not in _TYPES:
            raise ValueError(f"its type is {type!r:.80}")
        self.about, happened = _TYPES[type]
        self.id = f"{_text(attributes['region'])}/{_text(attributes['subject'])}"
        self.version = int(attributes["sequence"])
        if self.version < 1:
            raise ValueError(f"its sequence is {self.version}")
        self.time = _time(event["event-time"])
        self.started_at = _time(data["started_at"])
        self.cleared_at = _time(data["cleared_at"]) if happened == "cleared" else None
        self.confirmed = bool(attributes.get("releasedby"))
        self.camera = _text(camera["id"])
        self.name, self.road, self.direction = (_both(camera.get(key)) for key in ("name", "road", "direction"))
        self.latitude = _within(camera["latitude"], 90)
        self.longitude = _within(camera["longitude"], 180)
        self.what, self.severity = self.about, None
        if self.about == ACCIDENT:
            self.what, self.severity = data["what"], data["severity"]
            if self.what not in _COLLISIONS or self.severity not in SEVERITIES:
                raise ValueError(f"what is {self.what!r:.80}, severity {self.severity!r:.80}")

    def told(self) -> tuple[str, str]:
        """The incident in a sentence or two, in Korean and English."""
        what, what_en = _WHAT[self.what]
        place = " ".join(filter(None, (self.road[0], self.direction[0]))) or f"{self.name[0]} CCTV 화면"
        place_en = ", ".join(filter(None, (self.road[1], self.direction[1]))) or f"View of CCTV {self.name[1]}"
        checked = "담당자가 확인했습니다" if self.confirmed else "자동으로 감지되었고 아직 확인되지 않았습니다"
        checked_en = "Confirmed by an operator" if self.confirmed else "Detected automatically, not yet confirmed"
        if self.cleared_at:
            return f"{place} {what} 상황이 종료되었습니다. {checked}.", f"{place_en}: {what_en}, over. {checked_en}."
        particle = "이" if self.what in _AFTER_CONSONANT else "가"
        verb = "발생했습니다" if self.about == ACCIDENT else "감지되었습니다"
        return f"{place}에서 {what}{particle} {verb}. {checked}.", f"{place_en}: {what_en}. {checked_en}."


def _text(value: "Any") -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is not a text")
    text = "".join(letter for letter in " ".join(value.split()) if letter.isprintable())[:256]
    if not text:
        raise ValueError("a text is empty")
    return text


def _both(texts: "Any") -> tuple[str, str]:
    return (_text(texts["ko"]), _text(texts["en"])) if texts else ("", "")


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r:.80} names no time zone")
    return time


def _within(value: "Any", most: float) -> float:
    degrees = float(value)
    if not -most <= degrees <= most:
        raise ValueError(f"{degrees} are not degrees from {-most} to {most}")
    return degrees
