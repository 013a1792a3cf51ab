# SPDX-License-Identifier: Apache-2.0
"""Filters that write the console's settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def console_users(users: Sequence[Mapping[str, str]], salt: str) -> str:
    """The console's file of users: name to role and argon2id hash, the same for the same users and salt.

    Raises:
        AnsibleFilterError: argon2-cffi is not installed on the controller, or a user has no password.
    """
    try:
        from argon2.low_level import Type, hash_secret
    except ImportError as error:
        raise AnsibleFilterError(f"the console's passwords need argon2-cffi on the controller: {error}") from error
    found = {}
    for user in users:
        if not user["password"]:
            raise AnsibleFilterError(f"console_users: {user['name']} has no password")
        own_salt = hashlib.sha256(f"{salt}\n{user['name']}".encode()).digest()[:16]
        # OWASP's parameters for argon2id; the password itself is long and random.
        hashed = hash_secret(
            str(user["password"]).encode(), own_salt, time_cost=3, memory_cost=19 * 1024, parallelism=1, hash_len=32,
            type=Type.ID,
        )  # fmt: skip
        found[str(user["name"])] = {"role": str(user["role"]), "hash": hashed.decode()}
    return json.dumps(found, indent=1, sort_keys=True)


def console_regions(regions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Regions as the console's settings have them, with the files of its access."""
    folder = "/run/secrets/regions"
    return [
        {
            "name": region["name"],
            "title": region["title"],
            "place": region.get("place") or None,
            "server": region["server"],
            "authority": f"{folder}/{region['name']}.crt",
            "token": f"{folder}/{region['name']}.token",
        }
        for region in regions
    ]


def console_cameras(cameras: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A detector's cameras as the console's settings have them: never their addresses or passwords."""
    return [
        {
            "id": camera["id"],
            "region": camera["region"],
            "title": camera["name"],
            "place": {"latitude": camera["latitude"], "longitude": camera["longitude"]},
        }
        for camera in cameras
    ]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Filters by name."""
        return {
            "console_cameras": console_cameras,
            "console_regions": console_regions,
            "console_users": console_users,
        }
