# SPDX-License-Identifier: Apache-2.0
"""Packet rules that somebody takes away come back, and what does not is named."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/kubernetes_node/files/koren-rules"
# Knows the chains that are a file in the folder CHAINS, and their rules, a line each.
NFT = """#!/bin/sh
cd "$CHAINS" && [ -e "$4 $5 $6" ] || exit 1
printf '{"nftables": [{"metainfo": {}}, {"chain": {"name": "%s"}}' "$6"
while read -r rule; do printf ', {"rule": {"comment": "%s"}}' "$rule"; done <"$4 $5 $6"
printf ']}'
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with an nft that has what is in the folder chains."""
    for name in ("bin", "chains", "owners"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/nft").write_text(NFT)
    (tmp_path / "bin/nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("CHAINS", str(tmp_path / "chains"))
    loader = importlib.machinery.SourceFileLoader("koren_rules", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "owners")
    return module


def owner(folder: Path, name: str, **more: Any) -> Path:
    """Describes an owner whose restoring writes its chain's file, which it returns."""
    chain = folder / "chains" / f"ip {name} main"
    described = {
        "chain": f"ip {name} main",
        "when": str(folder),
        "restore": ["sh", "-c", f"echo rule >'{chain}'"],
        **more,
    }
    (folder / "owners" / f"{name}.json").write_text(json.dumps(described))
    return chain


@pytest.mark.parametrize("how", ["flushed", "emptied"])
def test_rules_that_went_are_loaded_again(rules: ModuleType, tmp_path: Path, how: str) -> None:
    gone, other = owner(tmp_path, "kube-proxy"), owner(tmp_path, "flannel")
    gone.write_text("rule\n")
    other.write_text("rule\n")
    keeper = rules.Keeper()
    assert keeper.look(rules.owners(rules.FOLDER), 0.0) == []
    gone.unlink() if how == "flushed" else gone.write_text("")
    assert keeper.look(rules.owners(rules.FOLDER), 5.0) == ["kube-proxy"]
    assert gone.read_text() == "rule\n"
    # Seen again before it went again: again at once.
    keeper.look(rules.owners(rules.FOLDER), 10.0)
    gone.unlink()
    assert keeper.look(rules.owners(rules.FOLDER), 15.0) == ["kube-proxy"]


def test_an_owner_that_is_still_starting_is_left_alone(rules: ModuleType, tmp_path: Path) -> None:
    chain = owner(tmp_path, "kube-proxy", restore=["true"])
    keeper = rules.Keeper()
    assert keeper.look(rules.owners(rules.FOLDER), 0.0) == []
    chain.write_text("rule\n")
    keeper.look(rules.owners(rules.FOLDER), 5.0)
    chain.unlink()
    assert keeper.look(rules.owners(rules.FOLDER), 10.0) == ["kube-proxy"]
    assert keeper.look(rules.owners(rules.FOLDER), 40.0) == []
    assert keeper.look(rules.owners(rules.FOLDER), 71.0) == ["kube-proxy"]


def test_who_needs_anothers_rules_is_started_once_those_are_back(rules: ModuleType, tmp_path: Path) -> None:
    first, second = owner(tmp_path, "kube-proxy", restore=["true"]), owner(tmp_path, "flannel", after="kube-proxy")
    first.write_text("rule\n")
    second.write_text("rule\n")
    keeper = rules.Keeper()
    keeper.look(rules.owners(rules.FOLDER), 0.0)
    first.unlink()
    second.unlink()
    assert keeper.look(rules.owners(rules.FOLDER), 2.0) == ["kube-proxy"]
    assert keeper.look(rules.owners(rules.FOLDER), 4.0) == []
    first.write_text("rule\n")
    assert keeper.look(rules.owners(rules.FOLDER), 6.0) == ["flannel"]


def test_who_is_not_on_the_node_has_no_rules_to_keep(
    rules: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner(tmp_path, "flannel", when=str(tmp_path / "no-cluster"))
    assert rules.owners(rules.FOLDER) == {}
    assert rules.check() == 0
    assert capsys.readouterr().out == ""


def test_a_check_names_what_is_missing(rules: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner(tmp_path, "kube-proxy")
    owner(tmp_path, "flannel").write_text("rule\n")
    assert rules.check() == 1
    assert capsys.readouterr().out == "kube-proxy: chain ip kube-proxy main\n"
