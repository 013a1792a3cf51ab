# SPDX-License-Identifier: Apache-2.0
"""The bundle's bill of materials (CycloneDX 1.5, JSON), which vulnerability scanners read.

Go modules are read from the built programs, and Debian packages from the lists in the built components. Python and npm
packages are read from the recipes' pins, which are installed exactly.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.koren.faas.plugins.module_utils.bundle import Entry, go_program, load_recipes

# Their packages only generate films and are not installed on a host.
BUILD_ONLY = {"clips"}
_NAMESPACE = uuid.UUID("5f0cf8f0-6a5f-4a2c-9f0a-0f6b6a1d6c55")


def write_sbom(path: Path, repo: Path, entries: list[Entry], path_dirs: list[str]) -> bool:
    """Write the bill of a plan's components, all of which are in the cache; False if it already exists."""
    try:
        if json.loads(path.read_text(encoding="utf-8"))["serialNumber"] == _serial_number(entries):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass
    # Two runs of one checkout may write it at once.
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(sbom(repo, entries, go_program(path_dirs)), indent=1) + "\n", encoding="utf-8")
    part.rename(path)
    return True


def sbom(repo: Path, entries: list[Entry], go: str) -> dict[str, Any]:
    """The bill of materials; the same components give the same bill."""
    needs = {name: recipe.needs for name, recipe in load_recipes(repo).items()}
    found: dict[str, dict[str, Any]] = {}
    depends = []
    for entry in entries:
        parts = {part["purl"]: part for part in _parts(repo / "bundle" / entry.name, entry.path, go)}
        found |= parts
        refs = [f"bundle/{need}" for need in needs[entry.name]] + sorted(parts)
        depends.append({"ref": f"bundle/{entry.name}", "dependsOn": refs})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": _serial_number(entries),
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "bundle", "name": "koren.faas bundle"}},
        "components": [_of_entry(entry) for entry in entries] + [found[purl] for purl in sorted(found)],
        "dependencies": [{"ref": "bundle", "dependsOn": [f"bundle/{entry.name}" for entry in entries]}, *depends],
    }


def _serial_number(entries: list[Entry]) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, ' '.join(f'{entry.name}={entry.key}' for entry in entries))}"


def _of_entry(entry: Entry) -> dict[str, Any]:
    version = entry.path / "version"
    return {
        "type": "application",
        "bom-ref": f"bundle/{entry.name}",
        "name": entry.name,
        "version": version.read_text(encoding="utf-8").strip() if version.is_file() else entry.key,
    }


def _part(kind: str, name: str, version: str, more: str = "") -> dict[str, Any]:
    purl = f"pkg:{kind}/{quote(name, safe='/')}@{quote(version, safe='')}{more}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _parts(recipe: Path, built: Path, go: str) -> Iterator[dict[str, Any]]:
    yield from _go_modules(subprocess.check_output([go, "version", "-m", str(built)], text=True))
    for file in built.rglob("Packages"):
        yield from _debian_packages(file.read_text(encoding="utf-8"))
    if (built / "dpkg-status").is_file():
        yield from _debian_packages((built / "dpkg-status").read_text(encoding="utf-8"))
    if recipe.name not in BUILD_ONLY:
        for file in recipe.glob("requirements*.txt"):
            yield from _python_packages(file.read_text(encoding="utf-8"))
    if (recipe / "package-lock.json").is_file():
        yield from _npm_packages(json.loads((recipe / "package-lock.json").read_text(encoding="utf-8")))


def _go_modules(printed: str) -> Iterator[dict[str, Any]]:
    """The modules in the output of ``go version -m``; a replaced module counts as its replacement."""
    modules: list[tuple[str, str]] = []
    for line in printed.splitlines():
        words = line.split()
        if not line.startswith("\t") and (release := re.search(r": go(\d\S*)", line)):
            modules.append(("std", release[1]))
        elif words[:1] in (["mod"], ["dep"]) and len(words) > 2:
            modules.append((words[1], words[2]))
        elif words[:1] == ["=>"] and len(words) > 3:
            # A module that is replaced by a folder is a patched copy of itself.
            modules[-1] = (words[1], words[2])
    for name, version in modules:
        if version != "(devel)":
            yield _part("golang", name, version)


def _debian_packages(text: str) -> Iterator[dict[str, Any]]:
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", stanza, re.MULTILINE))
        if len(fields) == 3:
            more = f"?arch={fields['Architecture']}&distro=debian-12"
            yield _part("deb", f"debian/{fields['Package']}", fields["Version"], more)


def _python_packages(text: str) -> Iterator[dict[str, Any]]:
    for name, version in re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text, re.MULTILINE):
        yield _part("pypi", re.sub(r"[-_.]+", "-", name).lower(), version)


def _npm_packages(lock: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for place, meta in lock["packages"].items():
        name = place.rpartition("node_modules/")[2]
        if name and not meta.get("dev"):
            yield _part("npm", name, meta["version"])
