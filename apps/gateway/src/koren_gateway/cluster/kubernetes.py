"""The region's cluster by its API server."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog
from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException

from koren_gateway.cluster.functions import FUNCTION_LABEL
from koren_gateway.cluster.interface import Caller, Change, LeaseRecord
from koren_gateway.cluster.sources import SOURCE_LABEL
from koren_gateway.cluster.triggers import TRIGGER_LABEL
from koren_gateway.errors import ClusterRefused, ClusterUnavailable

AUDIENCE = "gateway"
GROUP = "faas.koren.kr"
LEASE = "gateway-intake"

_TIMEOUT_S = 5.0
_WATCH_S = 240
_AGAIN_S = 1.0
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError)
_log = structlog.get_logger()

# With _preload_content=False all of them answer with a ClientResponse, whatever they are typed.
_Call = Callable[..., Awaitable[Any]]


class Kubernetes:
    """A `Cluster`: functions live in one namespace, the gateway with its Lease in another."""

    def __init__(self, api: client.ApiClient, *, functions_in: str, gateway_in: str) -> None:
        self._functions_in = functions_in
        self._gateway_in = gateway_in
        self._api = api
        self._apps = client.AppsV1Api(api)
        self._core = client.CoreV1Api(api)
        self._authentication = client.AuthenticationV1Api(api)
        self._authorization = client.AuthorizationV1Api(api)
        self._coordination = client.CoordinationV1Api(api)

    @classmethod
    def in_cluster(cls, *, functions_in: str, gateway_in: str) -> "Kubernetes":
        """As this pod's service account."""
        configuration = client.Configuration()
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
        return cls(
            client.ApiClient(configuration), functions_in=functions_in, gateway_in=gateway_in
        )

    async def close(self) -> None:
        """Ends its connections."""
        await self._api.close()

    def deployments(self) -> AsyncIterator[Change]:
        """The functions' Deployments."""
        return self._follow(self._apps.list_namespaced_deployment, label_selector=FUNCTION_LABEL)

    def pods(self) -> AsyncIterator[Change]:
        """The functions' pods."""
        return self._follow(self._core.list_namespaced_pod)

    def sources(self) -> AsyncIterator[Change]:
        """The ConfigMaps that declare sources."""
        return self._follow(self._core.list_namespaced_config_map, label_selector=SOURCE_LABEL)

    def triggers(self) -> AsyncIterator[Change]:
        """The ConfigMaps that declare triggers."""
        return self._follow(self._core.list_namespaced_config_map, label_selector=TRIGGER_LABEL)

    async def secret(self, name: str) -> dict[str, bytes] | None:
        """The values of a Secret."""
        try:
            found = await self._json(self._core.read_namespaced_secret, name, self._functions_in)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403:
                raise ClusterRefused(_why(error)) from None
            raise ClusterUnavailable(_why(error)) from None
        data: Mapping[str, str] = found.get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    async def delete_pod(self, name: str) -> None:
        """Deletes a function's pod."""
        try:
            await self._json(self._core.delete_namespaced_pod, name, self._functions_in)
        except ApiException as error:
            if error.status != 404:
                raise ClusterUnavailable(_why(error)) from None

    async def review(self, token: str) -> Caller | None:
        """By TokenReview."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        status = await self._ask(self._authentication.create_token_review, review)
        if not status.get("authenticated") or AUDIENCE not in status.get("audiences", []):
            return None
        user = status["user"]
        return Caller(
            user=user["username"],
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups") or ()),
            extra={name: tuple(values) for name, values in (user.get("extra") or {}).items()},
        )

    async def may(self, caller: Caller, verb: str, resource: str, name: str | None) -> bool:
        """By SubjectAccessReview."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": caller.user,
                "uid": caller.uid,
                "groups": list(caller.groups),
                "extra": {name: list(values) for name, values in caller.extra.items()},
                "resourceAttributes": {
                    "group": GROUP,
                    "resource": resource,
                    "verb": verb,
                    "namespace": self._functions_in,
                    "name": name or "",
                },
            },
        }
        status = await self._ask(self._authorization.create_subject_access_review, review)
        return bool(status.get("allowed"))

    async def read_lease(self) -> LeaseRecord:
        """The Lease of the intake."""
        try:
            lease = await self._json(
                self._coordination.read_namespaced_lease, LEASE, self._gateway_in
            )
        except ApiException as error:
            if error.status == 404:
                return LeaseRecord(holder=None, renewed=None, duration_s=0, version=None)
            raise ClusterUnavailable(_why(error)) from None
        spec = lease.get("spec") or {}
        return LeaseRecord(
            holder=spec.get("holderIdentity") or None,
            renewed=spec.get("renewTime"),
            duration_s=int(spec.get("leaseDurationSeconds") or 0),
            version=lease["metadata"]["resourceVersion"],
        )

    async def write_lease(self, record: LeaseRecord) -> bool:
        """Creates or replaces it, renewed now."""
        metadata: dict[str, Any] = {"name": LEASE, "namespace": self._gateway_in}
        if record.version is not None:
            metadata["resourceVersion"] = record.version
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": record.holder or "",
                "leaseDurationSeconds": max(1, record.duration_s),
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        try:
            if record.version is None:
                await self._json(
                    self._coordination.create_namespaced_lease, self._gateway_in, lease
                )
            else:
                await self._json(
                    self._coordination.replace_namespaced_lease, LEASE, self._gateway_in, lease
                )
        except ApiException as error:
            if error.status == 409:
                return False
            raise ClusterUnavailable(_why(error)) from None
        return True

    async def _ask(self, create: _Call, review: dict[str, Any]) -> Mapping[str, Any]:
        try:
            answer = await self._json(create, review)
        except ApiException as error:
            raise ClusterUnavailable(_why(error)) from None
        status: Mapping[str, Any] = answer.get("status") or {}
        return status

    async def _json(self, call: _Call, *arguments: Any, **more: Any) -> dict[str, Any]:
        # As plain JSON: the client's models cost more time than the API server does.
        try:
            response = await call(
                *arguments, _preload_content=False, _request_timeout=_TIMEOUT_S, **more
            )
            async with response:
                body = await response.read()
        except _NO_ANSWER as error:
            raise ClusterUnavailable(f"Kubernetes: {error or type(error).__name__}") from None
        if response.status >= 300:
            raise ApiException(status=response.status, reason=_message(body))
        try:
            answer: dict[str, Any] = json.loads(body)
        except ValueError as error:
            raise ClusterUnavailable(f"Kubernetes: not JSON: {error}") from None
        return answer

    async def _follow(self, call: _Call, **selector: str) -> AsyncIterator[Change]:
        what = call.__name__
        troubled = False
        while True:
            try:
                listed = await self._json(call, self._functions_in, **selector)
                if troubled:
                    _log.info("watch works again", watch=what)
                troubled = False
                yield Change("listed", listed["items"])
                async for change in self._watch(
                    call, listed["metadata"]["resourceVersion"], **selector
                ):
                    yield change
            except (ApiException, ClusterUnavailable) as error:
                if not troubled:
                    _log.warning("waiting for the API server", watch=what, problem=_why(error))
                troubled = True
                await asyncio.sleep(_AGAIN_S)

    async def _watch(self, call: _Call, version: str, **selector: str) -> AsyncIterator[Change]:
        """Changes since `version`, until they are too old to go on (then list anew)."""
        while True:
            try:
                response = await call(
                    self._functions_in,
                    watch=True,
                    resource_version=version,
                    allow_watch_bookmarks=True,
                    timeout_seconds=_WATCH_S,
                    _preload_content=False,
                    # The server ends a watch by itself; silence beyond that is a dead connection.
                    _request_timeout=aiohttp.ClientTimeout(total=_WATCH_S + 30, connect=_TIMEOUT_S),
                    **selector,
                )
                async with response:
                    if response.status >= 300:
                        body = await response.read()
                        raise ApiException(status=response.status, reason=_message(body))
                    async for line in _lines(response.content):
                        event = json.loads(line)
                        item = event["object"]
                        if event["type"] == "ERROR":
                            raise ApiException(
                                status=item.get("code", 500), reason=item.get("message", "")
                            )
                        version = item["metadata"]["resourceVersion"]
                        if event["type"] in ("ADDED", "MODIFIED"):
                            yield Change("changed", [item])
                        elif event["type"] == "DELETED":
                            yield Change("removed", [item])
            except ApiException as error:
                if error.status == 410:
                    return
                raise
            except _NO_ANSWER as error:
                raise ClusterUnavailable(f"Kubernetes: {error or type(error).__name__}") from None


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # StreamReader.readline refuses lines as long as an object may be.
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _why(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"Kubernetes: {error.status} {error.reason}"
    return str(error)
