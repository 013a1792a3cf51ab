# SPDX-License-Identifier: Apache-2.0
"""What the page shows: plain records, made by sources and rendered by views.

All times are UTC `datetime` with a zone. `None` means unknown, never zero. Text in two languages is `Words`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol


class Health(StrEnum):
    """A state that a person reads from afar."""

    OK = "ok"
    WATCH = "watch"
    ACT = "act"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What a person may do: a viewer reads; an operator also changes."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class Topic(StrEnum):
    """A part of the data, to say what has changed."""

    REGIONS = "regions"
    INCIDENTS = "incidents"
    FUNCTIONS = "functions"
    HELD = "held"
    DEAD_LETTERS = "dead-letters"
    ALERTS = "alerts"
    FIGURES = "figures"


@dataclass(frozen=True)
class Words:
    """One text in Korean and English."""

    ko: str
    en: str


@dataclass(frozen=True)
class Place:
    """A point on the map, in degrees (WGS 84)."""

    latitude: float
    longitude: float


@dataclass(frozen=True)
class Node:
    """A host of a region; `version` is its kubelet's, empty for a host outside the cluster."""

    name: str
    health: Health
    reason: str = ""
    version: str = ""
    cpu: float | None = None
    """Share of all cores in use, 0 to 1."""
    memory: float | None = None
    """Share of memory in use, 0 to 1."""
    disk: float | None = None
    """Share of the fullest file system in use, 0 to 1."""


@dataclass(frozen=True)
class Certificate:
    """A certificate on a host, and when it ends."""

    name: str
    host: str
    ends: datetime


@dataclass(frozen=True)
class Link:
    """Traffic of one class on a region's network gateway, bytes and packets a second."""

    name: str
    traffic_class: str
    bytes_per_s: float | None
    dropped_per_s: float | None


@dataclass(frozen=True)
class Region:
    """A region as the centre knows it."""

    name: str
    title: Words
    place: Place | None
    health: Health
    reason: Words
    """Why it is not OK, and what goes on meanwhile; empty when it is."""
    since: datetime | None
    """Since when it has that health."""
    last_word: datetime | None
    """When something of it was last heard."""
    open_incidents: int = 0
    pods: int | None = None
    queued: int | None = None
    held: int | None = None
    dead_letters: int | None = None
    nodes: Sequence[Node] = ()
    parts: Sequence[Part] = ()
    certificates: Sequence[Certificate] = ()
    links: Sequence[Link] = ()


@dataclass(frozen=True)
class Part:
    """A service of a region: a broker, a bridge, Redis, a replica of the gateway, KEDA, the registry."""

    kind: str
    name: str
    health: Health
    detail: str = ""
    version: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class Camera:
    """A camera that the detector watches."""

    id: str
    region: str
    title: Words
    place: Place | None
    health: Health
    last_frame: datetime | None = None


@dataclass(frozen=True)
class Mark:
    """One moment or span of an incident's life.

    `lane` is camera, broker, queue, kubernetes, function or post; `what` names the moment: seen, sent, durable,
    scaled, pod-started, entered, succeeded, failed, dead-lettered, held, released, dismissed, posted, cleared, gone.
    """

    lane: str
    what: str
    at: datetime
    until: datetime | None = None
    event: str = ""
    """The event's id."""
    function: str = ""
    attempt: int | None = None
    detail: str = ""
    """An error, the place of a post, a pod's name."""


@dataclass(frozen=True)
class Incident:
    """One accident or other incident, from first detection until its function is gone."""

    subject: str
    region: str
    camera: str
    """Its id; the title is in `place`."""
    place: Words
    severity: str
    confidence: float | None
    state: str
    """held, open, cleared, dismissed."""
    began: datetime
    ended: datetime | None = None
    point: Place | None = None
    road: str = ""
    objects: Sequence[str] = ()
    picture: str = ""
    """Address of its picture at this server; empty when there is none."""
    text: Words | None = None
    """What was posted."""
    post: str = ""
    """Web address of the post."""
    pods: int | None = None
    events: int = 1
    retried: int = 0
    failed: int = 0
    trace: str = ""
    """Trace id; empty when the event had none."""
    marks: Sequence[Mark] = ()
    kind: str = "accident"
    """As event types name it."""


@dataclass(frozen=True)
class Start:
    """A start from zero: each phase with the seconds from the event's own time until its end.

    Phases are received, durable, activated, pod_started, handler_entered, handler_done, in this order.
    """

    at: datetime
    phases: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Pod:
    """A function's pod."""

    name: str
    node: str
    state: str
    """Pending, Starting, Ready, Ending or what Kubernetes says of its failure."""
    since: datetime
    started: datetime | None = None


@dataclass(frozen=True)
class Function:
    """A function in one region; seconds of `p50` and `p95` are from the event's time to the handler's entry."""

    region: str
    name: str
    status: str
    """As `faas function ls` says it: IDLE, READY, NOT READY, REFUSED."""
    filter: str
    pods: Sequence[Pod] = ()
    maximum: int | None = None
    queued: int | None = None
    per_minute: float | None = None
    p50: float | None = None
    p95: float | None = None
    phases: Sequence[tuple[str, float | None, float | None]] = ()
    """Phase, p50 and p95 of the seconds from the event's own time until its end, as in `Start`."""
    errors_per_minute: float | None = None
    dead_letters: int | None = None
    last_start: Start | None = None
    description: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """An event that waits for a person."""

    id: str
    region: str
    subject: str
    since: datetime
    ends: datetime
    """When it is dismissed if nobody decides."""
    place: Words
    confidence: float | None = None
    why: Words = Words("", "")
    picture: str = ""
    preview: Words | None = None
    """The text that would be posted."""
    no_preview: Words | None = None
    """Why there is no preview."""
    first_post: bool = True
    """Whether its text begins the incident's posts, and does not follow one."""
    state: str = "held"


@dataclass(frozen=True)
class DeadLetter:
    """An event that was given up."""

    id: str
    region: str
    function: str
    event: str
    subject: str
    reason: str
    at: datetime
    attempts: int
    bytes: int


@dataclass(frozen=True)
class Alert:
    """What rings."""

    fingerprint: str
    name: str
    severity: str
    summary: str
    runbook: str
    since: datetime
    labels: dict[str, str]
    silenced_until: datetime | None = None
    silenced_by: str = ""
    inhibited: bool = False


@dataclass(frozen=True)
class PastAlert:
    """What rang, and rings no more."""

    alert: Alert
    """As it last was."""
    ended: datetime | None
    """None where the console did not run when it ended."""

    @property
    def lasted(self) -> float | None:
        """Seconds that it rang."""
        return (self.ended - self.alert.since).total_seconds() if self.ended else None


@dataclass(frozen=True)
class LogLine:
    """One line of a log at the centre."""

    at: datetime
    region: str
    host: str
    unit: str
    """The systemd unit, or namespace/pod."""
    text: str
    level: str = ""
    event: str = ""
    subject: str = ""
    function: str = ""


@dataclass(frozen=True)
class Series:
    """A figure over time; `None` in `values` is a gap."""

    name: str
    unit: str
    times: Sequence[float]
    values: Sequence[float | None]
    objective: float | None = None


@dataclass(frozen=True)
class Summary:
    """The figures of the first view, with the span they cover."""

    regions: int
    answering: int
    open_incidents: int
    waiting: int
    """Held incidents."""
    alerts: int
    pods: int | None
    pods_maximum: int | None
    events_last_hour: int | None
    p95_from_zero: float | None
    lost: int | None
    retried: int | None
    dead: int | None
    saved: float | None
    """Share of pod-seconds of the same functions always on that was not used, this week, 0 to 1."""
    as_of: datetime | None
    """When the figures were measured."""


@dataclass(frozen=True)
class Saving:
    """Pod-seconds that a function used, and those it would have used always on, over a span."""

    region: str
    function: str
    used: float
    always_on: float


@dataclass(frozen=True)
class Outcome:
    """What an act did: one sentence for the person, and how many it did and did not reach."""

    done: int
    failed: int
    message: Words


@dataclass(frozen=True)
class AuditLine:
    """One change that somebody made, or tried to make."""

    at: datetime
    who: str
    role: str
    """Empty before log-in."""
    what: str
    """log-in, log-out, release, dismiss, redrive, purge, call, silence, unsilence."""
    target: str
    """What it was done to, e.g. `seoul/report-incident`."""
    outcome: str
    """done, refused or failed."""
    detail: str = ""


class Refused(Exception):
    """An act that was not done: what happened, what it means and what to do are its words."""

    def __init__(self, words: Words) -> None:
        super().__init__(words.en)
        self.words = words


class Acts(Protocol):
    """All that a person may do.

    Each act takes the name and the role of who acts; the region's gateway has the last word. An act that is not done
    raises `Refused`.
    """

    async def release(self, region: str, id: str, who: str, role: Role) -> Outcome: ...
    async def dismiss(self, region: str, id: str, who: str, role: Role) -> Outcome: ...
    async def redrive(self, region: str, ids: Sequence[str], who: str, role: Role) -> Outcome: ...
    async def purge(self, region: str, ids: Sequence[str], who: str, role: Role) -> Outcome: ...
    async def call(self, region: str, function: str, payload: bytes, who: str, role: Role) -> dict[str, Any]:
        """Call a function and wait: status, answer, seconds, the event's id."""
        ...

    async def silence(self, fingerprint: str, span: timedelta, comment: str, who: str, role: Role) -> Outcome: ...
    async def unsilence(self, fingerprint: str, who: str, role: Role) -> Outcome: ...


class Board(Protocol):
    """All that views may ask; the site itself, or a simulation of the same shape.

    What is kept in memory is answered at once. What has to be asked for (logs, series, letters) is a coroutine, and
    raises `Refused` when it cannot be had.
    """

    @property
    def acts(self) -> Acts: ...
    def summary(self) -> Summary: ...
    def regions(self) -> Sequence[Region]: ...
    def region(self, name: str) -> Region | None: ...
    def cameras(self) -> Sequence[Camera]: ...
    def incidents(self) -> Sequence[Incident]: ...
    def functions(self) -> Sequence[Function]: ...
    def function(self, region: str, name: str) -> Function | None: ...
    def held(self) -> Sequence[Held]: ...
    def alerts(self) -> Sequence[Alert]: ...
    def as_of(self, topic: Topic) -> datetime | None:
        """When that part was last known to be right; `None` before the first answer."""
        ...

    def changes(self) -> AsyncIterator[set[Topic]]:
        """Which parts have changed, as it happens; several changes within 200 ms come together."""
        ...

    async def incident(self, subject: str) -> Incident | None:
        """One incident with all its marks, also from history."""
        ...

    async def picture(self, name: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a picture."""
        ...

    async def dead_letters(self) -> Sequence[DeadLetter]: ...
    async def dead_letter(self, region: str, id: str) -> dict[str, Any]:
        """One letter with its payload."""
        ...

    async def logs(
        self,
        *,
        event: str = "",
        subject: str = "",
        function: str = "",
        region: str = "",
        host: str = "",
        text: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 500,
    ) -> Sequence[LogLine]: ...
    def follow(self, region: str, function: str) -> AsyncIterator[str]:
        """Lines of the function's pods, as they are written."""
        ...

    async def series(self, name: str, region: str, function: str, span: timedelta) -> Sequence[Series]:
        """Figures over time: events, p95, pods, queued."""
        ...

    async def savings(self, span: timedelta) -> Sequence[Saving]: ...
    async def audit(self, limit: int = 200) -> Sequence[AuditLine]:
        """The latest changes, newest first."""
        ...

    async def past_alerts(self, limit: int) -> Sequence[PastAlert]:
        """The latest alerts that ring no more, the one that began last first."""
        ...
