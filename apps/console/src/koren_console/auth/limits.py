# SPDX-License-Identifier: Apache-2.0
"""How often a log-in may be tried, by user and by address."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_KEYS = 10_000


class Bucket:
    """Lets each key fail `burst` times at once, then once every `every_s` seconds. Memory is bounded: the key that
    failed longest ago is forgotten first."""

    def __init__(self, burst: int, every_s: float, clock: Callable[[], float]) -> None:
        self._burst, self._every_s, self._clock = burst, every_s, clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, key: str) -> float:
        """Seconds until the key may try again; 0 when it may now."""
        owed = self._full_at.get(key, 0.0) - self._clock()
        return max(0.0, owed - (self._burst - 1) * self._every_s)

    def take(self, key: str) -> None:
        """Count a try."""
        now = self._clock()
        self._full_at[key] = max(self._full_at.get(key, now), now) + self._every_s
        self._full_at.move_to_end(key)
        while len(self._full_at) > _MOST_KEYS:
            self._full_at.popitem(last=False)

    def give_back(self, key: str) -> None:
        """A try that was counted is not to count."""
        if key in self._full_at:
            self._full_at[key] -= self._every_s

    def __len__(self) -> int:
        return len(self._full_at)


class LoginLimits:
    """Slows guessing down: of one user's password from one address, of many users' from one address, and of one user's
    from many addresses. The last has a wide limit, so that a stranger can't easily keep a user out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pair = Bucket(5, 60, clock)
        self._address = Bucket(20, 15, clock)
        self._user = Bucket(60, 10, clock)

    def begin(self, user: str, address: str) -> int:
        """Count a try before it is made; whole seconds to wait instead, 0 when it may be made."""
        keys = self._keys(user, address)
        wait_s = max(bucket.wait_s(key) for bucket, key in keys)
        if wait_s > 0:
            return math.ceil(wait_s)
        for bucket, key in keys:
            bucket.take(key)
        return 0

    def succeeded(self, user: str, address: str) -> None:
        """The try that was counted last was right."""
        for bucket, key in self._keys(user, address):
            bucket.give_back(key)

    def _keys(self, user: str, address: str) -> list[tuple[Bucket, str]]:
        place = network(address)
        name = user.casefold()[:100]
        return [(self._pair, f"{name} {place}"), (self._address, place), (self._user, name)]


def network(address: str) -> str:
    """Whom an address stands for: one of IPv6 has its network's 2^64 at will."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
