# SPDX-License-Identifier: Apache-2.0
"""Users of a site without a provider of identities: made at install, their passwords' hashes in a file."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from koren_console.model import Role

# As many at once as there is memory for: each takes what its hash says.
_AT_ONCE = 2
_LONGEST = 1024


class UsersBroken(Exception):
    """The file of users can't be used; the message names it and the remedy."""


@dataclass(frozen=True)
class _User:
    role: Role
    hash: str


class Users:
    """Local users.

    Raises:
        UsersBroken: the file is missing or not what it should be.
    """

    def __init__(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            self._users = {name: _User(Role(one["role"]), str(one["hash"])) for name, one in content.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsersBroken(
                f'{file} is no file of users ({error}); it holds {{"name": {{"role": "viewer or operator",'
                ' "hash": "$argon2id$…"}}'
            ) from None
        for name, user in self._users.items():
            if not user.hash.startswith("$argon2id$"):
                raise UsersBroken(f"{file}: the hash of {name} is not one of argon2id")
        self._hasher = PasswordHasher()
        # An unknown name takes as long as a known one.
        self._nobody = next((user.hash for user in self._users.values()), self._hasher.hash("nobody"))
        self._room = asyncio.Semaphore(_AT_ONCE)

    def __bool__(self) -> bool:
        return bool(self._users)

    def role(self, name: str) -> Role | None:
        """The role of the user, None when there is no such user."""
        user = self._users.get(name)
        return None if user is None else user.role

    async def check(self, name: str, password: str) -> Role | None:
        """The role of the user, None when name or password is wrong."""
        if len(password) > _LONGEST:
            return None
        user = self._users.get(name)
        async with self._room:
            right = await asyncio.to_thread(self._verify, self._nobody if user is None else user.hash, password)
        return user.role if user is not None and right else None

    def _verify(self, hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(hash, password.encode(errors="replace"))
        except (VerificationError, InvalidHashError):
            return False
