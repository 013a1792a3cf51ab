"""The sources of a region: topics whose messages become events, as their ConfigMaps say."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from paho.mqtt.client import topic_matches_sub

from koren_gateway.cluster.interface import Change, Cluster

SOURCE_LABEL = "faas.koren.kr/mqtt-source"
EVENTS = "events/"

_OWN_LEVELS = ("events", "receipts", "health")
_TOPIC_MAX = 512
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?")
_SUBJECT_FROM = re.compile(r"topic(\.[1-9][0-9]?)?|payload(\.[^.\s]{1,128}){1,8}")
_ID_FROM = re.compile(r"payload(\.[^.\s]{1,128}){1,8}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TOPICS_KEPT = 4096
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An MQTT topic filter, and how its messages become events."""

    name: str
    topic: str
    subject_from: str = ""
    """`topic`, `topic.N` (its Nth level, from 1) or `payload.FIELD`; empty: an event has no subject."""
    id_from: str = ""
    """`payload.FIELD`; empty: a message has no id of its own."""

    def event_topic(self, region: str) -> str:
        """The topic under which functions' triggers know its events."""
        return f"{EVENTS}{region}/{self.name}/mqtt"


@dataclass(frozen=True, slots=True)
class RefusedSource:
    """A ConfigMap with the label of a source that is none, and why."""

    name: str
    topic: str
    problem: str


def source_of(declared: Mapping[str, Any]) -> Source:
    """The source that a ConfigMap (as JSON) declares.

    Raises ValueError that names the key and what it should be.
    """
    name = str(declared["metadata"]["labels"][SOURCE_LABEL])
    data: Mapping[str, Any] = declared.get("data") or {}
    if not _NAME.fullmatch(name):
        raise ValueError(f"label {SOURCE_LABEL} is {name!r}; give a DNS label of at most 54 characters, e.g. common")
    topic, subject_from, id_from = (str(data.get(key) or "") for key in ("topic", "subject-from", "id-from"))
    _check_topic(topic)
    if subject_from and not _SUBJECT_FROM.fullmatch(subject_from):
        raise ValueError(f"subject-from is {subject_from!r}; give topic, topic.N or payload.FIELD")
    if id_from and not _ID_FROM.fullmatch(id_from):
        raise ValueError(f"id-from is {id_from!r}; give payload.FIELD")
    return Source(name=name, topic=topic, subject_from=subject_from, id_from=id_from)


def _check_topic(topic: str) -> None:
    levels = topic.split("/")
    if not topic or len(topic.encode()) > _TOPIC_MAX or _CONTROL.search(topic):
        raise ValueError(f"topic is {topic[:80]!r}; give an MQTT topic filter of 1 to {_TOPIC_MAX} bytes")
    for place, level in enumerate(levels, start=1):
        if level not in ("+", "#") and ("+" in level or "#" in level):
            raise ValueError(f"topic {topic!r}: + and # must be a whole level")
        if level == "#" and place < len(levels):
            raise ValueError(f"topic {topic!r}: # can only be the last level")
    if levels[0] in ("+", "#") or levels[0].startswith("$") or levels[0] in _OWN_LEVELS:
        raise ValueError(
            f"topic {topic!r}: its first level must be a name, and none of {', '.join(_OWN_LEVELS)} and $…, "
            "which are the platform's"
        )


def overlap(one: str, other: str) -> bool:
    """Whether a topic can match both filters."""
    return _overlap(one.split("/"), other.split("/"))


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    if not one or not other:
        return [*one, *other] in ([], ["#"])
    if "#" in (one[0], other[0]):
        return True
    return (one[0] == other[0] or "+" in (one[0], other[0])) and _overlap(one[1:], other[1:])


@dataclass(frozen=True, slots=True)
class _Known:
    source: Source
    made: tuple[str, str]
    """When the ConfigMap was made, and its name: of two that overlap the older one stays."""


class Sources:
    """The sources as last seen; in step once the first list has come.

    A message belongs to one source: of two whose filters overlap, or that have one name, the
    younger is refused. Its messages would be events twice.
    """

    def __init__(self) -> None:
        self._by_object: dict[str, _Known] = {}
        self._wrong: dict[str, RefusedSource] = {}
        self._refused: dict[str, RefusedSource] = {}
        self._sources: tuple[Source, ...] = ()
        self._by_topic: dict[str, Source | None] = {}
        self._in_step = asyncio.Event()
        self._changed = asyncio.Event()

    async def wait_in_step(self) -> None:
        """Waits for the first list."""
        await self._in_step.wait()

    def all(self) -> tuple[Source, ...]:
        """Every source, by name."""
        return self._sources

    def topics(self) -> frozenset[str]:
        """The topic filters of all sources."""
        return frozenset(source.topic for source in self._sources)

    async def wait_for_others(self, topics: frozenset[str]) -> None:
        """Waits until the topic filters are not these."""
        while self.topics() == topics:
            self._changed.clear()
            await self._changed.wait()

    def refused(self) -> list[RefusedSource]:
        """The ConfigMaps that want to be sources and are not, by name."""
        return [one for _, one in sorted((self._wrong | self._refused).items())]

    def of(self, topic: str) -> Source | None:
        """The source that messages of `topic` belong to; None for the topics of events themselves."""
        if topic.startswith(EVENTS):
            return None
        if topic not in self._by_topic:
            if len(self._by_topic) >= _TOPICS_KEPT:
                self._by_topic.clear()
            found = (source for source in self._sources if topic_matches_sub(source.topic, topic))
            self._by_topic[topic] = next(found, None)
        return self._by_topic[topic]

    def apply(self, change: Change) -> None:
        """Takes over what the cluster says. What one object says wrong concerns no other."""
        match change.kind:
            case "listed":
                before, self._by_object = self._by_object, {}
                self._wrong = {}
                for declared in change.objects:
                    self._put(declared, before)
            case "changed":
                for declared in change.objects:
                    self._put(declared, self._by_object)
            case "removed":
                for name in change.names:
                    self._by_object.pop(name, None)
                    self._wrong.pop(name, None)
        self._settle()
        if change.kind == "listed":
            self._in_step.set()
            _log.info("sources in step", sources=[source.name for source in self._sources])

    async def follow(self, cluster: Cluster) -> None:
        """Keeps in step with the cluster, for ever."""
        async for change in cluster.sources():
            self.apply(change)

    def _put(self, declared: Mapping[str, Any], before: Mapping[str, _Known]) -> None:
        metadata = declared["metadata"]
        name = metadata["name"]
        self._wrong.pop(name, None)
        try:
            source = source_of(declared)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._wrong[name] = _refusal(declared, str(error) or type(error).__name__)
            # What was right before stays in force: a typo must not lose messages.
            if name in before:
                self._by_object[name] = before[name]
            return
        self._by_object[name] = _Known(source, (str(metadata.get("creationTimestamp") or ""), name))

    def _settle(self) -> None:
        taken: list[Source] = []
        refused: dict[str, RefusedSource] = {}
        for name, known in sorted(self._by_object.items(), key=lambda item: item[1].made):
            source = known.source
            same = next((one for one in taken if one.name == source.name or overlap(one.topic, source.topic)), None)
            if same is None:
                taken.append(source)
                continue
            problem = f"source {same.name} takes messages of {same.topic} already; a message has one source"
            refused[name] = RefusedSource(source.name, source.topic, problem)
        for name, one in {**self._wrong, **refused}.items():
            if self._refused.get(name) != one:
                _log.error("no source", configmap=name, problem=one.problem)
        self._refused = refused
        self._sources = tuple(sorted(taken, key=lambda source: source.name))
        self._by_topic = {}
        self._changed.set()


def _refusal(declared: Mapping[str, Any], problem: str) -> RefusedSource:
    labels, data = declared["metadata"].get("labels"), declared.get("data")
    name = labels.get(SOURCE_LABEL, "") if isinstance(labels, Mapping) else ""
    topic = data.get("topic", "") if isinstance(data, Mapping) else ""
    return RefusedSource(str(name), str(topic), problem)
