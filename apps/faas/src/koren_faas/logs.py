# SPDX-License-Identifier: Apache-2.0
"""What the pods of a function write, in one region or several."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from koren_faas import manifests
from koren_faas.deployment import placed
from koren_faas.errors import FaasError, RegionError
from koren_faas.kube import Kube
from koren_faas.site import Site


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a pod's output."""

    region: str
    pod: str
    text: str


def logs(
    site: Site, name: str, regions: Iterable[str] = (), *, follow: bool = False
) -> Iterator[Line]:
    """The output of the function's pods that there are.

    Args:
        regions: their names; none means every region that has the function.
        follow: go on with what they write, and with pods that come, until the caller stops.

    Raises:
        NotDeployedError: a region does not have the function.
        RegionError: a region did not answer, or broke off.
    """
    found = placed(site, name, regions)
    kubes = [Kube(site.regions[one.region], site.kubeconfig) for one in found]
    if follow:
        yield from _follow(kubes, name)
        return
    for kube in kubes:
        for pod in kube.list(manifests.PODS, f"{manifests.LABEL}={name}"):
            yield from _lines(kube, pod["metadata"]["name"], follow=False)


def _lines(kube: Kube, pod: str, *, follow: bool) -> Iterator[Line]:
    query = {"follow": "true"} if follow else {}
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
