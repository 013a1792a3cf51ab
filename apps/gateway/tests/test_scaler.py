"""KEDA's side: what it is told, and when."""

import asyncio

import grpc
import pytest
from gateway_lab import Lab, scaled, stub, until

from koren_gateway.scaling.externalscaler import externalscaler_pb2 as pb

pytestmark = pytest.mark.asyncio


async def test_keda_is_told_each_transition_once(lab: Lab) -> None:
    async with lab.keda() as keda:
        told: list[bool] = []

        async def listen() -> None:
            async for answer in keda.StreamIsActive(scaled()):
                told.append(answer.result)

        listening = asyncio.create_task(listen())
        await until(lambda: told == [False], "the state as the stream opens")
        await lab.broker.publish(happened="updated", sequence=1)
        await until(lambda: told == [False, True], "active")
        await lab.broker.publish(happened="updated", sequence=2)
        await lab.broker.publish(happened="updated", sequence=3, subject="incident-2")
        await lab.broker.receipt("received", 3)
        metrics = await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=scaled(), metricName="backlog"))
        assert metrics.metricValues[0].metricValueFloat == 2
        assert (await keda.IsActive(scaled())).result is True
        pod = lab.pod()
        for _ in range(3):
            assert await pod.next()
            assert await pod.post("response", {}) == 204
        await until(lambda: told == [False, True, False], "idle")
        metrics = await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=scaled(), metricName="backlog"))
        assert metrics.metricValues[0].metricValueFloat == 0
        lab.gateway.stop()
        # Ends cleanly, or KEDA would wait longer and longer before it comes again.
        await asyncio.wait_for(listening, 5)
    await lab.broker.receipt("succeeded", 3)
    activated = [r.id for r in lab.broker.receipts if r.state == "succeeded" and "activated" in r.phases]
    assert activated == ["incident-1-updated-1"]


async def test_keda_gets_the_metric_and_its_target(lab: Lab) -> None:
    async with lab.keda() as keda:
        [spec] = (await keda.GetMetricSpec(scaled(target="2.5"))).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat) == ("backlog", 2.5)
        for wrong in ("0", "many"):
            with pytest.raises(grpc.aio.AioRpcError, match="number above 0"):
                await keda.GetMetricSpec(scaled(target=wrong))
        with pytest.raises(grpc.aio.AioRpcError, match="must name the function"):
            await keda.IsActive(pb.ScaledObjectRef(name="x", namespace="functions"))


async def test_only_keda_may_ask_the_scaler(lab: Lab) -> None:
    async with lab.keda("operator") as other:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await other.IsActive(scaled())
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    credentials = grpc.ssl_channel_credentials(lab.pki.ca.read_bytes())
    address = f"localhost:{lab.settings.scaler_port}"
    async with grpc.aio.secure_channel(address, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(channel).IsActive(scaled(), timeout=5)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
