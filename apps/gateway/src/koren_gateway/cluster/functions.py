"""The functions of a region: what their Deployments say of them."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from paho.mqtt.client import topic_matches_sub

from koren_gateway.cluster.interface import Change, Cluster
from koren_gateway.tasks import Changes

FUNCTION_LABEL = "faas.koren.kr/function"

_PREFIX = "faas.koren.kr/"
_TOPICS_KEPT = 4096
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RATE = re.compile(r"([1-9][0-9]{0,3})/([sm])", re.ASCII)
_WINDOWS_S = {"s": 1, "m": 60}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_HISTORY_MAX_S = 7 * 86_400
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rate:
    """How many events may be handed out in any window of that length."""

    events: int
    window_s: int

    def __str__(self) -> str:
        return f"{self.events}/{'s' if self.window_s == 1 else 'm'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function's trigger and limits."""

    name: str
    topic: str | None = None
    """MQTT topic filter of the events it receives; none when its Deployment names none."""
    trigger: str = ""
    """Name of the trigger that `topic` is."""
    paused: bool = False
    """Whether that trigger is paused."""
    via: str = ""
    """The trigger that brings it an event; none for one that it is called with."""
    max_in_flight: int | None = None
    """How many events it may have in hand in the region."""
    rate: Rate | None = None
    history_s: int = 0
    """How long events that it has handled are kept for a replay; 0: not at all."""
    timeout_s: float = 180.0
    max_attempts: int = 5
    opens: str | None = None
    """Event type that opens an incident, which keeps the function running until its end."""
    closes: str | None = None
    incident_limit_s: float = 3600.0
    handler: str | None = None
    runtime: str | None = None


def is_name(text: str) -> bool:
    """Whether a function may have this name."""
    return _NAME.fullmatch(text) is not None


def function_of(deployment: Mapping[str, Any]) -> Function:
    """The function that a Deployment (as JSON) is of.

    Raises ValueError that names the label or annotation and what it should be.
    """
    metadata = deployment["metadata"]
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    name = str((metadata.get("labels") or {}).get(FUNCTION_LABEL, ""))
    if not is_name(name):
        raise ValueError(f"label {FUNCTION_LABEL} is {name!r}; give a DNS label, e.g. hello")

    def number(annotation: str, default: float) -> float:
        text = annotations.get(_PREFIX + annotation, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < 1e9:
            raise ValueError(f"annotation {_PREFIX}{annotation} is {text!r}; give a number above 0")
        return value

    return Function(
        name=name,
        topic=annotations.get(_PREFIX + "topic") or None,
        trigger=annotations.get(_PREFIX + "trigger") or name,
        paused=annotations.get(_PREFIX + "paused") == "true",
        max_in_flight=max(1, int(number("max-in-flight", 1))) if _PREFIX + "max-in-flight" in annotations else None,
        rate=rate_of(f"annotation {_PREFIX}rate", annotations.get(_PREFIX + "rate", "")),
        history_s=history_of(annotations.get(_PREFIX + "history", "")),
        timeout_s=number("timeout-s", 180.0),
        max_attempts=max(1, int(number("max-attempts", 5))),
        opens=annotations.get(_PREFIX + "opens") or None,
        closes=annotations.get(_PREFIX + "closes") or None,
        incident_limit_s=number("incident-limit-s", 3600.0),
        handler=annotations.get(_PREFIX + "handler"),
        runtime=annotations.get(_PREFIX + "runtime"),
    )


def rate_of(what: str, text: str) -> Rate | None:
    """The rate that a text such as 10/s says; None for an empty one. Raises ValueError, which names `what`."""
    if not text:
        return None
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{what} is {text[:40]!r}; give N/s or N/m, with N from 1 to 9999")
    return Rate(int(found[1]), _WINDOWS_S[found[2]])


def history_of(text: str) -> int:
    """The seconds that a duration such as 24h says; 0 for an empty one. Raises ValueError with a remedy."""
    if not text:
        return 0
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= _HISTORY_MAX_S:
        raise ValueError(f"annotation {_PREFIX}history is {text[:40]!r}; give Ns, Nm, Nh or Nd, at most 7d")
    return seconds


@dataclass(frozen=True, slots=True)
class Refusal:
    """A Deployment with the label of a function that is none, and why."""

    deployment: str
    problem: str


@dataclass(frozen=True, slots=True)
class _Known:
    function: Function
    made: tuple[str, str]
    """When the Deployment was made, and its name: the older one has the function's name."""


@dataclass(frozen=True, slots=True)
class _Wrong:
    name: str
    """The function that the Deployment would be."""
    problem: str


class Functions:
    """The functions as last seen; in step once the first list has come.

    A function's name belongs to one Deployment, the oldest that has it. Two that took the same
    events would have each handled twice.
    """

    def __init__(self) -> None:
        self._by_deployment: dict[str, _Known] = {}
        self._refused: dict[str, _Wrong] = {}
        self._twins: dict[str, str] = {}
        self._by_name: dict[str, Function] = {}
        self._by_topic: dict[str, tuple[Function, ...]] = {}
        self.changes = Changes()
        self.version = 0
        """It grows with each change."""
        self._in_step = asyncio.Event()

    @property
    def in_step(self) -> bool:
        """Whether the cluster's functions are known."""
        return self._in_step.is_set()

    async def wait_in_step(self) -> None:
        """Waits for the first list."""
        await self._in_step.wait()

    def all(self) -> list[Function]:
        """Every function, by name."""
        return list(self._by_name.values())

    def named(self) -> set[str]:
        """The names of all functions, also of those whose Deployment is not right."""
        return set(self._by_name) | {wrong.name for wrong in self._refused.values()}

    def get(self, name: str) -> Function | None:
        """The function of that name."""
        return self._by_name.get(name)

    def refused(self) -> list[Refusal]:
        """The Deployments that want to be functions and are not, by name."""
        refused = {name: wrong.problem for name, wrong in self._refused.items()} | self._twins
        return [Refusal(name, problem) for name, problem in sorted(refused.items())]

    def wanting(self, topic: str) -> tuple[Function, ...]:
        """The functions whose trigger takes events of `topic`, by name."""
        found = self._by_topic.get(topic)
        if found is None:
            found = tuple(
                function
                for function in self._by_name.values()
                if function.topic is not None and topic_matches_sub(function.topic, topic)
            )
            if len(self._by_topic) >= _TOPICS_KEPT:
                self._by_topic.clear()
            self._by_topic[topic] = found
        return found

    def apply(self, change: Change) -> None:
        """Takes over what the cluster says. What one object says wrong concerns no other."""
        match change.kind:
            case "listed":
                before, self._by_deployment = self._by_deployment, {}
                self._refused = {}
                for deployment in change.objects:
                    self._put(deployment, before)
            case "changed":
                for deployment in change.objects:
                    self._put(deployment, self._by_deployment)
            case "removed":
                for name in change.names:
                    self._by_deployment.pop(name, None)
                    self._refused.pop(name, None)
                    _log.info("function removed", deployment=name)
        self._settle()
        if change.kind == "listed":
            self._in_step.set()
            _log.info("functions in step", functions=list(self._by_name))

    async def follow(self, cluster: Cluster) -> None:
        """Keeps in step with the cluster, for ever."""
        async for change in cluster.deployments():
            self.apply(change)

    def _put(self, deployment: Mapping[str, Any], before: Mapping[str, _Known]) -> None:
        metadata = deployment["metadata"]
        name = metadata["name"]
        known = before.get(name)
        before_wrong = self._refused.pop(name, None)
        try:
            function = function_of(deployment)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            wrong = _Wrong(_label(deployment), str(error) or type(error).__name__)
            if before_wrong != wrong:
                _refuse(name, wrong.problem)
            self._refused[name] = wrong
            # What was right before stays in force: a typo must not lose events.
            if known is not None:
                self._by_deployment[name] = known
            return
        if known is None or known.function != function:
            _log.info("function", function=function.name, topic=function.topic)
        made = (str(metadata.get("creationTimestamp") or ""), name)
        self._by_deployment[name] = _Known(function, made)

    def _settle(self) -> None:
        """Gives each name to the oldest Deployment that has it."""
        owners: dict[str, str] = {}
        twins: dict[str, str] = {}
        for deployment, known in sorted(self._by_deployment.items(), key=lambda item: item[1].made):
            owner = owners.setdefault(known.function.name, deployment)
            if owner != deployment:
                twins[deployment] = (
                    f"function {known.function.name} is Deployment {owner} already; "
                    f"give {deployment} another label {FUNCTION_LABEL}, or delete one"
                )
                if deployment not in self._twins:
                    _refuse(deployment, twins[deployment])
        self._twins = twins
        self._by_name = {
            name: self._by_deployment[owner].function for name, owner in sorted(owners.items())
        }
        self._by_topic = {}
        self.version += 1
        self.changes.tell()


def _label(deployment: Mapping[str, Any]) -> str:
    labels = deployment["metadata"].get("labels")
    return str(labels.get(FUNCTION_LABEL, "")) if isinstance(labels, Mapping) else ""


def _refuse(deployment: str, problem: str) -> None:
    _log.error("deployment is no function", deployment=deployment, problem=problem)
