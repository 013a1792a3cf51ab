# SPDX-License-Identifier: Apache-2.0
"""The bundle: the components that recipes under ``bundle/`` build, cached by the hash of their inputs.

A component is one folder ``bundle/<name>/`` with a ``build.sh``. Its first comment lines may have ``# needs: a b``
(components it reads), ``# source: apps/x`` (repository folders that are part of it) and ``# setting: NAME=value`` (a
variable of its environment and its default, which the controller may override). Its key is the hash of the recipe,
those sources and settings, its needs' keys and the Go toolchain's version. A changed pin therefore rebuilds only that
component and those that read it. A recipe with a ``packages.lock`` finds the Debian packages that it pins in the folder
``$DEBS``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.koren.faas.plugins.module_utils.bundle_times import record

IGNORED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "tests"}
MANIFEST = "manifest.json"


class BundleError(Exception):
    """A recipe that cannot be read, or a build that failed; the text says which and where to look."""


@dataclass(frozen=True)
class Component:
    """One recipe: name, needed components, source folders in the repository and settings ``NAME=value``."""

    name: str
    needs: tuple[str, ...]
    sources: tuple[str, ...]
    settings: tuple[str, ...]

    def environment(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """The recipe's settings, as chosen or by default."""
        defaults = dict(setting.split("=", 1) for setting in self.settings)
        return {name: chosen.get(name, default) for name, default in defaults.items()}


@dataclass(frozen=True)
class Entry:
    """A component and its folder ``path`` in the cache, whether it is ``present`` or still to be built."""

    name: str
    key: str
    path: Path
    present: bool


def parse_recipe(name: str, text: str) -> Component:
    """Read a recipe's ``# needs:``, ``# source:`` and ``# setting:`` lines from the comment at its top."""
    found: dict[str, list[str]] = {"needs": [], "source": [], "setting": []}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        word, _, rest = line.lstrip("# ").partition(":")
        if word in found:
            found[word] += rest.split()
    return Component(name, tuple(found["needs"]), tuple(found["source"]), tuple(found["setting"]))


def load_recipes(repo: Path) -> dict[str, Component]:
    """All recipes of the repository, by name; an unknown need is an error that names it."""
    recipes = {
        path.parent.name: parse_recipe(path.parent.name, path.read_text(encoding="utf-8"))
        for path in sorted((repo / "bundle").glob("*/build.sh"))
    }
    for recipe in recipes.values():
        for need in recipe.needs:
            if need not in recipes:
                raise BundleError(f"bundle/{recipe.name}/build.sh needs {need!r}, which has no recipe")
    return recipes


def ordered(recipes: dict[str, Component], wanted: list[str]) -> list[Component]:
    """The wanted components and all that they need, each after its needs.

    Raises BundleError for an unknown name or a cycle, naming it.
    """
    out: dict[str, Component] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise BundleError("bundle recipes need each other in a cycle: " + " -> ".join((*way, name)))
        if name not in recipes:
            raise BundleError(f"there is no bundle/{name}/build.sh; known: {', '.join(sorted(recipes))}")
        for need in recipes[name].needs:
            visit(need, (*way, name))
        out.setdefault(name, recipes[name])

    for name in wanted or sorted(recipes):
        visit(name, ())
    return list(out.values())


def _files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in IGNORED and not n.endswith(".egg-info"))
        for name in sorted(files):
            if not name.endswith(".pyc"):
                yield Path(folder, name)


def go_program(path_dirs: list[str]) -> str:
    """The Go toolchain that recipes use; ``path_dirs`` precede the environment's PATH."""
    go = shutil.which("go", path=os.pathsep.join([*path_dirs, os.environ.get("PATH", "")]))
    if not go:
        raise BundleError("no Go toolchain: install requirements.txt into the virtual environment")
    return go


def go_version(path_dirs: list[str]) -> str:
    """Version of the Go toolchain that recipes use."""
    return subprocess.check_output([go_program(path_dirs), "env", "GOVERSION"], text=True).strip()


def tree_hash(repo: Path, folders: list[str]) -> str:
    """SHA-256 over paths, modes and contents of the folders' files (relative to the repository)."""
    total = hashlib.sha256()
    for folder in folders:
        if not (repo / folder).is_dir():
            raise BundleError(f"a recipe names the source folder {folder!r}, which does not exist")
        for path in _files(repo / folder):
            executable = os.access(path, os.X_OK)
            total.update(f"{path.relative_to(repo)}\0{executable}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def plan(
    repo: Path, cache: Path, wanted: list[str], toolchain: str, settings: Mapping[str, str] | None = None
) -> list[Entry]:
    """The components of the bundle in build order, and whether the cache has each completely.

    ``settings`` are those that differ from the recipes' defaults. Raises BundleError for one that no recipe has.
    """
    recipes = load_recipes(repo)
    chosen = settings or {}
    if unknown := set(chosen) - {name for recipe in recipes.values() for name in recipe.environment({})}:
        raise BundleError(f"no recipe under bundle/ has the setting {', '.join(sorted(unknown))}")
    keys: dict[str, str] = {}
    entries = []
    for component in ordered(recipes, wanted):
        text = tree_hash(repo, [f"bundle/{component.name}", *component.sources])
        values = [f"{name}={value}" for name, value in component.environment(chosen).items()]
        parts = [toolchain, text, *values, *(keys[n] for n in component.needs)]
        keys[component.name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
        path = cache / "components" / component.name / keys[component.name]
        entries.append(Entry(component.name, keys[component.name], path, is_whole(path)))
    return entries


def is_whole(path: Path) -> bool:
    """Whether all files of a component exist with the sizes that its manifest lists."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    for name, meta in manifest["files"].items():
        try:
            if (path / name).lstat().st_size != meta["size"]:
                return False
        except OSError:
            return False
    return True


def damaged(path: Path) -> bool:
    """Whether a component, whose file sizes are right, has a file whose contents differ from its manifest."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return any(digest(path / name) != meta["sha256"] for name, meta in manifest["files"].items())


def distrust(path: Path) -> None:
    """Make a component count as missing by removing its manifest, so that it is built or fetched again."""
    (path / MANIFEST).unlink(missing_ok=True)


def digest(path: Path) -> str:
    """SHA-256 of a file's contents, or of a symbolic link's target."""
    if path.is_symlink():
        return hashlib.sha256(os.readlink(path).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed_files(path: Path) -> list[str]:
    """A component's files and symbolic links, without its manifest, by their path in it."""
    found = []
    for folder, folders, names in os.walk(path):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found += [str(Path(folder, name).relative_to(path)) for name in [*names, *links]]
    return sorted(name for name in found if name != MANIFEST)


def write_manifest(path: Path, name: str, key: str) -> None:
    """List every file of a component with its size and SHA-256."""
    files = {
        file: {"size": (path / file).lstat().st_size, "sha256": digest(path / file)} for file in listed_files(path)
    }
    text = json.dumps({"component": name, "key": key, "files": files}, indent=1, sort_keys=True)
    (path / MANIFEST).write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file of the cache; the lock ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(
    repo: Path,
    cache: Path,
    entries: list[Entry],
    name: str,
    path_dirs: list[str],
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Build one component of a plan and move it into the cache. The components it needs must be present.

    ``settings`` are those of the plan. The build runs in a temporary folder that is moved into place at the end, so an
    interrupted build leaves nothing that counts as complete. Raises BundleError with the end of the log if the recipe
    fails.
    """
    by_name = {entry.name: entry for entry in entries}
    entry = by_name[name]
    recipe = load_recipes(repo)[name]
    log = cache / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with locked(cache / "locks" / name):
        if is_whole(entry.path):
            return entry.path
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        for left in entry.path.parent.glob(f"{name}-*"):
            # From an interrupted build: no other build runs while this one holds the lock.
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=entry.path.parent) as work:
            copy, out, view = Path(work, "repo"), Path(work, "out"), Path(work, "bundle")
            out.mkdir()
            view.mkdir()
            for folder in (f"bundle/{name}", *recipe.sources):
                shutil.copytree(
                    repo / folder,
                    copy / folder,
                    symlinks=True,
                    ignore=shutil.ignore_patterns(*IGNORED, "*.egg-info", "*.pyc"),
                )
            for need in recipe.needs:
                (view / need).symlink_to(by_name[need].path)
            env = dict(os.environ)
            env.update(recipe.environment(settings or {}))
            env.update(
                OUT=str(out),
                BUNDLE=str(view),
                REPO=str(copy),
                PATH=os.pathsep.join([*path_dirs, env.get("PATH", "/usr/bin:/bin")]),
                CGO_ENABLED="0",
                GOTOOLCHAIN="local",
                # Debug information is removed at the end anyway. Not generating it saves a tenth of the time.
                GOFLAGS="-mod=readonly -gcflags=all=-dwarf=false",
                SOURCE_DATE_EPOCH="1767225600",
            )
            begun = time.monotonic()
            if (copy / f"bundle/{name}" / "packages.lock").is_file():
                # That module imports this one.
                from ansible_collections.koren.faas.plugins.module_utils.bundle_lock import provide

                provide(repo / f"bundle/{name}/packages.lock", cache, Path(work, "debs"))
                env["DEBS"] = str(Path(work, "debs"))
            with log.open("wb") as stream:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "build.sh"],
                    cwd=copy / "bundle" / name,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            if done.returncode:
                tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise BundleError(f"bundle/{name}/build.sh failed with code {done.returncode}; full log: {log}\n{tail}")
            write_manifest(out, name, entry.key)
            shutil.rmtree(entry.path, ignore_errors=True)
            out.rename(entry.path)
            record(cache, name, time.monotonic() - begun)
            shutil.rmtree(cache / "downloads" / name, ignore_errors=True)
    return entry.path


def link_view(view: Path, entries: list[Entry]) -> bool:
    """Make ``view`` hold one link per component to its place in the cache; True if that changed it."""
    view.mkdir(parents=True, exist_ok=True)
    changed = False
    wanted = {entry.name: str(entry.path) for entry in entries}
    for name, target in wanted.items():
        link = view / name
        if link.is_symlink() and os.readlink(link) == target:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        changed = True
    return changed
