"""Fixtures: a gateway's double and a pod that speaks to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pods import Pod

from koren_runtime.local.double import GatewayDouble


@pytest.fixture
def gateway() -> Iterator[GatewayDouble]:
    gateway = GatewayDouble()
    yield gateway
    gateway.close()
    assert gateway.complaints == []


@pytest.fixture
def pod(gateway: GatewayDouble, tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path, gateway.port)
    yield pod
    pod.kill()
