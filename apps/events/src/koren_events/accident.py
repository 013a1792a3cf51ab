"""Builders for the three events of an accident, in the contract's words."""

from collections.abc import Sequence
from datetime import datetime

from koren_events.event import Event
from koren_events.incident import (
    Camera,
    Evidence,
    Image,
    SeenObject,
    Severity,
    What,
    incident_cleared,
    incident_detected,
    incident_updated,
)


def accident_detected(
    *,
    region: str,
    camera: Camera,
    severity: Severity,
    confidence: float,
    what: What,
    started_at: datetime,
    objects: Sequence[SeenObject],
    evidence: Sequence[Evidence] = (),
    image: Image | None = None,
    incident: str | None = None,
    time: datetime | None = None,
    traceparent: str | None = None,
    hold: bool = False,
) -> Event:
    """The first event of an accident; see `incident_detected`."""
    return incident_detected(
        kind="accident",
        region=region,
        camera=camera,
        severity=severity,
        confidence=confidence,
        what=what,
        started_at=started_at,
        objects=objects,
        evidence=evidence,
        image=image,
        incident=incident,
        time=time,
        traceparent=traceparent,
        hold=hold,
    )


accident_updated = incident_updated
accident_cleared = incident_cleared
