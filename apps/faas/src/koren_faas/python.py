# SPDX-License-Identifier: Apache-2.0
"""Functions in Python: their requirements installed, their code compiled, their handler checked."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from koren_faas.check import MARK, TIMEOUT_S, entry_point, in_image
from koren_faas.errors import BuildError
from koren_faas.function import Function
from koren_faas.runtimes import RUNTIMES
from koren_faas.source import Source, unpinned
from koren_faas.tools import INSTALL_TIMEOUT_S, Progress, run

# What the loader of shared libraries says of one that it can't have. Python raises it as an
# ImportError, and as an OSError without a number where ctypes was asked.
_LOADER = (
    "cannot open shared object file|version `.*' not found|undefined symbol|invalid ELF header"
    "|wrong ELF class|file too short|static TLS block|failed to map segment|executable stack"
)
# Runs in the image, as the pod's user and without a network, and loads the handler as the runtime
# does. What only a region can give (its secrets, a peer) ends the import with an OSError, which
# tells nothing about the code; a library that is not there is missed in each region alike.
_CHECK = f"""
import importlib, json, os, re, signal, sys, time, traceback
def too_long(*_):
    raise SystemExit("the import took more than {TIMEOUT_S} s")
signal.signal(signal.SIGALRM, too_long)
signal.alarm({TIMEOUT_S})
runtime, module, entry = sys.argv[1:]
packages = "/function/site-packages"
sys.path[:0] = ["/function", runtime]
sys.path.append(packages)
if any(name.endswith(".pth") for name in os.listdir(packages)):
    import site
    site.addsitedir(packages)
def library(error):
    plain = type(error) is OSError
    while error is not None:
        for line in str(error).splitlines():
            if re.search({_LOADER!r}, line) or plain and re.search(r"\\blibrar(y|ies)\\b", line):
                return line.strip()
        error = error.__cause__ or error.__context__
def explained(error):
    if isinstance(error, OSError) and error.errno is not None:
        return {{"unsure": str(error)}}
    missed = library(error)
    if missed:
        return {{"problem": "library", "missed": missed}}
    if isinstance(error, OSError):
        return {{"unsure": str(error)}}
    if isinstance(error, ModuleNotFoundError):
        return {{"problem": "missing", "missing": error.name}}
    return {{"problem": "import", "trace": traceback.format_exc(limit=-3)}}
begin, said = time.monotonic(), {{"problem": None}}
try:
    loaded = importlib.import_module(module)
except BaseException as error:
    said |= explained(error)
else:
    if not callable(getattr(loaded, entry, None)):
        names = [n for n, v in vars(loaded).items() if callable(v) and n[0] != "_"]
        said |= {{"problem": "entry", "names": names}}
said["import_s"] = time.monotonic() - begin
print("\\n{MARK}" + json.dumps(said))
"""


def prepare(function: Function, source: Source, root: Path, on_progress: Progress) -> None:
    """Add to the image's files what the function requires.

    Args:
        root: folder with the function's files below `function`.

    Raises:
        BuildError: the requirements can't be had.
    """
    packages = root / "function/site-packages"
    packages.mkdir()
    if source.requirements_file is not None:
        on_progress(f"Installing {', '.join(source.requirements) or 'no requirement'}")
        python = _find(function.runtime)
        # Without that Python, pip of another one is told what the image is.
        options = () if python else _target(function.runtime)
        install(function, source.requirements_file, packages, python or sys.executable, options)
        installed = {d.name: d.version for d in distributions(path=[str(packages)])}
        for line in unpinned(source.requirements, installed):
            on_progress(f"{source.requirements_file} does not pin {line}: another build may differ")


def _target(runtime: str) -> tuple[str, ...]:
    """pip's options for a runtime that is not its own. Markers of requirements it reads by its own all the same."""
    machine = platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(RUNTIMES[runtime].glibc, 16, -1)]
    options = ["--implementation", "cp", "--python-version", runtime.removeprefix("python")]
    for name in (*platforms, f"manylinux2014_{machine}", f"linux_{machine}"):
        options += ["--platform", name]
    return tuple(options)


def compile_code(container: str) -> None:
    """Compile all code of the function in its image, by the Python that will run it.

    Raises:
        BuildError: the image is not one of a Python, or takes too long.
    """
    command = ["buildah", "run", "--network", "none", "--user", "0:0", container, "--"]
    command += [_python(container), "-I", "-S", "-m", "compileall", "-q"]
    # Hashes instead of times, which are not looked at either: pods never compile nor compare.
    command += ["--invalidation-mode", "unchecked-hash", "/function"]
    # Packages bring files that are not for this Python; the handler itself is checked later.
    run(command, INSTALL_TIMEOUT_S)


def install(
    function: Function,
    requirements: Path,
    target: Path,
    python: str,
    options: Sequence[str] = (),
) -> None:
    """Install a function's requirements into a folder, as wheels alone.

    Args:
        options: of pip, beside the usual ones.

    Raises:
        BuildError: they can't be had so.
    """
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore"]
    command += ["--only-binary=:all:", "--target", str(target), "--requirement", str(requirements)]
    command += options
    done = run(command, INSTALL_TIMEOUT_S)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise BuildError(
            f"function {function.name!r}: the requirements in {requirements} can't be installed"
            " as wheels:\n" + "\n".join(errors or done.stderr.splitlines()[-5:])
        )
    # Commands of packages carry the path of this machine's Python.
    shutil.rmtree(target / "bin", ignore_errors=True)


def interpreter(runtime: str) -> str:
    """This machine's Python of a runtime.

    Raises:
        BuildError: there is none.
    """
    python = _find(runtime)
    if python is None:
        raise BuildError(
            f"this machine has no {runtime}, which runs the function here: put {runtime} with pip on the PATH;"
            " a deploy does not need it"
        )
    return python


def _find(runtime: str) -> str | None:
    """This machine's Python of a runtime, if it has one with pip."""
    if runtime == "python{}.{}".format(*sys.version_info[:2]):
        return sys.executable
    python = shutil.which(runtime)
    works = python and run([python, "-m", "pip", "--version"], INSTALL_TIMEOUT_S).returncode == 0
    return python if works else None


def check(function: Function, source: Source, container: str, on_progress: Progress) -> None:
    """Import the handler in the image, as the runtime does; errors are those of `check.in_image`."""
    # The entry point is `…/python3 -I -S …/koren_runtime/start.pyc`.
    folder = str(Path(entry_point(container)[-1]).parent.parent)
    program = [_python(container), "-I", "-S", "-c", _CHECK, folder]
    in_image(function, source, container, program, on_progress)


def _python(container: str) -> str:
    """The Python of an image."""
    entry = entry_point(container)
    python = next((word for word in entry if Path(word).name.startswith("python")), None)
    if python is None:
        raise BuildError(
            f"the runtime's image starts {entry or 'nothing'}, which is not Python: build the bundle again"
        )
    return python
