# SPDX-License-Identifier: Apache-2.0
"""The board of a real site: what its sources say, put together.

Every source runs by itself: one that is down leaves its part as it was last known, with its age.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import structlog

from koren_console.acts import SiteActs
from koren_console.alerts import Alerts
from koren_console.auth.audit import Audit
from koren_console.history import History
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
    Node,
    Part,
    PastAlert,
    Refused,
    Region,
    Saving,
    Series,
    Summary,
    Topic,
    Words,
)
from koren_console.records import (
    FunctionFigures,
    Made,
    camera_health,
    letter_of,
    place_of,
    status_of,
    whole,
)
from koren_console.refusals import missing, or_refused, refused
from koren_console.settings import RegionSettings, Settings
from koren_console.sources import queries
from koren_console.sources.alertmanager import Alertmanager
from koren_console.sources.apiserver import ApiServer
from koren_console.sources.broker import Listener
from koren_console.sources.changes import Changes
from koren_console.sources.cluster import FUNCTIONS, Cluster, Placed
from koren_console.sources.figures import Collector, Figures
from koren_console.sources.holding import with_incident
from koren_console.sources.http import Backoff, SourceDown, with_certificate
from koren_console.sources.incidents import MOST as MOST_INCIDENTS
from koren_console.sources.incidents import Incidents
from koren_console.sources.judge import judge
from koren_console.sources.logs import Logs
from koren_console.sources.moments import believed
from koren_console.sources.prometheus import Prometheus
from koren_console.sources.starts import Starts
from koren_console.watched import Watched, known
from koren_events.health import Health as PartHealth
from koren_events.receipt import Receipt, ReceiptState

_GATEWAY_EVERY_S = 30.0
_GATEWAY_PAUSE_S = 1.0
_AT_ONCE = 16
_FOLLOWED_PODS = 10
_MOST_FOLLOWED = 20
"""Logs of one region that are followed at once, by all readers; more would take the connections of other questions."""
_LOG_SPAN = timedelta(days=1)

_log = structlog.get_logger()
T = TypeVar("T")


class Site:
    """The board of the site that the settings describe. `run` fills it."""

    def __init__(self, settings: Settings, history: History, audit: Audit) -> None:
        self._settings = settings
        self._history = history
        self._changes = Changes()
        self._made_regions: Made[Region] = Made()
        self._made_functions: Made[Function] = Made()
        self._figures = Figures()
        self._starts = Starts()
        self._broker_up = False
        self._broker_at: datetime | None = None
        self._places = {one.name: self._place(one) for one in settings.regions}
        self._cameras = {one.id: one for one in settings.cameras}
        self._incidents = Incidents(history, history.incidents(MOST_INCIDENTS), lambda one: self._say(Topic.INCIDENTS))
        self._center = with_certificate(settings.tls, 20.0)
        self._prometheus = Prometheus(settings.prometheus, self._center) if settings.prometheus else None
        self._alerts: Alerts | None = None
        if settings.alertmanager:
            alertmanager = Alertmanager(settings.alertmanager, self._center)
            self._alerts = Alerts(alertmanager, history, lambda: self._say(Topic.ALERTS))
        self.acts = SiteActs(self._places, self._alerts, audit, self._say)
        self._logs = Logs(settings.logs, self._center) if settings.logs else None

    def _place(self, settings: RegionSettings) -> Watched:
        name = settings.name
        server = ApiServer(settings)
        cluster = Cluster(
            server,
            lambda topic: self._cluster_changed(name, topic),
            lambda function: self._pods_changed(name, function),
        )
        return Watched(settings, server, cluster, self._settings.gateway_hold_s, self._settings.post_network)

    @property
    def central(self) -> ApiServer:
        """The API server of the first region of the settings, which is the centre's."""
        return self._places[self._settings.regions[0].name].server

    async def run(self) -> None:
        """Listen to all sources, for ever."""
        listener = Listener(self._settings.broker, self._settings.tls, self._message, self._broker_state)
        listener.open()
        try:
            async with asyncio.TaskGroup() as group:
                for place in self._places.values():
                    group.create_task(_for_ever("probe", lambda p=place: p.server.probe(self._reached(p))))  # type: ignore[misc]
                    group.create_task(_for_ever("cluster", place.cluster.run))
                    group.create_task(_for_ever("gateway", lambda p=place: self._ask_gateway(p)))  # type: ignore[misc]
                if self._prometheus is not None:
                    collector = Collector(self._prometheus, self._figures, self._figures_changed)
                    group.create_task(_for_ever("prometheus", collector.run))
                if self._alerts is not None:
                    group.create_task(_for_ever("alertmanager", self._alerts.run))
        finally:
            listener.close()
            await self._center.aclose()
            for place in self._places.values():
                await place.server.close()

    # What is known at once.

    def summary(self) -> Summary:
        figures = self._figures
        counts = [self._pods_in(place) for place in self._places.values() if place.reach.answers]
        maxima = [one.maximum for place in self._places.values() for one in place.cluster.functions.values()]
        return Summary(
            regions=len(self._places),
            answering=sum(1 for one in self._places.values() if one.reach.answers),
            open_incidents=sum(1 for one in self._incidents.all() if one.state in ("open", "held")),
            waiting=len(self.held()),
            alerts=sum(1 for one in self.alerts() if one.silenced_until is None and not one.inhibited),
            pods=sum(counts) if counts else None,
            pods_maximum=sum(one or 0 for one in maxima) if maxima else None,
            events_last_hour=whole(figures.summary("events_last_hour")),
            p95_from_zero=figures.summary("p95_from_zero"),
            lost=whole(figures.summary("lost")),
            retried=whole(figures.summary("retried")),
            dead=whole(figures.summary("dead")),
            saved=figures.summary("saved"),
            as_of=figures.as_of,
        )

    def regions(self) -> Sequence[Region]:
        def made() -> list[Region]:
            opened = Counter(one.region for one in self._incidents.all() if one.state in ("open", "held"))
            return [self._region(place, opened[name]) for name, place in self._places.items()]

        return self._made_regions.get(made)

    def region(self, name: str) -> Region | None:
        return next((one for one in self.regions() if one.name == name), None)

    def cameras(self) -> Sequence[Camera]:
        connected = self._figures.by("camera", "connected", "camera")
        moving = self._figures.by("camera", "moving", "camera")
        return [
            Camera(
                id=one.id,
                region=one.region,
                title=Words(one.title.ko, one.title.en),
                place=place_of(one.place),
                health=camera_health(connected.get((one.id,)), moving.get((one.id,))),
                last_frame=self._figures.as_of if moving.get((one.id,), 0) > 0 else None,
            )
            for one in self._cameras.values()
        ]

    def incidents(self) -> Sequence[Incident]:
        return self._incidents.all()

    def functions(self) -> Sequence[Function]:
        def made() -> list[Function]:
            figures = FunctionFigures(self._figures)
            return [
                self._function(place, placed, figures)
                for place in self._places.values()
                for placed in sorted(place.cluster.functions.values(), key=lambda one: one.name)
            ]

        return self._made_functions.get(made)

    def function(self, region: str, name: str) -> Function | None:
        return next((one for one in self.functions() if (one.region, one.name) == (region, name)), None)

    def held(self) -> Sequence[Held]:
        found = [
            with_incident(one, self._incidents.get(one.subject))
            for place in self._places.values()
            for one in place.held
        ]
        return sorted(found, key=lambda one: one.ends)

    def alerts(self) -> Sequence[Alert]:
        return self._alerts.ringing if self._alerts is not None else ()

    def as_of(self, topic: Topic) -> datetime | None:
        match topic:
            case Topic.INCIDENTS:
                return datetime.now(UTC) if self._broker_up else self._broker_at
            case Topic.ALERTS:
                return self._alerts.as_of if self._alerts is not None else None
            case Topic.FIGURES:
                return self._figures.as_of
            case Topic.HELD | Topic.DEAD_LETTERS:
                asked = [one.asked_at for one in self._places.values() if one.asked_at is not None]
                return max(asked, default=None)
            case _:
                answers = [one.reach.last_answer for one in self._places.values() if one.reach.last_answer is not None]
                return (
                    datetime.now(UTC)
                    if any(one.reach.answers for one in self._places.values())
                    else max(answers, default=None)
                )

    def changes(self) -> AsyncIterator[set[Topic]]:
        return self._changes.follow()

    # What has to be asked for.

    async def incident(self, subject: str) -> Incident | None:
        return self._incidents.get(subject) or await self._history.incident(subject)

    async def picture(self, name: str) -> tuple[str, bytes] | None:
        return await self._history.picture(name)

    async def audit(self, limit: int = 200) -> Sequence[AuditLine]:
        return await self._history.audit_lines(min(limit, 10_000))

    async def past_alerts(self, limit: int) -> Sequence[PastAlert]:
        if self._alerts is None:
            raise missing("Alertmanager", "Alertmanager")
        return await self._alerts.past(limit)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        async def of(place: Watched) -> list[DeadLetter]:
            rows = await place.gateway.pages("/dead-letters", "dead_letters")
            return [letter_of(place.settings.name, row) for row in rows]

        found, failed = await self._everywhere(of)
        if failed and not found:
            raise refused(failed[0])
        return sorted((one for part in found for one in part), key=lambda one: one.at, reverse=True)

    async def dead_letter(self, region: str, id: str) -> dict[str, Any]:
        gateway = known(self._places, region).gateway
        return {"region": region, **await or_refused(gateway.get(f"/dead-letters/{quote(id, safe='')}"))}

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
        if self._logs is None:
            raise missing("logs", "로그 저장소")
        wanted = {"event_id": event, "subject": subject, "function": function, "region": region, "host": host}
        end = until or datetime.now(UTC) + timedelta(minutes=1)
        begin = since or end - _LOG_SPAN
        if subject and since is None:
            incident = await self.incident(subject)
            begin = min(begin, incident.began) if incident else begin
        events = await self._events_of(subject) if subject else []
        return await or_refused(self._logs.find(wanted, text, begin, end, limit, events))

    async def follow(self, region: str, function: str) -> AsyncIterator[str]:
        place = known(self._places, region)
        lines: asyncio.Queue[str] = asyncio.Queue(1_000)
        reading: dict[str, asyncio.Task[None]] = {}
        changes = self._changes.follow()
        changed = asyncio.ensure_future(anext(changes))
        line = asyncio.ensure_future(lines.get())
        try:
            while True:
                pods = place.cluster.pods.get(function, {})
                for name, pod in list(pods.items())[:_FOLLOWED_PODS]:
                    if name not in reading and (pod.started is not None):
                        reading[name] = asyncio.create_task(self._read(place, name, lines))
                for name in [one for one in reading if one not in pods and reading[one].done()]:
                    del reading[name]
                await asyncio.wait({changed, line}, return_when=asyncio.FIRST_COMPLETED)
                if changed.done():
                    changed = asyncio.ensure_future(anext(changes))
                while line.done():
                    yield line.result()
                    line = asyncio.ensure_future(lines.get())
                    await asyncio.sleep(0)
        finally:
            for task in (changed, line, *reading.values()):
                task.cancel()

    async def _read(self, place: Watched, pod: str, lines: asyncio.Queue[str]) -> None:
        path = f"/api/v1/namespaces/{FUNCTIONS}/pods/{pod}/log"
        if place.followed >= _MOST_FOLLOWED:
            await lines.put(f"{pod} — {_MOST_FOLLOWED} logs of {place.settings.name} are followed already; try later")
            return
        place.followed += 1
        try:
            async for text in place.server.lines(path, {"follow": "true", "tailLines": "50"}, quiet_s=None):
                if text:
                    await lines.put(f"{pod} {text[:8_000]}")
        except SourceDown as down:
            if down.status not in (400, 404):
                await lines.put(f"{pod} — {down}")
        finally:
            place.followed -= 1

    async def series(self, name: str, region: str, function: str, span: timedelta) -> Sequence[Series]:
        if self._prometheus is None:
            raise missing("Prometheus", "Prometheus")
        if name not in queries.CHARTS:
            raise Refused(Words(f"{name}라는 지표는 없습니다.", f"There is no figure {name}."))
        return await or_refused(self._prometheus.series(name, region, function, span))

    async def savings(self, span: timedelta) -> Sequence[Saving]:
        if self._prometheus is None:
            raise missing("Prometheus", "Prometheus")
        return await or_refused(self._prometheus.savings(span))

    # What sources say.

    def _message(self, topic: str, message: bytes) -> None:
        kind, _, rest = topic.partition("/")
        region = rest.partition("/")[0]
        place = self._places.get(region)
        if place is None:
            return
        now = datetime.now(UTC)
        if kind == "events":
            # Published at the centre: it says nothing of the region.
            self._incidents.event(region, message, now)
            return
        if kind == "receipts":
            try:
                receipt = believed(Receipt.from_json(message), now)
            except ValueError:
                return
            if receipt.region == region:
                self._receipt(place, receipt, now)
        elif kind == "health":
            try:
                health = PartHealth.from_json(message)
            except ValueError:
                return
            if health.region == region and len(place.parts) < 50:
                place.parts[health.part] = health
                self._say(Topic.REGIONS)
        self._heard(place, now)

    def _receipt(self, place: Watched, receipt: Receipt, now: datetime) -> None:
        if self._starts.receipt(receipt):
            self._say(Topic.FUNCTIONS)
        incident = self._incidents.receipt(receipt, now)
        if incident is not None and receipt.function:
            self._incidents.pods_of(incident, receipt.function, place.cluster.count(receipt.function), now)
        if receipt.state in (ReceiptState.HELD, ReceiptState.DISMISSED, ReceiptState.RECEIVED):
            place.ask.set()
        if receipt.state is ReceiptState.DEAD_LETTERED:
            self._say(Topic.DEAD_LETTERS)

    def _heard(self, place: Watched, now: datetime) -> None:
        place.reach = replace(place.reach, last_message=now)
        if not place.reach.answers:
            self._judge(place)

    def _broker_state(self, up: bool, why: str) -> None:
        if up != self._broker_up:
            _log.info("broker", connected=up, problem=why)
        self._broker_up = up
        self._broker_at = datetime.now(UTC)
        self._say(Topic.INCIDENTS)

    def _reached(self, place: Watched) -> Callable[[bool], None]:
        def changed(answers: bool) -> None:
            now = datetime.now(UTC)
            before = place.reach
            last = now if answers or before.answers else before.last_answer
            place.reach = replace(before, answers=answers, since=now, last_answer=last)
            _log.info("region", region=place.settings.name, answers=answers)
            place.ask.set()
            self._judge(place)
            self._say(Topic.REGIONS, Topic.FUNCTIONS)

        return changed

    def _cluster_changed(self, region: str, topic: Topic) -> None:
        if topic is Topic.REGIONS:
            self._judge(self._places[region])
        self._say(topic)

    def _pods_changed(self, region: str, function: str) -> None:
        self._incidents.pods(region, function, self._places[region].cluster.count(function), datetime.now(UTC))
        self._say(Topic.REGIONS)

    def _figures_changed(self) -> None:
        for place in self._places.values():
            self._judge(place)
        self._say(Topic.FIGURES, Topic.REGIONS, Topic.FUNCTIONS)

    def _judge(self, place: Watched) -> None:
        verdict = judge(place.reach, self._nodes(place), self._parts(place))
        if verdict == place.verdict and place.since is not None:
            return
        if verdict[0] is not place.verdict[0] or place.since is None:
            silent = verdict[0] is Health.UNKNOWN
            place.since = (place.reach.last_word if silent else None) or datetime.now(UTC)
        place.verdict = verdict
        self._say(Topic.REGIONS)

    async def _ask_gateway(self, place: Watched) -> None:
        backoff = Backoff()
        while True:
            await place.server.answers.wait()
            place.ask.clear()
            try:
                answer = await place.gateway.get("/functions")
                refused = {one["deployment"]: one["problem"] for one in answer["refused"]}
                held = await place.holding.list()
                if refused != place.refused:
                    self._say(Topic.FUNCTIONS)
                if held != place.held:
                    self._say(Topic.HELD, Topic.REGIONS)
                place.refused, place.held, place.asked_at = refused, held, datetime.now(UTC)
                backoff.worked()
            except (SourceDown, ValueError, KeyError, TypeError) as error:
                _log.warning("gateway", region=place.settings.name, problem=str(error)[:300])
                await asyncio.sleep(backoff.failed())
                continue
            await asyncio.sleep(_GATEWAY_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATEWAY_EVERY_S):
                    await place.ask.wait()

    def _say(self, *topics: Topic) -> None:
        if not {Topic.REGIONS, Topic.INCIDENTS, Topic.HELD, Topic.FIGURES}.isdisjoint(topics):
            self._made_regions.forget()
        if not {Topic.FUNCTIONS, Topic.FIGURES}.isdisjoint(topics):
            self._made_functions.forget()
        self._changes.say(*topics)

    # Records.

    def _region(self, place: Watched, open_incidents: int) -> Region:
        name = place.settings.name
        health, reason = place.verdict
        answers = bool(place.reach.answers)
        now = datetime.now(UTC)
        return Region(
            name=name,
            title=Words(place.settings.title.ko, place.settings.title.en),
            place=place_of(place.settings.place),
            health=health,
            reason=reason,
            since=place.since,
            last_word=now if answers else place.reach.last_word,
            open_incidents=open_incidents,
            pods=self._pods_in(place) if answers else None,
            queued=self._figure("queued", name),
            held=len(place.held) if place.asked_at else None,
            dead_letters=self._figure("dead_letters", name),
            nodes=self._nodes(place),
            parts=self._parts(place),
            certificates=[
                Certificate(
                    one.labels.get("name", ""), one.labels.get("instance", ""), datetime.fromtimestamp(one.value, UTC)
                )
                for one in self._figures.in_region("certificate", "ends", name)
            ],
            links=self._links(name),
        )

    def _figure(self, name: str, region: str) -> int | None:
        found = self._figures.in_region("region", name, region)
        return whole(found[0].value) if found else None

    def _nodes(self, place: Watched) -> list[Node]:
        """The cluster's nodes, and the region's other hosts, each with its figures."""
        of = {
            kind: {
                one.labels.get("instance", ""): one.value
                for one in self._figures.in_region("host", kind, place.settings.name)
            }
            for kind in queries.HOSTS
        }
        nodes = dict(place.cluster.nodes)
        for host, up in of["up"].items():
            if host not in nodes:
                nodes[host] = Node(host, Health.OK if up else Health.ACT, "" if up else "no metrics")
        return [
            replace(nodes[host], cpu=of["cpu"].get(host), memory=of["memory"].get(host), disk=of["disk"].get(host))
            for host in sorted(nodes)
        ]

    def _parts(self, place: Watched) -> list[Part]:
        parts = [part for kind in place.cluster.services.values() for part in kind.values()]
        for kind in queries.PARTS:
            for sample in self._figures.in_region("part", kind, place.settings.name):
                called = sample.labels.get("sensor") or sample.labels.get("instance") or kind
                health = Health.OK if sample.value else Health.ACT
                parts.append(Part(kind, called, health, "" if sample.value else "down"))
        for one in place.parts.values():
            health = Health.OK if one.state == "up" else Health.ACT
            # The gateway speaks for its intake: that is what is connected to the broker.
            kind = "intake" if one.part == "gateway" else one.part
            parts.append(Part(kind, one.part, health, one.state, since=one.since))
        return sorted(parts, key=lambda one: (one.kind, one.name))

    def _links(self, region: str) -> list[Link]:
        def values(name: str) -> dict[tuple[str, str], float]:
            found = self._figures.in_region("link", name, region)
            return {(one.labels.get("link", ""), one.labels.get("class", "")): one.value for one in found}

        dropped = values("dropped")
        return [
            Link(link, kind, value, dropped.get((link, kind)))
            for (link, kind), value in sorted(values("bytes").items())
        ]

    def _pods_in(self, place: Watched) -> int:
        return sum(place.cluster.count(function) for function in place.cluster.pods)

    def _function(self, place: Watched, placed: Placed, figures: FunctionFigures) -> Function:
        region, name = place.settings.name, placed.name
        pods = sorted(place.cluster.pods.get(name, {}).values(), key=lambda one: one.since)
        problem = place.refused.get(name, "")
        description = {**placed.description, "scaled_object": placed.scaled}
        if problem:
            description["problem"] = problem
        return Function(
            region=region,
            name=name,
            status=status_of(place.cluster.count(name), sum(one.state == "Ready" for one in pods), problem),
            filter=placed.topic,
            pods=pods,
            maximum=placed.maximum,
            last_start=self._starts.get(region, name),
            description=description,
            **figures.of(region, name),
        )

    # Helpers.

    async def _events_of(self, subject: str) -> list[str]:
        incident = await self.incident(subject)
        return list(dict.fromkeys(mark.event for mark in incident.marks if mark.event))[-50:] if incident else []

    async def _everywhere(self, work: Callable[[Watched], Awaitable[T]]) -> tuple[list[T], list[SourceDown]]:
        """Do it in each region that answers, several at once."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(place: Watched) -> T | SourceDown:
            if place.reach.answers is False:
                return SourceDown(f"{place.settings.name} does not answer")
            async with room:
                try:
                    return await work(place)
                except SourceDown as down:
                    return down

        answers = await asyncio.gather(*(one(place) for place in self._places.values()))
        down = [answer for answer in answers if isinstance(answer, SourceDown)]
        return [answer for answer in answers if not isinstance(answer, SourceDown)], down


async def _for_ever(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A source that fails in a way that nobody foresaw begins anew, and is no other's trouble."""
    backoff = Backoff()
    while True:
        try:
            await work()
        except Exception:
            _log.exception("a source began anew", source=name)
        await asyncio.sleep(backoff.failed())
