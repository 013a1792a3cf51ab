# SPDX-License-Identifier: Apache-2.0
"""Which upgrades of a running cluster are refused, and what one is told to do instead."""

from __future__ import annotations

import pytest
from ansible_collections.koren.faas.plugins.module_utils.kubernetes_upgrade import others, refusal, release

WANTED = "v1.36.3+koren.1"


@pytest.mark.parametrize(
    ("server", "kubelet"),
    [
        ("v1.35.4", "v1.35.4"),
        ("v1.36.1", "v1.36.1"),
        ("v1.36.3", "v1.36.3"),
        (WANTED, "v1.35.4"),  # it was cut after the control plane
        (WANTED, WANTED),
    ],
)
def test_the_next_minor_a_patch_and_a_build_of_the_same_release_are_upgrades(server: str, kubelet: str) -> None:
    assert refusal(server, {"seoul-cp": server, "seoul-w1": kubelet}, WANTED) == ""


def test_a_build_is_left_for_the_upstream_release() -> None:
    assert refusal(WANTED, {"seoul-cp": WANTED}, "v1.36.3") == ""


def test_a_skipped_minor_release_is_refused_and_the_one_between_is_named() -> None:
    told = refusal("v1.34.2", {"seoul-cp": "v1.34.2"}, WANTED)
    assert "the API server runs v1.34.2" in told
    assert "v1.35" in told


def test_a_worker_that_an_upgrade_left_behind_is_upgraded_first() -> None:
    told = refusal("v1.35.4", {"seoul-cp": "v1.35.4", "seoul-w1": "v1.34.2"}, WANTED)
    assert "kubelet on seoul-w1 runs v1.34.2" in told


@pytest.mark.parametrize(("server", "kubelet"), [("v1.36.4", "v1.36.4"), ("v1.37.0", "v1.36.3"), ("v2.0.0", "v2.0.0")])
def test_a_downgrade_is_refused(server: str, kubelet: str) -> None:
    told = refusal(server, {"seoul-cp": kubelet}, WANTED)
    assert "downgraded" in told
    assert server in told


def test_what_runs_another_version_is_named_a_build_counts() -> None:
    assert others(WANTED, {"a": WANTED}, WANTED) == []
    assert others("v1.36.3", {"a": WANTED, "b": "v1.35.4"}, WANTED) == [
        "the API server runs v1.36.3",
        "b runs kubelet v1.35.4",
    ]


def test_what_is_no_version_is_named() -> None:
    assert release("v1.37.0-rc.1").minor == 37
    with pytest.raises(ValueError, match="not a version"):
        release("1.36")
