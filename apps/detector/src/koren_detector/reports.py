"""Turns one camera's decisions into events, so that each is published once, whatever dies.

What is open, and what still has to be handed to the publisher, is on disk before it is handed over.
An event handed over twice has the same id, which changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from koren_events import (
    Camera,
    Event,
    EventsError,
    Evidence,
    Image,
    InvalidEvent,
    SeenObject,
    incident_cleared,
    incident_detected,
    incident_updated,
)

from . import metrics
from .durable import write_json
from .incidents import Incident, Wreck
from .picture import Gray, decode_patch, encode_patch
from .settings import CameraSettings, Post

_log = logging.getLogger(__name__)

_SAVE_EVERY_S = 10.0
_RETRY_S = 5.0
_UPDATE_EVERY_S = 15.0
_MOST_UPDATES = 20


Says = tuple[object, ...]


@dataclass
class Open:
    """An open incident, its last event without the picture, what becomes of its events, and how its wrecks look.

    `post` is what its camera's settings said when it was opened, `says` what its last event said.
    """

    incident: Incident
    event: Event
    post: Post
    patches: list[Gray | None] = field(default_factory=list)
    says: Says = ()


class Reports:
    """One camera's open incidents on disk, and the way of its events to `publish`."""

    def __init__(self, settings: CameraSettings, folder: Path, publish: Callable[[Event], None]) -> None:
        self._settings = settings
        self._publish = publish
        self._path = folder / f"{settings.camera.id}.json"
        self._pending: list[Event] = []
        self._saved_s = 0.0
        self._tried_s = 0.0
        self.open: list[Open] = []
        self._load()

    def opened(
        self,
        incident: Incident,
        objects: list[SeenObject],
        image: Image | None,
        patches: list[Gray | None],
        camera: Camera | None = None,
    ) -> Event:
        """Report a new incident; returns its event, which is not published where the camera's `post` is "never".

        An accident that standstill alone has seen waits for a person, also where `post` is "automatic". `camera` has
        the incident's road and direction; by default it is as the settings have it. `image` is None where it can't
        leave this host.
        """
        post = self._settings.post
        is_accident = incident.kind == "accident"
        if post == "automatic" and is_accident and {one.channel for one in incident.evidence} == {"standstill"}:
            # Most vehicles that stand are no accident.
            post = "confirm"
        event = incident_detected(
            kind=incident.kind,
            region=self._settings.region,
            camera=camera or self._settings.camera,
            severity=incident.severity if is_accident else None,
            confidence=incident.confidence,
            what=incident.what if is_accident else None,
            started_at=_moment(incident.started_s),
            objects=objects,
            evidence=incident.evidence,
            image=image,
            time=_moment(incident.opened_s),
            hold=post == "confirm",
        )
        self.open.append(Open(incident, _without_image(event), post, patches, _says(incident)))
        self._decided("detected", event, post)
        return event

    def joined(self, incident: Incident, looks: Callable[[Wreck], Gray | None]) -> None:
        """Take note of what is known now of an open incident; `looks` gives the patch of a wreck that is new to it."""
        record = self._record(incident)
        record.patches += [looks(wreck) for wreck in incident.wrecks[len(record.patches) :]]
        record.incident = incident

    def has_news(self, incident: Incident, time_s: float) -> bool:
        """Whether something else is to be said of an open incident than its last event says, and may be by now.

        An incident has at most an event every 15 s, and at most twenty updates. A confidence alone is no news.
        """
        record = self._record(incident)
        return (
            time_s - record.event.time.timestamp() >= _UPDATE_EVERY_S
            and record.event.sequence <= _MOST_UPDATES
            and _says(incident) != record.says
        )

    def updated(self, incident: Incident, objects: list[SeenObject], image: Image | None, time_s: float) -> Event:
        """Report what is known by now of an open incident; returns its event, published if the first one was."""
        record = self._record(incident)
        is_accident = incident.kind == "accident"
        event = incident_updated(
            record.event,
            severity=incident.severity if is_accident else None,
            confidence=incident.confidence,
            what=incident.what if is_accident else None,
            evidence=incident.evidence,
            objects=objects,
            image=image,
            time=_moment(time_s),
        )
        record.event, record.says = _without_image(event), _says(incident)
        self._decided("updated", event, record.post)
        return event

    def cleared(self, incident: Incident, since_s: float, time_s: float) -> Event:
        """Report that an incident is over since `since_s`; returns its event, published if the first one was."""
        record = self._record(incident)
        event = incident_cleared(record.event, cleared_at=_moment(since_s), time=_moment(time_s))
        self.open.remove(record)
        self._decided("cleared", event, record.post)
        return event

    def follow(self, incidents: list[Incident], time_s: float) -> None:
        """Take note of where the open incidents' wrecks are now, and try again what is pending."""
        for incident in incidents:
            for record in self.open:
                if is_same(record.incident, incident):
                    record.incident = incident
        if self._pending and time_s - self._tried_s > _RETRY_S:
            self._tried_s = time_s
            self._flush()
        elif self.open and time_s - self._saved_s > _SAVE_EVERY_S:
            self._saved_s = time_s
            self._save()

    def _record(self, incident: Incident) -> Open:
        return next(record for record in self.open if is_same(record.incident, incident))

    def _decided(self, decision: str, event: Event, post: Post) -> None:
        metrics.DECISIONS.labels(self._settings.camera.id, self._settings.region, decision, post).inc()
        if post != "never":
            self._pending.append(event)
        self._save()
        self._flush()

    def _flush(self) -> None:
        while self._pending:
            event = self._pending[0]
            named = {"event_id": event.id, "subject": event.subject}
            try:
                self._publish(event)
            except InvalidEvent as error:
                _log.error("event breaks the contract: %s", error, extra=named)
            except EventsError as error:
                _log.error("event waits: %s", error, extra=named)
                break
            self._pending.pop(0)
        self._save()

    def _save(self) -> None:
        values = {
            "pending": [event.to_dict() for event in self._pending],
            "open": [
                {
                    "incident": asdict(record.incident),
                    "event": record.event.to_dict(),
                    "post": record.post,
                    "says": list(record.says),
                    "patches": [p if p is None else encode_patch(p) for p in record.patches],
                }
                for record in self.open
            ],
        }
        try:
            write_json(self._path, values)
        except OSError as error:
            _log.error("state %s can't be written: %s", self._path, error)

    def _load(self) -> None:
        try:
            values = json.loads(self._path.read_text())
            self._pending = [Event.from_dict(event) for event in values["pending"]]
            self.open = [_record(entry) for entry in values["open"]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            # The file is replaced as a whole, so this is no half-written one: keep it to look at.
            _log.error("state %s can't be read and is put aside: %s", self._path, error)
            self._pending, self.open = [], []
            with contextlib.suppress(OSError):
                self._path.rename(self._path.with_suffix(".damaged"))
            return
        self._flush()


def _record(entry: dict[str, Any]) -> Open:
    values = dict(entry["incident"])
    wrecks = tuple(Wreck(**{**wreck, "box": tuple(wreck["box"])}) for wreck in values.pop("wrecks"))
    # Before there were several channels, motion was the only one.
    told = values.pop("evidence", [{"channel": "motion", "confidence": values["confidence"]}])
    evidence = tuple(Evidence(**one) for one in told)
    patches = [text if text is None else decode_patch(text) for text in entry["patches"]]
    # Before cameras had a policy, all incidents were published at once.
    incident = Incident(**values, wrecks=wrecks, evidence=evidence)
    says = tuple(entry.get("says", _says(incident)))
    return Open(incident, Event.from_dict(entry["event"]), entry.get("post", "automatic"), patches, says)


def _says(incident: Incident) -> Says:
    """What of an incident is worth an event when it changes."""
    channels = sorted(one.channel for one in incident.evidence)
    return incident.severity, incident.what, len(incident.wrecks), *channels


def is_same(a: Incident, b: Incident) -> bool:
    """Whether both are states of one incident."""
    return (a.kind, a.opened_s, a.started_s) == (b.kind, b.opened_s, b.started_s)


def _without_image(event: Event) -> Event:
    values = event.to_dict()
    values["data"] = {key: value for key, value in values["data"].items() if key != "image"}
    return Event.from_dict(values)


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
