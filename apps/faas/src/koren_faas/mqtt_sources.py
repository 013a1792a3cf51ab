# SPDX-License-Identifier: Apache-2.0
"""Sources: MQTT topics whose messages become events, and who may publish them.

A source is a ConfigMap in its region, which the region's gateway watches, and a file of rights at the
broker. Nothing else is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from koren_faas import manifests
from koren_faas.change import Difference, Result, join
from koren_faas.errors import FaasError, NotDeployedError, RegionError, SiteError, SourceError
from koren_faas.gateway import Gateway, await_declared, declared
from koren_faas.image import Progress
from koren_faas.kube import Kube
from koren_faas.manifests import SOURCE_LABEL, Manifest
from koren_faas.objects import apply, remove
from koren_faas.regions import attempt, demand_all, everywhere
from koren_faas.site import CENTRAL, Region, Site
from koren_faas.ssh import on_host

LISTENING, WAITING, REFUSED = "LISTENING", "WAITING", "REFUSED"
"""Whether the region's broker hands a source's messages on, or why not."""
REGION, CENTRE = "region", "centre"
"""Where publishers connect."""

_RIGHTS = "/usr/local/sbin/koren-mosquitto-acl"
_OPEN_TIMEOUT_S = 60.0
_OWN_LEVELS = ("events", "receipts", "health")
_CONFIGMAPS = f"/api/v1/namespaces/{manifests.NAMESPACE}/configmaps"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FIELD = r"payload(\.[^.\s]{1,128}){1,8}"
_SUBJECT_FROM = re.compile(rf"topic(\.[1-9][0-9]?)?|{_FIELD}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSource:
    """A source as its user describes it.

    Attributes:
        name: DNS label; its events have the source `mqtt/<name>`, and triggers know them by the
            topic `events/<region>/<name>/mqtt`.
        topic: MQTT topic filter; `{region}` stands for the region's name.
        subject_from: `topic`, `topic.N` or `payload.FIELD`: events of one subject keep their order.
            Empty: they have none.
        id_from: `payload.FIELD`, by which a repeat is known. Empty: there is none.
        publishers: users of the broker who may publish to the topic.
        at: `region` when they publish at the region's broker, `centre` when at the centre's, which
            sends the messages on.

    Raises:
        SourceError: a value can't be accepted; the message names it.
    """

    name: str
    topic: str
    subject_from: str = ""
    id_from: str = ""
    publishers: tuple[str, ...] = ()
    at: str = REGION

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise SourceError(f"source {self.name!r}: {problem}")

    def for_region(self, region: str) -> MqttSource:
        """The source as it is in `region`."""
        return replace(self, topic=self.topic.replace("{region}", region))


@dataclass(frozen=True, slots=True)
class Declared:
    """A source in one region.

    Attributes:
        region: the region's name.
        source: its description; None when it can't be read.
        name: the source's.
        status: `LISTENING`, `WAITING` or `REFUSED`.
        problem: why it is refused.
    """

    region: str
    source: MqttSource | None
    name: str
    status: str
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        its = asdict(self.source) if self.source else {"name": self.name}
        return {**its, "region": self.region, "status": self.status, "problem": self.problem}


def create(
    site: Site,
    spec: MqttSource,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have the messages of a topic taken in as events; returns once the regions listen to it.

    Args:
        regions: their names; none means every edge of the site.
        check: change nothing, only tell what would change.

    Raises:
        SourceError: a message would have two sources, or more regions than one; nothing was changed.
        SiteError: a region does not exist.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    names = list(regions)
    places = site.pick(names) if names else site.edges
    _demand_places(site, spec, places)
    wanted = {region.name: spec.for_region(region.name) for region in places}
    was_at_centre = _look(site, wanted, places)
    centre: list[Difference] = []
    if spec.at == CENTRE or was_at_centre:
        # First: nothing is to be listened to that nobody may publish.
        rights = _rights_at_centre(wanted.values()) if spec.at == CENTRE else ""
        centre = _grant(site, site.regions[CENTRAL], f"{spec.name}.{CENTRE}", rights, check)

    def one(region: Region) -> list[Difference]:
        source, kube = wanted[region.name], Kube(region, site.kubeconfig)
        changes: list[Difference] = []
        for manifest in manifests.for_namespace():
            changes += apply(kube, manifest, check)
        changes += _grant(site, region, source.name, _rights_here(source, region), check)
        changes += apply(kube, _manifest(source), check)
        if changes and not check:
            _await_listening(kube, source)
            on_progress(f"{region.name}: listens to {source.topic}")
        return changes

    result = join(everywhere(places, one))
    return Result((*centre, *result.diff), result.regions)


def sources(
    site: Site, regions: Iterable[str] = ()
) -> tuple[tuple[Declared, ...], Mapping[str, FaasError]]:
    """The sources by name, then region; and the regions that did not tell, with the reason.

    Raises:
        SiteError: a region does not exist.
    """

    def one(region: Region) -> list[Declared]:
        kube = Kube(region, site.kubeconfig)
        items = kube.list(_CONFIGMAPS, SOURCE_LABEL)
        known = declared(Gateway(kube), "sources") if items else {}
        return [_declared(region.name, item, known) for item in items]

    done, unreachable = attempt(site.pick(regions), one)
    found = [declared for part in done.values() for declared in part]
    return tuple(sorted(found, key=lambda one: (one.name, one.region))), unreachable


def delete(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Take a source away, and the rights that came with it. Its events stay where they are.

    Args:
        regions: their names; none means every region. A source that is not there is no error.

    Raises:
        SiteError: a region does not exist.
        RegionError: regions refused or did not answer; the message tells of each.
    """

    def one(region: Region) -> list[Difference]:
        kube = Kube(region, site.kubeconfig)
        changes = remove(kube, _named(name), check)
        changes += _grant(site, region, name, "", check)
        if changes and not check:
            on_progress(f"{region.name}: source {name} deleted")
        return changes

    names = list(regions)
    result = join(everywhere(site.pick(names), one))
    if names or CENTRAL not in site.regions:
        return result
    gone = _grant(site, site.regions[CENTRAL], f"{name}.{CENTRE}", "", check)
    return Result((*result.diff, *gone), result.regions)


def placed(site: Site, name: str, regions: Iterable[str] = ()) -> tuple[Declared, ...]:
    """The source in each of these regions, or in each that has it.

    Raises:
        NotDeployedError: there is none.
        RegionError: a region did not answer, so that nobody knows.
    """
    found, unreachable = sources(site, regions)
    demand_all(unreachable)
    mine = tuple(one for one in found if one.name == name)
    if not mine:
        raise NotDeployedError(f"there is no source {name!r}; see 'faas source mqtt ls'")
    return mine


def overlap(one: str, other: str) -> bool:
    """Whether a topic can match both filters."""
    mine, theirs = one.split("/"), other.split("/")
    for place in range(max(len(mine), len(theirs)) + 1):
        pair = (mine[place : place + 1], theirs[place : place + 1])
        if ["#"] in pair:
            return True
        if not all(pair):
            return pair == ([], [])
        if pair[0] != pair[1] and ["+"] not in pair:
            return False
    return True


def _problems(source: MqttSource) -> list[str]:
    problems = []
    if not _NAME.fullmatch(source.name):
        problems.append("a name is at most 54 lower-case letters, digits and inner hyphens")
    problems += _topic_problems(source.topic.replace("{region}", "region"))
    if source.subject_from and not _SUBJECT_FROM.fullmatch(source.subject_from):
        problems.append(
            f"subject-from is {source.subject_from!r}; give topic, topic.N (its Nth level) or payload.FIELD"
        )
    if source.id_from and not re.fullmatch(_FIELD, source.id_from):
        problems.append(f"id-from is {source.id_from!r}; give payload.FIELD")
    for user in source.publishers:
        if not _USER.fullmatch(user):
            problems.append(f"publisher {user!r} can't be the name of a user of the broker")
    if source.at not in (REGION, CENTRE):
        problems.append(f"at is {source.at!r}; give {REGION} or {CENTRE}")
    return problems


def _topic_problems(topic: str) -> list[str]:
    levels = topic.split("/")
    if not topic or len(topic.encode()) > 512 or _CONTROL.search(topic):
        return [f"topic {topic[:80]!r} is no MQTT topic filter of 1 to 512 bytes"]
    for level in levels:
        if level not in ("+", "#") and ("+" in level or "#" in level):
            return [f"topic {topic!r}: + and # must be a whole level"]
    if "#" in levels[:-1]:
        return [f"topic {topic!r}: # can only be the last level"]
    if levels[0] in ("+", "#", *_OWN_LEVELS) or levels[0].startswith("$"):
        return [
            f"topic {topic!r}: its first level must be a name, and none of"
            f" {', '.join(_OWN_LEVELS)} and $…, which are the platform's"
        ]
    return []


def _demand_places(site: Site, spec: MqttSource, places: tuple[Region, ...]) -> None:
    if not places:
        raise SiteError("the site has no edge to place a source in; name regions, or add an edge")
    if spec.at == REGION:
        return
    if CENTRAL in (region.name for region in places):
        raise SourceError(f"source {spec.name!r}: at the centre, it sends to edges; leave out {CENTRAL}")
    if len(places) > 1 and "{region}" not in spec.topic:
        raise SourceError(
            f"source {spec.name!r}: a message at the centre goes to one region: name the one, or give"
            " the topic a level {region}, such as factory/{region}/+"
        )


def _look(site: Site, wanted: Mapping[str, MqttSource], places: tuple[Region, ...]) -> bool:
    """Refuse a source that has messages of another; whether it was one of the centre so far."""

    def there(region: Region) -> tuple[list[str], bool]:
        source = wanted[region.name]
        others, was_at_centre = [], False
        for item in Kube(region, site.kubeconfig).list(_CONFIGMAPS, SOURCE_LABEL):
            name, data = item["metadata"]["labels"][SOURCE_LABEL], item.get("data") or {}
            if name == source.name:
                was_at_centre = data.get("at") == CENTRE
            elif overlap(data.get("topic", ""), source.topic):
                others.append(f"{name} ({data['topic']}) in {region.name}")
        return others, was_at_centre

    # A region that is cut off is told of later: it does not keep the others from the source.
    done, _ = attempt(places, there)
    found = [other for others, _ in done.values() for other in others]
    if found:
        raise SourceError(
            f"source {next(iter(wanted.values())).name!r}: its topic has messages of the source"
            f" {', '.join(found)} too, and a message has one source: choose another topic, or delete"
            " the other source; nothing was changed"
        )
    return any(was_at_centre for _, was_at_centre in done.values())


def _manifest(source: MqttSource) -> Manifest:
    data = {
        "topic": source.topic,
        "subject-from": source.subject_from,
        "id-from": source.id_from,
        "publishers": " ".join(source.publishers),
        "at": source.at,
    }
    named = _named(source.name)
    meta = {**named["metadata"], "labels": {SOURCE_LABEL: source.name, **manifests.MANAGED}}
    return {**named, "metadata": meta, "data": {key: value for key, value in data.items() if value}}


def _named(name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"mqtt-source-{name}", "namespace": manifests.NAMESPACE},
    }


def _declared(region: str, item: Mapping[str, Any], known: Mapping[str, Any]) -> Declared:
    name, data = item["metadata"]["labels"][SOURCE_LABEL], item.get("data") or {}
    told = known.get(name, {})
    problem = told.get("problem")
    try:
        source = MqttSource(
            name=name,
            topic=data.get("topic", ""),
            subject_from=data.get("subject-from", ""),
            id_from=data.get("id-from", ""),
            publishers=tuple(data.get("publishers", "").split()),
            at=data.get("at", REGION),
        )
    except SourceError as error:
        return Declared(region, None, name, REFUSED, problem or str(error))
    status = REFUSED if problem else LISTENING if told.get("subscribed") else WAITING
    return Declared(region, source, name, status, problem)


def _await_listening(kube: Kube, source: MqttSource) -> None:
    def listens(told: Mapping[str, Any]) -> bool:
        if told.get("problem"):
            raise RegionError(f"{kube.region}: source {source.name} is refused: {told['problem']}")
        return bool(told.get("subscribed")) and told["topic"] == source.topic

    late = (
        f"source {source.name} is declared, and the gateway does not listen to {source.topic} yet:"
        f" see 'faas source mqtt describe {source.name}' and its log"
    )
    await_declared(kube, "sources", source.name, listens, late, _OPEN_TIMEOUT_S)


def _rights_here(source: MqttSource, region: Region) -> str:
    here = source.publishers if source.at == REGION else (f"bridge.{CENTRAL}",)
    lines = [f"user sources.{region.name}", f"topic read {source.topic}"]
    for user in here:
        lines += [f"user {user}", f"topic write {source.topic}"]
    return "".join(f"{line}\n" for line in lines)


def _rights_at_centre(sources: Iterable[MqttSource]) -> str:
    lines = []
    for source in sources:
        for user in source.publishers:
            lines += [f"user {user}", f"topic write {source.topic}"]
    return "".join(f"{line}\n" for line in lines)


def _grant(site: Site, region: Region, name: str, rights: str, check: bool) -> list[Difference]:
    """Have the rights of a source at the region's broker, which its first node carries; none when empty."""
    host = region.nodes[0]
    before = on_host(host, site.ssh_config, _RIGHTS, "show", name)
    if before == rights:
        return []
    if not check:
        on_host(host, site.ssh_config, _RIGHTS, "put", name, given=rights)
    return [Difference(f"{region.name}: rights of source {name} at the broker", before, rights)]
