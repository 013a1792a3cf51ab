# SPDX-License-Identifier: Apache-2.0
"""Events that functions of a site's regions could not handle: look at them, send them again, drop them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from koren_faas.errors import FaasError, RegionError, SiteError
from koren_faas.gateway import Gateway, pages_of
from koren_faas.kube import Kube
from koren_faas.regions import everywhere
from koren_faas.site import Region, Site

_PATH = "/dead-letters"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that one function, or none, could handle.

    Attributes:
        region: the region's name.
        id: the dead letter's own, in its region.
        function: whose it is; None of an event that is none for this region.
        reason: what went wrong last.
        attempts: how often it was tried.
        time: when it became a dead letter.
        event: id, source, type, subject and time of the event; None when it is no event at all.
        bytes: size of its message; None where the gateway does not say.
    """

    region: str
    id: str
    function: str | None
    reason: str
    attempts: int
    time: str
    event: Mapping[str, Any] | None
    bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters that were found.

    Attributes:
        letters: by region, oldest first.
        unreachable: regions that did not tell, with the reason.
        more: names of regions that have more than were asked for.
    """

    letters: tuple[DeadLetter, ...]
    unreachable: Mapping[str, FaasError]
    more: tuple[str, ...]


def dead_letters(
    site: Site,
    function: str | None = None,
    regions: Iterable[str] = (),
    *,
    limit: int | None = None,
) -> Letters:
    """The dead letters of all regions, unless some are named. A region may be cut off.

    Args:
        function: only those of this function.
        limit: at most so many of a region, the oldest; None means all.

    Raises:
        SiteError: a region does not exist.
    """
    query = {"function": function} if function else {}
    return Letters(*pages_of(site, site.pick(regions), _PATH, "dead_letters", query, limit, _letter))


def dead_letter(site: Site, id: str, regions: Iterable[str] = ()) -> dict[str, Any]:
    """One dead letter as plain data, with its `message`, or `message_base64` of what is no JSON.

    Raises:
        SiteError: there is no such dead letter, or a region does not exist.
        RegionError: a region did not answer.
    """
    (letter,) = _find(site, [id], None, regions)
    gateway = _gateway(site, site.regions[letter.region])
    content: dict[str, Any] = json.loads(gateway.request("GET", _path(letter)))
    return letter.as_dict() | content


def redrive(
    site: Site,
    ids: Collection[str] = (),
    function: str | None = None,
    regions: Iterable[str] = (),
) -> tuple[DeadLetter, ...]:
    """Have events handled again, as if they were new; they are no dead letters then.

    Args:
        ids: which; none means all, those of `function` if it is given.

    Returns:
        what was sent again.

    Raises:
        SiteError: there is no such dead letter, or a region does not exist; nothing was sent.
        RegionError: a region refused or did not answer; the message tells of each.
    """
    return _each(site, _find(site, ids, function, regions), "POST", "/redrive")


def purge(
    site: Site,
    ids: Collection[str] = (),
    function: str | None = None,
    regions: Iterable[str] = (),
) -> tuple[DeadLetter, ...]:
    """Throw dead letters away, for good.

    Args and errors are those of `redrive`. Returns what was thrown away.
    """
    return _each(site, _find(site, ids, function, regions), "DELETE", "")


def _each(
    site: Site, letters: Collection[DeadLetter], method: str, suffix: str
) -> tuple[DeadLetter, ...]:
    def one(region: Region) -> None:
        gateway, problems = _gateway(site, region), []
        for letter in letters:
            if letter.region == region.name:
                try:
                    gateway.request(method, _path(letter) + suffix)
                except RegionError as error:
                    problems.append(str(error))
        if problems:
            raise RegionError("\n".join(problems))

    everywhere([site.regions[name] for name in sorted({one.region for one in letters})], one)
    return tuple(letters)


def _find(
    site: Site, ids: Collection[str], function: str | None, regions: Iterable[str]
) -> tuple[DeadLetter, ...]:
    found = dead_letters(site, function, regions)
    letters = tuple(one for one in found.letters if not ids or one.id in ids)
    missing = set(ids) - {one.id for one in letters}
    if found.unreachable and (missing or not ids):
        raise RegionError("\n".join(str(error) for error in found.unreachable.values()))
    if missing:
        raise SiteError(
            f"there is no dead letter {', '.join(sorted(missing))}; see 'faas dlq list'"
        )
    return letters


def _letter(region: str, content: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        region=region,
        id=content["id"],
        function=content["function"],
        reason=content["reason"],
        attempts=content["attempts"],
        time=content["time"],
        event=content["event"],
        bytes=content.get("bytes"),
    )


def _path(letter: DeadLetter) -> str:
    return f"{_PATH}/{quote(letter.id, safe='')}"


def _gateway(site: Site, region: Region) -> Gateway:
    return Gateway(Kube(region, site.kubeconfig))
