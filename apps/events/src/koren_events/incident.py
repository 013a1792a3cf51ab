"""Builders for the three events of an incident of any kind, in the contract's words."""

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from koren_events.contract import Kind, incident_type
from koren_events.event import Event
from koren_events.times import format_time, to_milliseconds, utc_now

Severity = Literal["minor", "moderate", "severe"]
What = Literal["rear_end", "side", "head_on", "single", "unknown"]
Channel = Literal["motion", "standstill", "people", "direction"]
ObjectClass = Literal["car", "van", "truck", "bus", "motorcycle", "person", "bicycle"]


@dataclass(frozen=True, slots=True)
class Text:
    """The same text in Korean and in English."""

    ko: str
    en: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where the incident was seen from; `latitude` and `longitude` in degrees (WGS 84).

    `road` and `direction` are those of the incident, None where they are not known. `link` is the road
    network's own id of both, such as a standard link id.
    """

    id: str
    name: Text
    latitude: float
    longitude: float
    road: Text | None = None
    direction: Text | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenObject:
    """One tracked object; `box` is left, top, right, bottom in pixels of the image."""

    object_class: ObjectClass
    track: int
    box: tuple[float, float, float, float]
    involved: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one of the detector's channels says of an incident; `confidence` is 0 to 1."""

    channel: Channel
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A JPEG; `width` and `height` in pixels."""

    jpeg: bytes
    width: int
    height: int


def incident_detected(
    *,
    kind: Kind,
    region: str,
    camera: Camera,
    confidence: float,
    started_at: datetime,
    objects: Sequence[SeenObject],
    severity: Severity | None = None,
    what: What | None = None,
    evidence: Sequence[Evidence] = (),
    image: Image | None = None,
    incident: str | None = None,
    time: datetime | None = None,
    traceparent: str | None = None,
    hold: bool = False,
) -> Event:
    """The first event of an incident of `kind`.

    `confidence` is 0 to 1, of all `evidence` together. Only an accident has `severity` and `what`.
    `incident` names the incident; by default camera, kind (of all but accidents) and `started_at` do, so
    that a detector that starts anew amid an incident goes on with the same one. `time` is now unless given.
    With `hold`, the incident starts nothing until a person releases it. Raises InvalidEvent or
    ValueError for values that can't be an event at all; the publisher checks the rest of the contract.
    """
    seen_as = camera.id if kind == "accident" else f"{camera.id}-{kind}"
    return Event(
        id=str(uuid.uuid4()),
        source=camera.id,
        type=incident_type(kind, "detected"),
        subject=incident or f"{seen_as}-{to_milliseconds(started_at):%Y%m%dT%H%M%SZ}",
        time=time or utc_now(),
        region=region,
        sequence=1,
        traceparent=traceparent,
        hold=hold,
        data=_data(
            camera={key: value for key, value in asdict(camera).items() if value is not None},
            severity=severity,
            confidence=confidence,
            what=what,
            started_at=format_time(started_at),
            evidence=[asdict(one) for one in evidence],
            objects=objects,
            image=image,
        ),
    )


def incident_updated(
    previous: Event,
    *,
    objects: Sequence[SeenObject],
    severity: Severity | None = None,
    confidence: float | None = None,
    what: What | None = None,
    evidence: Sequence[Evidence] | None = None,
    image: Image | None = None,
    time: datetime | None = None,
    hold: bool | None = None,
) -> Event:
    """The event after `previous` of the same incident; what is not given stays as it was."""
    data = _data(
        camera=previous.data["camera"],
        severity=severity or previous.data.get("severity"),
        confidence=previous.data["confidence"] if confidence is None else confidence,
        what=what or previous.data.get("what"),
        started_at=previous.data["started_at"],
        evidence=previous.data.get("evidence") if evidence is None else [asdict(one) for one in evidence],
        objects=objects,
        image=image,
    )
    return _following(previous, "updated", data, time, hold)


def incident_cleared(
    previous: Event,
    *,
    cleared_at: datetime,
    image: Image | None = None,
    time: datetime | None = None,
    hold: bool | None = None,
) -> Event:
    """The last event of the incident of `previous`: the road is clear since `cleared_at`.

    What is not given stays as it was.
    """
    data = _data(
        camera=previous.data["camera"],
        severity=previous.data.get("severity"),
        confidence=previous.data["confidence"],
        what=previous.data.get("what"),
        started_at=previous.data["started_at"],
        evidence=previous.data.get("evidence"),
        image=image,
    )
    data["cleared_at"] = format_time(cleared_at)
    return _following(previous, "cleared", data, time, hold)


def _following(
    previous: Event,
    happened: str,
    data: Mapping[str, Any],
    time: datetime | None,
    hold: bool | None,
) -> Event:
    return Event(
        id=str(uuid.uuid4()),
        source=previous.source,
        type=f"{previous.type.rpartition('.')[0]}.{happened}",
        subject=previous.subject,
        time=time or utc_now(),
        region=previous.region,
        sequence=previous.sequence + 1,
        traceparent=previous.traceparent,
        hold=previous.hold if hold is None else hold,
        data=data,
    )


def _data(
    *,
    camera: Mapping[str, Any],
    severity: str | None,
    confidence: float,
    what: str | None,
    started_at: str,
    evidence: Sequence[Mapping[str, Any]] | None,
    objects: Sequence[SeenObject] | None = None,
    image: Image | None,
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "camera": dict(camera),
        "severity": severity,
        "confidence": confidence,
        "what": what,
        "started_at": started_at,
    }
    data = {name: value for name, value in data.items() if value is not None}
    if evidence:
        data["evidence"] = list(evidence)
    if objects is not None:
        data["objects"] = [
            {
                "class": seen.object_class,
                "track": seen.track,
                "box": list(seen.box),
                "involved": seen.involved,
            }
            for seen in objects
        ]
    if image is not None:
        data["image"] = {
            "media_type": "image/jpeg",
            "width": image.width,
            "height": image.height,
            "base64": base64.b64encode(image.jpeg).decode(),
        }
    return data
