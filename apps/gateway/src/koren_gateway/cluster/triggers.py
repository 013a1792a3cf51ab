"""The triggers of a region that are not part of a function's Deployment, as their ConfigMaps say.

A trigger is a ConfigMap `trigger-<name>` with the label `faas.koren.kr/trigger: <name>` and the keys `kind` and
`function`. Here are the kinds `mqtt` and `cron`; others are left to whoever knows them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from paho.mqtt.client import topic_matches_sub

from koren_events.cloudevent import json_value
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import Function, Functions, delay_of, is_name
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.schedules import Schedule
from koren_gateway.cluster.sources import EVENTS
from koren_gateway.tasks import Changes

TRIGGER_LABEL = "faas.koren.kr/trigger"
MQTT, CRON = "mqtt", "cron"

DEADLINE_S = 3600
DEADLINE_MAX_S = 24 * 3600
"""Repeats of a run are known by the memory of seen events, which is longer than this."""

PAYLOAD_MAX_BYTES = 256 * 1024

_TOPICS_KEPT = 4096
_log = structlog.get_logger()


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


class Triggers:
    """The triggers as last seen; in step once the first list has come."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._by_object: dict[str, Trigger] = {}
        self._refused: dict[str, RefusedTrigger] = {}
        self._by_topic: dict[str, tuple[Function, ...]] = {}
        self._version = functions.version
        self._in_step = asyncio.Event()
        self.changes = Changes()

    @property
    def in_step(self) -> bool:
        """Whether the cluster's triggers are known."""
        return self._in_step.is_set()

    async def wait_in_step(self) -> None:
        """Waits for the first list."""
        await self._in_step.wait()

    def all(self) -> list[Trigger]:
        """Every trigger, by name; those of Deployments are not among them."""
        return sorted(self._by_object.values(), key=lambda trigger: trigger.name)

    def cron(self) -> list[CronTrigger]:
        """Those of kind cron, by name."""
        return [trigger for trigger in self.all() if isinstance(trigger, CronTrigger)]

    def refused(self) -> list[RefusedTrigger]:
        """The ConfigMaps that want to be triggers and are not, by name."""
        return [one for _, one in sorted(self._refused.items())]

    def paused(self) -> dict[str, frozenset[str]]:
        """Each function that there is, with its triggers that are paused, that of its Deployment included."""
        names: defaultdict[str, set[str]] = defaultdict(set)
        for trigger in self._by_object.values():
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

    def apply(self, change: Change) -> None:
        """Takes over what the cluster says. What one object says wrong concerns no other."""
        match change.kind:
            case "listed":
                before, self._by_object = self._by_object, {}
                self._refused = {}
                for declared in change.objects:
                    self._put(declared, before)
                _log.info("triggers in step", triggers=[trigger.name for trigger in self.all()])
            case "changed":
                for declared in change.objects:
                    self._put(declared, self._by_object)
            case "removed":
                for name in change.names:
                    self._by_object.pop(name, None)
                    self._refused.pop(name, None)
        self._by_topic = {}
        if change.kind == "listed":
            self._in_step.set()
        self.changes.tell()

    def _matched(self, topic: str) -> tuple[Function, ...]:
        matches = [
            (function.paused, function.delay_s, function.trigger, function.name)
            for function in self._functions.wanting(topic)
        ] + [
            (trigger.paused, trigger.delay_s, trigger.name, trigger.function)
            for trigger in self._by_object.values()
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

    def _put(self, declared: Mapping[str, Any], before: Mapping[str, Trigger]) -> None:
        name = declared["metadata"]["name"]
        before_refused = self._refused.pop(name, None)
        try:
            trigger = trigger_of(declared)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            refused = _refusal(declared, str(error) or type(error).__name__)
            if refused != before_refused:
                _log.error("no trigger", configmap=name, problem=refused.problem)
            self._refused[name] = refused
            # What was right before stays in force: a typo must not lose events.
            if name in before:
                self._by_object[name] = before[name]
            return
        if trigger is None:
            self._by_object.pop(name, None)
            return
        if before.get(name) != trigger:
            _log.info("trigger", trigger=trigger.name, function=trigger.function, paused=trigger.paused)
        self._by_object[name] = trigger


def _refusal(declared: Mapping[str, Any], problem: str) -> RefusedTrigger:
    labels, data = declared["metadata"].get("labels"), declared.get("data")
    name = labels.get(TRIGGER_LABEL, "") if isinstance(labels, Mapping) else ""
    its = data if isinstance(data, Mapping) else {}
    return RefusedTrigger(str(name), str(its.get("kind", "")), str(its.get("function", "")), problem)
