"""What the cluster and Prometheus ask: alive, ready, metrics."""

import asyncio

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from koren_gateway.api import http
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.http_triggers import HttpTriggers
from koren_gateway.cluster.sources import Sources
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import GatewayError
from koren_gateway.metrics import Metrics
from koren_gateway.queue.budgets import SEEN_BYTES, Memory
from koren_gateway.queue.dead_letters import DeadLetters
from koren_gateway.queue.held import HeldEvents
from koren_gateway.queue.queue import RECEIPTS, Queue
from koren_gateway.queue.store import Store, number
from koren_gateway.scaling.bell import Bell

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
        sources: Sources,
        http_triggers: HttpTriggers,
        triggers: Triggers,
        dead_letters: DeadLetters,
        held: HeldEvents,
        memory: Memory,
        metrics: Metrics,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._queue = queue
        self._bell = bell
        self._functions = functions
        self._sources = sources
        self._http_triggers = http_triggers
        self._triggers = triggers
        self._dead_letters = dead_letters
        self._held = held
        self._memory = memory
        self._metrics = metrics
        self._stopping = stopping

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.add_routes(
            [
                http.get("/healthz", self._healthz),
                http.get("/readyz", self._readyz),
                http.get("/metrics", self._metrics_page),
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
                ("triggers not known yet", self._triggers.in_step),
            )
            if not there
        ]
        return web.Response(text=", ".join(missing) or "ok", status=503 if missing else 200)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        self._metrics.redis_connected.set(self._bell.connected)
        self._metrics.refused.set(len(self._functions.refused()))
        self._metrics.sources.set(len(self._sources.all()))
        self._metrics.refused_sources.set(len(self._sources.refused()))
        self._metrics.http_triggers.set(len(self._http_triggers.all()))
        self._metrics.refused_http_triggers.set(len(self._http_triggers.refused()))
        self._metrics.refused_triggers.set(len(self._triggers.refused()))
        try:
            await self._measure()
        except GatewayError as error:
            _log.debug("queue not measured", problem=str(error))
        return web.Response(
            body=generate_latest(self._metrics.registry),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    async def _measure(self) -> None:
        metrics = self._metrics
        backlogs: dict[str, dict[str, float]] = {}
        for function in self._functions.all():
            metrics.begin(function.name)
            backlog = await self._queue.backlog(function)
            backlogs[function.name] = {
                "runnable_subjects": backlog.runnable,
                "in_flight": backlog.in_flight,
                "waiting_subjects": backlog.waiting,
                "paused_subjects": backlog.paused,
                "open_incidents": backlog.open_incidents,
                "longest_due_seconds": backlog.longest_due_s,
            }
        metrics.backlogs(backlogs)
        metrics.dead_letters.set(await self._dead_letters.count())
        metrics.held.set(await self._held.count())
        metrics.receipts_waiting.set(await self._store.command("XLEN", RECEIPTS))
        await self._memory.refresh()
        metrics.redis_used.set(self._memory.used_bytes)
        metrics.redis_limit.set(self._memory.limit_bytes)
        for step, ok in self._memory.aof_ok.items():
            metrics.redis_aof_ok.labels(step).set(ok)
        metrics.limits(self._memory.budgets.to_dict())
        used, dropped, seen = await self._store.commands(
            ("HGETALL", "koren:bytes"), ("HGETALL", "koren:dropped"), ("ZCARD", "koren:seen")
        )
        accounts = {("seen", ""): int(seen) * SEEN_BYTES}
        for name, amount in used.items():
            account, _, owner = name.decode(errors="replace").partition(":")
            accounts[account, owner] = number(amount)
        metrics.used(accounts)
        for name, count in dropped.items():
            metrics.dropped(name.decode(errors="replace"), number(count))
