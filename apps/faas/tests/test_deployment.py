# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from koren_faas import Deployed, Function, Site, SiteError, deploy
from koren_faas.change import compare
from koren_faas.deployment import owns_replicas, rolled_out
from koren_faas.show import listing

IDLE = Deployed(
    region="seoul",
    function=Function(name="hello", handler="hello.handler"),
    image="functions.koren.internal/hello:1",
    requirements=("idna==3.10", "requests==2.32.3"),
    replicas=0,
    ready=0,
)


@pytest.mark.parametrize(
    ("replicas", "ready", "status"),
    [(0, 0, "0/0 IDLE"), (1, 0, "0/1 NOT READY"), (1, 1, "1/1 READY"), (3, 2, "2/3 READY")],
)
def test_status_is_kubeless_and_idle(replicas: int, ready: int, status: str) -> None:
    assert replace(IDLE, replicas=replicas, ready=ready).status == status


def test_the_table_is_kubeless_with_the_region() -> None:
    head, row = listing([IDLE], wide=False).split("\n")
    assert " ".join(head.split()) == "NAME NAMESPACE HANDLER RUNTIME DEPENDENCIES STATUS REGION"
    for column, value in (
        ("NAME", "hello"),
        ("NAMESPACE", "functions"),
        ("DEPENDENCIES", "idna==3.10, requests==2.32.3"),
        ("STATUS", "0/0 IDLE"),
        ("REGION", "seoul"),
    ):
        assert row[head.index(column) :].startswith(value)


def _deployment(**spec: Any) -> dict[str, Any]:
    return {"kind": "Deployment", "metadata": {"name": "hello"}, "spec": spec}


def test_what_controllers_write_is_no_change() -> None:
    before = _deployment(replicas=0, paused=False)
    after = _deployment(replicas=3, paused=False)
    after["status"] = {"replicas": 3}
    after["metadata"] |= {
        "resourceVersion": "17",
        "managedFields": [],
        "annotations": {},
    }
    before["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    assert compare("seoul", before, after) == []


def test_a_change_shows_both_sides() -> None:
    (change,) = compare("seoul", _deployment(paused=False), _deployment(paused=True))
    assert change.what == "seoul: Deployment hello"
    assert "paused: false" in change.before
    assert "paused: true" in change.after


def test_the_owner_of_the_number_of_pods_is_seen() -> None:
    def deployment(manager: str, operation: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        entry = {"manager": manager, "operation": operation, "fieldsV1": fields}
        return {"metadata": {"managedFields": [entry]}}

    assert owns_replicas(deployment("faas", "Apply"))
    assert not owns_replicas(deployment("faas-birth", "Apply"))
    assert not owns_replicas(deployment("keda", "Update"))
    assert not owns_replicas({"metadata": {}})


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({}, False),
        ({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}, False),
        ({"observedGeneration": 3, "replicas": 1}, False),
        ({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 1}, False),
        ({"observedGeneration": 3, "replicas": 1, "updatedReplicas": 1}, True),
        ({"observedGeneration": 3}, True),
    ],
)
def test_a_change_is_out_when_no_pod_of_before_is_left(status: dict[str, int], done: bool) -> None:
    assert rolled_out({"metadata": {"generation": 3}, "status": status}) is done


def test_a_site_without_edges_takes_no_function(tmp_path: Path) -> None:
    site = Site(name="bare", dir=tmp_path, regions={}, bundle=tmp_path)
    with pytest.raises(SiteError, match="no edge"):
        deploy(site, IDLE.function)
