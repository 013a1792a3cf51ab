# SPDX-License-Identifier: Apache-2.0
"""The Debian packages that components contain, pinned by a file ``packages.lock`` in a component's folder.

A component's ``<set>.txt`` files name packages. The lock lists these with all that they depend on. The sets of ``apt``
are installed on top of the host image, so they leave out its packages. A build gets exactly the locked files, which are
kept in the cache by their SHA-256.

Packages are those of this machine's Debian, unless a file ``suite`` beside the list names another release.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.koren.faas.plugins.module_utils.bundle import BundleError, digest, locked

LOCK = "packages.lock"
# The packages of the host image; the other sets are installed on top of them.
IMAGE = "host-image"
APT = "apt"
# Names the release of Debian that a component's packages are of.
SUITE = "suite"
# The list of a component that consists only of its packages.
ALONE = "packages"
_HEAD = """# Written by `make lock` from what Debian's mirror had on {day}: name version architecture SHA-256 file sets
"""
_KEPT_S = 90 * 86400


@dataclass(frozen=True, order=True)
class Package:
    """A locked package: ``path`` is its place on a mirror, ``sets`` are the lists of packages that it belongs to."""

    name: str
    version: str
    architecture: str
    sha256: str
    path: str
    sets: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """The fields that identify a package."""
        return self.name, self.version, self.architecture


@dataclass(frozen=True)
class Change:
    """A package whose version a renewed lock changed; ``old`` is empty for an added one, ``new`` for a removed one."""

    component: str
    name: str
    old: str
    new: str


def read_lock(path: Path) -> list[Package]:
    """The packages of a lock file. Raises BundleError, which names the line, for an invalid one."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            words = line.split()
            if len(words) != 6 or not re.fullmatch("[0-9a-f]{64}", words[3]):
                raise BundleError(f"{path}, line {number} is not a locked package: {line!r}. Renew the lock: make lock")
            name, version, architecture, sha256, file, sets = words
            found.append(Package(name, version, architecture, sha256, file, tuple(sets.split(","))))
    return found


def provide(path: Path, cache: Path, folder: Path) -> None:
    """Create a folder with a link to each file that a lock names; download files that the cache lacks.

    Raises BundleError for a file that the mirror lacks or that differs from the locked one, and for a list that was
    changed after the lock.
    """
    packages = read_lock(path)
    names = {package.name for package in packages}
    for listing in sorted(path.parent.glob("*.txt")):
        if absent := [name for name in _listed(listing) if name not in names]:
            where = f"bundle/{path.parent.name}/{listing.name}"
            raise BundleError(f"{where} lists {', '.join(absent)}, which {LOCK} beside it does not pin: run make lock")
    store = cache / "debs"
    with locked(cache / "locks" / "debs"):
        store.mkdir(parents=True, exist_ok=True)
        missing = [package for package in packages if not _is_stored(store, package)]
        if missing:
            _download(_apt_of(path.parent, cache), missing, store, path)
        for old in store.glob("*.deb"):
            if old.stat().st_mtime < time.time() - _KEPT_S:
                old.unlink()
    folder.mkdir()
    for package in packages:
        (folder / Path(package.path).name).symlink_to(store / f"{package.sha256}.deb")


def renew(repo: Path, cache: Path) -> list[Change]:
    """Lock the mirror's current versions for all package lists; return the changes.

    Raises BundleError if the mirror does not answer or lacks a listed package.
    """
    apt = _Apt(cache / "apt-state")
    with locked(cache / "locks" / "debs"):
        apt.update()
        index = apt.index()
        base = [name for (name, _, _), found in index.items() if found.always] + ["apt"]
        image = apt.solve("", base + _listed(repo / "bundle" / IMAGE / "image.txt"))
        status = "\n\n".join(f"{index[key].stanza}\nStatus: install ok installed" for key in image) + "\n"
        sets = {path.stem: apt.solve(status, _listed(path)) for path in sorted((repo / "bundle" / APT).glob("*.txt"))}
        alone = []
        for path in sorted((repo / "bundle").glob(f"*/{ALONE}.txt")):
            its = _apt_of(path.parent, cache)
            its.update()
            alone.append((path.parent.name, {ALONE: its.solve("", _listed(path))}, its.index()))
    changes: list[Change] = []
    for component, found, known in ((IMAGE, {"image": image}, index), (APT, sets, index), *alone):
        path = repo / "bundle" / component / LOCK
        try:
            old = read_lock(path) if path.exists() else []
        except BundleError:
            old = []  # a merge conflict, or an interrupted write
        members = defaultdict(list)
        for name, keys in found.items():
            for key in keys:
                members[key].append(name)
        new = sorted(Package(*key, known[key].sha256, known[key].path, tuple(of)) for key, of in members.items())
        changes += _changes(component, old, new)
        if old != new:
            lines = (f"{' '.join(each.key)} {each.sha256} {each.path} {','.join(each.sets)}\n" for each in new)
            head = _HEAD.format(day=time.strftime("%Y-%m-%d", time.gmtime()))
            part = path.with_suffix(".part")
            part.write_text(head + "".join(lines), encoding="utf-8")
            part.replace(path)
    return changes


def gone(repo: Path, cache: Path) -> list[Package]:
    """The locked packages that neither the cache nor the mirror has."""
    store = cache / "debs"
    absent: dict[tuple[str, str, str], Package] = {}
    with locked(cache / "locks" / "debs"):
        for path in sorted((repo / "bundle").glob(f"*/{LOCK}")):
            missing = [each for each in read_lock(path) if not _is_stored(store, each)]
            if missing:
                apt = _apt_of(path.parent, cache)
                apt.update()
                index = apt.index()
                absent |= {package.key: package for package in missing if package.key not in index}
    return list(absent.values())


def in_words(changes: list[Change]) -> str:
    """The changes as a table for people."""
    rows = [("component", "package", "old", "new")]
    rows += [(each.component, each.name, each.old or "-", each.new or "-") for each in changes]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _changes(component: str, old: list[Package], new: list[Package]) -> Iterator[Change]:
    before = {(each.name, each.architecture): each.version for each in old}
    after = {(each.name, each.architecture): each.version for each in new}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield Change(component, key[0], before.get(key, ""), after.get(key, ""))


def _listed(path: Path) -> list[str]:
    """The packages that a list names; a line @<set> includes those of that set."""
    names: list[str] = []
    for name in path.read_text(encoding="utf-8").split():
        names += _listed(path.with_name(f"{name[1:]}.txt")) if name.startswith("@") else [name]
    return names


def _is_stored(store: Path, package: Package) -> bool:
    path = store / f"{package.sha256}.deb"
    if not path.exists() or digest(path) != package.sha256:
        return False
    path.touch()
    return True


def _download(apt: _Apt, packages: list[Package], store: Path, lock: Path) -> None:
    apt.update()
    index = apt.index()
    absent = [package for package in packages if package.key not in index]
    if absent:
        has = defaultdict(list)
        for name, version, _ in index:
            has[name].append(version)
        names = [f"{each.name} {each.version} (it has {' and '.join(has[each.name]) or 'none'})" for each in absent]
        day = re.search(r"\d{4}-\d\d-\d\d", lock.read_text(encoding="utf-8").partition("\n")[0])
        raise BundleError(
            f"bundle/{lock.parent.name}/{LOCK} pins packages that Debian's mirror does not have: {', '.join(names)}. "
            "Debian removes a version when it releases a newer. To pin what the mirror has: make lock. To build the "
            f"pinned ones, let this machine's apt read Debian's snapshot archive{f' of {day[0]}' if day else ''}."
        )
    for package in packages:
        if index[package.key].sha256 != package.sha256:
            raise _other(package, lock, index[package.key].sha256)
    # Complete files that an interrupted download left are not downloaded again.
    part = store / "part"
    part.mkdir(exist_ok=True)
    apt.download(packages, part)
    for package in packages:
        name = f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"
        if (found := digest(part / name)) != package.sha256:
            (part / name).unlink()
            raise _other(package, lock, found)
        (part / name).rename(store / f"{package.sha256}.deb")


def _other(package: Package, lock: Path, sha256: str) -> BundleError:
    return BundleError(
        f"{package.name} {package.version} is not the package that bundle/{lock.parent.name}/{LOCK} pins: "
        f"its SHA-256 is {sha256}, not {package.sha256}. Find out who changed the lock or the mirror before you trust "
        "either. To pin the mirror's package: make lock"
    )


def _apt_of(component: Path, cache: Path) -> _Apt:
    """apt for the packages of a component's folder."""
    try:
        suite = (component / SUITE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return _Apt(cache / "apt-state")
    return _Apt(cache / f"apt-state-{suite}", suite)


@dataclass(frozen=True)
class _Found:
    """A package in a mirror's signed index; ``always`` if every Debian system has it."""

    sha256: str
    path: str
    stanza: str
    always: bool


class _Apt:
    """apt with this machine's sources and keys; everything else is in a separate folder.

    With a ``suite`` the sources name that release of Debian in place of this machine's.
    """

    def __init__(self, folder: Path, suite: str = "") -> None:
        self._folder = folder
        self._suite = suite

    def update(self) -> None:
        """Read which packages the mirror has. Raises BundleError if it does not answer."""
        (self._folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        if self._suite:
            self._write_sources()
        self._run("update", "-o", "APT::Update::Error-Mode=any")

    def index(self) -> dict[tuple[str, str, str], _Found]:
        """All packages of the mirror, by name, version and architecture."""
        found = {}
        targets = self._run("indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
        for file in targets.splitlines():
            for stanza in Path(file).read_text(encoding="utf-8").split("\n\n"):
                fields = dict(_FIELD.findall(stanza))
                if "SHA256" in fields:
                    always = fields.get("Essential") == "yes" or fields.get("Priority") == "required"
                    key = fields["Package"], fields["Version"], fields["Architecture"]
                    found[key] = _Found(fields["SHA256"], fields["Filename"], stanza.strip(), always)
        return found

    def solve(self, status: str, names: list[str]) -> list[tuple[str, str, str]]:
        """The packages that apt would install on a system with that status to provide these."""
        with self._status(status) as options:
            said = self._run("install", "--simulate", *options, "-o", "APT::Install-Recommends=false", *names)
        return [(name, version, architecture) for name, version, architecture in _INSTALLED.findall(said)]

    def download(self, packages: list[Package], folder: Path) -> None:
        """Download these packages' files into a folder."""
        names = []
        for package in packages:
            of = "" if package.architecture == "all" else f":{package.architecture}"
            names.append(f"{package.name}{of}={package.version}")
        self._run("download", *names, cwd=folder)

    def _write_sources(self) -> None:
        asked = ["apt-config", "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        places = dict(re.findall(r"(list|parts)='(.*)'", said))
        files = [Path(places["list"]), *sorted(Path(places["parts"]).glob("*"))]
        own = platform.freedesktop_os_release()["VERSION_CODENAME"]
        (self._folder / "sources").mkdir(exist_ok=True)
        for file in files:
            if file.is_file() and file.suffix in (".list", ".sources"):
                text = file.read_text(encoding="utf-8").replace(own, self._suite)
                (self._folder / "sources" / file.name).write_text(text, encoding="utf-8")

    @contextmanager
    def _status(self, text: str) -> Iterator[list[str]]:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            yield ["-o", f"Dir::State::status={file.name}"]

    def _run(self, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::State": self._folder,
            "Dir::State::lists": self._folder / "lists",
            "Dir::Cache": self._folder,
            "Debug::NoLocking": "true",
            "Acquire::GzipIndexes": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "APT::Sandbox::User": "",
        }
        if self._suite:
            options |= {"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": self._folder / "sources"}
        command = ["apt-get", "-q", "-y"]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        try:
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=cwd)
        except FileNotFoundError as error:
            raise BundleError("no apt-get: the bundle's Debian packages can be fetched only on Debian 12") from error
        if done.returncode:
            errors = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith(("E: ", "W: ", " "))]
            raise BundleError(f"apt-get {arguments[0]} failed: {' '.join(' '.join(errors).split())[-2000:]}")
        return done.stdout


_FIELD = re.compile(r"^(Package|Version|Architecture|SHA256|Filename|Essential|Priority): (.*)$", re.MULTILINE)
_INSTALLED = re.compile(r"^Inst ([^\s:]+)(?::\S+)? (?:\[\S+\] )?\((\S+) .*\[(\S+)\]\)", re.MULTILINE)
