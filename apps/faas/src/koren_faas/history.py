# SPDX-License-Identifier: Apache-2.0
"""What a function has handled, in the regions that keep it: list it, and have it handled again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from koren_faas.deployment import placed
from koren_faas.errors import FaasError, RegionError
from koren_faas.gateway import Gateway, pages_of
from koren_faas.kube import Kube
from koren_faas.regions import everywhere
from koren_faas.site import Region, Site


@dataclass(frozen=True, slots=True)
class HandledEvent:
    """An event that a function has handled.

    Attributes:
        region: the region's name.
        id: the event's own.
        time: when it was handled.
        attempts: how often it was tried.
        bytes: what it counts against the region's budget.
        event: id, source, type, subject and time of the event.
    """

    region: str
    id: str
    time: str
    attempts: int
    bytes: int
    event: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Handled:
    """Handled events that were found.

    Attributes:
        events: by region, oldest first.
        unreachable: regions that did not tell, or keep no history, with the reason.
        more: names of regions that have more than were asked for.
    """

    events: tuple[HandledEvent, ...]
    unreachable: Mapping[str, FaasError]
    more: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay has queued in a region, or would.

    Attributes:
        region: the region's name.
        events: how many.
        is_repeat: whether the same request had queued them before.
    """

    region: str
    events: int
    is_repeat: bool


def history(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Handled:
    """What the function has handled and its regions still keep.

    Args:
        since: only what was handled from that time on.
        until: only what was handled until then.
        limit: at most so many of a region, the oldest; None means all.

    Raises:
        NotDeployedError: a named region does not have the function, or none does.
    """
    query = {key: _text(at) for key, at in (("since", since), ("until", until)) if at is not None}
    places = _places(site, name, regions)
    return Handled(*pages_of(site, places, f"/functions/{name}/history", "events", query, limit, _handled))


def replay(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    since: datetime,
    until: datetime,
    request: str,
    subject: str | None = None,
    dry_run: bool = False,
) -> tuple[Replayed, ...]:
    """Queue copies of what the function handled in that span, for it alone and in that order.

    Nothing is queued in any region if one of them refuses.

    Args:
        request: an id; the same one again queues nothing again.
        subject: only events with this subject.
        dry_run: only say what would be queued.

    Raises:
        NotDeployedError: a named region does not have the function, or none does.
        RegionError: a region refused or did not answer; the message tells of each.
    """
    body = {"request": request, "since": _text(since), "until": _text(until), "subject": subject}

    def asked(region: Region, dry_run: bool) -> Replayed:
        gateway = Gateway(Kube(region, site.kubeconfig))
        answer = json.loads(gateway.request("POST", f"/functions/{name}/replay", body=body | {"dry_run": dry_run}))
        return Replayed(region.name, answer["events"], answer["repeat"])

    places = _places(site, name, regions)
    done = everywhere(places, lambda region: asked(region, True))
    if not dry_run:
        try:
            done = everywhere(places, lambda region: asked(region, False))
        except RegionError as error:
            again = f"the same command with --request-id {request} queues nothing twice"
            raise RegionError(f"{error}\n{again}", error.status) from error
    return tuple(done[region] for region in sorted(done))


def _handled(region: str, content: Mapping[str, Any]) -> HandledEvent:
    return HandledEvent(region=region, id=content["event"]["id"], **content)


def _places(site: Site, name: str, regions: Iterable[str]) -> list[Region]:
    return [site.regions[one.region] for one in placed(site, name, regions)]


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
