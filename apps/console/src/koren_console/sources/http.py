# SPDX-License-Identifier: Apache-2.0
"""HTTP clients for what the console asks, and waiting before it asks again."""

from __future__ import annotations

import random
import ssl
from pathlib import Path

import httpx

from koren_console.settings import Tls

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0


class SourceDown(Exception):
    """A source does not answer, or not as it should; the message says which and how."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of its answer, if it gave one."""


class Backoff:
    """Seconds to wait before the next try: twice as long each time, with some chance in it."""

    def __init__(self) -> None:
        self._next_s = FIRST_WAIT_S

    def worked(self) -> None:
        """The next failure is the first again."""
        self._next_s = FIRST_WAIT_S

    def failed(self) -> float:
        """Seconds to wait now."""
        wait_s = self._next_s * random.uniform(0.7, 1.3)
        self._next_s = min(LONGEST_WAIT_S, self._next_s * 2)
        return wait_s


def with_certificate(tls: Tls, timeout_s: float) -> httpx.AsyncClient:
    """A client for the centre's services, which ask for a certificate of the site's authority."""
    context = _context(tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    return httpx.AsyncClient(verify=context, timeout=httpx.Timeout(timeout_s, connect=3.0), trust_env=False)


def with_authority(authority: Path, timeout_s: float, *, connections: int) -> httpx.AsyncClient:
    """A client for a server whose certificate an authority of its own signed."""
    return httpx.AsyncClient(
        verify=_context(authority),
        timeout=httpx.Timeout(timeout_s, connect=3.0),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=False,
    )


def _context(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(authority)
    return context
