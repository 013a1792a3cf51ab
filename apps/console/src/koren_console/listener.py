# SPDX-License-Identifier: Apache-2.0
"""Connections to the console: how many there may be, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
import asyncio.constants
import asyncio.sslproto

from uvicorn.protocols.http.h11_impl import H11Protocol

from koren_console.auth.limits import network

MOST = 1_000
"""More are closed at once; those that are there go on."""
MOST_OF_ONE = 400
"""Connections of one address: a stranger can't take them all."""
REQUEST_S = 15.0
"""Within which a request must have come, whole, since its connection began or the answer before it ended."""
HANDSHAKE_S = 5.0
"""Within which the TLS handshake must be over. `Connection` begins after it."""
HANDSHAKE_BYTES = 16 * 1024
"""The most that is read at once of one connection: a TLS record."""


def bound_handshakes() -> None:
    """Have this process' TLS connections that say nothing cost little, and not for long.

    asyncio reserves 256 KiB for each, for a minute, and has no argument for either.
    """
    asyncio.constants.SSL_HANDSHAKE_TIMEOUT = HANDSHAKE_S
    asyncio.sslproto.SSLProtocol.max_size = HANDSHAKE_BYTES


class Connection(H11Protocol):
    """One connection. uvicorn itself waits for ever for a request that has not come whole."""

    _deadline: asyncio.TimerHandle | None = None
    _from = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It is there; one that is one too many is closed."""
        super().connection_made(transport)
        self._from = network(self.client[0]) if self.client else ""
        others = sum(1 for one in self.connections if isinstance(one, Connection) and one._from == self._from)
        if len(self.connections) > MOST or others > MOST_OF_ONE:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A part of a request came, or all of it."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._came()

    def on_response_complete(self) -> None:
        """The next request may come; with pipelining it may be there already."""
        answered = self.cycle
        self._wait()
        super().on_response_complete()
        if self.cycle is not answered and not self.cycle.more_body:
            self._came()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._came()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._came()
        self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
