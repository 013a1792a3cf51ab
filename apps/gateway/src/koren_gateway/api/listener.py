"""Connections to the APIs: how many there may be, and how long one may be idle."""

import asyncio
import json
import ssl

import structlog
from aiohttp import web

IDLE_S = 300.0
"""A connection that sends no request for so long is closed, also a new one."""

CONNECTIONS_MAX = 1000
"""Of one listener; more are refused."""

_HANDSHAKE_S = 10.0
_SHUTDOWN_S = 5.0
_log = structlog.get_logger()


class Listener:
    """Serves one application on one port, with TLS if `tls` is given."""

    def __init__(self, app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        # A long poll ends with its connection, so that no event goes to who has gone.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=_SHUTDOWN_S,
        )
        self._host = host
        self._port = port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._refused = False

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol,
            self._host,
            self._port,
            ssl=self._tls,
            ssl_handshake_timeout=_HANDSHAKE_S if self._tls else None,
        )

    async def stop(self) -> None:
        """Ends once requests in hand are answered, or after some seconds."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) < CONNECTIONS_MAX:
            self._refused = False
            return server()
        if not self._refused:
            _log.warning("too many connections, new ones are refused", port=self._port, connections=CONNECTIONS_MAX)
        self._refused = True
        return _Refusal()


class _Refusal(asyncio.Protocol):
    """Answers a connection that is one too many, whatever it asks for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        problem = f"the gateway has {CONNECTIONS_MAX} connections already; close some that are idle, then try again"
        body = json.dumps({"error": problem}).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        transport.close()
