"""The bundle's bill of materials names what scanners look for, by the names that they know."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.koren.faas.plugins.module_utils.bundle import build, plan
from ansible_collections.koren.faas.plugins.module_utils.bundle_sbom import write_sbom

BIN = str(Path(sys.executable).parent)
PACKAGES = """Package: libfoo
Architecture: amd64
Depends: libc6
Version: 1:2.0+dfsg-1~deb12u1

Package: bar
Status: install ok installed
Architecture: all
Version: 3
"""
LOCK = {
    "packages": {
        "": {"name": "app", "version": "1.0.0"},
        "node_modules/a": {"version": "1.2.3"},
        "node_modules/a/node_modules/@scope/b": {"version": "4.5.6"},
        "node_modules/only-for-tests": {"version": "1.0.0", "dev": True},
    }
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with a component of each kind."""
    recipes = {
        "apt": "mkdir $OUT/base; cp Packages $OUT/base/\n",
        "base": "cp Packages $OUT/dpkg-status\n",
        "clips": "touch $OUT/film\n",
        "console": "# needs: base\ntouch $OUT/image; echo 1.0-abc >$OUT/version\n",
        "program": 'go build -trimpath -ldflags "-s -w" -o "$OUT/bin/run"; echo "#!/bin/sh" >"$OUT/bin/no-program"\n',
        "sns": "touch $OUT/app\n",
    }
    for name, text in recipes.items():
        (tmp_path / "repo" / "bundle" / name).mkdir(parents=True)
        (tmp_path / "repo" / "bundle" / name / "build.sh").write_text(text)
    bundle = tmp_path / "repo" / "bundle"
    (bundle / "apt" / "Packages").write_text(PACKAGES)
    (bundle / "base" / "Packages").write_text("Package: bar\nVersion: 3\nArchitecture: all\n")
    (bundle / "clips" / "requirements.txt").write_text("simulator==9 --hash=sha256:00\n")
    (bundle / "console" / "requirements.txt").write_text(
        "# pinned\nPy_Thing.core==1.0.post1 \\\n    --hash=sha256:00\nuvicorn[standard]==2.0 ; python_version > '3'\n"
    )
    (bundle / "sns" / "package-lock.json").write_text(json.dumps(LOCK))
    (bundle / "program" / "main.go").write_text("package main\n\nfunc main() { print(1) }\n")
    (bundle / "program" / "go.mod").write_text("module example.test/program\n\ngo 1.24\n")
    return tmp_path / "repo"


def bill_of(repo: Path, cache: Path) -> dict[str, Any]:
    """Build all and write the bill beside the cache."""
    entries = plan(repo, cache, [], "go1")
    for entry in entries:
        build(repo, cache, entries, entry.name, [BIN])
    assert write_sbom(cache.with_suffix(".json"), repo, entries, [BIN])
    return json.loads(cache.with_suffix(".json").read_text())  # type: ignore[no-any-return]


def test_packages_have_the_names_that_scanners_know(repo: Path, tmp_path: Path) -> None:
    bill = bill_of(repo, tmp_path / "cache")
    release = subprocess.check_output([shutil.which("go", path=BIN) or "go", "env", "GOVERSION"], text=True).strip()
    assert {part["purl"] for part in bill["components"] if "purl" in part} == {
        "pkg:deb/debian/libfoo@1%3A2.0%2Bdfsg-1~deb12u1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/bar@3?arch=all&distro=debian-12",
        "pkg:pypi/py-thing-core@1.0.post1",
        "pkg:pypi/uvicorn@2.0",
        "pkg:npm/a@1.2.3",
        "pkg:npm/%40scope/b@4.5.6",
        f"pkg:golang/std@{release.removeprefix('go')}",
    }
    versions = {part["name"]: part["version"] for part in bill["components"] if part["type"] == "application"}
    assert versions["console"] == "1.0-abc"
    assert set(versions) == {"apt", "base", "clips", "console", "program", "sns"}


def test_it_says_which_component_has_what(repo: Path, tmp_path: Path) -> None:
    bill = bill_of(repo, tmp_path / "cache")
    has = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert has["bundle/console"] == ["bundle/base", "pkg:pypi/py-thing-core@1.0.post1", "pkg:pypi/uvicorn@2.0"]
    assert has["bundle/clips"] == []
    known = {part["bom-ref"] for part in bill["components"]}
    assert len(known) == len(bill["components"]), "each once"
    assert {ref for refs in has.values() for ref in refs} <= known


def test_it_is_written_anew_when_something_has_changed(repo: Path, tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", tmp_path / "cache.json"
    first = bill_of(repo, cache)
    entries = plan(repo, cache, [], "go1")
    assert not write_sbom(path, repo, entries, [BIN])
    path.write_text(path.read_text()[:100])
    assert write_sbom(path, repo, entries, [BIN])
    assert json.loads(path.read_text()) == first
    (repo / "bundle" / "console" / "requirements.txt").write_text("uvicorn==2.1\n")
    newer = bill_of(repo, cache)
    assert newer["serialNumber"] != first["serialNumber"]
    assert "pkg:pypi/uvicorn@2.1" in {part.get("purl") for part in newer["components"]}
