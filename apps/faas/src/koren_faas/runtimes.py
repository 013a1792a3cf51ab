# SPDX-License-Identifier: Apache-2.0
"""The runtimes of functions: what runs a function's code, and where the bundle has it."""

from __future__ import annotations

from dataclasses import dataclass

PYTHON = "python"
NODEJS = "nodejs"
IMAGE = "image"
"""Runtime of an image that the user has made, and that speaks the Runtime API itself."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime.

    Attributes:
        name: as users name it.
        language: `PYTHON`, `NODEJS`, or `IMAGE` of a program in whichever language.
        component: the bundle's component with its image; empty for `IMAGE`.
        endings: what a module's name has at its end to be a file; the first is that of a single file.
        dependencies: name of the file that lists what a function requires.
        debian: release of Debian of its image, where that is not this machine's.
        glibc: second number of the version of its image's glibc.
    """

    name: str
    language: str
    component: str = ""
    endings: tuple[str, ...] = ()
    dependencies: str = ""
    debian: str = ""
    glibc: int = 36


DEFAULT = "python3.11"
_MODULE, _SCRIPT = (".py", "/__init__.py"), (".js", ".cjs", ".mjs", "/index.js")
RUNTIMES = {
    one.name: one
    for one in (
        Runtime(DEFAULT, PYTHON, "runtime", _MODULE, "requirements.txt"),
        Runtime("python3.13", PYTHON, "runtime-python3.13", _MODULE, "requirements.txt", "trixie", 41),
        Runtime("nodejs22", NODEJS, "runtime-nodejs22", _SCRIPT, "package.json"),
        Runtime(IMAGE, IMAGE),
    )
}
"""By their names."""


def unknown(name: str) -> str:
    """What is wrong with the name of a runtime that there is not, and which to use; empty if there is one."""
    if name in RUNTIMES:
        return ""
    problem = f"Invalid runtime: {name}. Supported runtimes are: {', '.join(RUNTIMES)}"
    if name.startswith("python3"):
        return f"{problem}. Use {_newest(PYTHON)}, and test the function with it: 'faas test'"
    if name.startswith("python"):
        return f"{problem}. Python 2 code must become Python 3 first ('2to3'), then use {_newest(PYTHON)}"
    if name.startswith("node"):
        return f"{problem}. Use {_newest(NODEJS)}, and test the function with it: 'faas test'"
    return f"{problem}. Code in another language can be an image of its own: use {IMAGE}"


def _newest(language: str) -> str:
    return [one.name for one in RUNTIMES.values() if one.language == language][-1]
