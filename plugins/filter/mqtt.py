# SPDX-License-Identifier: Apache-2.0
"""Filters that describe a broker's users and what passes between brokers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

_ITERATIONS = 101  # Mosquitto's own; the broker counts them on its one thread, for every log-in


def mosquitto_password(password: str, user: str) -> str:
    """A password as Mosquitto's file of passwords has it: PBKDF2 with SHA-512.

    The salt follows from the user, so that the same password is the same text at every run.
    """
    salt = hashlib.sha256(f"koren.faas\n{user}".encode()).digest()[:12]
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return "$".join(["", "7", str(_ITERATIONS), *(base64.b64encode(part).decode() for part in (salt, digest))])


def mqtt_bridged(sources: Iterable[Mapping[str, Any]], region: str) -> list[str]:
    """Topic filters of the sources whose messages the centre's broker sends on to a region's."""
    return [
        str(source["topic"]).replace("{region}", region)
        for source in sources
        if source.get("at") == "centre" and region in (source.get("regions") or [region])
    ]


class FilterModule:
    """Filters of the collection for brokers."""

    def filters(self) -> dict[str, Any]:
        """Names to functions."""
        return {"mosquitto_password": mosquitto_password, "mqtt_bridged": mqtt_bridged}
