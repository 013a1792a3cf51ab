# SPDX-License-Identifier: Apache-2.0
"""HTTP triggers: paths of a region's ingress whose requests start a function.

A trigger is a ConfigMap in its region, which the region's gateway watches, and the gateway's right to
read the one Secret that holds the trigger's tokens. Nothing else is stored.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from koren_faas import manifests
from koren_faas import triggers as all_triggers
from koren_faas.change import Difference, Result, compare, join
from koren_faas.errors import FaasError, RegionError, TriggerError
from koren_faas.gateway import NAMESPACE as GATEWAY_NAMESPACE
from koren_faas.gateway import Gateway, await_declared, declared
from koren_faas.image import Progress
from koren_faas.kube import Kube
from koren_faas.manifests import Manifest
from koren_faas.objects import apply, remove
from koren_faas.regions import attempt, everywhere
from koren_faas.site import Region, Site

KIND = all_triggers.HTTP
LABEL = manifests.TRIGGER_LABEL
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
SERVING, PAUSED, WAITING, REFUSED = "SERVING", "PAUSED", "WAITING", "REFUSED"
"""Whether the region's gateway takes the trigger's requests, or why not."""
TOKEN_MIN_BYTES = 20

_SERVE_TIMEOUT_S = 30.0
_RBAC = "rbac.authorization.k8s.io"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?")
_PATH = re.compile(r"/([A-Za-z0-9._~!$&'()+,;=:@-]+(/[A-Za-z0-9._~!$&'()+,;=:@-]+)*)?(/|/\*)?")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_RATE = re.compile(r"[1-9][0-9]{0,3}/[sm]")
_SECRET = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """An HTTP trigger as its user describes it.

    Attributes:
        name: DNS label; its events have the source `http/<name>`.
        function: what a request starts.
        path: `/orders`, or `/orders/*` for all that is below it as well.
        host: name that clients ask for, in which `{region}` stands for the region's; empty: any.
        methods: those that are taken.
        is_async: whether a client gets a receipt at once instead of the result.
        rate: `N/s` or `N/m`, the requests that a region takes; empty: no limit.
        token_secret: Secret of the namespace of functions whose values are the tokens that clients
            send; empty: anybody may start the function.
        headers: request headers that the function gets besides the usual ones.

    Raises:
        TriggerError: a value can't be accepted; the message names it.
    """

    name: str
    function: str
    path: str
    host: str = ""
    methods: tuple[str, ...] = ("POST",)
    is_async: bool = False
    rate: str = ""
    token_secret: str = ""
    headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise TriggerError(f"HTTP trigger {self.name!r}: {problem}")

    def for_region(self, region: str) -> HttpTrigger:
        """The trigger as it is in `region`."""
        return replace(self, host=self.host.replace("{region}", region))


@dataclass(frozen=True, slots=True)
class Declared:
    """An HTTP trigger in one region.

    Attributes:
        region: the region's name.
        name: the trigger's.
        trigger: its description; None when it can't be read.
        url: where clients reach it; empty where the region has no ingress.
        status: `SERVING`, `PAUSED`, `WAITING` or `REFUSED`.
        problem: why it is refused.
    """

    region: str
    name: str
    trigger: HttpTrigger | None
    url: str
    status: str
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        its = asdict(self.trigger) if self.trigger else {"name": self.name}
        return {**its, "region": self.region, "url": self.url, "status": self.status, "problem": self.problem}


def described(
    name: str, function: str, *, path: str | None = None, anonymous: bool = False, token_secret: str = "", **more: Any
) -> HttpTrigger:
    """The trigger that a description with the keys of an inventory or a file is of; its path is `/<name>` unless given.

    Raises:
        TriggerError: a value can't be accepted, or it does not say who may start the function.
    """
    if bool(token_secret) is anonymous:
        raise TriggerError(
            f"HTTP trigger {name!r}: give either a token secret, or anonymous: true so that anybody may start"
            " the function"
        )
    return HttpTrigger(name=name, function=function, path=path or f"/{name}", token_secret=token_secret, **more)


def create(
    site: Site,
    spec: HttpTrigger,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Have requests for a path start a function; returns once the regions serve it.

    Args:
        regions: their names; none means every region that has the function.
        check: change nothing, only tell what would change; named regions then need not have the function or Secret.

    Raises:
        NotDeployedError: a region does not have the function.
        TriggerError: another trigger has the path, or the Secret is no Secret of tokens.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    places = site.pick(all_triggers.places(site, spec.function, regions, check=check))

    def one(region: Region) -> list[Difference]:
        trigger, kube = spec.for_region(region.name), Kube(region, site.kubeconfig)
        _demand_free(kube, trigger)
        if not check:
            _demand_tokens(kube, trigger)
        changes: list[Difference] = []
        for manifest in (*manifests.for_namespace(), _manifest(trigger)):
            changes += apply(kube, manifest, check)
        there = kube.get(all_triggers.object_of(trigger.name))
        for manifest in _rights(trigger, there):
            if not trigger.token_secret:
                changes += remove(kube, manifest, check)
            elif there is not None:
                changes += apply(kube, manifest, check)
            else:
                changes += compare(region.name, None, manifest)
        if changes and not check:
            _await_serving(kube, trigger)
            on_progress(f"{region.name}: {trigger.function} is served at {_url(region, trigger)}")
        return changes

    return join(everywhere(places, one))


def demand_tokens(site: Site, spec: HttpTrigger, regions: Iterable[str]) -> None:
    """Check that regions have the Secret of a trigger.

    Raises:
        TriggerError: a region does not, or it is no Secret of tokens.
        RegionError: regions refused or did not answer; the message tells of each.
    """

    def one(region: Region) -> list[Difference]:
        _demand_tokens(Kube(region, site.kubeconfig), spec.for_region(region.name))
        return []

    join(everywhere(site.pick(regions), one))


def triggers(
    site: Site, regions: Iterable[str] = ()
) -> tuple[tuple[Declared, ...], Mapping[str, FaasError]]:
    """The HTTP triggers by name, then region; and the regions that did not tell, with the reason.

    Raises:
        SiteError: a region does not exist.
    """

    def one(region: Region) -> list[Declared]:
        kube = Kube(region, site.kubeconfig)
        items = _items(kube)
        known = declared(Gateway(kube), "http-triggers") if items else {}
        return [_declared(region, item, known) for item in items]

    done, unreachable = attempt(site.pick(regions), one)
    found = [declared for part in done.values() for declared in part]
    return tuple(sorted(found, key=lambda one: (one.name, one.region))), unreachable


def _problems(trigger: HttpTrigger) -> list[str]:
    problems = []
    if not _NAME.fullmatch(trigger.name):
        problems.append("a name is at most 54 lower-case letters, digits and inner hyphens")
    if len(trigger.path) > 512 or not _PATH.fullmatch(trigger.path) or {".", ".."} & set(trigger.path.split("/")):
        problems.append(f"path is {trigger.path[:80]!r}; give one such as /orders, or /orders/* with all below it")
    if trigger.path == "/-" or trigger.path.startswith("/-/"):
        problems.append(f"path is {trigger.path!r}; what is below /-/ is the gateway's own")
    host = trigger.host.replace("{region}", "region")
    if host and not _HOST.fullmatch(host):
        problems.append(f"host is {trigger.host!r}; give a DNS name in lower case, e.g. hello.example")
    if not trigger.methods or not set(trigger.methods) <= set(METHODS):
        problems.append(f"methods are {', '.join(trigger.methods)!r}; give some of {', '.join(METHODS)}")
    if trigger.rate and not _RATE.fullmatch(trigger.rate):
        problems.append(f"rate is {trigger.rate!r}; give N/s or N/m, e.g. 10/s")
    if trigger.token_secret and not _SECRET.fullmatch(trigger.token_secret):
        problems.append(f"token-secret is {trigger.token_secret!r}; give the name of a Secret")
    problems += [
        f"header {name!r} can't be passed on; give a name such as X-GitHub-Event"
        for name in trigger.headers
        if not _HEADER.fullmatch(name) or name.lower() in ("authorization", "cookie", "proxy-authorization")
    ]
    return problems


def _demand_free(kube: Kube, trigger: HttpTrigger) -> None:
    for item in kube.list(all_triggers.CONFIGMAPS, LABEL):
        name, data = item["metadata"]["labels"][LABEL], item.get("data") or {}
        if name == trigger.name and data.get("kind") != KIND:
            raise TriggerError(
                f"{kube.region}: there is a trigger {name} of kind {data.get('kind')} already; choose another name"
            )
        same_place = (data.get("host", ""), data.get("path")) == (trigger.host, trigger.path)
        if data.get("kind") == KIND and name != trigger.name and same_place:
            raise TriggerError(
                f"{kube.region}: HTTP trigger {name} has {trigger.host}{trigger.path} already: choose another"
                f" path or host, or delete it with 'faas trigger http delete {name}'"
            )


def _demand_tokens(kube: Kube, trigger: HttpTrigger) -> None:
    if not trigger.token_secret:
        return
    place = {"name": trigger.token_secret, "namespace": manifests.NAMESPACE}
    secret = kube.get({"apiVersion": "v1", "kind": "Secret", "metadata": place})
    if secret is None:
        raise TriggerError(
            f"{kube.region}: there is no Secret {trigger.token_secret} in namespace {manifests.NAMESPACE}; make it with"
            f" 'kubectl --context {kube.context} -n {manifests.NAMESPACE} create secret generic"
            f" {trigger.token_secret} --from-file=token=FILE'"
        )
    values = (secret.get("data") or {}).values()
    if not any(len(base64.b64decode(value).strip()) >= TOKEN_MIN_BYTES for value in values):
        raise TriggerError(
            f"{kube.region}: Secret {trigger.token_secret} has no value of at least {TOKEN_MIN_BYTES} bytes; give it a"
            " long random token"
        )


def _items(kube: Kube) -> list[dict[str, Any]]:
    return [item for item in kube.list(all_triggers.CONFIGMAPS, LABEL) if (item.get("data") or {}).get("kind") == KIND]


def _manifest(trigger: HttpTrigger) -> Manifest:
    data = {
        "kind": KIND,
        "function": trigger.function,
        "path": trigger.path,
        "host": trigger.host,
        "methods": " ".join(sorted(trigger.methods)),
        "async": "true" if trigger.is_async else "",
        "rate": trigger.rate,
        "token-secret": trigger.token_secret,
        "anonymous": "" if trigger.token_secret else "true",
        "headers": " ".join(sorted(trigger.headers)),
    }
    return all_triggers.manifest_of(trigger.name, data)


def _rights(trigger: HttpTrigger, declared: Mapping[str, Any] | None) -> list[Manifest]:
    """What lets the gateway read the trigger's Secret, and no other; it goes with the declared trigger."""
    role, binding = (all_triggers.labelled(trigger.name, kind) for kind in ("Role", "RoleBinding"))
    name = role["metadata"]["name"]
    if declared is not None:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": declared["metadata"]["uid"]}
        for one in (role, binding):
            one["metadata"]["ownerReferences"] = [owner]
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [trigger.token_secret], "verbs": ["get"]}
    return [
        {**role, "rules": [rule]},
        {
            **binding,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "gateway", "namespace": GATEWAY_NAMESPACE}],
        },
    ]


def _declared(region: Region, item: Mapping[str, Any], known: Mapping[str, Any]) -> Declared:
    name, data = item["metadata"]["labels"][LABEL], item.get("data") or {}
    problem = known.get(name, {}).get("problem")
    try:
        trigger = HttpTrigger(
            name=name,
            function=data.get("function", ""),
            path=data.get("path", ""),
            host=data.get("host", ""),
            methods=tuple(data.get("methods", "POST").replace(",", " ").split()),
            is_async=data.get("async") == "true",
            rate=data.get("rate", ""),
            token_secret=data.get("token-secret", ""),
            headers=tuple(data.get("headers", "").replace(",", " ").split()),
        )
    except TriggerError as error:
        return Declared(region.name, name, None, "", REFUSED, problem or str(error))
    if problem:
        status = REFUSED
    elif name not in known:
        status = WAITING
    else:
        status = PAUSED if data.get("paused") == "true" else SERVING
    return Declared(region.name, name, trigger, _url(region, trigger), status, problem)


def _url(region: Region, trigger: HttpTrigger) -> str:
    at = f"https://{trigger.host}" if trigger.host else region.ingress
    return f"{at}{trigger.path}" if region.ingress else ""


def _await_serving(kube: Kube, trigger: HttpTrigger) -> None:
    def serves(told: Mapping[str, Any]) -> bool:
        if told.get("problem"):
            raise RegionError(f"{kube.region}: HTTP trigger {trigger.name} is refused: {told['problem']}")
        return bool(told)

    late = (
        f"HTTP trigger {trigger.name} is declared, and the gateway does not serve it yet: see"
        " 'faas trigger http list' and the gateway's log"
    )
    await_declared(kube, "http-triggers", trigger.name, serves, late, _SERVE_TIMEOUT_S)
