# SPDX-License-Identifier: Apache-2.0
"""Which steps of tests/run are run: not those whose inputs have passed before, nor those there is no time for.

    steps.py decide [--left SECONDS] [--all] STEP...   a line a step: run KEY STEP, unchanged STEP or late STEP
    steps.py passed SECONDS (KEY STEP)...              keeps that the steps passed, and how long they took together

A step is molecule/NAME. Its inputs are found by what their text names: the scenario's own folder, from there the roles
and playbooks, and from those the components of the bundle. Its key is the SHA-256 of their content, as it is in the
work tree, and of the components' keys. Records are in ${XDG_CACHE_HOME:-~/.cache}/koren-faas/passed/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# What every scenario has to do with.
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
# What names another part: a role, a playbook or another scenario. Inventories are left out, since they name all.
FOLLOWED = ("roles/", "playbooks/", "molecule/", "site.yml", "ansible.cfg", ".config/")
# These hand on the whole bundle.
TAKE_THE_BUNDLE = ("roles/bundle/", "roles/functions/", "roles/site_state/")
# Before a step was ever seen to pass, in seconds on a machine of PACE_S.
FIRST_GUESS_S = {"molecule/openstack": 480.0, "molecule/nfv": 300.0}
OTHER_GUESS_S = 90.0
PACE_S = 0.05
KEPT_RECORDS = 20


@dataclass(frozen=True)
class Record:
    """A step that passed: how long it took, and what the pace of the machine was."""

    seconds: float
    pace_s: float


def records_folder() -> Path:
    """Where records are, outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "koren-faas/passed"


class Records:
    """Which steps passed with which inputs: a file each."""

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
        """Keeps a record, and of the older ones a few."""
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
            return None  # not there, or cut short


def files_of(repo: Path) -> list[str]:
    """The files of the work tree: what git knows, and what it would take in. Raises CalledProcessError, OSError."""
    command = ["git", "-C", str(repo), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    return sorted({os.fsdecode(name) for name in out.split(b"\0") if name})


def inputs(repo: Path, step: str, files: Sequence[str]) -> list[str]:
    """Those of `files` that the step depends on."""
    found: set[str] = set()
    named = [*COMMON, step]
    while named:
        place = named.pop()
        for name in files:
            if name not in found and (name == place or name.startswith(f"{place}/")):
                found.add(name)
                if name.startswith(FOLLOWED):
                    named += _names(_text(repo / name))
    return sorted(found)


def components(repo: Path, files: Iterable[str], built: Iterable[str]) -> list[str]:
    """Those of the bundle's components that the files name on a line about the bundle, all where it is handed on."""
    files = list(files)
    if any(name.startswith(TAKE_THE_BUNDLE) for name in files):
        return sorted(built)
    words: set[str] = set()
    for name in files:
        if name.startswith(FOLLOWED):
            for line in _text(repo / name).splitlines():
                words |= set(re.findall(r"[\w-]+", line)) if "bundle" in line else set()
    # Every host is made of these.
    return sorted(name for name in built if name in words or name in ("apt", "host-image"))


def key(repo: Path, step: str, files: Sequence[str], bundle: dict[str, str]) -> str:
    """What the step's inputs hash to; `bundle` has the components' keys."""
    needed = inputs(repo, step, files)
    digest = hashlib.sha256(f"{step}\0".encode())
    for name in needed:
        digest.update(os.fsencode(name) + b"\0" + _content(repo / name) + b"\0")
    for name in components(repo, needed, bundle):
        digest.update(f"{name}\0{bundle[name]}\0".encode())
    return digest.hexdigest()


def bundle_keys(view: Path) -> dict[str, str]:
    """The key of each component that the bundle's view has: its links end in them."""
    if not view.is_dir():
        return {}
    return {link.name: link.readlink().name for link in view.iterdir() if link.is_symlink()}


def pace_s() -> float:
    """How long this machine takes for a certain piece of work, in seconds: the best of some tries."""
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
    """A line for each step in its order; a step whose key is None is always run when there is time.

    Once there is no time for a step, there may be for a shorter one behind it.
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
    """Keeps a record of each step in `pairs` (key, step, key, …); the time is shared by how long each should take."""
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if not path.is_symlink() else ""
    except OSError:
        return ""


def _content(path: Path) -> bytes:
    """A hash of a file with its kind, of a link as where it leads to; of what was removed, that."""
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
    deciding.add_argument("steps", nargs="+")
    keeping = verbs.add_parser("passed")
    keeping.add_argument("seconds", type=float)
    keeping.add_argument("pairs", nargs="+")
    asked = parser.parse_args(arguments)
    records = Records(records_folder())
    if asked.verb == "passed":
        passed(asked.pairs, asked.seconds, records, pace_s())
        return
    repo = Path(__file__).resolve().parents[1]
    bundle = bundle_keys(repo / ".state/bundle")
    try:
        files = files_of(repo)
    except (OSError, subprocess.CalledProcessError):
        files = []  # no checkout of git: nobody knows what belongs to it
    keys = {step: key(repo, step, files, bundle) if files and bundle else None for step in asked.steps}
    print("\n".join(decide(keys, records, asked.left, pace_s(), everything=asked.all)))


if __name__ == "__main__":
    main(sys.argv[1:])
