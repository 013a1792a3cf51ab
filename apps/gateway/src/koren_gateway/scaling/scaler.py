"""KEDA's external scaler: whether each function must run, and how much work it has."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import structlog

from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.errors import GatewayError
from koren_gateway.queue.queue import Backlog, Queue
from koren_gateway.scaling.bell import Bell
from koren_gateway.scaling.externalscaler import externalscaler_pb2 as pb
from koren_gateway.scaling.externalscaler import externalscaler_pb2_grpc as service
from koren_gateway.settings import Settings

METRIC = "backlog"

_AGAIN_S = 0.5
_log = structlog.get_logger()
_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Scaler(service.ExternalScalerServicer):
    """Answers KEDA. Each stream gets the state as it opens and then every transition: KEDA counts
    the cool-down from the last `true`, so nothing is said twice."""

    def __init__(
        self, settings: Settings, queue: Queue, bell: Bell, functions: Functions, stopping: asyncio.Event
    ) -> None:
        self._client = settings.scaler_client
        self._queue = queue
        self._bell = bell
        self._functions = functions
        self._stopping = stopping

    async def IsActive(self, request: pb.ScaledObjectRef, context: _Context) -> pb.IsActiveResponse:
        """Whether the function must run now."""
        backlog = await self._backlog(await self._function(request, context), context)
        return pb.IsActiveResponse(result=backlog.active)

    async def StreamIsActive(
        self, request: pb.ScaledObjectRef, context: _Context
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """Whether the function must run, now and at each change; ends when the gateway stops."""
        function = await self._function(request, context)
        _log.info("autoscaler listens", function=function)
        told: bool | None = None
        with self._bell.watcher(f"f:{function}") as ticket:
            while not self._stopping.is_set():
                ticket.answer()
                try:
                    backlog = await self._look(function)
                except GatewayError as error:
                    _log.debug("queue not looked at", function=function, problem=str(error))
                    await ticket.wait(_AGAIN_S)
                    continue
                if backlog.active != told:
                    told = backlog.active
                    told_ms = round(time.time() * 1000)
                    yield pb.IsActiveResponse(result=told)
                    _log.info("autoscaler told", function=function, active=told)
                    if told:
                        await self._note_activated(function, told_ms)
                change_s = backlog.next_change_s
                await ticket.wait(None if change_s is None else change_s + 0.001)

    async def GetMetricSpec(
        self, request: pb.ScaledObjectRef, context: _Context
    ) -> pb.GetMetricSpecResponse:
        """The metric and its target a pod. Never depends on Redis: KEDA skips activations after
        this has failed once."""
        await self._function(request, context)
        target = request.scalerMetadata.get("target", "1")
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", target) or float(target) == 0:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"metadata target is {target!r}; give a number above 0",
            )
        return pb.GetMetricSpecResponse(
            metricSpecs=[pb.MetricSpec(metricName=METRIC, targetSizeFloat=float(target))]
        )

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: _Context
    ) -> pb.GetMetricsResponse:
        """How many events could be in hand side by side; KEDA divides by the target of a pod."""
        function = await self._function(request.scaledObjectRef, context)
        backlog = await self._backlog(function, context)
        return pb.GetMetricsResponse(
            metricValues=[
                pb.MetricValue(
                    metricName=METRIC,
                    metricValue=backlog.metric,
                    metricValueFloat=float(backlog.metric),
                )
            ]
        )

    async def _function(self, request: pb.ScaledObjectRef, context: _Context) -> str:
        names = context.auth_context().get("x509_common_name", [])
        if self._client.encode() not in names:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the client certificate must be that of {self._client}",
            )
        function = str(request.scalerMetadata.get("function", ""))
        if not function:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"ScaledObject {request.namespace}/{request.name}: its trigger's metadata must name the function",
            )
        return function

    async def _backlog(self, function: str, context: _Context) -> Backlog:
        try:
            return await self._look(function)
        except GatewayError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise AssertionError("abort raises") from error

    async def _look(self, name: str) -> Backlog:
        return await self._queue.backlog(self._functions.get(name) or Function(name=name))

    async def _note_activated(self, function: str, at_ms: int) -> None:
        try:
            await self._queue.note_activated(function, at_ms)
        except GatewayError as error:
            _log.debug("activation not noted", function=function, problem=str(error))


def server(
    scaler: Scaler, address: str, *, certificate: Path, key: Path, ca: Path
) -> grpc.aio.Server:
    """A server of the scaler that asks for a client certificate of the site's authority."""
    made = grpc.aio.server()
    service.add_ExternalScalerServicer_to_server(scaler, made)  # type: ignore[no-untyped-call]
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=ca.read_bytes(),
        require_client_auth=True,
    )
    if made.add_secure_port(address, credentials) == 0:
        raise OSError(f"scaler: can't listen on {address}")
    return made
