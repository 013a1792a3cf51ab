"""The sources of a region: topics whose messages become events, as their ConfigMaps say."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import topic_matches_sub

from koren_gateway.cluster.interface import Cluster
from koren_gateway.cluster.watched import Known, Watched, data_of, label_of

SOURCE_LABEL = "faas.koren.kr/mqtt-source"
EVENTS = "events/"

_OWN_LEVELS = ("events", "receipts", "health")
_TOPIC_MAX = 512
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?")
_SUBJECT_FROM = re.compile(r"topic(\.[1-9][0-9]?)?|payload(\.[^.\s]{1,128}){1,8}")
_ID_FROM = re.compile(r"payload(\.[^.\s]{1,128}){1,8}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TOPICS_KEPT = 4096


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


class Sources(Watched[Source, RefusedSource]):
    """The sources as last seen.

    A message belongs to one source: of two whose filters overlap, or that have one name, the
    younger is refused. Its messages would be events twice.
    """

    what = "source"

    def __init__(self) -> None:
        super().__init__()
        self._sources: tuple[Source, ...] = ()
        self._by_topic: dict[str, Source | None] = {}
        self._changed = asyncio.Event()
        self.changes.watch(self._changed)

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

    async def follow(self, cluster: Cluster) -> None:
        """Keeps in step with the cluster, for ever."""
        async for change in cluster.sources():
            self.apply(change)

    def _read(self, declared: Mapping[str, Any]) -> Source:
        return source_of(declared)

    def _refuse(self, declared: Mapping[str, Any], problem: str) -> RefusedSource:
        return RefusedSource(label_of(declared, SOURCE_LABEL), data_of(declared, "topic"), problem)

    def _settle(self, known: list[Known[Source]]) -> dict[str, RefusedSource]:
        taken: list[Source] = []
        refused: dict[str, RefusedSource] = {}
        for one in known:
            source = one.value
            same = next(
                (other for other in taken if other.name == source.name or overlap(other.topic, source.topic)), None
            )
            if same is None:
                taken.append(source)
                continue
            problem = f"source {same.name} takes messages of {same.topic} already; a message has one source"
            refused[one.made[1]] = RefusedSource(source.name, source.topic, problem)
        self._sources = tuple(sorted(taken, key=lambda source: source.name))
        self._by_topic = {}
        return refused
