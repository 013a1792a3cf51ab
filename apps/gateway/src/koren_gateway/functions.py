"""The functions of a region: what their Deployments say of them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from paho.mqtt.client import topic_matches_sub

from koren_gateway.cluster import Change, Cluster

FUNCTION_LABEL = "faas.koren.kr/function"

_PREFIX = "faas.koren.kr/"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function's trigger and limits."""

    name: str
    topic: str | None = None
    """MQTT topic filter of the events it receives; none when it is only called."""
    timeout_s: float = 180.0
    max_attempts: int = 5
    opens: str | None = None
    """Event type that opens an incident, which keeps the function running until its end."""
    closes: str | None = None
    incident_limit_s: float = 3600.0
    handler: str | None = None
    runtime: str | None = None


def function_of(deployment: Mapping[str, Any]) -> Function:
    """The function that a Deployment (as JSON) is of.

    Raises ValueError naming the annotation that is no number; KeyError when the label is missing.
    """
    metadata = deployment["metadata"]
    annotations: Mapping[str, str] = metadata.get("annotations") or {}

    def number(name: str, default: float) -> float:
        text = annotations.get(_PREFIX + name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < 1e9:
            raise ValueError(f"annotation {_PREFIX}{name} is {text!r}; give a number above 0")
        return value

    return Function(
        name=metadata["labels"][FUNCTION_LABEL],
        topic=annotations.get(_PREFIX + "topic") or None,
        timeout_s=number("timeout-s", 180.0),
        max_attempts=max(1, int(number("max-attempts", 5))),
        opens=annotations.get(_PREFIX + "opens") or None,
        closes=annotations.get(_PREFIX + "closes") or None,
        incident_limit_s=number("incident-limit-s", 3600.0),
        handler=annotations.get(_PREFIX + "handler"),
        runtime=annotations.get(_PREFIX + "runtime"),
    )


class Functions:
    """The functions as last seen; in step once the first list has come."""

    def __init__(self) -> None:
        self._by_deployment: dict[str, Function] = {}
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
        return sorted(self._by_deployment.values(), key=lambda function: function.name)

    def get(self, name: str) -> Function | None:
        """The function of that name."""
        return next((f for f in self._by_deployment.values() if f.name == name), None)

    def wanting(self, topic: str) -> list[Function]:
        """The functions whose trigger takes events of `topic`."""
        return [
            function
            for function in self.all()
            if function.topic is not None and topic_matches_sub(function.topic, topic)
        ]

    def apply(self, change: Change) -> None:
        """Takes over what the cluster says."""
        match change.kind:
            case "listed":
                before, self._by_deployment = self._by_deployment, {}
                for deployment in change.objects:
                    self._put(deployment, before)
                self._in_step.set()
                _log.info("functions in step", functions=[f.name for f in self.all()])
            case "changed":
                for deployment in change.objects:
                    self._put(deployment, self._by_deployment)
            case "removed":
                for name in change.names:
                    if self._by_deployment.pop(name, None) is not None:
                        _log.info("function removed", deployment=name)

    async def follow(self, cluster: Cluster) -> None:
        """Keeps in step with the cluster, for ever."""
        async for change in cluster.deployments():
            self.apply(change)

    def _put(self, deployment: Mapping[str, Any], before: Mapping[str, Function]) -> None:
        name = deployment["metadata"]["name"]
        known = before.get(name)
        try:
            function = function_of(deployment)
        except (KeyError, ValueError) as error:
            _log.error("deployment is no function", deployment=name, problem=str(error))
            # What was right before stays in force: a typo must not lose events.
            if known is not None:
                self._by_deployment[name] = known
            return
        if known != function:
            _log.info("function", function=function.name, topic=function.topic)
        self._by_deployment[name] = function
