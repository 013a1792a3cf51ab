"""Where traces go, if they go anywhere."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from koren_events.errors import ConfigurationError

if TYPE_CHECKING:
    from koren_events.tracing import Tracer

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """A collector that takes OTLP over HTTP. Raises ConfigurationError when it can't be used."""

    endpoint: str
    """Its address without a path, e.g. `https://collector.example:4318`; `/v1/traces` is added."""
    ca: Path | None = None
    """PEM; signs its certificate. None: the public authorities."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request, e.g. a token."""
    ratio: float = 1.0
    """The share of traces begun here that are recorded; who began a trace elsewhere decides on it."""
    on_drop: Callable[[int], object] = field(default=lambda count: None, repr=False, compare=False)
    """Called, from any thread, with how many spans the collector did not get."""

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.endpoint)
            is_usable = bool(address.hostname) and address.username is None and address.port != 0
        except ValueError:
            is_usable = False
        if not is_usable or address.scheme not in ("http", "https") or address.query or address.fragment:
            raise ConfigurationError(
                "the OTLP endpoint must be an address such as https://collector.example:4318; "
                "give credentials as headers"
            )
        if address.scheme == "http" and address.hostname not in _LOOPBACK:
            raise ConfigurationError(f"the OTLP endpoint {self.endpoint} is another host; use https for it")
        if self.ca is not None and not self.ca.is_file():
            raise ConfigurationError(f"the OTLP collector's authority: {self.ca} is not a file")
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise ConfigurationError(f"the OTLP header {name[:80]!r} or its value is not one of HTTP")
        if not 0 <= self.ratio <= 1:
            raise ConfigurationError(f"the ratio of traces is {self.ratio}; give a number from 0 to 1")

    def tracer(self, service: Mapping[str, str]) -> "Tracer":
        """What makes and sends spans; `service` is who they are of, as attributes of a resource.

        Only here is OpenTelemetry imported. Raises ConfigurationError when it is not installed.
        """
        try:
            from koren_events.tracing import Tracer
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"traces need koren-events[tracing] ({error})") from None
        return Tracer(self, service)
