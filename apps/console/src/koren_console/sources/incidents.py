# SPDX-License-Identifier: Apache-2.0
"""Incidents, put together from events and receipts as they pass the centre's broker."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from koren_console.model import Incident, Mark, Place, Words
from koren_console.sources.moments import plausible
from koren_events.cloudevent import CloudEvent, parse
from koren_events.contract import Kind, incident_kind
from koren_events.errors import InvalidEvent
from koren_events.receipt import Receipt, ReceiptState
from koren_events.times import from_ms, parse_time
from koren_events.trace_context import TraceContext

MOST = 2_000
"""Incidents in memory; older ones are in history."""
MOST_BYTES = 96 * 1024 * 1024
"""About what those in memory may take in all; one with many marks and long errors takes a megabyte."""
MOST_MARKS = 400
MOST_EVENTS = 50_000
PICTURES = "/pictures/"

_MOST_PICTURE_BYTES = 512 * 1024
_LATE = timedelta(seconds=30)
_TEXT = 300
_DETAIL = 2_000


class Keeper(Protocol):
    """Where incidents and pictures are kept for longer."""

    def keep_incident(self, incident: Incident) -> None: ...
    def keep_picture(self, name: str, media: str, content: bytes) -> None: ...
    def drop_picture(self, name: str) -> None: ...


class Incidents:
    """Incidents by subject. What can't be an incident's event or receipt is left out."""

    def __init__(
        self, keeper: Keeper, kept: Iterable[Incident] = (), on_change: Callable[[Incident], None] = lambda one: None
    ) -> None:
        """`kept` are those of history, the latest first."""
        self._keeper = keeper
        self._on_change = on_change
        self._known: OrderedDict[str, Incident] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._events: OrderedDict[tuple[str, str], str] = OrderedDict()
        for incident in reversed(list(kept)[:MOST]):
            self._remember_incident(incident)

    def all(self) -> Sequence[Incident]:
        """The latest first."""
        return sorted(self._known.values(), key=lambda one: one.began, reverse=True)

    def get(self, subject: str) -> Incident | None:
        """One of those in memory."""
        return self._known.get(subject)

    def of_event(self, source: str, id: str) -> Incident | None:
        """The incident of an event that passed."""
        return self._known.get(self._events.get((source, id), ""))

    def event(self, region: str, message: bytes, now: datetime) -> None:
        """An event passed the broker on a topic of the region."""
        try:
            event, message = parse(message)
            data = json.loads(message).get("data")
        except (InvalidEvent, ValueError, RecursionError):
            return
        kind, happened = incident_kind(event.type), event.type.rpartition(".")[2]
        if (
            kind is None
            or happened not in ("detected", "updated", "cleared")
            or not event.subject
            or event.region not in (None, region)
        ):
            return
        repeat = (event.source, event.id) in self._events
        self._remember(event)
        known = self._known.get(event.subject)
        if known is not None and known.region != region:
            return
        seen = now if event.time_ms is None else from_ms(event.time_ms)
        seen = seen if plausible(seen, now) else now
        facts = data if isinstance(data, Mapping) else {}
        incident = known or _begun(event, kind, region, facts, seen, now)
        if not repeat:
            if known is not None and known.events:
                incident = replace(incident, events=incident.events + 1)
            incident = self._pictured(_described(incident, event, facts), facts)
            incident = _marked(
                incident, Mark("camera", "cleared" if happened == "cleared" else "seen", seen, event=event.id)
            )
            if timedelta(0) <= now - seen < _LATE:
                incident = _marked(incident, Mark("broker", "sent", seen, until=now, event=event.id))
        trace = TraceContext.parse(event.traceparent)
        if trace is not None and not incident.trace:
            incident = replace(incident, trace=trace.trace_id)
        if happened == "cleared":
            ended = incident.ended or seen
            state = incident.state if incident.state in ("held", "dismissed") else "cleared"
            incident = replace(incident, ended=ended, state=state)
        elif event.hold and known is None:
            incident = replace(incident, state="held")
        self._put(incident)

    def receipt(self, receipt: Receipt, now: datetime) -> Incident | None:
        """A region's gateway reports; the incident that it is about, if it is about one."""
        subject = receipt.subject or self._events.get((receipt.source, receipt.id), "")
        incident = self._known.get(subject)
        if incident is None or incident.region != receipt.region:
            return None
        incident = _reported(incident, receipt)
        self._put(incident)
        return incident

    def pods(self, region: str, function: str, count: int, at: datetime) -> None:
        """The function has so many pods in the region now."""
        for incident in [one for one in self._known.values() if one.region == region]:
            self.pods_of(incident, function, count, at)

    def pods_of(self, incident: Incident, function: str, count: int, at: datetime) -> None:
        """The function has so many pods in the incident's region now, if it has to do with the incident."""
        over = incident.state in ("cleared", "dismissed")
        if incident.pods == count and not (over and count == 0):
            return
        marks = [mark for mark in incident.marks if mark.function == function]
        if not marks or (over and any(mark.what == "gone" for mark in marks)):
            return
        changed = replace(incident, pods=count)
        if over and count == 0:
            changed = _marked(changed, Mark("kubernetes", "gone", at, function=function))
        self._put(changed)

    def _remember(self, event: CloudEvent) -> None:
        self._events[(event.source, event.id)] = event.subject or ""
        while len(self._events) > MOST_EVENTS:
            self._events.popitem(last=False)

    def _pictured(self, incident: Incident, facts: Mapping[str, Any]) -> Incident:
        image = facts.get("image")
        encoded = image.get("base64") if isinstance(image, Mapping) else None
        if not isinstance(encoded, str) or len(encoded) > _MOST_PICTURE_BYTES * 4 / 3:
            return incident
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return incident
        if not content.startswith(b"\xff\xd8\xff"):
            return incident
        name = hashlib.sha256(incident.subject.encode() + content).hexdigest()[:32] + ".jpg"
        before = incident.picture.removeprefix(PICTURES)
        if name == before:
            return incident
        self._keeper.keep_picture(name, "image/jpeg", content)
        if before:
            self._keeper.drop_picture(before)
        return replace(incident, picture=PICTURES + name)

    def _put(self, incident: Incident) -> None:
        self._remember_incident(incident)
        self._keeper.keep_incident(incident)
        self._on_change(incident)

    def _remember_incident(self, incident: Incident) -> None:
        self._known[incident.subject] = incident
        self._known.move_to_end(incident.subject)
        size = _size(incident)
        self._bytes += size - self._sizes.get(incident.subject, 0)
        self._sizes[incident.subject] = size
        while len(self._known) > MOST or (self._bytes > MOST_BYTES and len(self._known) > 1):
            over = (subject for subject, one in self._known.items() if one.state in ("cleared", "dismissed"))
            gone = next(over, next(iter(self._known)))
            del self._known[gone]
            self._bytes -= self._sizes.pop(gone)


def _size(incident: Incident) -> int:
    """About how many bytes of memory it takes; a letter of Hangul has two."""
    return 2_000 + sum(400 + 2 * len(mark.detail) for mark in incident.marks)


def _begun(
    event: CloudEvent, kind: Kind, region: str, facts: Mapping[str, Any], seen: datetime, now: datetime
) -> Incident:
    try:
        began = parse_time(facts.get("started_at"))
    except ValueError:
        began = seen
    if not plausible(began, now):
        began = seen
    camera = event.source.rsplit("/", 1)[-1]
    return Incident(
        subject=event.subject or "",
        region=region,
        camera=camera,
        place=Words(camera, camera),
        severity="",
        confidence=None,
        state="open",
        began=began,
        kind=kind,
    )


def _described(incident: Incident, event: CloudEvent, facts: Mapping[str, Any]) -> Incident:
    camera = facts.get("camera")
    camera = camera if isinstance(camera, Mapping) else {}
    confidence = share_of(facts.get("confidence"))
    objects = facts.get("objects")
    classes = [
        str(one.get("class"))[:40]
        for one in (objects if isinstance(objects, list) else [])
        if isinstance(one, Mapping) and one.get("involved")
    ]
    road = words_of(camera.get("road"))
    return replace(
        incident,
        camera=_clean(camera.get("id")) or incident.camera,
        place=words_of(camera.get("name")) or incident.place,
        point=_point(camera) or incident.point,
        road=road.ko if road else incident.road,
        severity=_clean(facts.get("severity")) or incident.severity,
        confidence=incident.confidence if confidence is None else confidence,
        objects=tuple(classes[:20]) or incident.objects,
    )


def _reported(incident: Incident, receipt: Receipt) -> Incident:
    state, function, attempt = receipt.state, receipt.function or "", receipt.attempt
    phases = receipt.phases
    event_time = phases.get("event_time")

    def mark(lane: str, what: str, at: datetime, until: datetime | None = None, detail: str = "") -> None:
        nonlocal incident
        incident = _marked(
            incident,
            Mark(lane, what, at, until, event=receipt.id, function=function, attempt=attempt, detail=detail[:_DETAIL]),
        )

    if state in (ReceiptState.RECEIVED, ReceiptState.HELD) and not function:
        at = phases.get("durable") or phases.get("received") or receipt.time
        was_held = any(one.what == "held" and one.event == receipt.id for one in incident.marks)
        if state is ReceiptState.HELD:
            mark("queue", "held", at)
            if incident.state == "open" and not any(one.what == "released" for one in incident.marks):
                incident = replace(incident, state="held")
        elif was_held:
            mark("queue", "released", receipt.time)
            incident = _released(incident)
        else:
            mark("queue", "durable", phases.get("received", at), until=at)
            incident = _released(incident)
    elif state is ReceiptState.DISMISSED:
        mark("queue", "dismissed", receipt.time)
        incident = replace(incident, state="dismissed", ended=incident.ended or receipt.time)
    elif state in (ReceiptState.STARTED, ReceiptState.SUCCEEDED, ReceiptState.FAILED):
        # A pod that ran before the event came did not start for it.
        for phase, what in (("activated", "scaled"), ("pod_started", "pod-started")):
            if phase in phases and (event_time is None or phases[phase] >= event_time):
                mark("kubernetes", what, phases[phase])
        if attempt is not None and attempt > 1 and not _has(incident, receipt, "entered"):
            incident = replace(incident, retried=incident.retried + 1)
        entered, done = phases.get("handler_entered"), phases.get("handler_done")
        if entered is not None or state is ReceiptState.STARTED:
            mark("function", "entered", entered or receipt.time, until=done)
        if state is ReceiptState.SUCCEEDED:
            mark("function", "succeeded", done or receipt.time)
            incident = _posted(incident, receipt)
        elif state is ReceiptState.FAILED:
            mark("function", "failed", done or receipt.time, detail=receipt.error or "")
    elif state is ReceiptState.DEAD_LETTERED:
        if not _has(incident, receipt, "dead-lettered"):
            incident = replace(incident, failed=incident.failed + 1)
        mark("queue", "dead-lettered", receipt.time, detail=receipt.error or "")
    return incident


def _released(incident: Incident) -> Incident:
    if incident.state != "held":
        return incident
    return replace(incident, state="open" if incident.ended is None else "cleared")


def _posted(incident: Incident, receipt: Receipt) -> Incident:
    result = receipt.result
    if not isinstance(result, Mapping):
        return incident
    text, address = words_of(result.get("text"), _DETAIL), result.get("url")
    if isinstance(address, str) and address.startswith(("https://", "http://")) and len(address) < 2000:
        incident = replace(incident, post=address)
        incident = _marked(
            incident,
            Mark("post", "posted", receipt.time, event=receipt.id, function=receipt.function or "", detail=address),
        )
    return incident if text is None else replace(incident, text=text)


def _has(incident: Incident, receipt: Receipt, what: str) -> bool:
    wanted = (what, receipt.id, receipt.function or "", receipt.attempt)
    return any((one.what, one.event, one.function, one.attempt) == wanted for one in incident.marks)


def _marked(incident: Incident, mark: Mark) -> Incident:
    """With the mark, in order of time; one of the same moment takes the place of the one before."""
    key = (mark.what, mark.event, mark.function, mark.attempt)
    marks = []
    for one in incident.marks:
        if (one.what, one.event, one.function, one.attempt) != key:
            marks.append(one)
        elif mark.until is None:
            # Receipts may come in any order: an end that is known stays known.
            mark = replace(mark, until=one.until)
    marks.append(mark)
    marks.sort(key=lambda one: (one.at, one.what))
    if len(marks) > MOST_MARKS:
        # How it began stays, and how it goes on.
        del marks[MOST_MARKS // 4]
    return replace(incident, marks=tuple(marks))


def share_of(value: Any) -> float | None:
    """A number from 0 to 1; None for anything else."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _clean(value: Any) -> str:
    return value[:_TEXT].encode(errors="replace").decode() if isinstance(value, str) else ""


def words_of(value: Any, most: int = _TEXT) -> Words | None:
    """A text in both languages, cut; None for anything else."""
    if not isinstance(value, Mapping):
        return None
    ko, en = value.get("ko"), value.get("en")
    if not isinstance(ko, str) or not isinstance(en, str):
        return None
    return Words(ko[:most].encode(errors="replace").decode(), en[:most].encode(errors="replace").decode())


def _point(camera: Mapping[str, Any]) -> Place | None:
    latitude, longitude = camera.get("latitude"), camera.get("longitude")
    if type(latitude) not in (int, float) or type(longitude) not in (int, float):
        return None
    assert latitude is not None and longitude is not None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    return Place(float(latitude), float(longitude))
