# SPDX-License-Identifier: Apache-2.0
"""Triggers: what starts a function.

A function's own trigger is the topic of its description, which is kept with it. Any other is a ConfigMap in its
region, which the region's gateway watches. Nothing else is stored. This module has what all kinds share, and the
kind mqtt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from koren_faas import manifests
from koren_faas.change import Difference, Result, compare, join
from koren_faas.deployment import Deployed, ls, placed, update
from koren_faas.errors import FaasError, FunctionError, NotDeployedError, RegionError, TriggerError
from koren_faas.function import delay_problems
from koren_faas.gateway import Gateway, await_declared, declared
from koren_faas.image import Progress
from koren_faas.kube import Kube
from koren_faas.manifests import TRIGGER_LABEL, Manifest
from koren_faas.objects import apply
from koren_faas.objects import remove as remove_object
from koren_faas.regions import attempt, demand_all, everywhere
from koren_faas.site import Region, Site

MQTT, CRON, HTTP = "mqtt", "cron", "http"
ACTIVE, PAUSED, REFUSED, UNKNOWN = "ACTIVE", "PAUSED", "REFUSED", "UNKNOWN"
"""How a trigger stands; unknown while the region's gateway does not tell."""

CONFIGMAPS = f"/api/v1/namespaces/{manifests.NAMESPACE}/configmaps"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?")
_KNOWN_TIMEOUT_S = 60.0
_PAUSER = "faas-pause"
"""Owner of the mark of a pause, so that a deploy or a create leaves it."""
_FUNCTION_LABELS = ("function", "faas.koren.kr/function")
# Kubeless marks with it what is its own, and its users select by it.
_OWN = {"created-by": "kubeless"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What starts a function in one region.

    Attributes:
        name: its own name; the function's unless it was given another.
        kind: `mqtt`, `cron`, …
        function: what it starts.
        region: the region's name.
        data: what is declared beside that, such as `topic` of kind mqtt.
        own: whether it is part of the function's description.
        status: `ACTIVE`, `PAUSED`, `REFUSED` or `UNKNOWN`.
        problem: why it is refused, or starts nothing.
        last: RFC 3339 time of the latest run of kind cron, or since when it is looked at.
        next: that of the next run.
    """

    name: str
    kind: str
    function: str
    region: str
    data: Mapping[str, str]
    own: bool = False
    status: str = UNKNOWN
    problem: str | None = None
    last: str | None = None
    next: str | None = None

    @property
    def topic(self) -> str:
        """MQTT topic filter of kind mqtt."""
        return self.data.get("topic", "")

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        times = {"last": self.last, "next": self.next} if self.kind == CRON else {}
        return {
            "name": self.name,
            "kind": self.kind,
            **{key.replace("-", "_"): value for key, value in self.data.items()},
            "function": self.function,
            "region": self.region,
            "status": self.status,
            "problem": self.problem,
            **times,
        }


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
    delay_s: int = 0,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have the events of `topic` start the function, beside what else starts it.

    Args:
        topic: MQTT topic filter; `{region}` in it stands for the region's name.
        delay_s: seconds that each event waits before the function gets it.
        regions: their names; none means every region that has the function.
        check: change nothing, only tell what would change.

    Raises:
        NotDeployedError: a region does not have the function.
        FunctionError: the topic can't be accepted.
        TriggerError: the delay can't be accepted, or another trigger has the name; nothing was changed.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    for problem in delay_problems(delay_s):
        raise TriggerError(f"trigger {name!r}: {problem}")
    wanted: dict[str, Mapping[str, str]] = {}
    for one in placed(site, function, regions):
        its = replace(one.function, topic=topic, trigger=None).for_region(one.region)
        wanted[one.region] = {"topic": its.topic or "", "delay-s": str(delay_s) if delay_s else ""}
    return declare(site, name, MQTT, function, wanted, check=check, on_progress=on_progress)


def places(site: Site, function: str, regions: Iterable[str], *, check: bool) -> list[str]:
    """Names of the regions that are to have a trigger of the function: these, or each that has the function.

    Raises:
        NotDeployedError: a region does not have the function. With `check`, those that are named need not.
    """
    names = list(regions)
    if check and names:
        return names  # before the first run of a site the function is not there yet, and would be
    return [one.region for one in placed(site, function, names)]


def declare(
    site: Site,
    name: str,
    kind: str,
    function: str,
    wanted: Mapping[str, Mapping[str, str]],
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have a trigger in regions; returns once their gateways know it.

    Args:
        wanted: region's name to what is declared there.
        check: change nothing, only tell what would change.

    Raises:
        TriggerError: the name can't be accepted, or another trigger has it; nothing was changed.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    if not _NAME.fullmatch(name):
        raise TriggerError(
            f"trigger {name!r}: a name is at most 54 lower-case letters, digits and inner hyphens"
        )
    found, _ = every(site, wanted)
    # A region that is cut off is told of later: it does not keep the others from the trigger.
    there = [one for one in found if one.name == name]
    for one in there:
        _demand_same(one, kind, function, wanted[one.region])
    in_place = {one.region for one in there if one.own}

    def declare_in(region: Region) -> list[Difference]:
        if region.name in in_place:
            return []
        kube = Kube(region, site.kubeconfig)
        changes: list[Difference] = []
        manifest = manifest_of(name, {"kind": kind, "function": function, **wanted[region.name]})
        for needed in (*manifests.for_namespace(), manifest):
            changes += apply(kube, needed, check)
        if changes and not check:
            _await_known(kube, name, kind, wanted[region.name])
            on_progress(f"{region.name}: trigger {name} starts {function}")
        return changes

    return join(everywhere(site.pick(wanted), declare_in))


def every(
    site: Site, regions: Iterable[str] = ()
) -> tuple[tuple[Trigger, ...], Mapping[str, FaasError]]:
    """The triggers of all kinds by name, then region; and the regions that did not tell, with the reason.

    Raises:
        SiteError: a region does not exist.
    """

    def one(region: Region) -> list[Trigger]:
        kube = Kube(region, site.kubeconfig)
        items = kube.list(CONFIGMAPS, TRIGGER_LABEL)
        known = _known_to_gateway(kube, items)
        return [_declared(region.name, item, known) for item in items]

    names = list(regions)
    listing = ls(site, (), names)
    done, unreachable = attempt(site.pick(names), one)
    found = [trigger for part in done.values() for trigger in part]
    found += [own for function in listing.functions if (own := _own_trigger(function))]
    return (
        tuple(sorted(found, key=lambda trigger: (trigger.name, trigger.region))),
        {**listing.unreachable, **unreachable},
    )


def of(
    site: Site, function: str, regions: Iterable[str] = ()
) -> tuple[tuple[Trigger, ...], Mapping[str, FaasError]]:
    """The triggers of all kinds that start a function, as `every` gives them."""
    found, unreachable = every(site, regions)
    return tuple(one for one in found if one.function == function), unreachable


def triggers(
    site: Site, regions: Iterable[str] = (), kind: str = MQTT
) -> tuple[tuple[Trigger, ...], Mapping[str, FaasError]]:
    """The triggers of a kind by name, then region; and the regions that did not tell, with the reason.

    Raises:
        SiteError: a region does not exist.
    """
    found, unreachable = every(site, regions)
    return tuple(one for one in found if one.kind == kind), unreachable


def named(site: Site, name: str, regions: Iterable[str] = (), kind: str | None = None) -> Sequence[Trigger]:
    """The trigger in each of these regions that has it.

    Raises:
        NotDeployedError: there is none.
        RegionError: a region did not answer, so that nobody knows.
    """
    found, unreachable = every(site, regions)
    demand_all(unreachable)
    mine = [one for one in found if one.name == name and kind in (None, one.kind)]
    if not mine:
        what = {MQTT: "MQTT trigger", CRON: "cron trigger", HTTP: "HTTP trigger"}.get(kind or "", "trigger")
        verb = {CRON: "cronjob", HTTP: "http"}.get(kind or "", "mqtt")
        raise NotDeployedError(f"there is no {what} {name!r}; see 'faas trigger {verb} list'")
    return mine


def delete(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    kind: str = MQTT,
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Take a trigger away. Events that it has brought stay in the queue, and start the function if it was paused.

    Args:
        regions: their names; none means every region that has the trigger.
        check: change nothing, only tell what would change.

    Raises:
        NotDeployedError: there is no such trigger.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    mine = named(site, name, regions, kind)
    diff: list[Difference] = []
    for function in sorted({one.function for one in mine if one.own}):
        places = [one.region for one in mine if one.own and one.function == function]
        if not check:
            pause(site, name, places, paused=False)
        changes = {"topic": None, "trigger": None, "delay_s": 0}
        diff += update(site, function, changes, places, check=check, on_progress=on_progress).diff
    if places := [one.region for one in mine if not one.own]:
        diff += remove(site, name, kind, places, check=check, on_progress=on_progress).diff
    return Result(tuple(diff), tuple(sorted({one.region for one in mine})))


def remove(
    site: Site,
    name: str,
    kind: str,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Take a trigger that is declared by itself away. One that is not there is no error.

    Args:
        regions: their names; none means every region.
        check: change nothing, only tell what would change.

    Raises:
        SiteError: a region does not exist.
        RegionError: regions refused or did not answer, or have the name for a trigger of another kind; the message
            tells of each.
    """

    def one(region: Region) -> list[Difference]:
        kube = Kube(region, site.kubeconfig)
        there = ((kube.get(object_of(name)) or {}).get("data") or {}).get("kind", kind)
        if there != kind:
            raise TriggerError(f"{region.name}: trigger {name} is of kind {there}, not {kind}; it stays")
        changes: list[Difference] = []
        for what in ("ConfigMap", "RoleBinding", "Role") if kind == HTTP else ("ConfigMap",):
            changes += remove_object(kube, object_of(name, what), check)
        if changes and not check:
            on_progress(f"{region.name}: trigger {name} deleted")
        return changes

    return join(everywhere(site.pick(regions), one))


def pause(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    paused: bool,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have a trigger of any kind start nothing, or start what has waited and all that comes; returns once that is so.

    Args:
        regions: their names; none means every region that has the trigger.
        paused: whether it is to be paused; else it is resumed.

    Raises:
        NotDeployedError: there is no such trigger.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    mine = named(site, name, regions)

    def one(region: Region) -> list[Difference]:
        kube = Kube(region, site.kubeconfig)
        changes: list[Difference] = []
        # A function's own trigger may have the name of one that was there before.
        here = [trigger for trigger in mine if trigger.region == region.name]
        for trigger in here:
            manifest = _mark(trigger, paused)
            before = kube.get(manifest)
            changes += compare(region.name, before, kube.apply(manifest, manager=_PAUSER))
        if changes:
            for kind in sorted({trigger.kind for trigger in here}):
                _await_paused(kube, name, kind, paused)
            on_progress(f"{region.name}: trigger {name} is {'paused' if paused else 'active'}")
        return changes

    return join(everywhere(site.pick(sorted({trigger.region for trigger in mine})), one))


def _mark(trigger: Trigger, paused: bool) -> Manifest:
    """What says of a trigger that it is paused, or no more."""
    if not trigger.own:
        return {**object_of(trigger.name), **({"data": {"paused": "true"}} if paused else {})}
    meta = {"name": trigger.function, "namespace": manifests.NAMESPACE}
    mark = {"annotations": {manifests.PAUSED: "true"}} if paused else {}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**meta, **mark}}


def _demand_same(one: Trigger, kind: str, function: str, data: Mapping[str, str]) -> None:
    """Refuse a name that another trigger has."""
    where = f"trigger {one.name!r} in {one.region}"
    if one.kind != kind:
        raise TriggerError(f"{where} is of kind {one.kind}: choose another name, or delete it first")
    if one.function != function:
        raise TriggerError(
            f"{where} starts the function {one.function}: choose another name, or delete it first"
        )
    for key, flag in (("topic", "--topic"), ("delay-s", "--delay")):
        if one.own and one.data.get(key, "") != data.get(key, ""):
            raise TriggerError(
                f"{where} is the function's own ({one.topic}): change its {flag[2:]} with 'faas function update"
                f" {function} {flag}', or choose another name for a further trigger"
            )


def _own_trigger(one: Deployed) -> Trigger | None:
    function = one.function
    if function.topic is None:
        return None
    return Trigger(
        name=function.trigger or function.name,
        kind=MQTT,
        function=function.name,
        region=one.region,
        data={"topic": function.topic, **({"delay-s": str(function.delay_s)} if function.delay_s else {})},
        own=True,
        status=PAUSED if one.paused else ACTIVE,
    )


def _declared(region: str, item: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Trigger:
    data = dict(item.get("data") or {})
    kind, function, paused = (data.pop(key, "") for key in ("kind", "function", "paused"))
    name = item["metadata"]["labels"][TRIGGER_LABEL]
    told = known.get(_told_in(kind), {}).get(name, {})
    status = PAUSED if paused == "true" else ACTIVE if told else UNKNOWN
    return Trigger(
        name=name,
        kind=kind,
        function=function,
        region=region,
        data=data,
        status=REFUSED if told.get("problem") else status,
        problem=told.get("problem"),
        last=told.get("last"),
        next=told.get("next"),
    )


def _told_in(kind: str) -> str:
    """The gateway's list that has the triggers of a kind."""
    return "http-triggers" if kind == HTTP else "triggers"


def _known_to_gateway(kube: Kube, items: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """What the gateway says of declared triggers: each of its lists by name. Empty when it does not answer."""
    lists = {_told_in((item.get("data") or {}).get("kind", "")) for item in items}
    gateway = Gateway(kube)
    try:
        return {what: declared(gateway, what) for what in sorted(lists)}
    except RegionError:
        return {}


def _await_known(kube: Kube, name: str, kind: str, data: Mapping[str, str]) -> None:
    def known(told: Mapping[str, Any]) -> bool:
        if told.get("problem"):
            raise RegionError(f"{kube.region}: trigger {name} is refused: {told['problem']}")
        fields = ("topic", "schedule", "timezone")
        same = all(told.get(key) == data[key] for key in fields if key in data)
        return told.get("kind") == kind and same and int(told.get("delay_s") or 0) == int(data.get("delay-s") or 0)

    _await(kube, name, kind, known, f"trigger {name} is declared, and the gateway does not know it yet")


def _await_paused(kube: Kube, name: str, kind: str, paused: bool) -> None:
    verb = "paused" if paused else "resumed"
    _await(
        kube,
        name,
        kind,
        lambda told: told.get("paused") == paused,
        f"trigger {name} is to be {verb}, and the gateway has not done it yet",
    )


def _await(kube: Kube, name: str, kind: str, done: Callable[[Mapping[str, Any]], bool], problem: str) -> None:
    late = f"{problem}: see its log, and 'kubectl -n koren-faas get pods'"
    await_declared(kube, _told_in(kind), name, done, late, _KNOWN_TIMEOUT_S)


def manifest_of(name: str, data: Mapping[str, str]) -> Manifest:
    """The ConfigMap that declares a trigger; what is empty is left out."""
    return {**labelled(name), "data": {key: value for key, value in data.items() if value}}


def labelled(name: str, kind: str = "ConfigMap") -> Manifest:
    """The same with the labels that it has."""
    named = object_of(name, kind)
    return {**named, "metadata": {**named["metadata"], "labels": {TRIGGER_LABEL: name, **manifests.MANAGED}}}


def object_of(name: str, kind: str = "ConfigMap") -> Manifest:
    """What names an object of a trigger."""
    version = "v1" if kind == "ConfigMap" else "rbac.authorization.k8s.io/v1"
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": f"trigger-{name}", "namespace": manifests.NAMESPACE},
    }
