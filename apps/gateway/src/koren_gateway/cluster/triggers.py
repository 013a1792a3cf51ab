"""The triggers of a region that are not part of a function's Deployment, as their ConfigMaps say.

A trigger is a ConfigMap `trigger-<name>` with the label `faas.koren.kr/trigger: <name>` and the keys `kind` and
`function`. Here are the kinds `mqtt` and `cron`; others are left to whoever knows them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from paho.mqtt.client import topic_matches_sub

from koren_events.cloudevent import json_value
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import Function, Functions, delay_of, is_name
from koren_gateway.cluster.schedules import Schedule
from koren_gateway.cluster.sources import EVENTS
from koren_gateway.cluster.watched import Known, Watched, data_of, label_of

TRIGGER_LABEL = "faas.koren.kr/trigger"
MQTT, CRON = "mqtt", "cron"

DEADLINE_S = 3600
DEADLINE_MAX_S = 24 * 3600
"""Repeats of a run are known by the memory of seen events, which is longer than this."""

PAYLOAD_MAX_BYTES = 256 * 1024

_TOPICS_KEPT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What starts one function."""

    name: str
    function: str
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttTrigger(Trigger):
    """The events of an MQTT topic filter."""

    topic: str
    delay_s: int = 0
    """How long each event waits before it may be handed out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronTrigger(Trigger):
    """Moments in time."""

    schedule: Schedule
    deadline_s: int = DEADLINE_S
    """A run that is later than this is left out."""
    payload: str = ""
    """JSON that is the event's data; empty: none."""


@dataclass(frozen=True, slots=True)
class RefusedTrigger:
    """A ConfigMap with the label of a trigger that is none, and why."""

    name: str
    kind: str
    function: str
    problem: str


def trigger_of(declared: Mapping[str, Any]) -> Trigger | None:
    """The trigger that a ConfigMap (as JSON) declares; None for one of another kind.

    Raises ValueError that names the key and what it should be.
    """
    metadata = declared["metadata"]
    name = str(metadata["labels"][TRIGGER_LABEL])
    data: Mapping[str, str] = declared.get("data") or {}
    kind = data.get("kind", "")
    if kind not in (MQTT, CRON):
        return None
    if not is_name(name):
        raise ValueError(f"label {TRIGGER_LABEL} is {name!r}; give a DNS label, e.g. nightly")
    if metadata["name"] != f"trigger-{name}":
        raise ValueError(f"the ConfigMap of trigger {name} must have the name trigger-{name}")
    function = data.get("function", "")
    if not is_name(function):
        raise ValueError(f"function is {function[:80]!r}; give the name of the function to start")
    paused = data.get("paused") == "true"
    if kind == MQTT:
        topic = data.get("topic", "")
        _check_topic(topic)
        delay_s = delay_of("delay-s", data.get("delay-s", ""))
        return MqttTrigger(name=name, function=function, paused=paused, topic=topic, delay_s=delay_s)
    payload = data.get("payload", "")
    if payload:
        if len(payload.encode()) > PAYLOAD_MAX_BYTES:
            raise ValueError(f"payload has {len(payload.encode())} bytes; give at most {PAYLOAD_MAX_BYTES}")
        try:
            json_value(payload.encode())
        except InvalidEvent as error:
            raise ValueError(f"payload: {error}") from None
    return CronTrigger(
        name=name,
        function=function,
        paused=paused,
        schedule=Schedule(data.get("schedule", ""), data.get("timezone") or "UTC"),
        deadline_s=_deadline_s(data.get("starting-deadline-s") or str(DEADLINE_S)),
        payload=payload,
    )


def _check_topic(topic: str) -> None:
    levels = topic.split("/")
    if not topic.startswith(EVENTS) or "#" in levels[:-1]:
        raise ValueError(f"topic is {topic[:80]!r}; give a filter of events, e.g. events/seoul/+/accident")
    for level in levels:
        if level not in ("+", "#") and ("+" in level or "#" in level):
            raise ValueError(f"topic {topic[:80]!r}: + and # must be a whole level")


def _deadline_s(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= DEADLINE_MAX_S:
        raise ValueError(f"starting-deadline-s is {text[:40]!r}; give seconds from 1 to {DEADLINE_MAX_S}")
    return int(text)


class Triggers(Watched[Trigger, RefusedTrigger]):
    """The triggers as last seen."""

    what = "trigger"

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self._functions = functions
        self._triggers: list[Trigger] = []
        self._by_topic: dict[str, tuple[Function, ...]] = {}
        self._version = functions.version

    def all(self) -> list[Trigger]:
        """Every trigger, by name; those of Deployments are not among them."""
        return self._triggers

    def cron(self) -> list[CronTrigger]:
        """Those of kind cron, by name."""
        return [trigger for trigger in self.all() if isinstance(trigger, CronTrigger)]

    def paused(self) -> dict[str, frozenset[str]]:
        """Each function that there is, with its triggers that are paused, that of its Deployment included."""
        names: defaultdict[str, set[str]] = defaultdict(set)
        for trigger in self._triggers:
            if trigger.paused:
                names[trigger.function].add(trigger.name)
        for function in self._functions.all():
            if function.paused:
                names[function.name].add(function.trigger)
        return {function.name: frozenset(names[function.name]) for function in self._functions.all()}

    def wanting(self, topic: str) -> tuple[Function, ...]:
        """The functions that get events of `topic`, by name. Each is there once, with the trigger that brings it
        the event: of several that match one that is not paused, and of these the one with the shortest delay."""
        if self._functions.version != self._version:
            self._by_topic = {}
            self._version = self._functions.version
        found = self._by_topic.get(topic)
        if found is None:
            found = self._matched(topic)
            if len(self._by_topic) >= _TOPICS_KEPT:
                self._by_topic.clear()
            self._by_topic[topic] = found
        return found

    def _matched(self, topic: str) -> tuple[Function, ...]:
        matches = [
            (function.paused, function.delay_s, function.trigger, function.name)
            for function in self._functions.wanting(topic)
        ] + [
            (trigger.paused, trigger.delay_s, trigger.name, trigger.function)
            for trigger in self._triggers
            if isinstance(trigger, MqttTrigger) and topic_matches_sub(trigger.topic, topic)
        ]
        # What comes first of a function is not paused, if any of its triggers is not.
        via: dict[str, tuple[str, int]] = {}
        for _, delay_s, trigger_name, name in sorted(matches):
            via.setdefault(name, (trigger_name, delay_s))
        return tuple(
            replace(function, via=via[name][0], via_delay_s=via[name][1])
            for name in sorted(via)
            if (function := self._functions.get(name)) is not None
        )

    def _read(self, declared: Mapping[str, Any]) -> Trigger | None:
        return trigger_of(declared)

    def _refuse(self, declared: Mapping[str, Any], problem: str) -> RefusedTrigger:
        kind, function = data_of(declared, "kind"), data_of(declared, "function")
        return RefusedTrigger(label_of(declared, TRIGGER_LABEL), kind, function, problem)

    def _settle(self, known: list[Known[Trigger]]) -> dict[str, RefusedTrigger]:
        self._triggers = sorted((one.value for one in known), key=lambda trigger: trigger.name)
        self._by_topic = {}
        return {}
