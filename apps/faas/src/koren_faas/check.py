# SPDX-License-Identifier: Apache-2.0
"""Loads a function's handler in its image, as the runtime does, and says what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from koren_faas.errors import BuildError, FunctionError
from koren_faas.function import Function
from koren_faas.runtimes import RUNTIMES
from koren_faas.source import Source
from koren_faas.tools import BUILDAH_TIMEOUT_S, Progress, buildah, run

TIMEOUT_S = 60
"""For the loading itself."""
MARK = "koren-faas-check:"
"""What the line begins with on which a check program says, as JSON, how the loading went.

`problem` is null, or `missing` (with `missing`, a module), `library` (with `missed`), `import` (with `trace`) or
`entry` (with `names`); `import_s` is how long it took; `unsure` is what only a region can give.
"""
_SONAME = re.compile(r"(\S+\.so[.0-9]*): cannot open shared object file")


def in_image(function: Function, source: Source, container: str, program: Sequence[str], on_progress: Progress) -> None:
    """Load the handler in the image by a check program, as the pod's user and without a network.

    Args:
        program: its command, to which module and function of the handler are added.

    Raises:
        FunctionError: it does not load, or its function is not there.
        BuildError: the module ends the process.
    """
    environment = [f"--env={key}={value}" for key, value in sorted(function.env.items())]
    command = ["buildah", "run", "--network", "none", *environment, container, "--", *program]
    done = run([*command, function.module, function.entry], BUILDAH_TIMEOUT_S)
    said = next((line for line in reversed(done.stdout.splitlines()) if line.startswith(MARK)), None)
    if said is None:
        raise BuildError(
            f"function {function.name!r}: {function.module} ended while it was imported:\n"
            + "\n".join(done.stderr.splitlines()[-5:])
        )
    result = json.loads(said.removeprefix(MARK))
    problem = _problem(function, source, result)
    if problem:
        raise FunctionError(f"function {function.name!r}: {problem}")
    if "unsure" in result:
        on_progress(f"{function.module} can be imported only in its region ({result['unsure']})")
    else:
        on_progress(f"{function.handler} imports in {result['import_s'] * 1000:.0f} ms")


def entry_point(container: str) -> list[str]:
    """The command that an image's pods start with."""
    config = json.loads(buildah("inspect", container))["OCIv1"]["config"]
    return config.get("Entrypoint") or []


def _problem(function: Function, source: Source, result: Mapping[str, Any]) -> str | None:
    if result["problem"] == "missing":
        listed = RUNTIMES[function.runtime].dependencies
        place = source.requirements_file or f"a {listed}, named with --dependencies"
        return (
            f"{function.module} imports {result['missing']}, which is neither in {function.source}"
            f" nor installed: add its package to {place}"
        )
    if result["problem"] == "library":
        return _library_problem(function, result["missed"])
    if result["problem"] == "import":
        return f"{function.module} does not import:\n{result['trace'].rstrip()}"
    if result["problem"] == "entry":
        names = ", ".join(result["names"]) or "no function"
        return f"{function.module} has no function {function.entry}; it has: {names}"
    return None


def _library_problem(function: Function, missed: str) -> str:
    problem = f"{function.module} needs a system library that its image lacks: {missed}"
    named = _SONAME.search(missed)
    if named:
        return f"{problem}\nName the Debian package that has it with --packages: 'apt-file search {named[1]}' finds it"
    return (
        f"{problem}\nName the Debian package that has it with --packages, or take a release of"
        " the requirement that is built for Debian 12"
    )
