# SPDX-License-Identifier: Apache-2.0
"""Events that regions hold until a person releases or dismisses them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from koren_faas.errors import FaasError, RegionError, SiteError
from koren_faas.gateway import Gateway, pages_of
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
    return Held(*pages_of(site, site.pick(regions), _PATH, "held", {}, limit, _held))


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
    return _decide(site, tuple(_find(site, ids, regions).values()), "release", "released")


def dismiss(site: Site, ids: Collection[str], regions: Iterable[str] = ()) -> tuple[Decision, ...]:
    """Have held events never handled, with all that are held of their subjects.

    Errors are those of `release`.
    """
    return _decide(site, tuple(_find(site, ids, regions).values()), "dismiss", "dismissed")


def release_incidents(
    site: Site, subjects: Collection[str], regions: Iterable[str] = ()
) -> tuple[Decision, ...]:
    """Have the held events of incidents handled as if they had just come.

    Args:
        subjects: the incidents'.

    Raises:
        SiteError: an incident has no held event, or a region does not exist; nothing was released.
        RegionError: a region refused or did not answer; the message tells of each.
    """
    return _decide(site, _of_incidents(site, subjects, regions), "release", "released")


def dismiss_incidents(
    site: Site, subjects: Collection[str], regions: Iterable[str] = ()
) -> tuple[Decision, ...]:
    """Have the held events of incidents never handled.

    Errors are those of `release_incidents`.
    """
    return _decide(site, _of_incidents(site, subjects, regions), "dismiss", "dismissed")


def _decide(
    site: Site, found: Sequence[tuple[Region, Mapping[str, Any]]], verb: str, done: str
) -> tuple[Decision, ...]:
    def one(region: Region) -> list[Decision]:
        gateway = _gateway(site, region)
        problems: list[str] = []
        decisions: list[Decision] = []
        settled: set[str] = set()
        for place, content in found:
            # One that is named too went with the first of its subject.
            if place != region or (content["event"] or {}).get("id") in settled:
                continue
            path = f"{_PATH}/{quote(content['id'], safe='')}/{verb}"
            try:
                answer = json.loads(gateway.request("POST", path))
            except RegionError as error:
                problems.append(str(error))
                continue
            settled.update(answer[done])
            decisions.append(Decision(region.name, answer["subject"], tuple(answer[done])))
        if problems:
            raise RegionError("\n".join(problems))
        return decisions

    places = {region.name: region for region, _ in found}
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


def _of_incidents(
    site: Site, subjects: Iterable[str], regions: Iterable[str]
) -> list[tuple[Region, dict[str, Any]]]:
    """One held event of each incident, in each region that has some: a decision is for all of them."""
    wanted = list(dict.fromkeys(subjects))
    known = held(site, regions)
    found: dict[tuple[str, str], HeldEvent] = {}
    settled: dict[str, HeldEvent] = {}
    for one in known.events:
        subject = (one.event or {}).get("subject")
        if subject not in wanted:
            continue
        if one.state == "held":
            found.setdefault((subject, one.region), one)
        else:
            settled[subject] = one
    missing = [subject for subject in wanted if subject not in {name for name, _ in found}]
    if missing and known.unreachable:
        raise RegionError("\n".join(str(error) for error in known.unreachable.values()))
    if missing:
        whys = [
            f"{subject} was dismissed already, by {settled[subject].by or 'nobody: its time was over'}"
            if subject in settled
            else f"{subject} has no held event"
            for subject in missing
        ]
        raise SiteError(f"{'; '.join(whys)}; see 'faas incident ls --state held'")
    return [(site.regions[one.region], one.as_dict()) for one in found.values()]


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
