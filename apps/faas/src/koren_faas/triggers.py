# SPDX-License-Identifier: Apache-2.0
"""MQTT triggers. A function has one at most, and it is kept with the function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from koren_faas.change import Difference, Result
from koren_faas.deployment import Deployed, ls, placed, update
from koren_faas.errors import FaasError, FunctionError, NotDeployedError, RegionError
from koren_faas.image import Progress
from koren_faas.site import Site

_FUNCTION_LABELS = ("function", "faas.koren.kr/function")
# Kubeless marks with it what is its own, and its users select by it.
_OWN = {"created-by": "kubeless"}


@dataclass(frozen=True, slots=True)
class Trigger:
    """A topic filter whose events start a function in one region.

    Attributes:
        name: its own name; the function's unless it was given another.
        topic: the MQTT topic filter.
        function: what it starts.
        region: the region's name.
    """

    name: str
    topic: str
    function: str
    region: str

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return asdict(self)


def selected(selector: str) -> str:
    """The function that a label query such as `function=hello` selects.

    Raises:
        FunctionError: it is no label query, or selects by another label.
    """
    function = None
    for term in selector.split(","):
        label, equals, value = (part.strip() for part in term.partition("="))
        if label in _FUNCTION_LABELS and equals and value:
            function = value
        elif _OWN.get(label) != value:
            raise FunctionError(
                f"Invalid label selector specified {selector!r}: function=NAME selects a function"
            )
    if function is None:
        raise FunctionError(
            f"Invalid label selector specified {selector!r}: it lacks function=NAME"
        )
    return function


def create(
    site: Site,
    name: str,
    topic: str,
    function: str,
    regions: Iterable[str] = (),
    *,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have the events of `topic` start the function.

    Args:
        topic: MQTT topic filter; `{region}` in it stands for the region's name.
        regions: their names; none means every region that has the function.

    Raises:
        NotDeployedError: a region does not have the function.
        FunctionError: the topic can't be accepted, or the function has a trigger already.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    found = placed(site, function, regions)
    for one in found:
        there = _trigger(one)
        if there is not None and (there.name, there.topic) != (name, _topic(one, topic)):
            raise FunctionError(
                f"function {function!r} has the trigger {there.name} ({there.topic}) in"
                f" {there.region} already: delete it first, or change its topic with"
                f" 'faas function update {function} --topic'"
            )
    own = None if name == function else name
    changes = {"topic": topic, "trigger": own}
    return update(site, function, changes, [one.region for one in found], on_progress=on_progress)


def triggers(
    site: Site, regions: Iterable[str] = ()
) -> tuple[tuple[Trigger, ...], Mapping[str, FaasError]]:
    """The triggers by name, then region; and the regions that did not tell, with the reason.

    Raises:
        SiteError: a region does not exist.
    """
    listing = ls(site, (), regions)
    found = [trigger for one in listing.functions if (trigger := _trigger(one))]
    return tuple(sorted(found, key=lambda one: (one.name, one.region))), listing.unreachable


def delete(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Take a trigger away from its function, which only calls start then.

    Raises:
        NotDeployedError: there is no such trigger.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    found, unreachable = triggers(site, regions)
    mine = [one for one in found if one.name == name]
    if unreachable:
        raise RegionError("\n".join(str(error) for error in unreachable.values()))
    if not mine:
        raise NotDeployedError(f"there is no MQTT trigger {name!r}; see 'faas trigger mqtt list'")
    diff: list[Difference] = []
    done: list[str] = []
    for function in sorted({one.function for one in mine}):
        places = [one.region for one in mine if one.function == function]
        changes = {"topic": None, "trigger": None}
        result = update(site, function, changes, places, on_progress=on_progress)
        diff += result.diff
        done += result.regions
    return Result(tuple(diff), tuple(done))


def _trigger(one: Deployed) -> Trigger | None:
    function = one.function
    if function.topic is None:
        return None
    return Trigger(function.trigger or function.name, function.topic, function.name, one.region)


def _topic(one: Deployed, topic: str) -> str:
    return topic.replace("{region}", one.region)
