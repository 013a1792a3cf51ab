# SPDX-License-Identifier: Apache-2.0
"""A function's code and requirements on this machine, and the hash that names its image."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from koren_faas.errors import FunctionError
from koren_faas.function import Function

# Raised when images are laid out in another way, so that they are made anew.
_LAYOUT = "2"
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
    """

    files: Mapping[PurePosixPath, Path]
    requirements: tuple[str, ...]
    requirements_file: Path | None

    def digest(self, base: str) -> str:
        """Tag of the image that this source makes on the runtime image of digest `base`."""
        total = hashlib.sha256(f"{_LAYOUT}\n{base}\n".encode())
        if self.requirements_file is not None:
            total.update(_file_sha256(self.requirements_file).encode() + b"\n")
        for path in sorted(self.files):
            total.update(f"{path}\0{_file_sha256(self.files[path])}\n".encode())
        return total.hexdigest()[:20]


def read(function: Function) -> Source:
    """Find the files of a function and check what can be seen without running them.

    A single file becomes the handler's module, whatever its own name. Of a folder all files are
    taken but hidden ones, byte-code, and the folder `tests` at its top.

    Raises:
        FunctionError: a file is missing, the handler's module is not there or does not parse,
            or the requirements file leans on other files.
    """
    source = function.source
    assert source is not None
    module = PurePosixPath(*function.module.split("."))
    if source.is_file():
        files = {module.with_suffix(".py"): source}
    elif source.is_dir():
        files = {path: source / path for path in _walk(source)}
    else:
        raise FunctionError(f"function {function.name!r}: source {source} does not exist")
    module_file = files.get(module.with_suffix(".py")) or files.get(module / "__init__.py")
    if module_file is None:
        raise FunctionError(
            f"function {function.name!r}: handler {function.handler} needs"
            f" {module.with_suffix('.py')} in {source}"
        )
    _parse(function, module_file)
    return Source(
        files=files,
        requirements=_requirements(function),
        requirements_file=function.dependencies,
    )


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
        skipped = path.parts[0] == "tests" or any(
            part.startswith(".") or part == "__pycache__" for part in path.parts
        )
        if file.is_file() and not skipped and path.suffix != ".pyc":
            found.append(path)
    return found


def _parse(function: Function, file: Path) -> None:
    try:
        ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{file}, line {line}" if line else str(file)
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


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
