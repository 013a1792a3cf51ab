# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.kubeadm_certificates import (
    DAY_S,
    due,
    stale,
    start_of,
)


def _certificate(name: str, days: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "residualTime": int(days * DAY_S), "externallyManaged": False, "missing": False} | more


def test_what_ends_within_the_days_is_due() -> None:
    certificates = [
        _certificate("scheduler.conf", 59.9),
        _certificate("apiserver", 60),
        _certificate("admin.conf", -1),
    ]
    assert due(certificates, 60) == ["admin.conf", "scheduler.conf"]
    assert due(certificates, 0) == ["admin.conf"]


def test_what_kubeadm_does_not_hold_is_left() -> None:
    certificates = [
        _certificate("super-admin.conf", 0, missing=True),
        _certificate("etcd-server", 1, externallyManaged=True),
    ]
    assert due(certificates, 60) == []


def test_only_a_program_older_than_its_credentials_is_stale() -> None:
    written = {"controller-manager.conf": 100.0, "scheduler.conf": 100.0}
    assert stale({"kube-controller-manager": 110.0, "kube-scheduler": 90.0}, written) == ["kube-scheduler"]
    # Renewed now, or renewed by a run that was cut before it restarted anything: both are found.
    started = {"kube-controller-manager": 110.0, "kube-scheduler": 110.0}
    assert stale(started, written, ["controller-manager.conf", "apiserver"]) == ["kube-controller-manager"]
    assert stale({}, written, ["scheduler.conf"]) == []


def test_a_process_start_is_read_behind_its_name() -> None:
    fields = " ".join(["S"] + ["0"] * 18 + ["12345"] + ["7"] * 10)
    assert start_of(f"42 (odd (name) 1) {fields}", 1000.0, 100) == 1123.45
