"""How much of a build is left is told by the pace of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.koren.faas.plugins.module_utils.bundle import build, plan
from ansible_collections.koren.faas.plugins.module_utils.bundle_times import (
    USUAL_S,
    in_words,
    left_s,
    measured,
    record,
)


def test_a_slow_machine_is_known_by_its_first_components() -> None:
    missing = ["kubernetes", "keda"]
    usual = left_s(missing, {})
    assert usual == USUAL_S["kubernetes"] + USUAL_S["keda"]
    assert in_words(missing, {}) == f"{round(usual / 60)} min on two idle cores"
    slow = {"etcd": 3.0 * USUAL_S["etcd"], "vmagent": 3.0 * USUAL_S["vmagent"]}
    assert left_s(missing, slow) == pytest.approx(3 * usual)
    assert in_words(missing, slow) == f"about {round(3 * usual / 60)} min left"


def test_what_took_long_here_counts_more_than_what_was_short() -> None:
    here = {"kubernetes": 2.0 * USUAL_S["kubernetes"], "manifests": 20.0 * USUAL_S["manifests"]}
    assert left_s(["keda"], here) < 3 * USUAL_S["keda"]


def test_a_component_takes_as_long_as_it_took_here() -> None:
    assert left_s(["keda"], {"keda": 1000.0, "etcd": 1.0}) == 1000


def test_a_component_that_nobody_has_timed_takes_some_time_too() -> None:
    assert left_s(["new"], {}) > 0
    assert left_s(["keda"], {"new": 1000.0}) == USUAL_S["keda"]
    assert in_words(["manifests"], {"new": 1.0}) == "about 1 min left"


def test_each_build_is_timed_and_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "etcd").mkdir(parents=True)
    (tmp_path / "bundle" / "etcd" / "build.sh").write_text("sleep 0.2; touch $OUT/out\n")
    cache = tmp_path / "cache"
    assert measured(cache) == {}
    build(tmp_path, cache, plan(tmp_path, cache, [], "go1"), "etcd", [])
    assert measured(cache)["etcd"] >= 0.2
    build(tmp_path, cache, plan(tmp_path, cache, [], "go1"), "etcd", [])
    assert measured(cache)["etcd"] >= 0.2, "what is there took no time"
    record(cache, "keda", 12.34)
    (cache / "times" / "etcd").write_text("")
    assert measured(cache) == {"keda": 12.3}
