"""What the cluster and Prometheus ask: alive, ready, metrics."""

import asyncio

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from koren_gateway.bell import Bell
from koren_gateway.dead_letters import DeadLetters
from koren_gateway.errors import StoreUnavailable
from koren_gateway.functions import Functions
from koren_gateway.metrics import Metrics
from koren_gateway.queue import RECEIPTS, Queue
from koren_gateway.store import Store

_log = structlog.get_logger()


class Admin:
    """Serves `/healthz`, `/readyz` and `/metrics`."""

    def __init__(
        self,
        *,
        store: Store,
        queue: Queue,
        bell: Bell,
        functions: Functions,
        dead_letters: DeadLetters,
        metrics: Metrics,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._queue = queue
        self._bell = bell
        self._functions = functions
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._stopping = stopping

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics_page),
            ]
        )
        return app

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = [
            what
            for what, there in (
                ("stopping", not self._stopping.is_set()),
                ("no connection to redis", self._bell.connected),
                ("functions not known yet", self._functions.in_step),
            )
            if not there
        ]
        return web.Response(text=", ".join(missing) or "ok", status=503 if missing else 200)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        self._metrics.redis_connected.set(self._bell.connected)
        try:
            for function in self._functions.all():
                self._metrics.backlog(function.name, await self._queue.backlog(function.name))
            self._metrics.dead_letters.set(await self._dead_letters.count())
            self._metrics.receipts_waiting.set(await self._store.command("XLEN", RECEIPTS))
        except StoreUnavailable as error:
            _log.debug("queue not measured", problem=str(error))
        return web.Response(
            body=generate_latest(self._metrics.registry),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )
