"""Coverage-guided: whatever KEDA asks for, the scaler answers or refuses it. See harness.py."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atheris
from harness import main, search

with atheris.instrument_imports(include=["koren_gateway.scaling"]):
    from google.protobuf.message import DecodeError

    from koren_gateway.cluster.functions import Function, Functions
    from koren_gateway.queue.queue import Backlog
    from koren_gateway.scaling.bell import Bell
    from koren_gateway.scaling.externalscaler import externalscaler_pb2 as pb
    from koren_gateway.scaling.scaler import Scaler


class Refused(Exception):
    """The call was ended with a status."""


class Context:
    """Of a caller with KEDA's certificate."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_common_name": [b"keda"]}

    async def abort(self, code: Any, details: str) -> None:
        details.encode()
        raise Refused


class Idle:
    """A queue with nothing to do."""

    async def backlog(self, function: Function) -> Backlog:
        function.name.encode()
        counts = dict.fromkeys(("runnable", "in_flight", "waiting", "paused", "open_incidents"), 0)
        return Backlog(**counts, next_change_s=None, longest_due_s=0)


async def answers(data: bytes) -> None:
    stopping = asyncio.Event()
    scaler = Scaler(
        SimpleNamespace(scaler_client="keda"),  # type: ignore[arg-type]
        Idle(),  # type: ignore[arg-type]
        Bell(None),  # type: ignore[arg-type]
        Functions(),
        stopping,
    )
    for kind, calls in (
        (pb.ScaledObjectRef, (scaler.IsActive, scaler.GetMetricSpec)),
        (pb.GetMetricsRequest, (scaler.GetMetrics,)),
    ):
        try:
            request = kind.FromString(data)
        except DecodeError:
            continue
        for call in calls:
            try:
                answer = await call(request, Context())
            except Refused:
                continue
            answer.SerializeToString()


def one(data: bytes) -> None:
    asyncio.run(answers(data))


def test_externalscaler(tmp_path: Path) -> None:
    search(__file__, tmp_path)


if __name__ == "__main__":
    main(one)
