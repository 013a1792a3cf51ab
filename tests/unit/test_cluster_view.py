# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of a cluster."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/vmagent/files/koren-cluster-view"
FUNCTION = "faas.koren.kr/function"


@pytest.fixture(scope="module")
def view() -> ModuleType:
    """The program, as a module."""
    loader = importlib.machinery.SourceFileLoader("koren_cluster_view", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _node(name: str, ready: str | None, reason: str = "KubeletReady") -> dict[str, Any]:
    conditions = [{"type": "MemoryPressure", "status": "True"}]
    if ready:
        conditions.append({"type": "Ready", "status": ready, "reason": reason})
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def _pod(name: str, phase: str = "Running", function: str | None = "hello", **status: Any) -> dict[str, Any]:
    labels = {FUNCTION: function} if function else {}
    namespace = "functions" if function else "keda"
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels},
        "spec": {"nodeName": "seoul-cp"},
        "status": {"phase": phase, **status},
    }


def _container(restarts: int, reason: str | None = None) -> dict[str, Any]:
    last = {"terminated": {"reason": reason}} if reason else {}
    return {"name": "main", "restartCount": restarts, "lastState": last}


def _deployment(name: str, replicas: int, available: int | None, function: bool = True) -> dict[str, Any]:
    labels = {FUNCTION: name} if function else {}
    namespace = "functions" if function else "keda"
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"replicas": replicas},
        "status": {} if available is None else {"availableReplicas": available},
    }


class ApiServer:
    """A server that answers lists as an API server does; `lists` by path, other paths have no such kind."""

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {"/api/v1/nodes": [], "/api/v1/pods": []}
        self.changes: list[tuple[str, dict[str, Any]]] = []
        self.tokens: set[str | None] = set()
        self.breaks_off = False
        """Whether it ends within a list."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                api.tokens.add(self.headers["Authorization"])
                if path not in api.lists:
                    self.send_error(404)
                    return
                self.send_response(200)
                if api.breaks_off:
                    self.send_header("Content-Length", "1000000")
                self.end_headers()
                if "watch=1" in query:
                    for kind, found in api.changes:
                        self.wfile.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")
                else:
                    body = {"metadata": {"resourceVersion": "7"}, "items": api.lists[path]}
                    self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.close()


@pytest.fixture
def cluster(view: ModuleType, api: ApiServer, tmp_path: Path) -> Any:
    token = tmp_path / "token"
    token.write_text("secret\n")
    return view.Cluster(api.url, None, token)


def _rows(view: ModuleType, samples: Any) -> set[str]:
    return {line for line in view.text(samples).splitlines() if line and not line.startswith("#")}


def test_only_true_is_ready_and_the_reason_is_told(view: ModuleType) -> None:
    nodes = [
        _node("a", "True"),
        _node("b", "False", "KubeletNotReady"),
        _node("c", "Unknown", "NodeStatusUnknown"),
        _node("d", None),
    ]
    assert _rows(view, view.of_nodes(nodes)) == {
        'koren_node_ready{node="a"} 1',
        'koren_node_ready{node="b"} 0',
        'koren_node_ready{node="c"} 0',
        'koren_node_ready{node="d"} 0',
        'koren_node_not_ready{node="b",reason="KubeletNotReady"} 1',
        'koren_node_not_ready{node="c",reason="NodeStatusUnknown"} 1',
        'koren_node_not_ready{node="d",reason="Unknown"} 1',
    }


def test_restarts_tell_why_the_last_run_ended(view: ModuleType) -> None:
    pods = [
        _pod("keda-1", function=None, containerStatuses=[_container(0)]),
        _pod("hello-1", containerStatuses=[_container(0)]),
        _pod("hello-2", containerStatuses=[_container(2, "OOMKilled")]),
        _pod("hello-3", "Pending"),
    ]
    labels = 'namespace="functions",pod="hello-2",container="main",function="hello"'
    assert _rows(view, view.of_pods(pods)) == {
        'koren_container_restarts_total{namespace="keda",pod="keda-1",container="main"} 0',
        f"koren_container_restarts_total{{{labels}}} 2",
        f'koren_container_last_end{{{labels},reason="OOMKilled"}} 1',
    }


def test_a_function_without_pods_has_none_rather_than_no_figure(view: ModuleType) -> None:
    rows = _rows(view, view.FunctionPods().samples(["hello"]))
    assert rows == {
        'koren_function_pods{function="hello",phase="Pending"} 0',
        'koren_function_pods{function="hello",phase="Running"} 0',
        'koren_function_pod_seconds_total{function="hello"} 0',
    }


def test_pods_count_by_phase_and_those_that_end_are_told_apart(view: ModuleType) -> None:
    pods = view.FunctionPods()
    ending = _pod("hello-2")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods.reset([_pod("hello-1"), ending, _pod("other-1", "Pending", "other")])
    rows = _rows(view, pods.samples(["hello"]))
    assert 'koren_function_pods{function="hello",phase="Running"} 1' in rows
    assert 'koren_function_pods{function="hello",phase="Terminating"} 1' in rows
    assert 'koren_function_pods{function="other",phase="Pending"} 1' in rows


def test_pod_seconds_add_up_while_a_pod_is_on_a_node_and_stay_afterwards(
    view: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(view.time, "monotonic", lambda: now)
    pods = view.FunctionPods()
    waiting = _pod("hello-2", "Pending")
    waiting["spec"] = {}
    pods.apply("ADDED", _pod("hello-1", "Pending"))
    pods.apply("ADDED", waiting)
    now = 103.5
    pods.apply("MODIFIED", _pod("hello-1"))
    now = 110.0
    pods.apply("DELETED", _pod("hello-1"))
    now = 500.0
    assert 'koren_function_pod_seconds_total{function="hello"} 10' in _rows(view, pods.samples(["hello"]))
    # The next list holds one that was there before: it goes on.
    pods.reset([_pod("hello-3")])
    now = 502.0
    pods.reset([_pod("hello-3")])
    now = 503.0
    assert 'koren_function_pod_seconds_total{function="hello"} 13' in _rows(view, pods.samples([]))


def test_scaling_is_told_by_function(view: ModuleType) -> None:
    target = {"scaleTargetRef": {"name": "hello"}}
    conditions = [{"type": "Ready", "status": "True"}, {"type": "Active", "status": "Unknown"}]
    scaled = [{"spec": target, "status": {"conditions": conditions}}]
    assert _rows(view, view.of_scaled_objects(scaled)) == {
        'koren_scaled_object_active{function="hello"} 0',
        'koren_scaled_object_paused{function="hello"} 0',
        'koren_scaled_object_ready{function="hello"} 1',
    }
    status = {"desiredReplicas": 3, "currentReplicas": 2}
    autoscalers = [{"spec": target | {"maxReplicas": 5}, "status": status}]
    assert _rows(view, view.of_autoscalers(autoscalers)) == {
        'koren_hpa_desired_replicas{function="hello"} 3',
        'koren_hpa_current_replicas{function="hello"} 2',
        'koren_hpa_max_replicas{function="hello"} 5',
    }


def test_one_reading_asks_the_cluster_for_all_that_it_has(view: ModuleType, api: ApiServer, cluster: Any) -> None:
    api.lists["/api/v1/nodes"] = [_node("a", "True")]
    api.lists["/apis/apps/v1/deployments"] = [
        _deployment("hello", 0, None),
        _deployment("keda-operator", 1, 1, function=False),
    ]
    rows = _rows(view, view.look(cluster, view.FunctionPods()))
    assert rows >= {
        'koren_node_ready{node="a"} 1',
        'koren_deployment_wanted_replicas{namespace="functions",deployment="hello"} 0',
        'koren_deployment_available_replicas{namespace="functions",deployment="hello"} 0',
        'koren_deployment_available_replicas{namespace="keda",deployment="keda-operator"} 1',
        'koren_function_pods{function="hello",phase="Running"} 0',
    }
    assert not any('"keda-operator",phase' in row for row in rows)
    assert api.tokens == {"Bearer secret"}


def test_a_watch_keeps_functions_pods_in_step(view: ModuleType, api: ApiServer, cluster: Any) -> None:
    api.lists["/api/v1/namespaces/functions/pods"] = [_pod("hello-1"), _pod("hello-2")]
    api.changes = [("DELETED", _pod("hello-1")), ("ADDED", _pod("other-1", "Pending", "other")), ("ERROR", {})]
    pods = view.FunctionPods()
    view.follow(cluster, pods)
    rows = _rows(view, pods.samples([]))
    assert 'koren_function_pods{function="hello",phase="Running"} 1' in rows
    assert 'koren_function_pods{function="other",phase="Pending"} 1' in rows


@pytest.mark.parametrize("fault", ["gone", "breaks off"])
def test_a_cluster_that_does_not_answer_leaves_nothing_said(
    view: ModuleType, api: ApiServer, cluster: Any, fault: str
) -> None:
    server = view.serve(cluster, view.FunctionPods(), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.status == 200
        if fault == "gone":
            api.close()
        api.breaks_off = True
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(url, timeout=5)
        assert told.value.code == 503
        assert "the cluster does not answer" in told.value.read().decode()
    finally:
        server.shutdown()
        server.server_close()
