# SPDX-License-Identifier: Apache-2.0
"""Debian packages for a function's image: found, fetched and unpacked by this machine's apt."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from koren_faas.errors import BuildError

PACKAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(=(?P<version>[0-9][A-Za-z0-9.+~:-]*))?")
"""A package as users name it: its name, or `name=version`."""

_TIMEOUT_S = 900
# What nobody reads in a pod.
_LEFT_OUT = ("bug", "doc-base", "info", "lintian", "locale", "man")
_IN_PLACE = re.compile(r"^'file:(?://)?(/[^']+)'", re.MULTILINE)
_UNMET = re.compile(r"satisfy:command-line : Depends: (.*?) but ")


def unpack(packages: Sequence[str], base: Path, scratch: Path, release: str = "") -> Path:
    """Unpack packages, and what they need beside what is there. Their scripts do not run.

    Args:
        packages: each as `PACKAGE` says.
        base: dpkg's status of what is there: a package that it lists is not taken again, unless
            it is named or needed in another version.
        scratch: an empty folder to work in.
        release: Debian's release that they are of, where that is not this machine's.

    Returns:
        the folder, in `scratch`, that holds the packages' files as a root file system.

    Raises:
        BuildError: this machine's apt does not have them, or is not there.
    """
    named = [match for package in packages if (match := PACKAGE.fullmatch(package))]
    (scratch / "lists/partial").mkdir(parents=True)
    (scratch / "archives/partial").mkdir(parents=True)
    status = scratch / "status"
    # Parts of some packages were taken out of the image: who names one gets all of it.
    status.write_text(_without(base.read_text(), {match["name"] for match in named}))
    options = {
        "Dir::State": scratch,
        "Dir::State::status": status,
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch,
        "Dir::Cache::archives": scratch / "archives",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    if release:
        options |= {"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": _sources(scratch, release)}
    apt = ["apt-get", "-q", "-y", *(f"-o{key}={value}" for key, value in options.items())]
    _run([*apt, "update", "--error-on=any"], "apt-get can't read its package lists")
    # Not `install`: it takes a name with a dot for a pattern, and one that ends in - for a removal.
    wanted = ", ".join(
        f"{match['name']} (= {match['version']})" if match["version"] else match["name"]
        for match in named
    )
    what = f"Debian packages {', '.join(packages)} can't be installed"
    _run([*apt, "satisfy", "--download-only", wanted], what)
    # What a mirror on this machine has is not fetched: apt takes it where it is.
    here = _IN_PLACE.findall(_run([*apt, "satisfy", "--print-uris", wanted], what))
    root = scratch / "root"
    root.mkdir()
    fetched = sorted((scratch / "archives").glob("*.deb"))
    for archive in [*fetched, *(Path(unquote(path)) for path in here)]:
        _run(["dpkg-deb", "--extract", str(archive), str(root)], f"{archive.name} is damaged")
    _tidy(root)
    _show_alternatives(root)
    return root


def _sources(scratch: Path, release: str) -> Path:
    """A folder with this machine's sources of packages, which name another release of Debian."""
    asked = ["apt-config", "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d"]
    said = dict(re.findall(r"(list|parts)='(.*)'", _run(asked, "apt-config does not tell its sources")))
    folder = scratch / "sources"
    folder.mkdir()
    own = platform.freedesktop_os_release()["VERSION_CODENAME"]
    for file in (Path(said["list"]), *Path(said["parts"]).glob("*")):
        if file.is_file() and file.suffix in (".list", ".sources"):
            (folder / file.name).write_text(file.read_text().replace(own, release))
    return folder


def _without(status: str, names: set[str]) -> str:
    kept = (
        stanza
        for stanza in status.split("\n\n")
        if not any(line in stanza.splitlines() for line in (f"Package: {name}" for name in names))
    )
    return "\n\n".join(kept)


def _tidy(root: Path) -> None:
    share = root / "usr/share"
    for folder in _LEFT_OUT:
        shutil.rmtree(share / folder, ignore_errors=True)
    for path in (share / "doc").rglob("*"):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()


def _show_alternatives(root: Path) -> None:
    """Have the loader find libraries such as libblas.so.3, to which only a script would make a link."""
    found = (root / "usr/lib").glob("*-linux-gnu/*/lib*.so.[0-9]*")
    folders = sorted({f"/{path.parent.relative_to(root)}\n" for path in found})
    if folders:
        # The last file that ldconfig reads: what is in its usual place goes before.
        config = root / "etc/ld.so.conf.d/zz-alternatives.conf"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("".join(folders))


def _run(command: Sequence[str], problem: str) -> str:
    try:
        done = subprocess.run(
            command,
            check=False,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise BuildError(
            f"{command[0]} is not installed on this machine: only a Debian can add packages"
        ) from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{problem}: {command[0]} took more than {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        unmet = _UNMET.findall(done.stdout)
        why = f"this machine's apt has no {', no '.join(unmet)}" if unmet else done.stderr.strip()
        raise BuildError(f"{problem}: {why}")
    return done.stdout
