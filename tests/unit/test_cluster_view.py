# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of a cluster."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/prometheus/files/koren-cluster-view"


@pytest.fixture(scope="module")
def view() -> ModuleType:
    """The program, as a module."""
    loader = importlib.machinery.SourceFileLoader("koren_cluster_view", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _node(name: str, ready: str | None) -> dict[str, Any]:
    conditions = [{"type": "MemoryPressure", "status": "True"}]
    if ready:
        conditions.append({"type": "Ready", "status": ready})
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def _pod(name: str, phase: str, address: str | None) -> dict[str, Any]:
    status = {"phase": phase} | ({"podIP": address} if address else {})
    return {"metadata": {"name": name}, "spec": {"nodeName": "seoul-cp"}, "status": status}


def test_only_true_is_ready(view: ModuleType) -> None:
    states = {"a": "True", "b": "False", "c": "Unknown", "d": None}
    text = view.readiness({"items": [_node(name, ready) for name, ready in states.items()]})
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["1", "0", "0", "0"]
    assert 'koren_node_ready{node="b"} 0\n' in text


def test_running_pods_are_targets(view: ModuleType) -> None:
    pods = [
        _pod("gateway-b", "Running", "10.1.0.3"),
        _pod("gateway-a", "Running", "10.1.0.2"),
        _pod("gateway-c", "Pending", None),
        _pod("gateway-d", "Failed", "10.1.0.4"),
    ]
    groups = json.loads(view.targets({"items": pods}, 9100, "seoul"))
    assert [group["targets"] for group in groups] == [["10.1.0.2:9100"], ["10.1.0.3:9100"]]
    assert groups[0]["labels"] == {"instance": "gateway-a", "node": "seoul-cp", "region": "seoul"}


def test_a_cluster_that_does_not_answer_leaves_nodes_unknown(
    view: ModuleType, tmp_path: Path
) -> None:
    class Silent:
        def list(self, path: str, selector: str = "") -> dict[str, Any]:
            raise ConnectionRefusedError(path)

    state = tmp_path / "koren_node_ready.prom"
    state.write_text('koren_node_ready{node="a"} 1\n')
    settings = {"node_file": str(state), "targets_folder": str(tmp_path), "pods": []}
    with pytest.raises(ConnectionRefusedError):
        view.look(Silent(), settings)
    assert not state.exists()


def test_an_unchanged_file_is_left_alone(view: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    view.write(file, "[]")
    before = file.stat().st_ino
    view.write(file, "[]")
    assert file.stat().st_ino == before
    view.write(file, "[1]")
    assert file.read_text() == "[1]"
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.json"]
