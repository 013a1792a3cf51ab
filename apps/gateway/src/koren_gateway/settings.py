"""What the gateway is told from outside, read once."""

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

HISTORY_PERCENT = 10


class Settings(BaseSettings):
    """One field a variable of the environment, `KOREN_GATEWAY_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="KOREN_GATEWAY_", frozen=True)

    region: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    pod: str
    """Who this replica is, for the Lease of the intake."""

    tls_certificate: Path
    """PEM; this gateway's client certificate for the broker and server certificate for its APIs."""
    tls_key: Path
    tls_ca: Path
    """PEM; signs the broker's certificate and KEDA's."""

    sources_certificate: Path | None = None
    """PEM; client certificate by which messages of sources are taken from the broker. None: there are none."""
    sources_key: Path | None = None
    sources_rate: float = Field(default=500.0, gt=0)
    """Messages of sources that are taken in each second; more wait at the broker."""

    broker_host: str
    broker_port: int = 8883
    session_expiry_days: int = 7
    """How long the broker keeps events for a gateway that is away."""
    intake_buffer_bytes: int = 2 * 2**20
    """Above this much that is not yet in Redis, the gateway stops reading from the broker."""
    batch_bytes: int = 256 * 2**10
    """What one commit to Redis holds at most."""
    pause_after_s: float = 2.0
    """Redis refuses for so long: the gateway leaves the broker until Redis takes events again."""

    redis_host: str
    redis_port: int = 6379
    redis_user: str | None = None
    redis_password: SecretStr | None = None
    redis_ca: Path | None = None
    """PEM; given, the connection to Redis is TLS."""

    seen_days: int = 7
    """How long an event is known, so that its repeat is dropped."""
    dead_letter_days: int = 14
    """How long dead letters are kept, and the state of a function that is no more."""
    history_percent: int = Field(default=HISTORY_PERCENT, ge=1, le=50)
    """The share of Redis' memory that what functions have handled may take, for those that keep a history."""
    hold_s: float = 3600.0
    """Held events that nobody released by then are dismissed."""
    dismissed_days: int = 7
    """How long dismissed events are kept to be looked at."""
    gone_after_s: float = 60.0
    """So long a function's Deployment may be missing before what waits for it is dead letters."""
    max_deliveries: int = 20
    """How often an event is handed out at most, handler entered or not."""
    lease_s: float = 10.0
    lease_grace_s: float = 5.0
    """A lease outlives the function's timeout by this, for the runtime to report the timeout."""
    retry_base_s: float = 1.0
    retry_cap_s: float = 60.0
    receipts_kept: int = 20_000
    """Receipts that wait for the broker; above this the oldest are dropped."""

    otlp_endpoint: str | None = None
    """Collector that gets traces by OTLP over HTTP, e.g. `https://collector.example:4318`; none: no traces."""
    otlp_ca: Path | None = None
    """PEM; signs the collector's certificate. None: the public authorities."""
    otlp_headers: dict[str, SecretStr] = {}
    """JSON; sent to the collector with every request."""
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """The share of traces begun here that are recorded."""

    on_behalf_accounts: frozenset[str] = frozenset(
        f"system:serviceaccount:koren-console:console-{role}" for role in ("viewer", "operator")
    )
    """JSON list; users that are believed when they say for whom they act."""

    bind: str = "0.0.0.0"
    runtime_port: int = 8080
    functions_port: int = 8443
    scaler_port: int = 9090
    metrics_port: int = 9100
    http_port: int = 8444
    """Where the region's ingress sends the requests of HTTP triggers."""
    http_client: str = ""
    """Common name of the client certificate that the ingress has; empty: `ingress.<region>`."""
    scaler_client: str = "keda"
    """Common name of the client certificate that may ask the scaler."""
    poll_s: float = 25.0
    """How long `GET /v1/invocation/next` waits for an event."""
    stop_delay_s: float = 2.0
    """How long the APIs answer after the order to stop, until no one is sent here any more."""


def from_environment() -> Settings:
    """Raises pydantic's ValidationError, which names the variables that are missing or wrong."""
    values: dict[str, Any] = {}
    return Settings(**values)
