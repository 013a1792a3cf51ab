# SPDX-License-Identifier: Apache-2.0
"""Decide which steps of tests/run to run: skip those that passed with the same inputs, and those without enough time.

    steps.py decide [--left SECONDS] [--all] [--host PACKAGE]... STEP...
                                             one line per step: run KEY STEP, unchanged STEP or late STEP
    steps.py passed (--together SECONDS (KEY STEP)...)...
                                             record that the steps passed, and how long they took together

A step is molecule/SCENARIO, unit/SUITE or lint. Its inputs are found by the names in their text. A scenario's inputs
are its folder, the roles and playbooks that it names, and the components of the bundle that those name. A suite's
inputs are its app's folder, the apps and paths that are named in it, the components that its tests name, and the host's
packages with their dependencies. The suite `collection` and lint depend on nearly everything. A step's key is the
SHA-256 of its inputs in the work tree, the components' keys, the packages' versions and the Python version. Records are
in ${XDG_CACHE_HOME:-~/.cache}/koren-faas/passed/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Inputs of every scenario.
COMMON = (
    ".ansible-lint",
    ".config",
    "ansible.cfg",
    "galaxy.yml",
    "inventories",
    "meta",
    "molecule/conftest.py",
    "molecule/default",
    "molecule/inventory",
    "plugins",
    "requirements.txt",
    "requirements.yml",
    "tests/run",
    "tests/steps.py",
)
# Files that are searched for names of roles, playbooks and scenarios. Inventories are left out, since they name all.
FOLLOWED = ("roles/", "playbooks/", "molecule/", "site.yml", "ansible.cfg", ".config/")
# Inputs of every suite.
COMMON_TO_SUITES = ("pyproject.toml", "requirements.txt", "tests/run", "tests/steps.py")
# Inputs that a suite's text does not name: tests/run creates its environment from them.
MORE_OF_SUITES = {"scenes": ("bundle/clips/requirements.txt",)}
# Paths that are no inputs of tests/unit, unless it names them.
NOT_OF_THE_COLLECTION = (
    "apps/",
    "changelogs/",
    "tests/e2e/",
    "CHANGELOG.md",
    "README.md",
    "README.ko.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
# The tests of tests/run and of this file name the project's parts in simulated checkouts. Lint runs the latter on the
# project itself.
NAME_AS_EXAMPLES = ("tests/unit/test_run.py", "tests/unit/test_steps.py")
# Roles that use the whole bundle.
TAKE_THE_BUNDLE = ("roles/bundle/", "roles/functions/", "roles/site_state/")
# Estimates in seconds for steps without a record, on a machine with PACE_S.
FIRST_GUESS_S = {
    "molecule/openstack": 480.0,
    "molecule/nfv": 300.0,
    "lint": 150.0,
    "unit/gateway": 180.0,
}
OTHER_GUESS_S = 90.0
PACE_S = 0.05
KEPT_RECORDS = 20


@dataclass(frozen=True)
class Record:
    """A step that passed: how long it took, and the pace of the machine."""

    seconds: float
    pace_s: float


def records_folder() -> Path:
    """The folder of the records, outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "koren-faas/passed"


class Records:
    """Which steps passed with which inputs, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, step: str, key: str) -> bool:
        """Whether the step passed with the inputs of that key."""
        return self._read(self._of(step) / f"{key}.json") is not None

    def latest(self, step: str) -> Record | None:
        """The step's last record, whatever its inputs were."""
        for path in reversed(self._ordered(step)):
            if found := self._read(path):
                return found
        return None

    def add(self, step: str, key: str, record: Record) -> None:
        """Save a record, and delete all but the newest few."""
        folder = self._of(step)
        folder.mkdir(parents=True, exist_ok=True)
        whole = folder / f"{key}.json"
        part = folder / f".{key}.{os.getpid()}"
        part.write_text(json.dumps(asdict(record)))
        part.replace(whole)
        for old in self._ordered(step)[:-KEPT_RECORDS]:
            old.unlink(missing_ok=True)

    def _of(self, step: str) -> Path:
        return self._folder / step.replace("/", "-")

    def _ordered(self, step: str) -> list[Path]:
        return sorted(self._of(step).glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    @staticmethod
    def _read(path: Path) -> Record | None:
        try:
            return Record(**{name: float(value) for name, value in json.loads(path.read_text()).items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return None  # missing or truncated


def files_of(repo: Path) -> list[str]:
    """The files of the work tree that git does not ignore. Raises CalledProcessError, OSError."""
    command = ["git", "-C", str(repo), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    return sorted({os.fsdecode(name) for name in out.split(b"\0") if name})


def inputs(repo: Path, step: str, files: Sequence[str]) -> list[str]:
    """The files among `files` that the step depends on."""
    kind, _, suite = step.partition("/")
    if kind == "lint":
        return sorted(files)
    if kind == "unit":
        return _inputs_of_suite(repo, suite, files)

    def named(name: str) -> Iterable[str]:
        return _names(_text(repo / name)) if name.startswith(FOLLOWED) else ()

    return _followed([*COMMON, step], files, named)


def _inputs_of_suite(repo: Path, suite: str, files: Sequence[str]) -> list[str]:
    places = {str(parent) for name in files for parent in (Path(name), *Path(name).parents)} - {"."}
    own = [f"apps/{suite}", *MORE_OF_SUITES.get(suite, ())]
    if suite == "collection":
        own = [name for name in files if not name.startswith(NOT_OF_THE_COLLECTION)]

    def named(name: str) -> Iterable[str]:
        # Roles and similar files are not searched for names. For the collection, its tests name what is outside of it.
        followed = name.startswith(("apps/", "plugins/", "tests/unit/")) and name not in NAME_AS_EXAMPLES
        return _named_in(name, _text(repo / name), places) if followed and not name.endswith(".md") else ()

    return _followed([*COMMON_TO_SUITES, *own], files, named)


def _followed(first: Iterable[str], files: Sequence[str], named: Callable[[str], Iterable[str]]) -> list[str]:
    """The files in the places `first`, and transitively in the places that `named` finds in these files."""
    found: set[str] = set()
    seen: set[str] = set()
    left = list(first)
    while left:
        place = left.pop()
        if place in seen:
            continue
        seen.add(place)
        for name in files:
            if name not in found and (name == place or name.startswith(f"{place}/")):
                found.add(name)
                left += named(name)
    return sorted(found)


def _named_in(name: str, text: str, places: set[str]) -> set[str]:
    """The places among `places` that a file names: apps by their packages, and paths, also joined ones."""
    found = set()
    dash = "-" if name.endswith((".toml", ".txt")) else ""
    for app in re.findall(rf"\bkoren[_{dash}]([a-z]+)\b", text):
        found |= {f"apps/{app}/src", f"apps/{app}/pyproject.toml"} & places
    if name.startswith("plugins/"):
        return found  # its documentation names paths as examples
    for token in re.findall(r"[\w.\[\]-]+(?:/[\w.-]+)+", _joined(text)):
        first, *rest = token.rstrip(".").split("/")
        if up := re.fullmatch(r".*parents\[(\d)\]", first):
            parents = Path(name).parents
            found |= {str(Path(parents[min(int(up[1]), len(parents) - 1)], *rest))} & places
        elif first.isupper():
            # A constant, which may be the repository's folder.
            found |= {"/".join(rest), f"apps/{'/'.join(rest)}"} & places
        # The path may begin with any of its parts, in the repository or among the apps.
        for start in range(len(rest)):
            path = "/".join([first, *rest][start:])
            found |= {path, f"apps/{path}"} & places
    return found


def components_of_suite(repo: Path, suite: str, files: Iterable[str], built: Iterable[str]) -> list[str]:
    """The components of the bundle that the suite's tests name, by path or by a variable that tests/run sets."""
    own = "tests/unit/" if suite == "collection" else f"apps/{suite}/tests/"
    variables = re.findall(r'\b(KOREN_\w+)="\$bundle/([\w-]+)"', _text(repo / "tests/run"))
    words: set[str] = set()
    for name in files:
        if name.startswith(own):
            text = _text(repo / name)
            words |= set(re.findall(r"(?i)\bbundle/([\w-]+)", _joined(text)))
            words |= {component for variable, component in variables if variable in text}
    # The component apt has the registry that suites start.
    return sorted(name for name in built if name in words or name == "apt")


def host(packages: Sequence[str]) -> list[str]:
    """The versions of the host's Python and kernel, and of these Debian packages and their dependencies.

    Raises:
        OSError, CalledProcessError: the host has no dpkg.
    """
    show = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Depends},${Pre-Depends}\n"]
    lines = subprocess.run(show, check=True, capture_output=True, text=True).stdout.splitlines()
    installed = {fields[0]: fields for fields in (line.split("\t") for line in lines) if len(fields) == 3}
    found: set[str] = set()
    left = list(packages)
    while left:
        name = left.pop()
        if name not in found and name in installed:
            found.add(name)
            left += [word for part in re.split("[,|]", installed[name][2]) for word in part.split(maxsplit=1)[:1]]
    versions = [f"{name} {installed[name][1]}" for name in sorted(found)]
    return [f"python {sys.version}", f"kernel {platform.release()}", *versions]


def components(repo: Path, files: Iterable[str], built: Iterable[str]) -> list[str]:
    """The components of the bundle that the files name on a line about it, or all if a role uses the whole bundle."""
    files = list(files)
    if any(name.startswith(TAKE_THE_BUNDLE) for name in files):
        return sorted(built)
    words: set[str] = set()
    for name in files:
        if name.startswith(FOLLOWED):
            for line in _text(repo / name).splitlines():
                words |= set(re.findall(r"[\w-]+", line)) if "bundle" in line else set()
    # Every host uses these.
    return sorted(name for name in built if name in words or name in ("apt", "host-image"))


def key(repo: Path, step: str, files: Sequence[str], bundle: dict[str, str], versions: Iterable[str] = ()) -> str:
    """The hash of the step's inputs; `bundle` has the components' keys, `versions` those of the host."""
    needed = inputs(repo, step, files)
    digest = hashlib.sha256(f"{step}\0".encode())
    for name in needed:
        digest.update(os.fsencode(name) + b"\0" + _content(repo / name) + b"\0")
    kind, _, suite = step.partition("/")
    of_bundle: list[str] = []
    if kind == "molecule":
        of_bundle = components(repo, needed, bundle)
    elif kind == "unit":
        of_bundle = components_of_suite(repo, suite, needed, bundle)
    for name in of_bundle:
        digest.update(f"{name}\0{bundle[name]}\0".encode())
    for version in versions:
        digest.update(f"{version}\0".encode())
    return digest.hexdigest()


def bundle_keys(view: Path) -> dict[str, str]:
    """The key of each component in the bundle's view, which is the name of the link's target."""
    if not view.is_dir():
        return {}
    return {link.name: link.readlink().name for link in view.iterdir() if link.is_symlink()}


def pace_s() -> float:
    """The pace of this machine: its seconds for a fixed amount of work, the best of several tries."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        block = b"koren" * 13_000
        for _ in range(300):
            hashlib.sha256(block).digest()
        sum(number * number for number in range(200_000))
        best = min(best, time.perf_counter() - start)
    return best


def estimate_s(step: str, last: Record | None, pace: float) -> float:
    """How long the step should take on a machine of that pace."""
    if last is None:
        last = Record(FIRST_GUESS_S.get(step, OTHER_GUESS_S), PACE_S)
    return last.seconds * min(max(pace / last.pace_s, 0.2), 5.0)


def decide(
    keys: dict[str, str | None], records: Records, left_s: float | None, pace: float, *, everything: bool
) -> list[str]:
    """One line for each step in order. A step whose key is None always runs if there is time.

    If there is not enough time for a step, a later shorter step may still run.
    """
    lines = []
    for step, of_inputs in keys.items():
        if of_inputs and not everything and records.has(step, of_inputs):
            lines.append(f"unchanged {step}")
            continue
        needed_s = estimate_s(step, records.latest(step), pace)
        if left_s is not None and needed_s > left_s:
            lines.append(f"late {step}")
            continue
        if left_s is not None:
            left_s -= needed_s
        lines.append(f"run {of_inputs or '-'} {step}")
    return lines


def passed(pairs: Sequence[str], seconds: float, records: Records, pace: float) -> None:
    """Record each step in `pairs` (key, step, key, …). Divides the time in proportion to the estimates."""
    steps = dict(zip(pairs[1::2], pairs[::2], strict=True))
    shares = {step: max(1.0, estimate_s(step, records.latest(step), pace)) for step in steps}
    for step, of_inputs in steps.items():
        if of_inputs != "-":
            records.add(step, of_inputs, Record(seconds * shares[step] / sum(shares.values()), pace))


def _names(text: str) -> set[str]:
    found = {f"roles/{name}" for name in re.findall(r"(?:koren\.faas\.|\broles/)(\w+)", text)}
    playbooks = re.findall(r"(?:playbooks/|import_playbook: *(?:koren\.faas\.)?)([\w-]+)", text)
    found |= {f"playbooks/{name}.yml" for name in playbooks}
    found |= {f"molecule/{name}" for name in re.findall(r"(?:molecule|\.\.)/([\w-]+)/", text)}
    found |= {f"apps/{name}" for name in re.findall(r"\b(?:apps/|import koren_|from koren_)([\w-]+)", text)}
    return found


def _joined(text: str) -> str:
    """The text with paths that it joins by pathlib's operator as one path: FOLDER / "a" / "b" as FOLDER/a/b."""
    return re.sub(r"""["']?\)* */ *["']?""", "/", text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if not path.is_symlink() else ""
    except OSError:
        return ""


def _content(path: Path) -> bytes:
    """The kind and hash of a file; a link counts by its target, and a removed file as removed."""
    if path.is_symlink():
        kind, content = b"link", os.fsencode(path.readlink())
    elif path.is_file():
        kind, content = (b"program" if os.access(path, os.X_OK) else b"file"), path.read_bytes()
    else:
        kind, content = b"removed", b""
    return kind + hashlib.sha256(content).digest()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    deciding = verbs.add_parser("decide")
    deciding.add_argument("--left", type=float)
    deciding.add_argument("--all", action="store_true")
    deciding.add_argument("--host", action="append", default=[], help="a package of the host that the steps use")
    deciding.add_argument("steps", nargs="+")
    keeping = verbs.add_parser("passed")
    keeping.add_argument("--together", action="append", nargs="+", required=True, metavar="SECONDS KEY STEP")
    asked = parser.parse_args(arguments)
    records = Records(records_folder())
    if asked.verb == "passed":
        pace = pace_s()
        for seconds, *pairs in asked.together:
            passed(pairs, float(seconds), records, pace)
        return
    repo = Path(__file__).resolve().parents[1]
    bundle = bundle_keys(repo / ".state/bundle")
    try:
        files, versions = files_of(repo), host(asked.host) if asked.host else []
    except (OSError, subprocess.CalledProcessError):
        files, versions = [], []  # without a git checkout or dpkg, the inputs are unknown
    keys = {step: key(repo, step, files, bundle, versions) if files and bundle else None for step in asked.steps}
    print("\n".join(decide(keys, records, asked.left, pace_s(), everything=asked.all)))


if __name__ == "__main__":
    main(sys.argv[1:])
