"""What can go wrong, as one small hierarchy."""


class GatewayError(Exception):
    """Base of every error of this package."""


class StoreUnavailable(GatewayError):
    """Redis can't be reached, is loading, or refuses to write (full, read-only, disk error)."""


class StoreUnreachable(StoreUnavailable):
    """Redis does not answer at all: another replica may reach it."""


class StoreBroken(GatewayError):
    """Redis holds data that no script makes, and setting them aside did not help."""


class LeaseLost(GatewayError):
    """The delivery has no lease any more: it ran out, was released, or ended already."""


class ConnectionLost(GatewayError):
    """The connection to the broker could not be made, or ended."""


class SubscriptionRefused(ConnectionLost):
    """The broker refused a subscription."""


class ClusterUnavailable(GatewayError):
    """The Kubernetes API server can't be reached or answered with an error."""


class ClusterRefused(ClusterUnavailable):
    """The Kubernetes API server refused what was asked: the gateway has no right to it."""
