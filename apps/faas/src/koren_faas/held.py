# SPDX-License-Identifier: Apache-2.0
"""Events that regions hold until a person releases or dismisses them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from koren_faas.errors import FaasError, RegionError, SiteError
from koren_faas.gateway import Gateway, pages
from koren_faas.kube import Kube
from koren_faas.regions import attempt, everywhere
from koren_faas.site import Region, Site

_PATH = "/held"


@dataclass(frozen=True, slots=True)
class HeldEvent:
    """An event that starts nothing until it is released.

    Attributes:
        region: the region's name.
        id: its own, in its region.
        state: `held`, or `dismissed` while it is kept to be looked at.
        received: when it came.
        until: when it is dismissed by itself, or forgotten; None when the region does not say.
        by: who dismissed it; None while it is held, and when its time was over.
        bytes: size of its message.
        event: id, source, type, subject and time of the event; None when it can't be read.
    """

    region: str
    id: str
    state: str
    received: str
    until: str | None
    by: str | None
    bytes: int
    event: Mapping[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Held:
    """Held events that were found.

    Attributes:
        events: by region, oldest first.
        unreachable: regions that did not tell, with the reason.
        more: names of regions that have more than were asked for.
    """

    events: tuple[HeldEvent, ...]
    unreachable: Mapping[str, FaasError]
    more: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a release or dismissal did: it is for all held events of one subject.

    Attributes:
        region: the region's name.
        subject: of the events; None of one that has none.
        events: ids of the events.
    """

    region: str
    subject: str | None
    events: tuple[str, ...]


def held(site: Site, regions: Iterable[str] = (), *, limit: int | None = None) -> Held:
    """The held events of all regions, unless some are named. A region may be cut off.

    Args:
        limit: at most so many of a region, the oldest; None means all.

    Raises:
        SiteError: a region does not exist.
    """

    def one(region: Region) -> tuple[list[HeldEvent], bool]:
        found, more = pages(_gateway(site, region), _PATH, "held", {}, limit)
        return [_held(region.name, event) for event in found], more

    done, errors = attempt(site.pick(regions), one)
    return Held(
        events=tuple(event for name in sorted(done) for event in done[name][0]),
        unreachable=errors,
        more=tuple(name for name in sorted(done) if done[name][1]),
    )


def held_event(site: Site, id: str, regions: Iterable[str] = ()) -> dict[str, Any]:
    """One held event as plain data, with its `message`.

    Raises:
        SiteError: there is no such event, or a region does not exist.
        RegionError: a region did not answer.
    """
    ((region, content),) = _find(site, [id], regions).values()
    return {"region": region.name, **content}


def release(site: Site, ids: Collection[str], regions: Iterable[str] = ()) -> tuple[Decision, ...]:
    """Have held events handled as if they had just come, with all that are held of their subjects.

    Raises:
        SiteError: there is no such event, or a region does not exist; nothing was released.
        RegionError: a region refused or did not answer; the message tells of each.
    """
    return _decide(site, ids, regions, "release", "released")


def dismiss(site: Site, ids: Collection[str], regions: Iterable[str] = ()) -> tuple[Decision, ...]:
    """Have held events never handled, with all that are held of their subjects.

    Errors are those of `release`.
    """
    return _decide(site, ids, regions, "dismiss", "dismissed")


def _decide(
    site: Site, ids: Collection[str], regions: Iterable[str], verb: str, done: str
) -> tuple[Decision, ...]:
    found = _find(site, ids, regions)

    def one(region: Region) -> list[Decision]:
        gateway = _gateway(site, region)
        problems: list[str] = []
        decisions: list[Decision] = []
        settled: set[str] = set()
        for id, (place, content) in found.items():
            # One that is named too went with the first of its subject.
            if place != region or (content["event"] or {}).get("id") in settled:
                continue
            try:
                answer = json.loads(gateway.request("POST", f"{_PATH}/{quote(id, safe='')}/{verb}"))
            except RegionError as error:
                problems.append(str(error))
                continue
            settled.update(answer[done])
            decisions.append(Decision(region.name, answer["subject"], tuple(answer[done])))
        if problems:
            raise RegionError("\n".join(problems))
        return decisions

    places = {region.name: region for region, _ in found.values()}
    results = everywhere([places[name] for name in sorted(places)], one)
    return tuple(decision for part in results.values() for decision in part)


def _find(
    site: Site, ids: Iterable[str], regions: Iterable[str]
) -> dict[str, tuple[Region, dict[str, Any]]]:
    """Each id to the region that has it, and what that says of it."""
    wanted = list(dict.fromkeys(ids))
    places = site.pick(regions)

    def one(region: Region) -> dict[str, dict[str, Any]]:
        gateway, there = _gateway(site, region), {}
        for id in wanted:
            try:
                there[id] = json.loads(gateway.request("GET", f"{_PATH}/{quote(id, safe='')}"))
            except RegionError as error:
                if error.status != 404:
                    raise
        return there

    done, errors = attempt(places, one)
    found = {id: (site.regions[name], there[id]) for name, there in done.items() for id in there}
    missing = [id for id in wanted if id not in found]
    if missing and errors:
        raise RegionError("\n".join(str(error) for error in errors.values()))
    if missing:
        raise SiteError(f"there is no held event {', '.join(missing)}; see 'faas event held'")
    return {id: found[id] for id in wanted}


def _held(region: str, content: Mapping[str, Any]) -> HeldEvent:
    return HeldEvent(
        region=region,
        id=content["id"],
        state=content["state"],
        received=content["received"],
        until=content.get("until"),
        by=content.get("by"),
        bytes=content["bytes"],
        event=content["event"],
    )


def _gateway(site: Site, region: Region) -> Gateway:
    return Gateway(Kube(region, site.kubeconfig))
