# SPDX-License-Identifier: Apache-2.0
"""A board whose regions, functions and cameras live by the clock: incidents begin, pods start, things fail."""

from __future__ import annotations

import asyncio
import base64
import heapq
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib import resources
from typing import Any

from koren_console.model import (
    Alert,
    AuditLine,
    Camera,
    Certificate,
    DeadLetter,
    Function,
    Health,
    Held,
    Incident,
    Link,
    LogLine,
    Mark,
    Node,
    Outcome,
    Part,
    PastAlert,
    Place,
    Pod,
    Refused,
    Region,
    Role,
    Saving,
    Series,
    Start,
    Summary,
    Topic,
    Words,
)
from koren_console.simulation.places import CITIES, FUNCTIONS, JUNCTIONS
from koren_console.sources.changes import Changes
from koren_console.sources.preview import preview
from koren_events.contract import incident_type

REPORT = FUNCTIONS[0]
PICTURES = ("accident-21.jpg", "accident-24.jpg", "accident-33.jpg")
PHASES = (
    ("received", 0.041),
    ("durable", 0.049),
    ("activated", 0.093),
    ("pod_started", 0.612),
    ("handler_entered", 0.871),
    ("handler_done", 1.118),
)
HISTORY = timedelta(hours=20)
SILENCE = timedelta(minutes=9)  # how long the centre has been down
INCIDENTS = 2_000
LINES = 3_000
STEP_S = 0.05


class Mood(StrEnum):
    """How the simulated site is."""

    WELL = "well"
    CUT = "cut"
    """The second edge is cut off."""
    EMPTY = "empty"
    """Nothing was deployed and nothing happens."""
    LOADING = "loading"
    """Nothing has answered yet."""
    DOWN = "down"
    """What the board has to ask for does not answer, and the rest is old."""


class Simulation:
    """A `Board` of so many regions, functions and cameras.

    `every_s` is the mean time between incidents, `pace` how many times faster than life one goes by. The same seed
    makes the same site and the same incidents.
    """

    def __init__(
        self,
        *,
        regions: int = 3,
        functions: int = 12,
        cameras: int = 24,
        seed: int = 1,
        every_s: float = 40,
        pace: float = 1,
        mood: Mood = Mood.WELL,
    ) -> None:
        self._random = random.Random(seed)
        self._mood = mood
        self._every_s = every_s
        self._pace = pace
        self._changes = Changes()
        self._due: list[tuple[datetime, int, Callable[[datetime], None]]] = []
        self._number = itertools.count(1)
        self._lines: deque[LogLine] = deque(maxlen=LINES)
        self._audit: deque[AuditLine] = deque(maxlen=1000)
        self._incidents: dict[str, Incident] = {}
        self._held: dict[str, Held] = {}
        self._letters: dict[tuple[str, str], DeadLetter] = {}
        self._alerts: dict[str, Alert] = {}
        self._past_alerts: list[PastAlert] = []
        self._began = _now()
        self._regions = {one.name: one for one in self._make_regions(max(1, regions))}
        self._cameras = self._make_cameras(0 if mood is Mood.EMPTY else cameras)
        self._functions = {
            (one.region, one.name): one for one in self._make_functions(0 if mood is Mood.EMPTY else functions)
        }
        if mood in (Mood.WELL, Mood.CUT, Mood.DOWN) and self._cameras:
            self._make_past()
        if mood is Mood.CUT:
            self.cut(list(self._regions)[-1], self._began - timedelta(minutes=14))

    # What there is at the beginning

    def _make_regions(self, count: int) -> list[Region]:
        made = []
        for index in range(count):
            if index == 0:
                name, ko, en, latitude, longitude = "central", "중앙", "Central", 36.4800, 127.2890
            else:
                city = CITIES[(index - 1) % len(CITIES)]
                turn = (index - 1) // len(CITIES)
                name = city[0] if not turn else f"{city[0]}-{turn + 1}"
                ko, en = (city[1], city[2]) if not turn else (f"{city[1]} {turn + 1}", f"{city[2]} {turn + 1}")
                latitude = city[3] + (self._random.uniform(-0.35, 0.35) if turn else 0)
                longitude = city[4] + (self._random.uniform(-0.3, 0.3) if turn else 0)
            hosts = (
                [f"{name}-gw", f"{name}-cp", f"{name}-w1"]
                if name != "central"
                else ["central-gw", "central-cp", "hpc-1"]
            )
            made.append(
                Region(
                    name=name,
                    title=Words(ko, en),
                    place=Place(latitude, longitude),
                    health=Health.OK,
                    reason=Words("", ""),
                    since=self._began
                    - timedelta(days=self._random.randint(1, 20), minutes=self._random.randint(0, 999)),
                    last_word=self._began,
                    pods=0,
                    queued=0,
                    held=0,
                    dead_letters=0,
                    nodes=[
                        Node(
                            host,
                            Health.OK,
                            version="v1.33.4" if host.endswith(("cp", "w1")) else "",
                            cpu=self._random.uniform(0.04, 0.35),
                            memory=self._random.uniform(0.3, 0.6),
                            disk=self._random.uniform(0.2, 0.55),
                        )
                        for host in hosts
                    ],
                    parts=[
                        Part(kind, f"{kind}-{name}", Health.OK, detail, version, self._began - timedelta(days=3))
                        for kind, detail, version in (
                            ("broker", "41 clients", "2.0.11"),
                            ("bridge", "to the centre, 0 waiting", "2.0.11"),
                            ("redis", "38 MB of 512 MB, AOF on", "7.0.15"),
                            ("gateway", "2 of 2 replicas, leader gateway-0", "0.1.0"),
                            ("keda", "2 scaled objects", "2.20.0"),
                            ("registry", "14 images", "2.8.2"),
                        )
                    ],
                    certificates=[
                        Certificate(part, f"{name}-cp", self._began + timedelta(days=self._random.randint(16, 360)))
                        for part in ("broker", "gateway", "registry", "api-server")
                    ],
                    links=[
                        Link(f"{name} → {other}", kind, self._random.uniform(200, 90_000), 0.0)
                        for other, kind in (("central", "events"), ("central", "monitoring"), ("backbone", "video"))
                    ],
                )
            )
        return made

    def _edges(self) -> list[str]:
        return [name for name in self._regions if name != "central"] or list(self._regions)

    def _make_cameras(self, count: int) -> list[Camera]:
        edges = self._edges()
        made = []
        for index in range(count):
            region = edges[index % len(edges)]
            place = self._regions[region].place
            assert place is not None
            ko, en, _ = JUNCTIONS[(index // len(edges)) % len(JUNCTIONS)]
            number = index // len(edges) + 1
            well = self._random.random() > 0.02 or index < 4
            made.append(
                Camera(
                    f"cctv-{region}-{number:02d}",
                    region,
                    Words(ko, en) if number <= len(JUNCTIONS) else Words(f"{ko} {number}", f"{en} {number}"),
                    Place(
                        place.latitude + self._random.gauss(0, 0.045), place.longitude + self._random.gauss(0, 0.055)
                    ),
                    Health.OK if well else Health.WATCH,
                    self._began - (timedelta(seconds=1) if well else timedelta(minutes=self._random.randint(3, 50))),
                )
            )
        return made

    def _make_functions(self, count: int) -> list[Function]:
        edges = self._edges()
        made = []
        for index in range(count):
            region = edges[index % len(edges)]
            kind = (index // len(edges)) % len(FUNCTIONS)
            turn = index // len(edges) // len(FUNCTIONS)
            name = FUNCTIONS[kind] + (f"-{turn + 1}" if turn else "")
            busy = self._random.random()
            made.append(
                Function(
                    region=region,
                    name=name,
                    status="IDLE",
                    filter=f"events/{region}/+/accident" if kind == 0 else f"events/{region}/+/{name}",
                    maximum=4 if kind == 0 else self._random.choice((1, 2, 4, 8)),
                    queued=0,
                    per_minute=round(busy * 12, 1),
                    p50=self._random.uniform(0.012, 0.06),
                    p95=self._random.uniform(0.7, 1.25),
                    phases=[(phase, at * 0.9, at * self._random.uniform(1.1, 1.5)) for phase, at in PHASES],
                    errors_per_minute=0.0,
                    dead_letters=0,
                    last_start=self._start(self._began - timedelta(minutes=self._random.randint(2, 300))),
                    description={
                        "name": name,
                        "namespace": "functions",
                        "handler": "handler.handler",
                        "runtime": "python3.11",
                        "timeout": "60s",
                        "memory": "128Mi",
                        "trigger": {"mqtt": {"topic": f"events/{region}/+/accident"}},
                        "autoscale": {"minimum": 0, "maximum": 4},
                    },
                )
            )
        return made

    def _start(self, at: datetime) -> Start:
        stretch = self._random.uniform(0.85, 1.3)
        return Start(at, [(phase, after * stretch) for phase, after in PHASES])

    def _make_past(self) -> None:
        for _ in range(36):
            self._begin(
                self._began - self._random.random() * HISTORY - timedelta(minutes=3), self._random.choice(self._cameras)
            )
        self._run_due(self._began - (SILENCE if self._mood is Mood.DOWN else timedelta()))
        region = self._edges()[0]
        for index in range(7):
            ago = timedelta(minutes=self._random.randint(20, 1100))
            self._letter(
                region if index < 5 else self._edges()[-1],
                "flow-forecast" if index % 3 else REPORT,
                self._began - ago,
                ("TimeoutError: the social server did not answer within 10 s", "ValueError: no lane of that number: 9")[
                    index % 2
                ],
            )
        self._alert("DeadLetters", "warning", region, f"{region} gave up 5 events within 24 hours", 55)
        self._alert(
            "CertificateNearItsEnd", "warning", region, f"A certificate of the broker in {region} ends in 16 days", 700
        )
        silenced = self._alert(
            "CameraSilent", "warning", self._edges()[-1], "A camera has sent no picture for 12 min", 140
        )
        self._alerts[silenced] = replace(
            self._alerts[silenced], silenced_until=self._began + timedelta(hours=3), silenced_by="lee.minho"
        )
        for minutes, who, role, what, target, outcome in (
            (51, "kim.jiyoung", "operator", "log-in", "10.0.4.17", "done"),
            (47, "kim.jiyoung", "operator", "release", "seoul/evt-0031", "done"),
            (33, "park.seojun", "viewer", "purge", "/dead-letters/act", "refused"),
            (12, "lee.minho", "operator", "silence", "CameraSilent", "done"),
        ):
            self._audit.appendleft(
                AuditLine(self._began - timedelta(minutes=minutes), who, role, what, target, outcome)
            )
        self._hold(self._began - timedelta(seconds=74), self._cameras[0])
        self._make_past_alerts()

    def _make_past_alerts(self) -> None:
        near, far = self._edges()[0], self._edges()[-1]
        for number, (name, severity, region, summary, minutes, lasted) in enumerate(
            (
                ("QueueGrowing", "warning", near, f"The queue of {near} has grown for 5 min", 95, 7.5),
                ("RegionUnreachable", "critical", far, f"Nothing has been heard from {far}", 212, 4.2),
                ("EventsMissObjective", "critical", near, f"Too many events of {near} are handled late", 214, 2.0),
                ("CameraSilent", "warning", far, "A camera has sent no picture for 10 min", 460, 38.0),
                ("BackupTooOld", "warning", "central", "The last backup is 26 hours old", 1_930, None),
                ("QueueGrowing", "warning", far, f"The queue of {far} has grown for 5 min", 3_400, 11.0),
            )
        ):
            since = self._began - timedelta(minutes=minutes)
            alert = self._alert_of(f"{number:016x}", name, severity, region, summary, since)
            self._past_alerts.append(PastAlert(alert, None if lasted is None else since + timedelta(minutes=lasted)))

    def _alert(self, name: str, severity: str, region: str, summary: str, minutes: int) -> str:
        fingerprint = f"{self._random.getrandbits(64):016x}"
        since = self._began - timedelta(minutes=minutes)
        self._alerts[fingerprint] = self._alert_of(fingerprint, name, severity, region, summary, since)
        return fingerprint

    def _alert_of(
        self, fingerprint: str, name: str, severity: str, region: str, summary: str, since: datetime
    ) -> Alert:
        runbook = f"https://docs.example/runbooks.md#{name.lower()}"
        labels = {"alertname": name, "region": region, "severity": severity}
        return Alert(fingerprint, name, severity, summary, runbook, since, labels)

    def _letter(
        self, region: str, function: str, at: datetime, reason: str, subject: str = "", event: str = ""
    ) -> None:
        number = next(self._number)
        event = event or f"evt-{number:04d}"
        subject = subject or f"inc-{region}-{number:04d}"
        letter = DeadLetter(f"dl-{number:04d}", region, function, event, subject, reason, at, 3, 41_312)
        self._letters[(region, letter.id)] = letter
        self._log(at, region, function, "error", reason, event, subject)

    def _log(
        self, at: datetime, region: str, function: str, level: str, text: str, event: str = "", subject: str = ""
    ) -> None:
        unit = f"functions/{function}" if function else "koren/gateway"
        self._lines.append(LogLine(at, region, f"{region}-cp", unit, text, level, event, subject, function))

    # Life

    async def live(self) -> None:
        """Let time pass until cancelled."""
        told = _now()
        while True:
            await asyncio.sleep(STEP_S)
            now = _now()
            if self._mood in (Mood.DOWN, Mood.LOADING):
                continue
            self._run_due(now)
            if self._every_s and self._random.random() < STEP_S / self._every_s and self._cameras:
                heard = [one for one in self._cameras if self._regions[one.region].health is not Health.UNKNOWN]
                camera = self._random.choice(heard)
                self._hold(now, camera) if self._random.random() < 0.25 else self._begin(now, camera)
            if now - told > timedelta(seconds=5):
                told = now
                for name, region in self._regions.items():
                    if region.health is not Health.UNKNOWN:
                        self._regions[name] = replace(region, last_word=now)
                self._changes.say(Topic.FIGURES)

    def _run_due(self, now: datetime) -> None:
        while self._due and self._due[0][0] <= now:
            at, _, do = heapq.heappop(self._due)
            do(at)

    def _at(self, at: datetime, do: Callable[[datetime], None]) -> None:
        heapq.heappush(self._due, (at, next(self._number), do))

    def begin(self, region: str) -> str:
        """Begin an incident in that region now; its subject."""
        return self._begin(_now(), next(one for one in self._cameras if one.region == region))

    def hold(self, region: str) -> str:
        """Begin one that waits for a person; its event."""
        return self._hold(_now(), next(one for one in self._cameras if one.region == region))

    def cut(self, region: str, at: datetime | None = None) -> None:
        """Cut a region off from the centre."""
        at = at or _now()
        self._regions[region] = replace(
            self._regions[region],
            health=Health.UNKNOWN,
            since=at,
            last_word=at,
            reason=Words(
                "연결이 끊겼습니다. 이 지역의 함수는 스스로 계속 동작합니다.",
                "The link is down; its functions go on by themselves.",
            ),
        )
        self._alert("RegionUnreachable", "critical", region, f"Nothing has been heard from {region}", 13)
        self._changes.say(Topic.REGIONS, Topic.ALERTS)

    def mend(self, region: str) -> None:
        """Bring a region back."""
        self._regions[region] = replace(
            self._regions[region], health=Health.OK, since=_now(), last_word=_now(), reason=Words("", "")
        )
        for key, alert in list(self._alerts.items()):
            if alert.name == "RegionUnreachable" and alert.labels["region"] == region:
                self._past_alerts.insert(0, PastAlert(self._alerts.pop(key), _now()))
        self._changes.say(Topic.REGIONS, Topic.ALERTS)

    def _new(self, at: datetime, camera: Camera, state: str) -> Incident:
        number = next(self._number)
        road = next((road for ko, _, road in JUNCTIONS if camera.title.ko.startswith(ko)), "")
        severity = self._random.choice(("minor", "moderate", "moderate", "severe"))
        incident = Incident(
            subject=f"inc-{camera.region}-{at:%m%d}-{number:04d}",
            region=camera.region,
            camera=camera.id,
            place=camera.title,
            severity=severity,
            confidence=round(
                self._random.uniform(0.86, 0.99) if state == "open" else self._random.uniform(0.55, 0.8), 2
            ),
            state=state,
            began=at,
            point=camera.place,
            road=road,
            objects=["car", self._random.choice(("car", "van", "motorcycle"))],
            picture=f"/pictures/{self._random.choice(PICTURES)}",
            pods=0,
            trace=f"{self._random.getrandbits(128):032x}",
            marks=[Mark("camera", "seen", at, event=f"evt-{number:04d}")],
        )
        self._incidents[incident.subject] = incident
        while len(self._incidents) > INCIDENTS:
            del self._incidents[next(iter(self._incidents))]
        self._changes.say(Topic.INCIDENTS)
        return incident

    def _mark(self, subject: str, *marks: Mark, **changed: Any) -> None:
        one = self._incidents.get(subject)
        if one is None:
            return
        self._incidents[subject] = replace(one, marks=[*one.marks, *marks], **changed)
        self._changes.say(Topic.INCIDENTS)

    def _text(self, one: Incident) -> Words:
        camera = {"id": one.camera, "name": {"ko": one.place.ko, "en": one.place.en}}
        moment = one.began.isoformat()
        message = {
            "id": one.marks[0].event,
            "source": one.camera,
            "type": incident_type("accident", "detected"),
            "time": moment,
            "subject": one.subject,
            "region": one.region,
            "sequence": 1,
            "data": {"camera": camera, "severity": one.severity, "what": "rear_end", "started_at": moment},
        }
        text = preview(message, "bluesky").text
        assert text is not None
        return text

    def _hold(self, at: datetime, camera: Camera) -> str:
        one = self._new(at, camera, "held")
        event = one.marks[0].event
        self._mark(
            one.subject,
            Mark("broker", "sent", at + timedelta(milliseconds=31), at + timedelta(milliseconds=52), event),
            Mark("queue", "held", at + timedelta(milliseconds=60), event=event),
        )
        self._held[event] = Held(
            id=event,
            region=one.region,
            subject=one.subject,
            since=at + timedelta(milliseconds=60),
            ends=at + timedelta(minutes=30),
            place=one.place,
            confidence=one.confidence,
            why=Words(
                "차량 2대가 0.4초 안에 멈췄고 서로 닿아 있습니다.",
                "Two vehicles stopped within 0.4 s and touch each other.",
            ),
            picture=one.picture,
            preview=self._text(one),
        )
        self._changes.say(Topic.HELD, Topic.REGIONS)
        return event

    def _begin(self, at: datetime, camera: Camera) -> str:
        one = self._new(at, camera, "open")
        self._go(one.subject, at)
        return one.subject

    def _go(self, subject: str, t: datetime) -> None:
        """An open incident's way from zero to its end, in steps that come due."""
        one = self._incidents[subject]
        event, region = one.marks[0].event, one.region
        slow = self._random.uniform(0.85, 1.35)
        fails = self._random.random() < 0.16
        lasts = self._random.uniform(24, 60) / self._pace
        pod = f"{REPORT}-{self._random.getrandbits(32):08x}"

        def after(seconds: float) -> datetime:
            return t + timedelta(seconds=seconds)

        def marks(lane: str, what: str, at: datetime, until: datetime | None = None, **more: Any) -> Mark:
            return Mark(lane, what, at, until, event, **more)

        def durable(at: datetime) -> None:
            self._mark(
                subject,
                marks("broker", "sent", after(0.02), after(0.045 * slow)),
                marks("queue", "durable", at, after(0.093)),
            )
            self._log(at, region, "", "info", f"event {event} is on disk; {REPORT} wants it", event, subject)

        def scaled(at: datetime) -> None:
            self._mark(subject, marks("kubernetes", "scaled", at, after(0.61 * slow), function=REPORT))
            self._pods(region, Pod(pod, f"{region}-w1", "Starting", at), queued=1)

        def started(at: datetime) -> None:
            self._mark(subject, marks("kubernetes", "pod-started", at, detail=pod), pods=1)
            self._pods(region, Pod(pod, f"{region}-w1", "Ready", at, at))

        def entered(at: datetime, number: int) -> None:
            self._mark(subject, marks("function", "entered", at, function=REPORT, attempt=number))
            self._log(at, region, REPORT, "info", f"handler entered, attempt {number}", event, subject)

        def failed(at: datetime) -> None:
            error = "HTTPError: 503 Service Unavailable from the social server"
            self._mark(subject, marks("function", "failed", at, function=REPORT, attempt=1, detail=error), retried=1)
            self._log(at, region, REPORT, "error", f"{error}; next attempt in 2.1 s", event, subject)
            self._pods(region, errors=0.4)

        def posted(at: datetime, number: int) -> None:
            now = self._incidents.get(subject)
            if now is None:
                return
            self._mark(
                subject,
                marks("function", "succeeded", at, function=REPORT, attempt=number),
                marks(
                    "post", "posted", at - timedelta(milliseconds=30), detail="at://did:plc:koren/app.bsky.feed.post"
                ),
                text=self._text(now),
                post=f"https://sns.example/profile/{region}/post/{event}",
            )
            self._log(at, region, REPORT, "info", "posted text and photo", event, subject)
            self._pods(region, queued=0, start=self._start(at))

        def updated(at: datetime, number: int) -> None:
            again = f"{event}-u{number}"
            self._mark(
                subject,
                Mark("camera", "updated", at, event=again),
                Mark("queue", "durable", at + timedelta(milliseconds=44), event=again),
                Mark("function", "entered", at + timedelta(milliseconds=52), None, again, REPORT, 1),
                Mark("function", "succeeded", at + timedelta(milliseconds=171), None, again, REPORT, 1),
                events=number + 1,
            )

        def cleared(at: datetime) -> None:
            last = f"{event}-c"
            self._mark(
                subject,
                Mark("camera", "cleared", at, event=last),
                Mark("function", "entered", at + timedelta(milliseconds=61), None, last, REPORT, 1),
                Mark("function", "succeeded", at + timedelta(milliseconds=214), None, last, REPORT, 1),
                Mark("post", "posted", at + timedelta(milliseconds=200), event=last, detail="edited: cleared"),
                state="cleared",
            )

        def gone(at: datetime) -> None:
            self._mark(
                subject, Mark("kubernetes", "gone", at, event=event, function=REPORT, detail=pod), ended=at, pods=0
            )
            self._pods(region, Pod(pod, "", "gone", at))

        self._at(after(0.049), durable)
        self._at(after(0.093), scaled)
        self._at(after(0.612 * slow), started)
        enter = 0.87 * slow
        self._at(after(enter), lambda at: entered(at, 1))
        if fails:
            self._at(after(enter + 0.35), failed)
            enter += 2.45
            self._at(after(enter), lambda at: entered(at, 2))
        done = enter + 0.247 * slow
        self._at(after(done), lambda at: posted(at, 2 if fails else 1))
        for number in range(1, 4):
            self._at(after(done + lasts * number / 4), lambda at, number=number: updated(at, number))  # type: ignore[misc]
        self._at(after(done + lasts), cleared)
        self._at(after(done + lasts + 5 / self._pace), gone)

    def _pods(
        self,
        region: str,
        pod: Pod | None = None,
        *,
        queued: int | None = None,
        errors: float | None = None,
        start: Start | None = None,
    ) -> None:
        key = (region, REPORT)
        one = self._functions.get(key)
        if one is None:
            return
        pods = [other for other in one.pods if pod is None or other.name != pod.name]
        if pod is not None and pod.state != "gone":
            pods.append(pod)
        one = replace(one, pods=pods, status="READY" if pods else "IDLE", last_start=start or one.last_start)
        if queued is not None:
            one = replace(one, queued=queued)
        if errors is not None:
            one = replace(one, errors_per_minute=errors)
        self._functions[key] = one
        self._changes.say(Topic.FUNCTIONS, Topic.REGIONS, Topic.FIGURES)

    # What views ask

    def summary(self) -> Summary:
        regions = self.regions()
        functions = self.functions()
        known = self._mood is not Mood.LOADING
        return Summary(
            regions=len(regions),
            answering=sum(one.health is not Health.UNKNOWN for one in regions),
            open_incidents=sum(one.state == "open" for one in self.incidents()),
            waiting=len(self.held()),
            alerts=sum(not one.silenced_until and not one.inhibited for one in self.alerts()),
            pods=sum(len(one.pods) for one in functions) if known else None,
            pods_maximum=sum(one.maximum or 0 for one in functions) if known else None,
            events_last_hour=sum(round((one.per_minute or 0) * 60) for one in functions) if known else None,
            p95_from_zero=0.91 if functions else None,
            lost=0 if known else None,
            retried=sum(one.retried for one in self.incidents()) if known else None,
            dead=len(self._letters) if known else None,
            saved=0.982 if functions else None,
            as_of=self.as_of(Topic.FIGURES),
        )

    def regions(self) -> Sequence[Region]:
        if self._mood is Mood.LOADING:
            return [
                replace(one, health=Health.UNKNOWN, last_word=None, since=None, pods=None, queued=None, nodes=())
                for one in self._regions.values()
            ]
        opened: dict[str, int] = {}
        for incident in self._incidents.values():
            if incident.state == "open":
                opened[incident.region] = opened.get(incident.region, 0) + 1
        pods: dict[str, int] = {}
        queued: dict[str, int] = {}
        for function in self._functions.values():
            if function.pods or function.queued:
                pods[function.region] = pods.get(function.region, 0) + len(function.pods)
                queued[function.region] = queued.get(function.region, 0) + (function.queued or 0)
        return [
            replace(
                one,
                open_incidents=opened.get(one.name, 0),
                pods=pods.get(one.name, 0),
                queued=queued.get(one.name, 0),
                held=sum(held.region == one.name for held in self._held.values()),
                dead_letters=sum(region == one.name for region, _ in self._letters),
            )
            for one in self._regions.values()
        ]

    def region(self, name: str) -> Region | None:
        return next((one for one in self.regions() if one.name == name), None)

    def cameras(self) -> Sequence[Camera]:
        return self._cameras

    def incidents(self) -> Sequence[Incident]:
        return [] if self._mood is Mood.LOADING else list(self._incidents.values())

    def functions(self) -> Sequence[Function]:
        if self._mood is Mood.LOADING:
            return []
        dead: dict[tuple[str, str], int] = {}
        for letter in self._letters.values():
            dead[(letter.region, letter.function)] = dead.get((letter.region, letter.function), 0) + 1
        return [replace(one, dead_letters=dead[key]) if key in dead else one for key, one in self._functions.items()]

    def function(self, region: str, name: str) -> Function | None:
        return next((one for one in self.functions() if (one.region, one.name) == (region, name)), None)

    def held(self) -> Sequence[Held]:
        return [] if self._mood is Mood.LOADING else list(self._held.values())

    def alerts(self) -> Sequence[Alert]:
        return [] if self._mood is Mood.LOADING else list(self._alerts.values())

    def as_of(self, topic: Topic) -> datetime | None:
        if self._mood is Mood.LOADING:
            return None
        return self._began - SILENCE if self._mood is Mood.DOWN else _now()

    def changes(self) -> AsyncIterator[set[Topic]]:
        return self._changes.follow()

    async def incident(self, subject: str) -> Incident | None:
        return self._incidents.get(subject)

    async def picture(self, name: str) -> tuple[str, bytes] | None:
        return ("image/jpeg", _picture(name)) if name in PICTURES else None

    def _asked(self) -> None:
        if self._mood is Mood.DOWN:
            raise Refused(
                Words(
                    "중앙의 저장소가 응답하지 않아 이 부분을 표시할 수 없습니다. "
                    "수집은 각 지역에서 계속되며, 복구되면 채워집니다.",
                    "The centre's store does not answer, so this part can't be shown. Regions keep what they collect; "
                    "it is filled in once the store is back.",
                )
            )

    async def past_alerts(self, limit: int) -> Sequence[PastAlert]:
        self._asked()
        return [] if self._mood is Mood.LOADING else self._past_alerts[:limit]

    async def dead_letters(self) -> Sequence[DeadLetter]:
        self._asked()
        return list(self._letters.values())

    async def dead_letter(self, region: str, id: str) -> dict[str, Any]:
        self._asked()
        one = self._letters[(region, id)]
        return {
            "specversion": "1.0",
            "id": one.event,
            "source": f"cctv-{region}-01",
            "type": "kr.koren.traffic.accident.detected",
            "subject": one.subject,
            "time": one.at.isoformat(),
            "region": region,
            "data": {
                "severity": "moderate",
                "confidence": 0.93,
                "objects": [{"class": "car", "track": 14}, {"class": "van", "track": 9}],
                "image": {"media_type": "image/jpeg", "base64": base64.b64encode(_picture(PICTURES[0])).decode()},
            },
        }

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
    ) -> Sequence[LogLine]:
        self._asked()
        found = [
            line
            for line in self._lines
            if (not event or line.event == event)
            and (not subject or line.subject == subject)
            and (not function or line.function == function)
            and (not region or line.region == region)
            and (not host or line.host == host)
            and (not text or text.lower() in line.text.lower())
            and (since is None or line.at >= since)
            and (until is None or line.at <= until)
        ]
        return sorted(found, key=lambda line: line.at)[-limit:]

    async def follow(self, region: str, function: str) -> AsyncIterator[str]:
        self._asked()
        seen = _now() - timedelta(minutes=10)
        while True:
            for line in list(self._lines):
                if line.at > seen and (line.region, line.function) == (region, function):
                    yield f"{line.at:%H:%M:%S} {line.level} {line.text}"
            seen = max((line.at for line in self._lines), default=seen)
            await asyncio.sleep(0.3)

    async def series(self, name: str, region: str, function: str, span: timedelta) -> Sequence[Series]:
        self._asked()
        if not self._functions:
            return []
        values = random.Random(f"{name}{region}{function}")
        end, count = _now().timestamp(), 90
        times = [end - span.total_seconds() * (1 - index / (count - 1)) for index in range(count)]
        level = {"events": 6.0, "p95": 0.8, "pods": 0.0, "queued": 0.0}.get(name, 1.0)
        points: list[float | None] = []
        wave = 0.0
        for _ in range(count):
            wave = 0.8 * wave + values.gauss(0, 0.25)
            if name in ("pods", "queued"):
                points.append(float(max(0, round(wave * 1.6))))
            else:
                points.append(round(max(0.0, level * (1 + wave)), 3))
        points[40:46] = [None] * 6
        return [Series(name, {"p95": "s"}.get(name, ""), times, points, 2.0 if name == "p95" else None)]

    async def savings(self, span: timedelta) -> Sequence[Saving]:
        self._asked()
        return [
            Saving(
                one.region,
                one.name,
                span.total_seconds() * (0.01 + 0.03 * ((index * 7) % 10) / 10),
                span.total_seconds(),
            )
            for index, one in enumerate(self._functions.values())
        ]

    async def audit(self, limit: int = 200) -> Sequence[AuditLine]:
        return list(self._audit)[:limit]

    # Acts

    @property
    def acts(self) -> Simulation:
        return self

    def _acted(self, who: str, role: Role, what: str, target: str) -> None:
        self._audit.appendleft(AuditLine(_now(), who, role, what, target, "done"))

    def _take(self, id: str) -> Held:
        one = self._held.pop(id, None)
        if one is None:
            raise Refused(
                Words(
                    "이미 다른 사람이 결정했습니다. 목록에서 결과를 확인해 주십시오.",
                    "Somebody else has decided this already. See the list for what became of it.",
                )
            )
        return one

    async def release(self, region: str, id: str, who: str, role: Role) -> Outcome:
        held, now = self._take(id), _now()
        self._mark(held.subject, Mark("queue", "released", now, event=id, detail=who), state="open")
        self._go(held.subject, now)
        self._acted(who, role, "release", f"{region}/{id}")
        self._changes.say(Topic.HELD, Topic.REGIONS)
        return Outcome(1, 0, Words("확인했습니다. 잠시 뒤 게시합니다.", "Confirmed. It is posted in a moment."))

    async def dismiss(self, region: str, id: str, who: str, role: Role) -> Outcome:
        held, now = self._take(id), _now()
        self._mark(held.subject, Mark("queue", "dismissed", now, event=id, detail=who), state="dismissed", ended=now)
        self._acted(who, role, "dismiss", f"{region}/{id}")
        self._changes.say(Topic.HELD, Topic.REGIONS)
        return Outcome(1, 0, Words("무시했습니다. 아무것도 게시하지 않습니다.", "Dismissed. Nothing is posted."))

    def _drop(self, region: str, ids: Sequence[str]) -> tuple[int, int]:
        done = sum(self._letters.pop((region, id), None) is not None for id in ids)
        self._changes.say(Topic.DEAD_LETTERS, Topic.REGIONS, Topic.FUNCTIONS)
        return done, len(ids) - done

    async def redrive(self, region: str, ids: Sequence[str], who: str, role: Role) -> Outcome:
        done, failed = self._drop(region, ids)
        self._acted(who, role, "redrive", f"{region}: {len(ids)}")
        return Outcome(done, failed, Words(f"{region}: 대기열에 다시 넣었습니다.", f"{region}: back in the queue."))

    async def purge(self, region: str, ids: Sequence[str], who: str, role: Role) -> Outcome:
        done, failed = self._drop(region, ids)
        self._acted(who, role, "purge", f"{region}: {len(ids)}")
        return Outcome(done, failed, Words(f"{region}: 삭제했습니다.", f"{region}: deleted."))

    async def call(self, region: str, function: str, payload: bytes, who: str, role: Role) -> dict[str, Any]:
        self._asked()
        self._acted(who, role, "call", f"{region}/{function}")
        return {
            "status": 200,
            "seconds": 1.043,
            "event": f"call-{next(self._number):04d}",
            "answer": {"received": len(payload), "region": region},
        }

    async def silence(self, fingerprint: str, span: timedelta, comment: str, who: str, role: Role) -> Outcome:
        self._alerts[fingerprint] = replace(self._alerts[fingerprint], silenced_until=_now() + span, silenced_by=who)
        self._acted(who, role, "silence", self._alerts[fingerprint].name)
        self._changes.say(Topic.ALERTS)
        return Outcome(1, 0, Words("경보를 음소거했습니다.", "The alert is silenced."))

    async def unsilence(self, fingerprint: str, who: str, role: Role) -> Outcome:
        self._alerts[fingerprint] = replace(self._alerts[fingerprint], silenced_until=None, silenced_by="")
        self._acted(who, role, "unsilence", self._alerts[fingerprint].name)
        self._changes.say(Topic.ALERTS)
        return Outcome(1, 0, Words("음소거를 해제했습니다.", "The silence has ended."))


def _picture(name: str) -> bytes:
    return resources.files(__package__).joinpath("pictures", name).read_bytes()


def _now() -> datetime:
    return datetime.now(UTC)
