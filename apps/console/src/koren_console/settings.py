# SPDX-License-Identifier: Apache-2.0
"""What the console is told: one JSON file; secrets are files of their own that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

TRACE_ID = "{trace_id}"
"""Where the address of a trace has its id."""


class SettingsBroken(Exception):
    """The settings can't be used; the message names the file and what is wrong."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(_Record):
    """A text in Korean and English."""

    ko: str
    en: str


class Point(_Record):
    """Degrees (WGS 84)."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)


class Tls(_Record):
    """The site's authority, and the console's certificate and key by it."""

    ca: Path
    certificate: Path
    key: Path


class Broker(_Record):
    """The centre's broker."""

    host: str
    port: int = 8883


class RegionSettings(_Record):
    """A region and how its API server is reached."""

    name: str
    title: Text
    place: Point | None = None
    server: str
    """Address of the API server, https://…"""
    authority: Path
    """Certificates that its API server's is checked against."""
    token: Path
    """File with the token of the service account `console`; read again when it changes."""


class CameraSettings(_Record):
    """A camera as the detector has it."""

    id: str
    region: str
    title: Text
    place: Point | None = None


class Oidc(_Record):
    """A provider of OpenID Connect."""

    issuer: str = Field(pattern="^https://")
    client_id: str = Field(min_length=1)
    client_secret_file: Path
    authority: Path | None = None
    """File with the authority of the provider's certificate, where it is no public one."""
    scope: str = "openid profile"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"
    """Claim with the person's roles or groups; dots lead into objects."""
    operators: list[str] = Field(min_length=1)
    """Values of that claim that make an operator."""
    viewers: list[str] = []
    """Values of that claim that make a viewer."""


class Settings(_Record):
    """All of it."""

    address: str = "0.0.0.0"
    port: int = 8443
    public_url: str = Field(pattern="^https://[^/]+$")
    """Where people reach the console, without a path."""
    data: Path
    """Folder for history."""
    history_days: int = Field(default=30, ge=1)
    history_mb: int = Field(default=1024, ge=16)
    tls: Tls
    broker: Broker
    prometheus: str = ""
    """https address; empty when there is none, and so for the next two."""
    alertmanager: str = ""
    logs: str = ""
    trace_url: str = ""
    """https address of a trace in a tracing system, with `{trace_id}` where its id belongs; empty for no links."""
    gateway_hold_s: int = Field(default=3600, gt=0)
    """Seconds that a region holds an event where its gateway does not say."""
    post_network: Literal["", "bluesky", "mastodon", "twitter"] = ""
    """Social network that report-incident posts on; empty when it is not known, and no texts are previewed."""
    regions: list[RegionSettings] = Field(min_length=1)
    cameras: list[CameraSettings] = []
    users: Path | None = None
    """File of local users; None with a provider."""
    oidc: Oidc | None = None

    @field_validator("trace_url")
    @classmethod
    def _leads_to_a_trace(cls, address: str) -> str:
        if address and not (re.fullmatch(r"https://[^/\s{}]+/\S*", address) and address.count(TRACE_ID) == 1):
            raise ValueError(
                f"{address!r:.200} can't lead to a trace: give an https address with {TRACE_ID} exactly once in its "
                f"path or query, such as https://tempo.example/trace/{TRACE_ID}, or leave it empty"
            )
        return address

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read the file.

        Raises:
            SettingsBroken: it is missing or wrong.
        """
        try:
            settings = cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise SettingsBroken(f"settings: {error}") from None
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise SettingsBroken(f"{file}: {wrong}") from None
        if (settings.users is None) == (settings.oidc is None):
            raise SettingsBroken(f"{file}: give either users or oidc, so that people can log in")
        return settings
