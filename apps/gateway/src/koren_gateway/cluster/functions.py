"""The functions of a region: what their Deployments say of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import topic_matches_sub

from koren_gateway.cluster.interface import Cluster
from koren_gateway.cluster.watched import Known, Watched, label_of

FUNCTION_LABEL = "faas.koren.kr/function"

_PREFIX = "faas.koren.kr/"
_TOPICS_KEPT = 4096
DELAY_MAX_S = 7 * 24 * 3600

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RATE = re.compile(r"([1-9][0-9]{0,3})/([sm])", re.ASCII)
_WINDOWS_S = {"s": 1, "m": 60}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_HISTORY_MAX_S = 7 * 86_400
_BATCH_MAX = 100
_BATCH_WINDOW_MAX_S = 300


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
    delay_s: int = 0
    """How long an event that comes by that trigger waits."""
    via: str = ""
    """The trigger that brings it an event; none for one that it is called with."""
    via_delay_s: int = 0
    """How long an event waits that `via` brings."""
    max_in_flight: int | None = None
    """How many events it may have in hand in the region."""
    rate: Rate | None = None
    history_s: int = 0
    """How long events that it has handled are kept for a replay; 0: not at all."""
    batch_size: int = 1
    """How many events it is given at once; 1: no batches."""
    batch_window_s: int = 0
    """How long an event waits for a full batch."""
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

    def whole(annotation: str, least: int, most: int, default: int) -> int:
        text = annotations.get(_PREFIX + annotation, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 6 or not least <= int(text) <= most:
            raise ValueError(
                f"annotation {_PREFIX}{annotation} is {text[:40]!r}; give a whole number from {least} to {most}"
            )
        return int(text)

    return Function(
        name=name,
        topic=annotations.get(_PREFIX + "topic") or None,
        trigger=annotations.get(_PREFIX + "trigger") or name,
        paused=annotations.get(_PREFIX + "paused") == "true",
        delay_s=delay_of(f"annotation {_PREFIX}delay-s", annotations.get(_PREFIX + "delay-s", "")),
        max_in_flight=max(1, int(number("max-in-flight", 1))) if _PREFIX + "max-in-flight" in annotations else None,
        rate=rate_of(f"annotation {_PREFIX}rate", annotations.get(_PREFIX + "rate", "")),
        history_s=history_of(annotations.get(_PREFIX + "history", "")),
        batch_size=whole("batch-size", 1, _BATCH_MAX, default=1),
        batch_window_s=whole("batch-window-s", 0, _BATCH_WINDOW_MAX_S, default=0),
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


def delay_of(what: str, text: str) -> int:
    """The delay in seconds that a text says; 0 for an empty one. Raises ValueError, which names `what`."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) > DELAY_MAX_S:
        raise ValueError(f"{what} is {text[:40]!r}; give seconds, {DELAY_MAX_S} (7 days) at most")
    return int(text)


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
    function: str
    """The function that it would be."""
    problem: str


class Functions(Watched[Function, Refusal]):
    """The functions as last seen.

    A function's name belongs to one Deployment, the oldest that has it. Two that took the same
    events would have each handled twice.
    """

    what = "function"

    def __init__(self) -> None:
        super().__init__()
        self._by_name: dict[str, Function] = {}
        self._by_topic: dict[str, tuple[Function, ...]] = {}
        self.version = 0
        """It grows with each change."""

    def all(self) -> list[Function]:
        """Every function, by name."""
        return list(self._by_name.values())

    def named(self) -> set[str]:
        """The names of all functions, also of those whose Deployment is not right."""
        return set(self._by_name) | {wrong.function for wrong in self._wrong.values()}

    def get(self, name: str) -> Function | None:
        """The function of that name."""
        return self._by_name.get(name)

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

    async def follow(self, cluster: Cluster) -> None:
        """Keeps in step with the cluster, for ever."""
        async for change in cluster.deployments():
            self.apply(change)

    def _read(self, declared: Mapping[str, Any]) -> Function:
        return function_of(declared)

    def _refuse(self, declared: Mapping[str, Any], problem: str) -> Refusal:
        return Refusal(declared["metadata"]["name"], label_of(declared, FUNCTION_LABEL), problem)

    def _settle(self, known: list[Known[Function]]) -> dict[str, Refusal]:
        """Gives each name to the oldest Deployment that has it."""
        owners: dict[str, Known[Function]] = {}
        refused: dict[str, Refusal] = {}
        for one in known:
            name, deployment = one.value.name, one.made[1]
            owner = owners.setdefault(name, one)
            if owner is not one:
                refused[deployment] = Refusal(
                    deployment,
                    name,
                    f"function {name} is Deployment {owner.made[1]} already; "
                    f"give {deployment} another label {FUNCTION_LABEL}, or delete one",
                )
        self._by_name = {name: owner.value for name, owner in sorted(owners.items())}
        self._by_topic = {}
        self.version += 1
        return refused
