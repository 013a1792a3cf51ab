# SPDX-License-Identifier: Apache-2.0
"""A function's code and requirements on this machine, and the hash that names its image."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from koren_faas.archive import KINDS, is_archive, unpack
from koren_faas.errors import FunctionError
from koren_faas.function import Function
from koren_faas.runtimes import IMAGE, PYTHON, RUNTIMES

# Raised when images are laid out in another way, so that they are made anew.
_LAYOUT = "2"
# It tells how to deploy: a change of it is no change of the code.
_CONFIG = PurePosixPath("faas.yaml")
# Tests, and what `faas run` and `faas init` keep on this machine.
_LOCAL = ("tests", "secrets", "state.json")
# Packages that npm has installed here: an image gets its own.
_INSTALLED = "node_modules"
# A requirements file that leans on other files would be named by less than its content.
_LEANS_ON_FILES = re.compile(r"(-r|-c|-e|--requirement|--constraint|--editable|\./|/|file:)")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?\s*(?P<pin>==)?")


@dataclass(frozen=True, slots=True)
class Source:
    """What goes into a function's image.

    Attributes:
        files: path below /function to the file on this machine.
        requirements: the requirement lines without comments and hashes.
        requirements_file: the file they come from, None without any.
        packages: Debian packages, in order.
        lock: the file that pins what `requirements_file` lists, where that is a file of its own.
    """

    files: Mapping[PurePosixPath, Path]
    requirements: tuple[str, ...]
    requirements_file: Path | None
    packages: tuple[str, ...] = ()
    lock: Path | None = None

    def digest(self, base: str) -> str:
        """Tag of the image that this source makes on the runtime image of digest `base`."""
        total = hashlib.sha256(f"{_LAYOUT}\n{base}\n".encode())
        for file in (self.requirements_file, self.lock):
            if file is not None:
                total.update(_file_sha256(file).encode() + b"\n")
        if self.packages:
            total.update(f"{' '.join(self.packages)}\n".encode())
        for path in sorted(self.files):
            total.update(f"{path}\0{_file_sha256(self.files[path])}\n".encode())
        return total.hexdigest()[:20]


def read(function: Function, unpacked: Path | None = None) -> Source:
    """Find the files of a function and check what can be seen without running them.

    A single file becomes the handler's module, whatever its own name. Of a folder, or an archive of
    one, all files are taken but hidden ones, byte-code, and the folder `tests` and `faas.yaml` at its top.

    Args:
        unpacked: folder with the content of the function's source, which is an archive.

    Raises:
        FunctionError: a file is missing, the handler's module is not there or does not parse,
            or the requirements file leans on other files.
    """
    source = function.source
    assert source is not None
    runtime = RUNTIMES[function.runtime]
    module = function.module.replace(".", "/")
    folder = unpacked or source
    if folder.is_file():
        ending = source.suffix if source.suffix in runtime.endings else runtime.endings[0]
        files = {PurePosixPath(module + ending): source}
    elif folder.is_dir():
        files = {path: folder / path for path in _walk(folder)}
    else:
        raise FunctionError(f"function {function.name!r}: source {source} does not exist")
    names = [PurePosixPath(module + ending) for ending in runtime.endings]
    name = next((name for name in names if name in files), None)
    if name is None:
        raise FunctionError(
            f"function {function.name!r}: handler {function.handler} needs {names[0]} in {source}"
        )
    requirements: tuple[str, ...]
    lock = None
    if runtime.language == PYTHON:
        _parse(function, files[name], source if folder.is_file() else source / name)
        requirements = _requirements(function)
    else:
        requirements, lock = _locked(function)
    return Source(
        files=files,
        requirements=requirements,
        requirements_file=function.dependencies,
        packages=tuple(sorted(set(function.packages))),
        lock=lock,
    )


def lock_of(dependencies: Path) -> Path:
    """The lock file of a `package.json`."""
    return dependencies.with_name("package-lock.json")


@contextmanager
def unpacked(function: Function) -> Iterator[Path | None]:
    """A folder with the content of the function's source while that is an archive, else None.

    Raises:
        FunctionError: the archive can't be taken.
    """
    source = function.source
    if (
        source is None
        or function.runtime == IMAGE
        or not source.is_file()
        or not is_archive(source)
    ):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="koren-faas-") as folder:
        try:
            unpack(source, Path(folder))
        except FunctionError as error:
            raise FunctionError(f"function {function.name!r}: {error}") from None
        yield Path(folder)


def unpinned(requirements: tuple[str, ...], installed: Mapping[str, str]) -> list[str]:
    """Lines to add to a requirements file so that another build gets the same: name==version.

    Args:
        requirements: the file's lines.
        installed: distribution name to version, of all that was installed.
    """
    pinned = {
        _normal(match["name"])
        for match in map(_REQUIREMENT.match, requirements)
        if match is not None and match["pin"]
    }
    return sorted(
        f"{name}=={version}" for name, version in installed.items() if _normal(name) not in pinned
    )


def _walk(folder: Path) -> list[PurePosixPath]:
    found = []
    for file in folder.rglob("*"):
        path = PurePosixPath(file.relative_to(folder).as_posix())
        skipped = path.parts[0] in _LOCAL or path == _CONFIG or any(
            part.startswith(".") or part in ("__pycache__", _INSTALLED) for part in path.parts
        )
        if file.is_file() and not skipped and path.suffix != ".pyc":
            found.append(path)
    return found


def _parse(function: Function, file: Path, shown: Path) -> None:
    code = file.read_bytes()
    try:
        ast.parse(code, filename=str(shown))
    except (SyntaxError, ValueError) as error:
        if b"\0" in code or (shown.suffix != ".py" and file == function.source):
            raise FunctionError(
                f"function {function.name!r}: {shown} is neither Python nor an archive of it"
                f" ({KINDS}): {error}"
            ) from error
        line = getattr(error, "lineno", None)
        where = f"{shown}, line {line}" if line else str(shown)
        raise FunctionError(f"function {function.name!r}: {where}: {error}") from error


def _requirements(function: Function) -> tuple[str, ...]:
    file = function.dependencies
    if file is None:
        return ()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FunctionError(
            f"function {function.name!r}: dependencies {file} can't be read: {error}"
        ) from error
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        bare = re.sub(r"(^|\s)(#.*|--hash=\S+)", " ", line).strip()
        if _LEANS_ON_FILES.match(bare):
            raise FunctionError(
                f"function {function.name!r}: {file} leans on another file with {bare!r}:"
                " name every requirement in the one file"
            )
        if bare and not bare.startswith("-"):
            lines.append(bare)
    return tuple(lines)


def _locked(function: Function) -> tuple[tuple[str, ...], Path | None]:
    """What a `package.json` requires, each `name@version` as its lock file pins it; and that file."""
    file = function.dependencies
    if file is None:
        return (), None
    lock = lock_of(file)
    listed, pinned = (_json(function, one) for one in (file, lock))
    packages = pinned.get("packages", {})
    wanted = listed.get("dependencies", {})
    if packages.get("", {}).get("dependencies", {}) != wanted:
        raise FunctionError(
            f"function {function.name!r}: {lock} is not of what {file} says:"
            " 'npm install --package-lock-only' beside it renews it"
        )
    for place, package in packages.items():
        if package.get("link") or str(package.get("resolved", "")).startswith("file:"):
            raise FunctionError(
                f"function {function.name!r}: {lock} takes {place} from a file of this machine:"
                " name a package of a registry, or put its code into the function's folder"
            )
    versions = {name: packages.get(f"node_modules/{name}", {}).get("version") for name in wanted}
    return tuple(sorted(f"{name}@{version}" for name, version in versions.items())), lock


def _json(function: Function, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FunctionError(
            f"function {function.name!r}: {file} does not exist; packages are installed as it pins"
            " them: 'npm install --package-lock-only' beside package.json writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise FunctionError(
            f"function {function.name!r}: dependencies {file} can't be read: {error}"
        ) from error
    if not isinstance(content, dict):
        raise FunctionError(f"function {function.name!r}: dependencies {file} is no JSON object")
    return content


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
