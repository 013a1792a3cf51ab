# SPDX-License-Identifier: Apache-2.0
"""The API server of one region."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from koren_faas.errors import NotReadyError, RegionError
from koren_faas.site import Region

FIELD_MANAGER = "faas"
_IMPORTING = threading.Lock()
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 30.0

_PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "PriorityClass": "priorityclasses",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ScaledObject": "scaledobjects",
    "Secret": "secrets",
    "ServiceAccount": "serviceaccounts",
}


class Kube:
    """A region's API server, with the rights of the site's kubeconfig.

    Raises:
        NotReadyError: the kubeconfig does not describe the region.
    """

    def __init__(self, region: Region, kubeconfig: Path) -> None:
        # Here, since it takes longer to import than a command takes that needs no region. One thread at a time:
        # its modules import each other.
        with _IMPORTING:
            from kubernetes import client, config

        self.region = region.name
        self.context = region.context
        settings = client.Configuration()
        # An unreachable region is told at once; what is to be tried again, the user knows.
        settings.retries = False
        try:
            self._client = config.new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig),
                context=region.context,
                persist_config=False,
                client_configuration=settings,
            )
        except (config.ConfigException, OSError) as error:
            raise NotReadyError(
                f"{kubeconfig} has no usable context {region.context}: {error}"
            ) from error
        self._host: str = settings.host

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = _READ_TIMEOUT_S,
    ) -> bytes:
        """Send one request and return the answer's body.

        Args:
            path: below the server's address, with its leading slash.
            body: sent as JSON.
            read_timeout_s: how long to wait for the answer.

        Raises:
            RegionError: the server did not answer, or its status is not 2xx.
        """
        answer = self._send(method, path, query, body, headers, read_timeout_s)
        try:
            return answer.data
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    def lines(self, path: str, *, query: Mapping[str, str] | None = None) -> Iterator[str]:
        """The lines of an answer as they come, however long that takes.

        Raises:
            RegionError: the server did not answer, its status is not 2xx, or it broke off.
        """
        answer = self._send("GET", path, query, None, None, None)
        try:
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        finally:
            answer.close()

    def get(self, kind: Mapping[str, Any]) -> dict[str, Any] | None:
        """The object that `kind` (a manifest, or its first three keys) names, None without it.

        Raises:
            RegionError: the server refused or did not answer.
        """
        try:
            answer: dict[str, Any] = json.loads(self.request("GET", path_of(kind)))
        except RegionError as error:
            if error.status == 404:
                return None
            raise
        return answer

    def list(self, path: str, selector: str) -> list[dict[str, Any]]:
        """The objects below `path` with the label `selector`.

        Raises:
            RegionError: the server refused or did not answer.
        """
        answer = json.loads(self.request("GET", path, query={"labelSelector": selector}))
        items: list[dict[str, Any]] = answer["items"]
        return items

    def apply(
        self, manifest: Mapping[str, Any], *, manager: str = FIELD_MANAGER, dry_run: bool = False
    ) -> dict[str, Any]:
        """Server-side apply; returns the object as it is (or, with `dry_run`, would be) then.

        Raises:
            RegionError: the server refused or did not answer.
        """
        query = {"fieldManager": manager, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        answer: dict[str, Any] = json.loads(
            self.request(
                "PATCH",
                path_of(manifest),
                query=query,
                body=manifest,
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
        )
        return answer

    def delete(self, manifest: Mapping[str, Any]) -> None:
        """Delete the object that `manifest` names; it need not exist.

        Raises:
            RegionError: the server refused or did not answer.
        """
        try:
            self.request("DELETE", path_of(manifest))
        except RegionError as error:
            if error.status != 404:
                raise

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        headers: Mapping[str, str] | None,
        read_timeout_s: float | None,
    ) -> urllib3.BaseHTTPResponse:
        url = self._host + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer: urllib3.BaseHTTPResponse = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers={"Accept": "application/json", "Content-Type": "application/json"}
                | self._authorization()
                | dict(headers or {}),
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=read_timeout_s),
                preload_content=False,
            )
            if answer.status >= 300:
                raise RegionError(f"{self.region}: {_reason(answer.data)}", answer.status)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        return answer

    def _authorization(self) -> dict[str, str]:
        token = self._client.configuration.get_api_key_with_prefix("BearerToken")
        return {"Authorization": token} if token else {}

    def _unreachable(self, error: Exception) -> RegionError:
        return RegionError(f"{self.region}: {self._host} does not answer: {error}")


def path_of(manifest: Mapping[str, Any]) -> str:
    """The API server's path of an object."""
    version = manifest["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = manifest["metadata"].get("namespace")
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{place}/{_PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"


def _reason(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    if not isinstance(answer, dict):
        return text
    # The gateway says `error`, and `traceback` of a function that failed; Kubernetes `message`.
    lines = [answer.get("error") or answer.get("message") or text, answer.get("traceback") or ""]
    return "\n".join(str(line).rstrip() for line in lines if line)
