# SPDX-License-Identifier: Apache-2.0
"""Brings functions to regions, finds them there, and takes them away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from koren_faas import image as images
from koren_faas import manifests
from koren_faas.change import Difference, Result, compare, join
from koren_faas.errors import FaasError, FunctionError, NotDeployedError, RegionError, SiteError
from koren_faas.function import Function
from koren_faas.gateway import Gateway
from koren_faas.image import Image, Progress
from koren_faas.kube import FIELD_MANAGER, Kube
from koren_faas.nodes import Node
from koren_faas.objects import apply
from koren_faas.regions import attempt, everywhere
from koren_faas.registry import Registry
from koren_faas.site import Region, Site
from koren_faas.source import unpacked

T = TypeVar("T")
F = TypeVar("F", "Deployed", "Refused")

REFUSED = "REFUSED"
"""Status of a Deployment that a region's gateway does not take for a function."""

_READY_TIMEOUT_S = 60.0
_READY_STEP_S = 0.5
_LEAVE_S = 5.0
_GONE_TIMEOUT_S = 60.0
_NODES_AT_ONCE = 8
_CONFIGMAPS = f"/api/v1/namespaces/{manifests.NAMESPACE}/configmaps"
_DEPLOYMENTS = f"/apis/apps/v1/namespaces/{manifests.NAMESPACE}/deployments"


@dataclass(frozen=True, slots=True)
class Deployed:
    """A function as it is in one region.

    Attributes:
        region: the region's name.
        function: its description; its source is None.
        image: name with tag.
        requirements: lines of the requirements that its image has.
        replicas: pods that there are.
        ready: pods that run.
        problem: why the region's gateway does not take it for a function; None when it does.
        paused: whether its own trigger is paused.
    """

    region: str
    function: Function
    image: str
    requirements: tuple[str, ...]
    replicas: int
    ready: int
    problem: str | None = None
    paused: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def status(self) -> str:
        """`0/0 IDLE`, `1/1 READY`, `0/1 NOT READY` or `REFUSED`."""
        if self.problem is not None:
            return REFUSED
        if self.replicas == 0:
            return "0/0 IDLE"
        word = "READY" if self.ready > 0 else "NOT READY"
        return f"{self.ready}/{self.replicas} {word}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        function = self.function
        return {
            "name": function.name,
            "namespace": manifests.NAMESPACE,
            "region": self.region,
            "handler": function.handler,
            "runtime": function.runtime,
            "dependencies": list(self.requirements),
            "packages": list(function.packages),
            "status": self.status,
            "problem": self.problem,
            "replicas": self.replicas,
            "ready": self.ready,
            "image": self.image,
            "topic": function.topic,
            "trigger": function.trigger,
            "delay_s": function.delay_s,
            "paused": self.paused,
            "timeout_s": function.timeout_s,
            "memory": function.memory,
            "cpu": function.cpu,
            "tmp_size": function.tmp_size,
            "min_scale": function.min_scale,
            "max_scale": function.max_scale,
            "target": function.target,
            "concurrency": function.concurrency,
            "batch_size": function.batch_size,
            "batch_window_s": function.batch_window_s,
            "max_attempts": function.max_attempts,
            "max_in_flight": function.max_in_flight,
            "rate": function.rate,
            "priority": function.priority,
            "history": function.history,
            "secrets": list(function.secrets),
            "env": dict(function.env),
            "egress": list(function.egress),
            "opens": function.opens,
            "closes": function.closes,
            "incident_limit_s": function.incident_limit_s,
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """A Deployment with a function's label that is no function.

    Attributes:
        region: the region's name.
        name: the Deployment's.
        problem: why it is none.
    """

    region: str
    name: str
    problem: str

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return {
            "name": self.name,
            "namespace": manifests.NAMESPACE,
            "region": self.region,
            "status": REFUSED,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Listing:
    """Functions that were found.

    Attributes:
        functions: by name, then region.
        unreachable: regions that did not tell, with the reason.
        refused: Deployments that are no function, by name, then region.
        unjudged: regions whose gateway did not say what it refuses, with the reason.
    """

    functions: tuple[Deployed, ...]
    unreachable: Mapping[str, FaasError]
    refused: tuple[Refused, ...] = ()
    unjudged: Mapping[str, FaasError] = field(default_factory=dict)

    @property
    def all(self) -> list[Deployed | Refused]:
        """Functions, then what is refused."""
        return [*self.functions, *self.refused]


def deploy(
    site: Site,
    spec: Function,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Bring the function to regions: image built once, put on their nodes, objects applied.

    Args:
        regions: their names; none means every edge of the site.
        check: change nothing, only tell what would change.
        on_progress: gets a line for each long step, also from other threads.

    Raises:
        FunctionError: the function can't be accepted; nothing was changed.
        BuildError: its image can't be made; nothing was changed.
        SiteError: a region does not exist, or the site is not ready; nothing was changed.
        RegionError: regions refused or did not answer; the message tells of each.
    """
    names = list(regions)
    places = site.pick(names) if names else site.edges
    if not places:
        raise SiteError("the site has no edge to place a function in; name regions, or add an edge")
    return _deploy(site, spec, {region: spec for region in places}, check, on_progress)


def place(
    site: Site,
    wanted: Mapping[str, Function],
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Bring regions a function that is not the same in each: region name to what is wanted there.

    Code, requirements and packages are those of the first. Errors are those of `deploy`.
    """
    places = {region: wanted[region.name] for region in site.pick(wanted)}
    return _deploy(site, next(iter(wanted.values())), places, check, on_progress)


def update(
    site: Site,
    name: str,
    changes: Mapping[str, Any],
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Change a deployed function; what `changes` does not name stays as it is in each region.

    Args:
        changes: attributes of `Function` to new values.
        regions: their names; none means every region that has the function.

    Raises:
        NotDeployedError: a region does not have the function.
        FunctionError: there is a new source, but its requirements are not named; or packages, or
            another runtime, without a source.
        FaasError: as for `deploy`.
    """
    found = placed(site, name, regions)
    requirements = next((one.requirements for one in found if one.requirements), None)
    if "source" in changes and "dependencies" not in changes and requirements:
        raise FunctionError(
            f"function {name!r} has requirements ({', '.join(requirements)}): name their file"
            " with --dependencies together with the new source, or an empty one"
        )
    brought = "source" in changes or "image" in changes
    if not brought and changes.get("runtime", found[0].function.runtime) != found[0].function.runtime:
        raise FunctionError(
            f"function {name!r}: the runtime is part of the image: give the source with it"
            " (--from-file), or the image (--image, --from-archive)"
        )
    if "packages" in changes and "source" not in changes:
        raise FunctionError(
            f"function {name!r}: packages are part of the image: give the source with them (--from-file)"
        )
    if "source" in changes:
        # One image for all; its requirements may need the packages.
        changes = {"packages": found[0].function.packages, **changes}
    wanted = {site.regions[one.region]: replace(one.function, **changes) for one in found}
    spec = next(iter(wanted.values()))
    return _deploy(site, spec, wanted, check, on_progress)


def ls(
    site: Site, names: Collection[str] = (), regions: Iterable[str] = (), *, judged: bool = False
) -> Listing:
    """Find functions, in all regions unless some are named. A region may be cut off.

    Args:
        names: the functions; none means all.
        judged: ask the regions' gateways too which Deployments they refuse.

    Raises:
        SiteError: a region does not exist.
    """
    unjudged: dict[str, FaasError] = {}

    def one(region: Region) -> tuple[list[Deployed], list[Refused]]:
        kube = Kube(region, site.kubeconfig)
        items = kube.list(_DEPLOYMENTS, manifests.LABEL)
        problems = {}
        if judged:
            try:
                problems = _refused(kube)
            except RegionError as error:
                unjudged[region.name] = error
        return _sorted_out(region.name, items, problems)

    def chosen(found: Iterable[F]) -> tuple[F, ...]:
        kept = [one for one in found if not names or one.name in names]
        return tuple(sorted(kept, key=lambda one: (one.name, one.region)))

    done, errors = attempt(site.pick(regions), one)
    return Listing(
        functions=chosen(one for functions, _ in done.values() for one in functions),
        unreachable=errors,
        refused=chosen(one for _, refused in done.values() for one in refused),
        unjudged=unjudged,
    )


def _refused(kube: Kube) -> dict[str, str]:
    """Deployment to why the region's gateway takes it for no function."""
    answer = json.loads(Gateway(kube).request("GET", "/functions"))
    return {one["deployment"]: one["problem"] for one in answer.get("refused", ())}


def _sorted_out(
    region: str, items: Iterable[Mapping[str, Any]], problems: Mapping[str, str]
) -> tuple[list[Deployed], list[Refused]]:
    """Functions, and Deployments that have a function's label and are none.

    Args:
        problems: what the gateway refuses; it has the last word.
    """
    functions: list[Deployed] = []
    refused: list[Refused] = []
    names = {item["metadata"]["name"] for item in items}
    for item in items:
        name, label = item["metadata"]["name"], item["metadata"]["labels"][manifests.LABEL]
        problem = problems.get(name)
        try:
            one = _deployed(region, item)
        except NotDeployedError as error:
            refused.append(Refused(region, name, problem or str(error)))
            continue
        if label != name and label in names:
            problem = (
                problem or f"Deployment {label} is the function {label}, which its label names"
            )
            refused.append(Refused(region, name, problem))
        else:
            functions.append(replace(one, problem=problem))
    return functions, refused


def placed(site: Site, name: str, regions: Iterable[str] = ()) -> tuple[Deployed, ...]:
    """The function in each of these regions, or in each that has it.

    Raises:
        NotDeployedError: a named region does not have it, or none does.
        RegionError: a region did not answer, so that nobody knows.
    """
    wanted = list(regions)
    listing = ls(site, [name], wanted)
    _demand(site, listing, name, wanted, {one.region for one in listing.functions})
    return listing.functions


def described(site: Site, name: str, regions: Iterable[str] = ()) -> Listing:
    """The function in each of these regions, or in each that has it, with what is refused.

    Raises:
        NotDeployedError: a named region has neither it nor a refused Deployment of its name, or
            none has.
        RegionError: a region did not answer, so that nobody knows.
    """
    wanted = list(regions)
    listing = ls(site, [name], wanted, judged=True)
    found = {one.region for one in listing.all}
    _demand(site, listing, name, wanted, found)
    return listing


def _demand(
    site: Site, listing: Listing, name: str, wanted: Collection[str], found: Collection[str]
) -> None:
    if listing.unreachable:
        raise RegionError("\n".join(str(error) for error in listing.unreachable.values()))
    missing = set(wanted) - set(found)
    if missing or not found:
        place = ", ".join(sorted(missing)) or f"any region of site {site.name}"
        raise NotDeployedError(f"function {name!r} is not in {place}; see 'faas function ls'")


def get(kube: Kube, name: str) -> Deployed:
    """The function in one region.

    Raises:
        NotDeployedError: the region does not have it.
        RegionError: the region did not answer.
    """
    found = kube.get(_named("apps/v1", "Deployment", name))
    if found is None or manifests.LABEL not in found["metadata"].get("labels", {}):
        raise NotDeployedError(f"function {name!r} is not in {kube.region}")
    return _deployed(kube.region, found)


def delete(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    check: bool = False,
    on_progress: Progress = lambda line: None,
) -> Result:
    """Take the function with its triggers and images away. Secrets that it used stay.

    Args:
        regions: their names; none means every region. A function that is not there is no error.

    Raises:
        SiteError: a region does not exist.
        RegionError: regions refused or did not answer; the message tells of each.
    """

    def one(region: Region) -> list[Difference]:
        kube, registry = Kube(region, site.kubeconfig), Registry(site, region)
        changes = []
        triggers = [
            # A list does not say what its items are.
            {"apiVersion": "v1", "kind": "ConfigMap", **one}
            for one in kube.list(_CONFIGMAPS, manifests.TRIGGER_LABEL)
            if (one.get("data") or {}).get("function") == name
        ]
        # What triggers it first: nothing is to start a pod again while the rest goes.
        for before in (*triggers, *(kube.get(_named(*kind, name)) for kind in _KINDS)):
            changes += compare(region.name, before, None)
            if before is not None and not check:
                kube.delete(before)
        if changes and not check:
            on_progress(f"{region.name}: deleting {name}")
        repository = images.repository(name)
        stale = registry.images(repository)
        changes += [_image_difference(f"{region.name}: registry", one, "") for one in stale]
        if not check:
            registry.keep(repository, ())

        def clear(node: Node) -> list[Difference]:
            stale = list(node.images(repository))
            if not check:
                node.remove(stale)
            return [_image_difference(f"{node.name}: image", one, "") for one in stale]

        for part in _on_nodes(site, region, clear):
            changes += part
        return changes

    names = list(regions)
    result = join(everywhere(site.pick(names), one))
    if not check and not names:
        images.forget_all(site, name)
    return result


_KINDS = (
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "ServiceAccount"),
)


def _named(api_version: str, kind: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": manifests.NAMESPACE},
    }


def _deployed(region: str, deployment: Mapping[str, Any]) -> Deployed:
    """The function that a Deployment describes.

    Raises:
        NotDeployedError: it describes none.
    """
    status = deployment.get("status", {})
    try:
        return Deployed(
            region=region,
            function=manifests.from_deployment(deployment),
            image=manifests.image_of(deployment),
            requirements=manifests.requirements_of(deployment),
            replicas=status.get("replicas", 0),
            ready=status.get("readyReplicas", 0),
            paused=deployment["metadata"]["annotations"].get(manifests.PAUSED) == "true",
        )
    except (FunctionError, LookupError, StopIteration, TypeError, ValueError) as error:
        name = deployment["metadata"]["name"]
        raise NotDeployedError(
            f"Deployment {name} in {region} does not describe a function: {error!r}"
        ) from error


def _image_difference(where: str, before: str, after: str) -> Difference:
    lines = [f"{tag}\n" if tag else "" for tag in (before, after)]
    return Difference(where, *lines)


def _deploy(
    site: Site,
    spec: Function,
    wanted: Mapping[Region, Function],
    check: bool,
    on_progress: Progress,
) -> Result:
    """Make the image of `spec` and bring each region what is `wanted` there."""
    here = {region.name: function.for_region(region.name) for region, function in wanted.items()}
    kubes = {region.name: Kube(region, site.kubeconfig) for region in wanted}
    registries = {region.name: Registry(site, region) for region in wanted}
    image = None
    with unpacked(spec) as folder:
        if spec.has_content:
            image, source = images.plan(site, spec, folder)
        _demand_labels(kubes, list(wanted), spec.name)
        if image is not None and not check:
            images.build(site, spec, image, source, on_progress)

    def one(region: Region) -> list[Difference]:
        kube, registry, function = kubes[region.name], registries[region.name], here[region.name]
        return _place(site, region, kube, registry, function, image, check, on_progress)

    result = join(everywhere(list(wanted), one))
    if image is not None and not check:
        images.forget_old(image)
    return result


def _place(
    site: Site,
    region: Region,
    kube: Kube,
    registry: Registry,
    function: Function,
    image: Image | None,
    check: bool,
    on_progress: Progress,
) -> list[Difference]:
    if not check:
        _await_deleted(kube, function, on_progress)
    before = kube.get(_named("apps/v1", "Deployment", function.name))
    previous = manifests.image_of(before) if before is not None else None
    if image is not None:
        name, requirements = image.name, image.requirements
    elif before is not None and previous is not None:
        name, requirements = previous, manifests.requirements_of(before)
    else:
        raise NotDeployedError(f"function {function.name!r} is not in {region.name}")
    changes = []
    for manifest in manifests.for_namespace():
        changes += apply(kube, manifest, check)
    if not check:
        _demand_secrets(kube, function)
        _demand_priority(kube, function)
    if image is not None:
        changes += _bring(site, region, registry, image, check, on_progress)
    for manifest in manifests.for_function(function, name, requirements):
        if manifest["kind"] == "Deployment":
            changes += _apply_deployment(kube, manifest, before, check)
        else:
            changes += apply(kube, manifest, check)
    if not check:
        _await_trigger(kube, function.name)
        if changes:
            _await_rollout(kube, function.name, on_progress)
        if image is not None and previous != name:
            _prune(site, region, kube, registry, image, previous)
        if changes:
            on_progress(f"{region.name}: {function.name} is in place")
    return changes


def _apply_deployment(
    kube: Kube, manifest: dict[str, Any], before: dict[str, Any] | None, check: bool
) -> list[Difference]:
    """Apply a Deployment so that a new one has no pod, and one that is there keeps its number.

    A field that nobody owns falls back to its default, one replica. So the zero of a new
    Deployment is given an owner of its own, who never writes it again, before a deploy leaves
    the field out.
    """
    if before is None:
        zero = {**manifest, "spec": {**manifest["spec"], "replicas": 0}}
        changes = apply(kube, zero, check)
        if not check:
            _hand_over_replicas(kube, manifest, 0)
        return changes
    if not check and owns_replicas(before):
        _hand_over_replicas(kube, manifest, before["spec"]["replicas"])
    return apply(kube, manifest, check)


def rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether no pod takes events but such as the Deployment now describes."""
    status = deployment.get("status", {})
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return bool(seen and status.get("replicas", 0) == status.get("updatedReplicas", 0))


def owns_replicas(deployment: Mapping[str, Any]) -> bool:
    """Whether a deploy, which must not, is the owner of the number of pods."""
    return any(
        entry["manager"] == FIELD_MANAGER
        and entry["operation"] == "Apply"
        and "f:replicas" in entry["fieldsV1"].get("f:spec", {})
        for entry in deployment["metadata"].get("managedFields", ())
    )


def _hand_over_replicas(kube: Kube, manifest: Mapping[str, Any], replicas: int) -> None:
    kept = {key: manifest["metadata"][key] for key in ("name", "namespace")}
    kube.apply(
        {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": kept,
            "spec": {"replicas": replicas},
        },
        manager=f"{FIELD_MANAGER}-birth",
    )


def _demand_labels(kubes: Mapping[str, Kube], regions: Sequence[Region], name: str) -> None:
    """Refuse a function whose label another Deployment has: only one of them would get events."""

    def twins(region: Region) -> list[str]:
        found = kubes[region.name].list(_DEPLOYMENTS, f"{manifests.LABEL}={name}")
        return [other for one in found if (other := one["metadata"]["name"]) != name]

    # A region that is cut off is told of later: it does not keep the others from the function.
    done, _ = attempt(regions, twins)
    places = [f"{', '.join(others)} in {region}" for region, others in done.items() if others]
    if places:
        raise FunctionError(
            f"function {name!r}: another Deployment has its label {manifests.LABEL}={name}"
            f" ({'; '.join(places)}): delete that one or its label, or choose another name;"
            " nothing was changed"
        )


def _await_deleted(kube: Kube, function: Function, on_progress: Progress) -> None:
    """Wait until what a delete left behind is gone: what is applied to it would go with it."""
    kinds = [*manifests.for_namespace(), *(_named(*kind, function.name) for kind in _KINDS)]
    for kind in kinds:

        def leaving(kind: Mapping[str, Any] = kind) -> dict[str, Any] | None:
            found = kube.get(kind)
            return found if found and "deletionTimestamp" in found["metadata"] else None

        if leaving() is None:
            continue
        what = f"{kind['kind']} {kind['metadata']['name']}"
        on_progress(f"{kube.region}: waiting for {what}, which is being deleted, to be gone")
        if _until(lambda leaving=leaving: leaving() is None, _GONE_TIMEOUT_S):  # type: ignore[misc]
            continue
        found = leaving()
        if found is not None:
            raise RegionError(_hanging(kube, what, found))


def _hanging(kube: Kube, what: str, found: Mapping[str, Any]) -> str:
    since = found["metadata"]["deletionTimestamp"]
    finalizers = found["metadata"].get("finalizers") or ()
    problem = f"{kube.region}: {what} is being deleted since {since} and does not go"
    if not finalizers:
        return f"{problem}; deploy again when it has gone"
    held = f"{problem}: the finalizer {', '.join(finalizers)} holds it"
    by_keda = any("keda" in finalizer for finalizer in finalizers)
    remedy = "see that KEDA's operator runs (namespace keda), " if by_keda else ""
    kind, name = what.split()
    command = (
        f"kubectl --context {kube.context} -n {manifests.NAMESPACE} patch {kind.lower()} {name}"
        ' --type merge -p \'{"metadata":{"finalizers":null}}\''
    )
    return f"{held}; {remedy}or take the finalizer away, then deploy again: {command}"


def _demand_secrets(kube: Kube, function: Function) -> None:
    for secret in function.secrets:
        if kube.get(_named("v1", "Secret", secret)) is None:
            raise RegionError(
                f"{kube.region}: there is no Secret {secret} in namespace {manifests.NAMESPACE}:"
                f" create it there before function {function.name!r} is deployed"
            )


def _demand_priority(kube: Kube, function: Function) -> None:
    """Refuse a priority that the region does not know: it would have no pod of the function."""
    name = manifests.priority_class(function)
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
    if name is not None and kube.get(kind) is None:
        raise RegionError(
            f"{kube.region}: there is no PriorityClass {name} for function {function.name!r}: make it with"
            " 'make up', or give the priority normal"
        )


def _bring(
    site: Site,
    region: Region,
    registry: Registry,
    image: Image,
    check: bool,
    on_progress: Progress,
) -> list[Difference]:
    """Have the image in the region's registry, and pinned on each of its nodes."""
    changes = []
    if registry.digest(image.name) is None:
        changes.append(_image_difference(f"{region.name}: registry", "", image.name))
        if not check:
            on_progress(f"{region.name}: pushing {image.name} to its registry")
            registry.push(image)

    def pull(node: Node) -> list[Difference]:
        pinned = node.images(image.repository).get(image.name)
        if pinned:
            return []
        if not check:
            on_progress(f"{region.name}: {node.name} pulls {image.name}")
            node.pull(image.name)
        before = "" if pinned is None else f"{image.name} (not pinned)"
        return [_image_difference(f"{node.name}: image", before, image.name)]

    for part in _on_nodes(site, region, pull):
        changes += part
    return changes


def _prune(
    site: Site,
    region: Region,
    kube: Kube,
    registry: Registry,
    image: Image,
    previous: str | None,
) -> None:
    """Delete the function's images that neither it, nor its last revision, nor a pod uses."""
    pods = kube.list(manifests.PODS, manifests.LABEL)
    used = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
    used |= {image.name, previous}
    registry.keep(image.repository, used)
    _on_nodes(
        site,
        region,
        lambda node: node.remove([n for n in node.images(image.repository) if n not in used]),
    )


def _on_nodes(site: Site, region: Region, work: Callable[[Node], T]) -> list[T]:
    """Do `work` on each of the region's nodes, on several at once."""
    nodes = [Node(name, site.ssh_config) for name in region.nodes]
    with ThreadPoolExecutor(max_workers=_NODES_AT_ONCE) as pool:
        return list(pool.map(work, nodes))


def _await_trigger(kube: Kube, name: str) -> None:
    """Wait until KEDA watches the function: it would not start before."""

    def ready() -> Mapping[str, Any]:
        found = kube.get(_named("keda.sh/v1alpha1", "ScaledObject", name))
        conditions = (found or {}).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == "Ready"), {"status": "Unknown"})

    if not _until(lambda: ready()["status"] == "True", _READY_TIMEOUT_S):
        raise RegionError(
            f"{kube.region}: {name} is applied, but KEDA can't start it:"
            f" {ready().get('message') or 'its ScaledObject has no status yet'}"
        )


def _await_rollout(kube: Kube, name: str, on_progress: Progress) -> None:
    """Wait until pods of the revision before take no events any more, or tell that they go on when others are ready."""

    def out() -> bool:
        found = kube.get(_named("apps/v1", "Deployment", name))
        return found is None or rolled_out(found)

    def none_leaves() -> bool:
        pods = kube.list(manifests.PODS, f"{manifests.LABEL}={name}")
        return not any("deletionTimestamp" in pod["metadata"] for pod in pods)

    if not _until(out, _READY_TIMEOUT_S):
        on_progress(
            f"{kube.region}: pods of {name} still have what was before, until new ones are ready:"
            f" see `faas function describe {name}`"
        )
        return
    # One that is to end takes events until it is told so, soon; a busy one brings its event to the end.
    _until(none_leaves, _LEAVE_S)


def _until(done: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for it; whether it came in time."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_READY_STEP_S)
    return True
