# SPDX-License-Identifier: Apache-2.0
"""Functions on this machine: their code and requirements laid out for the runtime, without a region."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koren_faas import nodejs, python
from koren_faas.errors import BuildError, ConfigError, FunctionError
from koren_faas.function import Function
from koren_faas.nodejs import Node
from koren_faas.runtimes import IMAGE, NODEJS, RUNTIMES
from koren_faas.source import Source, read, unpacked
from koren_faas.tools import Progress


@dataclass(frozen=True, slots=True)
class Local:
    """A function as the runtime takes it on this machine.

    Attributes:
        folder: its files.
        shown: the folder of them that its user knows.
        packages: folder with what its requirements install; None without any.
        python: the interpreter of its runtime, or of this program where it is in another language.
        node: the program of Node.js of a function in JavaScript; None otherwise.
    """

    folder: Path
    shown: Path
    packages: Path | None
    python: str
    node: str | None = None


@contextmanager
def laid_out(function: Function, on_progress: Progress) -> Iterator[Local]:
    """Lay a function out while the context lasts. Requirements are installed once for a content of their file.

    Raises:
        FunctionError: the source can't be accepted.
        BuildError: this machine has no Python or Node.js of the runtime, or the requirements can't be had.
    """
    if function.runtime == IMAGE:
        raise FunctionError(
            f"function {function.name!r} is an image, which this does not run: check it with"
            " 'python -m koren_runtime.conformance'"
        )
    assert function.source is not None
    node = nodejs.find(function.runtime) if RUNTIMES[function.runtime].language == NODEJS else None
    interpreter = sys.executable if node else python.interpreter(function.runtime)
    with unpacked(function) as archive, tempfile.TemporaryDirectory(prefix="koren-faas-") as scratch:
        source = read(function, archive)
        packages = None
        if source.requirements_file is not None and source.requirements:
            packages = _packages(function, source, node or interpreter, on_progress)
        if function.packages:
            on_progress(f"Debian packages are this machine's own here: {', '.join(function.packages)}")
        if function.source.is_dir():
            yield Local(function.source, function.source, packages, interpreter, node.program if node else None)
            return
        for path, file in source.files.items():
            place = Path(scratch) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file.absolute())
        shown = Path(scratch) if archive else function.source.parent
        yield Local(Path(scratch), shown, packages, interpreter, node.program if node else None)


def read_event(name: str, text: str) -> dict[str, Any]:
    """The CloudEvent in a text, or one with the text's JSON as its data.

    Args:
        name: of the file that the text is from.

    Raises:
        ConfigError: it is not JSON.
    """
    from koren_runtime.local import new_event

    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"event {name} is not JSON: {error}") from error
    if isinstance(content, dict) and "specversion" in content:
        return content
    return new_event(content)


def _packages(function: Function, source: Source, by: Node | str, on_progress: Progress) -> Path:
    """The folder with what the function requires, installed by Node.js or a Python."""
    requirements = source.requirements_file
    assert requirements is not None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    content = f"{by}\n{platform.machine()}\n".encode() + requirements.read_bytes()
    if source.lock is not None:
        content += source.lock.read_bytes()
    place = cache / "koren-faas" / "requirements" / hashlib.sha256(content).hexdigest()[:20]
    if place.exists():
        return place
    on_progress(f"Installing the requirements in {requirements}, once for this content")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".part-") as part:
        made = Path(part) / "packages"
        made.mkdir()
        if isinstance(by, Node):
            nodejs.install(by, function, requirements, made)
            made /= nodejs.PACKAGES
        else:
            python.install(function, requirements, made, by)
        try:
            made.rename(place)
        except OSError as error:
            # Another run may have been as fast.
            if not place.exists():
                raise BuildError(f"{place} can't be made: {error}") from error
    return place
