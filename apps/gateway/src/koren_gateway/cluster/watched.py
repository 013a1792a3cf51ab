"""What objects of the cluster declare, as last seen. Each is read on its own: a wrong one affects no other."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import structlog

from koren_gateway.cluster.interface import Change
from koren_gateway.tasks import Changes

_log = structlog.get_logger()


class Refused(Protocol):
    """An object that wants to declare something and does not."""

    @property
    def problem(self) -> str:
        """Why."""
        ...


Declared = TypeVar("Declared")
RefusedT = TypeVar("RefusedT", bound=Refused)


@dataclass(frozen=True, slots=True)
class Known(Generic[Declared]):
    """What an object declares."""

    value: Declared
    made: tuple[str, str]
    """When the object was made, and its name: of two that clash the older one stays."""


class Watched(ABC, Generic[Declared, RefusedT]):
    """What objects of one kind declare, in step once the first list has come."""

    what: ClassVar[str]
    """One of them in words, for the log."""
    wrong_ends: ClassVar[bool] = False
    """Whether an object that turns wrong ends what it declared; otherwise that stays in force."""

    def __init__(self) -> None:
        self.changes = Changes()
        self._known: dict[str, Known[Declared]] = {}
        self._wrong: dict[str, RefusedT] = {}
        self._refused: dict[str, RefusedT] = {}
        self._in_step = asyncio.Event()

    @property
    def in_step(self) -> bool:
        """Whether what the cluster has is known."""
        return self._in_step.is_set()

    async def wait_in_step(self) -> None:
        """Waits for the first list."""
        await self._in_step.wait()

    def refused(self) -> list[RefusedT]:
        """The objects that are refused, by their names."""
        return [one for _, one in sorted(self._refused.items())]

    def apply(self, change: Change) -> None:
        """Takes over what the cluster says."""
        before = dict(self._known)
        if change.kind == "listed":
            self._known, self._wrong = {}, {}
        for declared in change.objects:
            name = declared["metadata"]["name"]
            self._known.pop(name, None)
            self._wrong.pop(name, None)
            if change.kind != "removed":
                self._put(name, declared, before.get(name))
        for name in before.keys() - self._known.keys():
            _log.info(f"{self.what} ends", object=name)
        refused = self._wrong | self._settle([known for _, known in sorted(self._known.items(), key=_age)])
        for name, one in refused.items():
            if self._refused.get(name) != one:
                _log.error(f"no {self.what}", object=name, problem=one.problem)
        self._refused = refused
        if change.kind == "listed":
            self._in_step.set()
            _log.info(f"in step with each {self.what}", objects=sorted(self._known))
        self.changes.tell()

    def _put(self, name: str, declared: Mapping[str, Any], before: Known[Declared] | None) -> None:
        try:
            value = self._read(declared)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._wrong[name] = self._refuse(declared, str(error) or type(error).__name__)
            # A typo must not lose events.
            if before is not None and not self.wrong_ends:
                self._known[name] = before
            return
        if value is None:
            return
        if before is None or before.value != value:
            _log.info(self.what, object=name)
        self._known[name] = Known(value, (str(declared["metadata"].get("creationTimestamp") or ""), name))

    @abstractmethod
    def _read(self, declared: Mapping[str, Any]) -> Declared | None:
        """What an object declares; None if that is for others to know. Raises ValueError that says what is wrong."""

    @abstractmethod
    def _refuse(self, declared: Mapping[str, Any], problem: str) -> RefusedT:
        """An object that is refused."""

    def _settle(self, known: list[Known[Declared]]) -> dict[str, RefusedT]:
        """Takes over all that is known, the oldest first; what is refused since it clashes with an older one."""
        return {}


def _age(item: tuple[str, Known[Any]]) -> tuple[str, str]:
    return item[1].made


def label_of(declared: Mapping[str, Any], label: str) -> str:
    """The label of an object, however wrong the object is; empty if it has none."""
    labels = declared["metadata"].get("labels")
    return str(labels.get(label, "")) if isinstance(labels, Mapping) else ""


def data_of(declared: Mapping[str, Any], key: str) -> str:
    """A value of a ConfigMap, however wrong it is; empty if it has none."""
    data = declared.get("data")
    return str(data.get(key, "")) if isinstance(data, Mapping) else ""
