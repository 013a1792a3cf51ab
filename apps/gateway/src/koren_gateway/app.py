"""The gateway put together: what runs, in which order it starts, how it stops."""

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from koren_events import Telemetry
from koren_gateway.api.admin import Admin
from koren_gateway.api.calls import Calls
from koren_gateway.api.functions import FunctionApi
from koren_gateway.api.http_triggers import HttpTriggerApi
from koren_gateway.api.listener import Listener
from koren_gateway.api.runtime import RuntimeApi
from koren_gateway.api.triggers import TriggerList
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.http_triggers import HttpTriggers
from koren_gateway.cluster.interface import Cluster
from koren_gateway.cluster.leader import Leader
from koren_gateway.cluster.reviews import Reviewer
from koren_gateway.cluster.sources import Sources
from koren_gateway.cluster.tokens import Tokens
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import GatewayError
from koren_gateway.intake.cron import Cron
from koren_gateway.intake.intake import Intake
from koren_gateway.intake.receipts import Outbox
from koren_gateway.intake.subscriptions import Subscriptions
from koren_gateway.metrics import Metrics
from koren_gateway.queue.answers import Answers
from koren_gateway.queue.attempts import Attempts
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.dead_letters import DeadLetters
from koren_gateway.queue.held import HeldEvents
from koren_gateway.queue.history import History
from koren_gateway.queue.init_errors import InitErrors
from koren_gateway.queue.leases import Leases
from koren_gateway.queue.logs import Logs
from koren_gateway.queue.pauses import Pauses
from koren_gateway.queue.queue import Queue
from koren_gateway.queue.rates import Rates
from koren_gateway.queue.state import State
from koren_gateway.queue.store import Store, connect
from koren_gateway.queue.tidying import Tidying
from koren_gateway.scaling.bell import Bell
from koren_gateway.scaling.scaler import Scaler, server
from koren_gateway.settings import Settings
from koren_gateway.tasks import first_failure, for_ever
from koren_gateway.tracing import Spans

FUNCTIONS_NAMESPACE = "functions"
GATEWAY_NAMESPACE = "koren-faas"

_STREAMS_END_S = 1.0
_SPANS_END_S = 2.0
_log = structlog.get_logger()


class Gateway:
    """One replica. Nothing it needs must be there when it starts: it waits, and says for what."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._stopping = asyncio.Event()
        self._redis = connect(settings)
        store = Store(self._redis)
        self._memory = memory = Memory(store, settings.batch_bytes, settings.history_percent)
        queue = Queue(store, settings, memory)
        self._metrics = metrics = Metrics()
        self._spans = spans = _spans_of(settings, metrics)
        init_errors = InitErrors(store)
        logs = Logs(store, memory)
        self._functions = functions = Functions()
        self._sources = sources = Sources()
        self._triggers = triggers = Triggers(functions)
        self._http_triggers = http_triggers = HttpTriggers()
        self._pauses = pauses = Pauses(store, functions, triggers)
        self._bell = bell = Bell(store)
        calls = Calls(queue=queue, bell=bell, init_errors=init_errors, stopping=self._stopping, spans=spans)
        reviewer = Reviewer(cluster, metrics)
        attempts = Attempts(settings, queue, functions, metrics, spans)
        dead_letters = DeadLetters(store, queue, functions, settings.region)
        held = HeldEvents(store, queue, triggers)
        self._tidying = Tidying(queue, functions)
        self._leases = leases = Leases(settings, queue, functions, attempts, init_errors, reviewer)
        outbox = Outbox(store, settings.region)
        self._intake = intake = Intake(
            settings, store, queue, functions, sources, triggers, outbox, memory, metrics, spans
        )
        self._cron = cron = Cron(settings.region, store, queue, functions, triggers, metrics, spans)
        self._leader = Leader(cluster, settings.pod, self._lead, intake.able)
        self._scaler = Scaler(settings, queue, bell, functions, self._stopping)
        self._runtime_api = RuntimeApi(
            namespace=FUNCTIONS_NAMESPACE,
            poll_s=settings.poll_s,
            lease_s=settings.lease_s,
            stopping=self._stopping,
            queue=queue,
            bell=bell,
            functions=functions,
            attempts=attempts,
            leases=leases,
            state=State(store, memory),
            logs=logs,
            reviewer=reviewer,
            init_errors=init_errors,
            metrics=metrics,
        )
        self._function_api = FunctionApi(
            region=settings.region,
            queue=queue,
            calls=calls,
            functions=functions,
            sources=Subscriptions(store, sources),
            http_triggers=http_triggers,
            triggers=TriggerList(functions, triggers, pauses, cron),
            dead_letters=dead_letters,
            history=History(store, queue, memory),
            held=held,
            logs=logs,
            reviewer=reviewer,
            cluster=cluster,
            spans=spans,
            on_behalf_accounts=settings.on_behalf_accounts,
        )
        self._http_trigger_api = HttpTriggerApi(
            region=settings.region,
            client=settings.http_client or f"ingress.{settings.region}",
            triggers=http_triggers,
            functions=functions,
            tokens=Tokens(cluster),
            rates=Rates(store),
            calls=calls,
            answers=Answers(store),
            metrics=metrics,
            stopping=self._stopping,
            spans=spans,
        )
        self._admin = Admin(
            store=store,
            queue=queue,
            bell=bell,
            functions=functions,
            sources=sources,
            http_triggers=http_triggers,
            triggers=triggers,
            dead_letters=dead_letters,
            held=held,
            memory=memory,
            metrics=metrics,
            stopping=self._stopping,
        )

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, then stops in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            async with self._serving():
                _log.info("gateway started", pod=self._settings.pod)
                parts: dict[str, Callable[[], Awaitable[None]]] = {
                    "bell": self._bell.listen,
                    "memory": self._memory.follow,
                    "functions": lambda: self._functions.follow(self._cluster),
                    "sources": lambda: self._sources.follow(self._cluster),
                    "triggers": self._follow_triggers,
                    "pauses": self._pauses.run,
                    "pods": lambda: self._leases.follow(self._cluster),
                    "leases": self._leases.sweep,
                    "tidying": self._tidying.run,
                    "leader": self._leader.run,
                }
                await first_failure(
                    *(for_ever(name, run, self._metrics) for name, run in parts.items()),
                    self._until_stopping(),
                )
                # The intake has been handed on by now. Who is connected gets its answer and comes
                # again elsewhere, who is not yet turned away is still served.
                _log.info("gateway stops")
                self._bell.ring_all()
                await asyncio.sleep(self._settings.stop_delay_s)
        finally:
            await self._redis.aclose()
            await self._cluster.close()
            if self._spans is not None:
                await asyncio.to_thread(self._spans.close, _SPANS_END_S)
        _log.info("gateway stopped")

    def stop(self) -> None:
        """Makes `run` stop and return."""
        self._stopping.set()

    async def _lead(self) -> None:
        """Takes events in, and makes those of the clock, until the intake ends."""
        # First: without the broker the intake ends at once.
        with contextlib.suppress(GatewayError):
            await self._cron.start_due()
        await first_failure(self._intake.run(), for_ever("cron", self._cron.run, self._metrics))

    async def _follow_triggers(self) -> None:
        """Keeps both kinds of triggers in step, for ever."""
        async for change in self._cluster.triggers():
            self._triggers.apply(change)
            self._http_triggers.apply(change)

    async def _until_stopping(self) -> None:
        await self._stopping.wait()

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        settings = self._settings
        tls, tls_of_ingress = (_tls(settings) for _ in range(2))
        tls_of_ingress.load_verify_locations(settings.tls_ca)
        tls_of_ingress.verify_mode = ssl.CERT_REQUIRED
        scaler = server(
            self._scaler,
            f"{settings.bind}:{settings.scaler_port}",
            certificate=settings.tls_certificate,
            key=settings.tls_key,
            ca=settings.tls_ca,
        )
        async with contextlib.AsyncExitStack() as stack:
            for listener in (
                Listener(self._admin.app(), settings.bind, settings.metrics_port),
                Listener(self._runtime_api.app(), settings.bind, settings.runtime_port),
                Listener(self._function_api.app(), settings.bind, settings.functions_port, tls),
                Listener(self._http_trigger_api.app(), settings.bind, settings.http_port, tls_of_ingress),
            ):
                stack.push_async_callback(listener.stop)
                await listener.start()
            await scaler.start()
            stack.push_async_callback(scaler.stop, _STREAMS_END_S)
            yield


def _tls(settings: Settings) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return tls


def _spans_of(settings: Settings, metrics: Metrics) -> Spans | None:
    """What makes spans, where a collector is named. Raises ConfigurationError."""
    if settings.otlp_endpoint is None:
        return None
    telemetry = Telemetry(
        endpoint=settings.otlp_endpoint,
        ca=settings.otlp_ca,
        headers={name: value.get_secret_value() for name, value in settings.otlp_headers.items()},
        ratio=settings.trace_ratio,
        on_drop=metrics.spans_dropped.inc,
    )
    service = {
        "service.name": "koren-gateway",
        "service.instance.id": settings.pod,
        "koren.region": settings.region,
    }
    return Spans(telemetry.tracer(service), settings.region)
