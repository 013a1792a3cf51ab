"""What the gateway needs of Kubernetes, as an interface; `kubernetes` implements it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch says: all objects anew, some that are new or changed, or some that are gone."""

    kind: Literal["listed", "changed", "removed"]
    objects: Sequence[Mapping[str, Any]]
    """As the API server's JSON has them."""

    @property
    def names(self) -> list[str]:
        """The objects' names."""
        return [item["metadata"]["name"] for item in self.objects]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token was reviewed to be."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def pod(self) -> str | None:
        """Name of the pod that the token is bound to."""
        return next(iter(self.extra.get("authentication.kubernetes.io/pod-name", ())), None)

    def function(self, namespace: str) -> str | None:
        """Name of the function whose pod this is: that of its service account."""
        prefix = f"system:serviceaccount:{namespace}:"
        return self.user.removeprefix(prefix) if self.user.startswith(prefix) else None


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A coordination.k8s.io Lease as read."""

    holder: str | None
    renewed: str | None
    """Its renewal's time, as written; any change shows that the holder lives."""
    duration_s: int
    version: str | None
    """Its resourceVersion; none when there is no Lease yet."""


class Cluster(Protocol):
    """The region's cluster. Every call may raise ClusterUnavailable, but for the watches."""

    def deployments(self) -> AsyncIterator[Change]:
        """The functions' Deployments, for ever; errors are logged and the watch begun anew."""
        ...

    def pods(self) -> AsyncIterator[Change]:
        """The functions' pods, in the same way."""
        ...

    def sources(self) -> AsyncIterator[Change]:
        """The ConfigMaps that declare sources, in the same way."""
        ...

    def triggers(self) -> AsyncIterator[Change]:
        """The ConfigMaps that declare triggers, in the same way."""
        ...

    async def secret(self, name: str) -> dict[str, bytes] | None:
        """The values of a Secret of the functions' namespace; none when there is no such Secret. Raises ClusterRefused
        when the gateway may not read it."""
        ...

    async def delete_pod(self, name: str) -> None:
        """Deletes a function's pod; one that is gone already is no error."""
        ...

    async def review(self, token: str) -> Caller | None:
        """Whose token it is, by TokenReview for the audience `gateway`; none when it is invalid."""
        ...

    async def may(self, caller: Caller, verb: str, resource: str, name: str | None) -> bool:
        """Whether RBAC lets the caller, by SubjectAccessReview in the functions' namespace."""
        ...

    async def read_lease(self) -> LeaseRecord:
        """The Lease of the intake."""
        ...

    async def write_lease(self, record: LeaseRecord) -> bool:
        """Creates or replaces it; False when someone else changed it since `record.version`."""
        ...

    async def close(self) -> None:
        """Ends its connections."""
        ...
