# SPDX-License-Identifier: Apache-2.0
"""What the pods of a function write, in one region or several."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from koren_faas import manifests
from koren_faas.deployment import placed
from koren_faas.errors import FaasError, RegionError
from koren_faas.gateway import Gateway
from koren_faas.image import Progress
from koren_faas.kube import Kube
from koren_faas.site import Site

_MOST_LINES = 20_000
_FOLLOWED = ("Pending", "Running")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a pod's output."""

    region: str
    pod: str
    text: str


def logs(
    site: Site,
    name: str,
    regions: Iterable[str] = (),
    *,
    follow: bool = False,
    on_progress: Progress = lambda line: None,
) -> Iterator[Line]:
    """The output of the function's pods: of those that have ended as far as their region keeps it.

    Args:
        regions: their names; none means every region that has the function.
        follow: go on with what they write, and with pods that come, until the caller stops.
        on_progress: told of a region that does not give what ended pods wrote.

    Raises:
        NotDeployedError: a region does not have the function.
        RegionError: a region did not answer, or broke off.
    """
    found = placed(site, name, regions)
    kubes = [Kube(site.regions[one.region], site.kubeconfig) for one in found]
    for kube in kubes:
        kept = _kept(kube, name, on_progress)
        there = {
            pod["metadata"]["name"]: pod["status"].get("phase")
            for pod in kube.list(manifests.PODS, f"{manifests.LABEL}={name}")
        }
        if follow:
            # What the pods that run wrote comes whole from them.
            there = {pod: phase for pod, phase in there.items() if phase in _FOLLOWED}
        for pod in [pod for pod in kept if pod not in there]:
            yield from (Line(kube.region, pod, text) for text in _flat(kept[pod]))
        for pod in () if follow else there:
            lines = [line.text for line in _lines(kube, pod, follow=False)]
            whole = joined(kept.get(pod, []), lines)
            yield from (Line(kube.region, pod, text) for text in whole)
    if follow:
        yield from _follow(kubes, name)


def joined(kept: Sequence[list[str]], lines: Sequence[str]) -> list[str]:
    """What a pod wrote, without doubles.

    Args:
        kept: the parts that its region keeps, oldest first: of containers before its last one too,
            and with gaps where it wrote too much.
        lines: what its last container has, of which the beginning may be rotated away.
    """
    end = len(lines)
    for number in range(len(kept) - 1, -1, -1):
        part = kept[number]
        at = next(
            (i for i in range(end - len(part), -1, -1) if lines[i : i + len(part)] == part), None
        )
        if at is None:
            shared = (n for n in range(min(len(part), end), 0, -1) if part[-n:] == lines[:n])
            cut = len(part) - next(shared, 0)
            return [*_flat(kept[:number]), *part[:cut], *lines]
        end = at
    return list(lines)


def _flat(parts: Iterable[list[str]]) -> list[str]:
    return [line for part in parts for line in part]


def _kept(kube: Kube, name: str, on_progress: Progress) -> dict[str, list[list[str]]]:
    """What the region keeps of the function's pods: pod to the parts of its output, oldest first.

    The pod that wrote last is the last.
    """
    try:
        parts = json.loads(Gateway(kube).request("GET", f"/functions/{name}/log"))["log"]
    except RegionError as error:
        on_progress(f"Warning: the logs of ended pods are not available: {error}")
        return {}
    found: dict[str, list[list[str]]] = {}
    for part in parts:
        before = found.pop(part["pod"], [])
        found[part["pod"]] = [*before, part["text"].removesuffix("\n").split("\n")]
    return found


def _lines(kube: Kube, pod: str, *, follow: bool) -> Iterator[Line]:
    query = {"follow": "true"} if follow else {"tailLines": str(_MOST_LINES)}
    try:
        for text in kube.lines(f"{manifests.PODS}/{pod}/log", query=query):
            yield Line(kube.region, pod, text)
    except RegionError as error:
        # 400: its container has not started. 404: it is gone already.
        if error.status not in (400, 404):
            raise


def _follow(kubes: list[Kube], name: str) -> Iterator[Line]:
    """Watch for pods and read each in a thread of its own; the threads end with the program."""
    output: queue.Queue[Line | FaasError] = queue.Queue()

    def read(kube: Kube, pod: str) -> None:
        try:
            for line in _lines(kube, pod, follow=True):
                output.put(line)
        except FaasError as error:
            output.put(error)

    def watch(kube: Kube) -> None:
        followed: set[str] = set()
        query = {"watch": "true", "labelSelector": f"{manifests.LABEL}={name}"}
        try:
            while True:  # The API server ends each watch after a while.
                for text in kube.lines(manifests.PODS, query=query):
                    event = json.loads(text)
                    if event["type"] == "ERROR":  # It is too far behind, and begins anew.
                        break
                    pod = event["object"]
                    key = pod["metadata"]["name"]
                    if pod["status"].get("phase") == "Running" and key not in followed:
                        followed.add(key)
                        threading.Thread(target=read, args=(kube, key), daemon=True).start()
        except FaasError as error:
            output.put(error)

    for kube in kubes:
        threading.Thread(target=watch, args=(kube,), daemon=True).start()
    while True:
        item = output.get()
        if isinstance(item, FaasError):
            raise item
        yield item
