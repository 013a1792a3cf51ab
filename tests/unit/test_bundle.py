"""What is built anew, what is trusted, and in which order."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from ansible_collections.koren.faas.plugins.module_utils.bundle import (
    BundleError,
    build,
    damaged,
    distrust,
    is_whole,
    link_view,
    load_recipes,
    ordered,
    plan,
)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with a program, and an image that needs it."""
    recipes = {
        "image": "# needs: program\n# source: apps/x\ncat $BUNDLE/program/out $REPO/apps/x/code >$OUT/out\n",
        "program": "cp pin $OUT/out\n",
    }
    for name, text in recipes.items():
        (tmp_path / "bundle" / name).mkdir(parents=True)
        (tmp_path / "bundle" / name / "build.sh").write_text(text)
    (tmp_path / "bundle" / "program" / "pin").write_text("v1 ")
    (tmp_path / "apps" / "x").mkdir(parents=True)
    (tmp_path / "apps" / "x" / "code").write_text("code")
    return tmp_path


def make(repo: Path, cache: Path) -> list[str]:
    """Build what is missing; the names that were built."""
    entries = plan(repo, cache, [], "go1")
    missing = [entry.name for entry in entries if not entry.present]
    for name in missing:
        build(repo, cache, entries, name, [])
    return missing


def test_needs_come_first_and_nothing_is_built_twice(repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert make(repo, cache) == ["program", "image"]
    assert make(repo, cache) == []
    entries = {entry.name: entry for entry in plan(repo, cache, [], "go1")}
    assert (entries["image"].path / "out").read_text() == "v1 code"


def test_a_changed_pin_rebuilds_what_reads_it_and_nothing_else(repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make(repo, cache)
    (repo / "apps" / "x" / "code").write_text("new")
    assert make(repo, cache) == ["image"]
    (repo / "bundle" / "program" / "pin").write_text("v2 ")
    assert make(repo, cache) == ["program", "image"]


def test_a_setting_is_part_of_the_key_and_reaches_the_recipe(repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (repo / "bundle" / "program" / "build.sh").write_text("# setting: FAST=true\necho $FAST >$OUT/out\n")
    (default,) = plan(repo, cache, ["program"], "go1")
    entries = plan(repo, cache, ["program"], "go1", {"FAST": "false"})
    build(repo, cache, entries, "program", [], {"FAST": "false"})
    build(repo, cache, [default], "program", [])
    assert (entries[0].path / "out").read_text() == "false\n"
    assert (default.path / "out").read_text() == "true\n"
    assert plan(repo, cache, ["program"], "go1", {"FAST": "true"})[0].key == default.key
    with pytest.raises(BundleError, match="SLOW"):
        plan(repo, cache, ["program"], "go1", {"SLOW": "true"})


def test_a_failed_or_damaged_build_is_not_trusted(repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    script = repo / "bundle" / "program" / "build.sh"
    script.write_text("echo half >$OUT/out; echo the reason; false\n")
    with pytest.raises(BundleError, match="the reason"):
        make(repo, cache)
    script.write_text("cp pin $OUT/out\n")
    assert make(repo, cache) == ["program", "image"]
    (entry,) = plan(repo, cache, ["program"], "go1")
    (entry.path / "out").write_text("cut short")
    assert not is_whole(entry.path)
    assert make(repo, cache) == ["program"]


def test_a_killed_build_leaves_nothing_that_is_trusted_or_stays(repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    script = repo / "bundle" / "program" / "build.sh"
    script.write_text(
        "cp pin $OUT/out\n[ -e ../../../cut ] || exec sleep 60\n".replace("../../../cut", str(tmp_path / "again"))
    )
    (entry,) = plan(repo, cache, ["program"], "go1")
    child = multiprocessing.get_context("fork").Process(target=_build_in_own_group, args=(repo, cache))
    child.start()
    while not list(cache.glob("components/program/*/out/out")):
        time.sleep(0.02)
    assert child.pid
    os.killpg(child.pid, 9)
    child.join()
    assert not plan(repo, cache, ["program"], "go1")[0].present
    (tmp_path / "again").touch()
    assert make(repo, cache) == ["program", "image"]
    assert list((cache / "components" / "program").iterdir()) == [entry.path]


def _build_in_own_group(repo: Path, cache: Path) -> None:
    os.setpgid(0, 0)
    build(repo, cache, plan(repo, cache, ["program"], "go1"), "program", [])


def test_contents_changed_at_the_same_size_are_found_on_demand(repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make(repo, cache)
    (entry,) = plan(repo, cache, ["program"], "go1")
    assert not damaged(entry.path)
    (entry.path / "out").write_text("v9 ")
    assert is_whole(entry.path)
    assert damaged(entry.path)
    distrust(entry.path)
    assert make(repo, cache) == ["program"]
    assert (entry.path / "out").read_text() == "v1 "


def test_cycles_and_unknown_names_are_named(repo: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle/nothing/build\.sh"):
        ordered(load_recipes(repo), ["nothing"])
    (repo / "bundle" / "program" / "build.sh").write_text("# needs: image\n")
    with pytest.raises(BundleError, match="cycle: program -> image -> program"):
        ordered(load_recipes(repo), ["program"])


def test_the_view_follows_the_keys(repo: Path, tmp_path: Path) -> None:
    cache, view = tmp_path / "cache", tmp_path / "view"
    make(repo, cache)
    assert link_view(view, plan(repo, cache, [], "go1"))
    assert not link_view(view, plan(repo, cache, [], "go1"))
    assert (view / "image" / "out").read_text() == "v1 code"
