"""What can go wrong, as one small hierarchy."""


class GatewayError(Exception):
    """Base of every error of this package."""


class StoreUnavailable(GatewayError):
    """Redis can't be reached, is loading, or refuses to write (full, read-only, disk error)."""


class LeaseLost(GatewayError):
    """The attempt has no lease any more: it ran out, was released, or ended already."""


class ConnectionLost(GatewayError):
    """The connection to the broker could not be made, or ended."""


class ClusterUnavailable(GatewayError):
    """The Kubernetes API server can't be reached or answered with an error."""


class InvalidCloudEvent(GatewayError):
    """The message is not an event; the text names the attribute and what it should be."""
