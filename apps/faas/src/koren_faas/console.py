# SPDX-License-Identifier: Apache-2.0
"""The centre's console as programs read it: the incidents, regions and figures of the whole site.

Its records are plain data as its API gives them: times are RFC 3339 in UTC, None means unknown and never zero, and a
text in two languages is a mapping with `ko` and `en`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from koren_faas.errors import FaasError, RegionError, SiteError
from koren_faas.kube import Kube
from koren_faas.site import CENTRAL, Site

MOST_INCIDENTS = 1000
"""The console lists no more than these."""

_NAMESPACE = "koren-console"
_ACCOUNT = f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts/reader"
_API = f"/api/v1/namespaces/{_NAMESPACE}/services/https:console:https/proxy/v1"
_AUDIENCE = "console"
_TOKEN_LIFE_S = 600
_READ_TIMEOUT_S = 15.0

Record = dict[str, Any]


class ConsoleError(FaasError):
    """The console did not answer, or refused."""


@dataclass(frozen=True, slots=True)
class Top:
    """What happens in the site now.

    Attributes:
        summary: figures of the whole site.
        functions: each function of each region.
    """

    summary: Record
    functions: tuple[Record, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for machines."""
        return {"summary": self.summary, "functions": list(self.functions)}


class Console:
    """The console, asked through the central API server in the name of its account for readers.

    Raises:
        SiteError: the site has no centre.
        NotReadyError: the kubeconfig does not describe the centre.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        (self._central,) = site.pick([CENTRAL])
        self._kube = Kube(self._central, site.kubeconfig)
        self._token = ""

    def regions(self, names: Iterable[str] = ()) -> list[Record]:
        """All regions, unless some are named.

        Raises:
            SiteError: a region does not exist.
            ConsoleError: the console did not answer, or refused.
        """
        wanted = _names(self._site, names)
        return _of(_records(self._get("/regions"), "regions"), "name", wanted)

    def top(self, names: Iterable[str] = ()) -> Top:
        """The site's summary, and the functions of all regions unless some are named.

        Errors are those of `regions`.
        """
        wanted = _names(self._site, names)
        answer = self._get("/top")
        if not isinstance(answer.get("summary"), dict):
            raise _unreadable("it has no summary")
        functions = _of(_records(answer, "functions"), "region", wanted)
        return Top(answer["summary"], tuple(functions))

    def incidents(self, names: Iterable[str] = (), state: str | None = None) -> list[Record]:
        """The latest incidents, the newest first, at most MOST_INCIDENTS of each named region or of all together.

        Args:
            state: `held`, `open`, `cleared` or `dismissed`; None means any.

        Errors are those of `regions`.
        """
        query = {"state": state} if state else {}
        asked = [query | {"region": name} for name in _names(self._site, names)] or [query]
        found = [
            one for each in asked for one in _records(self._get("/incidents", each), "incidents")
        ]
        return sorted(found, key=lambda one: str(one.get("began")), reverse=True)

    def incident(self, subject: str) -> Record:
        """One incident with the moments of its life, `marks`, also one that is over.

        Raises:
            SiteError: the console knows none of this subject.
            ConsoleError: the console did not answer, or refused.
        """
        unknown = SiteError(
            f"the console knows no incident {subject}: its history may not go back so far;"
            " see 'faas incident ls'"
        )
        try:
            answer = self._get(f"/incidents/{quote(subject, safe='')}")
        except _NotFoundError:
            raise unknown from None
        if answer.get("subject") != subject:
            raise unknown
        return answer

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> Record:
        self._token = self._token or self._new_token()
        try:
            body = self._kube.request(
                "GET",
                _API + path,
                query=query,
                headers={"Koren-Token": self._token},
                read_timeout_s=_READ_TIMEOUT_S,
            )
        except RegionError as error:
            raise self._failed(error) from error
        try:
            answer = json.loads(body)
        except ValueError:
            raise _unreadable("it is no JSON") from None
        if not isinstance(answer, dict):
            raise _unreadable("it is no object")
        return answer

    def _new_token(self) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [_AUDIENCE], "expirationSeconds": _TOKEN_LIFE_S},
        }
        try:
            answer = self._kube.request("POST", f"{_ACCOUNT}/token", body=body)
        except RegionError as error:
            if error.status == 404:
                raise ConsoleError(
                    f"site {self._site.name} has no console: run the playbook console.yml"
                ) from error
            raise self._failed(error) from error
        return str(json.loads(answer)["status"]["token"])

    def _failed(self, error: RegionError) -> ConsoleError:
        if error.status == 404:
            return _NotFoundError(f"the console does not have this: {error}")
        if error.status in (401, 403):
            return ConsoleError(f"the console refuses: {error}")
        pods = (
            f"kubectl --kubeconfig {self._site.kubeconfig} --context {self._central.context}"
            f" -n {_NAMESPACE} get pods"
        )
        return ConsoleError(
            f"the console does not answer: {error}\nSee what it lacks with '{pods}'. Without it,"
            " 'faas region ls', 'faas function ls' and 'faas event held' ask the regions themselves"
        )


class _NotFoundError(ConsoleError):
    """The console, or the API server before it, does not know the path."""


def _names(site: Site, names: Iterable[str]) -> list[str]:
    wanted = list(names)
    return [one.name for one in site.pick(wanted)] if wanted else []


def _of(records: list[Record], key: str, names: list[str]) -> list[Record]:
    return [one for one in records if not names or one.get(key) in names]


def _records(answer: Mapping[str, Any], key: str) -> list[Record]:
    found = answer.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _unreadable(f"it has no {key}")
    return found


def _unreadable(why: str) -> ConsoleError:
    return ConsoleError(
        f"the console's answer can't be read: {why}; it and faas may be of different versions,"
        " run the site's playbook"
    )
