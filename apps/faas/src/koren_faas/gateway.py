# SPDX-License-Identifier: Apache-2.0
"""The Function API of a region's gateway, reached through the region's API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from koren_faas import manifests
from koren_faas.errors import FaasError, RegionError
from koren_faas.kube import Kube
from koren_faas.regions import attempt
from koren_faas.site import Region, Site

T = TypeVar("T")

NAMESPACE = "koren-faas"

_API = f"/api/v1/namespaces/{NAMESPACE}/services/https:gateway:functions/proxy/v1"
_TOKEN_LIFE_S = 600
_READ_TIMEOUT_S = 30.0
# The most that one answer holds.
_PAGE = 1000
_STEP_S = 0.5


class Gateway:
    """The gateway of one region, asked in the name of who may call functions."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._token: str | None = None

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        read_timeout_s: float = _READ_TIMEOUT_S,
    ) -> bytes:
        """Send one request and return the answer's body.

        Args:
            path: below the API, with its leading slash.
            body: sent as JSON.

        Raises:
            RegionError: the gateway, or the API server before it, refused or did not answer.
        """
        if self._token is None:
            self._token = self._first_token()
        return self._kube.request(
            method,
            f"{_API}{path}",
            query=query,
            body=body,
            headers={"Koren-Token": self._token, "Content-Type": content_type},
            read_timeout_s=read_timeout_s,
        )

    def _first_token(self) -> str:
        try:
            return self._new_token()
        except RegionError as error:
            if error.status != 404:
                raise
        # No function was ever deployed here, but the region may hold events and dead letters.
        for manifest in manifests.for_namespace():
            self._kube.apply(manifest)
        return self._new_token()

    def _new_token(self) -> str:
        answer = json.loads(
            self._kube.request(
                "POST",
                f"/api/v1/namespaces/{manifests.NAMESPACE}/serviceaccounts/{manifests.CALLER}/token",
                body={
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenRequest",
                    "spec": {
                        "audiences": [manifests.AUDIENCE],
                        "expirationSeconds": _TOKEN_LIFE_S,
                    },
                },
            )
        )
        return str(answer["status"]["token"])


def pages(
    gateway: Gateway, path: str, key: str, query: Mapping[str, str], limit: int | None
) -> tuple[list[dict[str, Any]], bool]:
    """What a list of the Function API holds, page by page, and whether there is more.

    Args:
        key: of the list in each answer.
        limit: at most so many; None means all.

    Raises:
        RegionError: the gateway refused or did not answer.
    """
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        left = _PAGE if limit is None else min(_PAGE, limit - len(found))
        asked = {**query, "limit": str(left), **({} if after is None else {"after": after})}
        answer = json.loads(gateway.request("GET", path, query=asked))
        page: list[dict[str, Any]] = answer[key]
        found += page
        after = answer.get("next")
        if after is None or len(found) == limit:
            return found, after is not None


def pages_of(
    site: Site,
    regions: Sequence[Region],
    path: str,
    key: str,
    query: Mapping[str, str],
    limit: int | None,
    made: Callable[[str, Mapping[str, Any]], T],
) -> tuple[tuple[T, ...], dict[str, FaasError], tuple[str, ...]]:
    """What a list of the Function API holds in each of the regions. A region may be cut off.

    Args:
        key: of the list in each answer.
        limit: at most so many of a region; None means all.
        made: makes one thing from the region's name and what the list has of it.

    Returns:
        the things, by region; regions that did not tell, with the reason; names of regions that have more.
    """

    def one(region: Region) -> tuple[list[T], bool]:
        found, more = pages(Gateway(Kube(region, site.kubeconfig)), path, key, query, limit)
        return [made(region.name, content) for content in found], more

    done, errors = attempt(regions, one)
    names = sorted(done)
    return (
        tuple(thing for name in names for thing in done[name][0]),
        errors,
        tuple(name for name in names if done[name][1]),
    )


def declared(gateway: Gateway, what: str) -> dict[str, dict[str, Any]]:
    """What the gateway says of each declared object, by its name.

    Args:
        what: `sources`, `triggers` or `http-triggers`.

    Raises:
        RegionError: the gateway refused or did not answer.
    """
    answer = json.loads(gateway.request("GET", f"/{what}"))
    return {one["name"]: one for one in answer[what.rpartition("-")[2]]}


def await_declared(
    kube: Kube, what: str, name: str, done: Callable[[Mapping[str, Any]], bool], late: str, timeout_s: float
) -> None:
    """Wait until the gateway says of a declared object what `done` wants; of one that it does not know it says nothing.

    Raises:
        RegionError: `late`, if that takes longer; or the gateway refused or did not answer.
    """
    gateway, deadline = Gateway(kube), time.monotonic() + timeout_s
    while not done(declared(gateway, what).get(name, {})):
        if time.monotonic() > deadline:
            raise RegionError(f"{kube.region}: {late}")
        time.sleep(_STEP_S)
