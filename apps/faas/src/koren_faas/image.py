# SPDX-License-Identifier: Apache-2.0
"""Makes a function's image on this machine: once for the same code, requirements and runtime."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from koren_faas import debian
from koren_faas.errors import BuildError, FunctionError, NotReadyError
from koren_faas.function import Function
from koren_faas.site import Site
from koren_faas.source import Source, read, unpinned

Progress = Callable[[str], None]

_PIP_TIMEOUT_S = 900
_CHECK_TIMEOUT_S = 60
_BUILDAH_TIMEOUT_S = 300

_MARK = "koren-faas-check:"
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
    raise SystemExit("the import took more than {_CHECK_TIMEOUT_S} s")
signal.signal(signal.SIGALRM, too_long)
signal.alarm({_CHECK_TIMEOUT_S})
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
print("\\n{_MARK}" + json.dumps(said))
"""
_SONAME = re.compile(r"(\S+\.so[.0-9]*): cannot open shared object file")


@dataclass(frozen=True, slots=True)
class Image:
    """A function's image.

    Attributes:
        name: name with tag, as nodes know it.
        archive: OCI archive on this machine; it exists once the image is built.
        requirements: the requirement lines that are installed in it.
    """

    name: str
    archive: Path
    requirements: tuple[str, ...]

    @property
    def repository(self) -> str:
        """The name without its tag."""
        return self.name.rpartition(":")[0]


def plan(site: Site, function: Function, unpacked: Path | None = None) -> tuple[Image, Source]:
    """The image that the function's source makes, and that source, without making anything.

    Args:
        unpacked: folder with the content of that source while it is an archive.

    Raises:
        FunctionError: the source can't be accepted.
        NotReadyError: the bundle has no image of the runtime.
    """
    source = read(function, unpacked)
    tag = source.digest(_base_digest(site))
    image = Image(
        name=f"{repository(function.name)}:{tag}",
        archive=site.images / function.name / f"{tag}.tar",
        requirements=source.requirements,
    )
    return image, source


def repository(name: str) -> str:
    """Name, without tag, of the images of the function `name`.

    It is the same in every region: a node knows by it to ask its own region's registry.
    """
    return f"functions.koren.internal/{name}"


def build(
    site: Site, function: Function, image: Image, source: Source, on_progress: Progress
) -> None:
    """Make the image, unless its archive is there, and check that its handler loads.

    Raises:
        BuildError: a requirement can't be had as a wheel, or a package from Debian, or a tool
            failed.
        FunctionError: the handler does not import, or its function is not there.
    """
    if image.archive.exists():
        return
    image.archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="koren-faas-") as scratch:
        root = Path(scratch) / "root"
        _lay_out(function, source, root, on_progress)
        archive = image.archive.with_suffix(f".{os.getpid()}.part")
        try:
            with _container(site) as container:
                if source.packages:
                    _add_packages(site, source, container, Path(scratch) / "debian", on_progress)
                _buildah("add", "--quiet", "--chown", "0:0", container, str(root), "/")
                _check(function, source, container, on_progress)
                on_progress(f"Writing {image.name}")
                _buildah(
                    # Compressed once, here, and not for each region on its way there.
                    *("commit", "--quiet", "--disable-compression=false"),
                    *("--format", "oci", "--timestamp", "0"),
                    *(container, f"oci-archive:{archive}:{image.name}"),
                )
            archive.rename(image.archive)
        finally:
            archive.unlink(missing_ok=True)


def forget_old(image: Image) -> None:
    """Delete the archives of the image's function, but its own and the newest other one."""
    others = [path for path in image.archive.parent.glob("*.tar") if path != image.archive]
    others.sort(key=lambda path: path.stat().st_mtime)
    for archive in others[:-1]:
        archive.unlink(missing_ok=True)


def forget_all(site: Site, name: str) -> None:
    """Delete every archive of the function `name`."""
    shutil.rmtree(site.images / name, ignore_errors=True)


def install(function: Function, requirements: Path, target: Path, python: str) -> None:
    """Install a function's requirements into a folder, as wheels alone.

    Raises:
        BuildError: they can't be had so.
    """
    command = [python, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore"]
    command += ["--only-binary=:all:", "--target", str(target), "--requirement", str(requirements)]
    done = _run(command, _PIP_TIMEOUT_S)
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
    version = "python{}.{}".format(*sys.version_info[:2])
    python = sys.executable if version == runtime else shutil.which(runtime)
    if not python:
        raise BuildError(f"this machine has no {runtime}, which compiles the function's byte-code")
    return python


def _base_archive(site: Site) -> Path:
    return site.bundle / "runtime" / "image.tar"


def _base_digest(site: Site) -> str:
    archive = _base_archive(site)
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("index.json")
            assert member is not None
            index = json.load(member)
        return str(index["manifests"][0]["digest"])
    except FileNotFoundError:
        raise NotReadyError(
            f"{archive} does not exist: build the bundle, it holds the runtime's image"
        ) from None
    except (tarfile.TarError, KeyError, ValueError, OSError) as error:
        raise NotReadyError(f"{archive} is not an OCI archive: {error}") from error


def _add_packages(
    site: Site, source: Source, container: str, scratch: Path, on_progress: Progress
) -> None:
    status = site.bundle / "runtime" / "dpkg-status"
    if not status.exists():
        raise NotReadyError(f"{status} does not exist: build the bundle, it tells what is in it")
    on_progress(f"Installing Debian packages {', '.join(source.packages)}")
    scratch.mkdir()
    root = debian.unpack(source.packages, status, scratch)
    _make_readable(root)
    for path in sorted(root.iterdir()):
        # Each by itself: /lib is a link in some images, which is to stay one.
        _buildah("add", "--quiet", "--chown", "0:0", container, str(path), f"/{path.name}")
    _buildah("run", "--network", "none", "--user", "0:0", container, "--", "/sbin/ldconfig")


def _make_readable(root: Path) -> None:
    """Let everyone read: neither the umask of whoever deploys nor a package keeps the pod from it."""
    for entry in [root, *root.rglob("*")]:
        if not entry.is_symlink():
            entry.chmod(0o755 if entry.is_dir() or os.access(entry, os.X_OK) else 0o644)


def _lay_out(function: Function, source: Source, root: Path, on_progress: Progress) -> None:
    code = root / "function"
    packages = code / "site-packages"
    packages.mkdir(parents=True)
    for path, file in source.files.items():
        target = code / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    python = interpreter(function.runtime)
    if source.requirements_file is not None:
        on_progress(f"Installing {', '.join(source.requirements) or 'no requirement'}")
        install(function, source.requirements_file, packages, python)
        installed = {d.name: d.version for d in distributions(path=[str(packages)])}
        for line in unpinned(source.requirements, installed):
            on_progress(f"{source.requirements_file} does not pin {line}: another build may differ")
    # Hashes instead of times, which are not looked at either: pods never compile nor compare.
    command = [python, "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(root), "-p", "/", str(code)]
    # Packages bring files that are not for this Python; the handler itself is checked later.
    _run(command, _PIP_TIMEOUT_S)
    _make_readable(root)


def _check(function: Function, source: Source, container: str, on_progress: Progress) -> None:
    python, folder = _runtime(container)
    environment = [f"--env={key}={value}" for key, value in sorted(function.env.items())]
    command = ["buildah", "run", "--network", "none", *environment, container, "--"]
    command += [python, "-I", "-S", "-c", _CHECK, folder]
    done = _run([*command, function.module, function.entry], _BUILDAH_TIMEOUT_S)
    said = next(
        (line for line in reversed(done.stdout.splitlines()) if line.startswith(_MARK)), None
    )
    if said is None:
        raise BuildError(
            f"function {function.name!r}: {function.module} ended while it was imported:\n"
            + "\n".join(done.stderr.splitlines()[-5:])
        )
    result = json.loads(said.removeprefix(_MARK))
    problem = _problem(function, source, result)
    if problem:
        raise FunctionError(f"function {function.name!r}: {problem}")
    if "unsure" in result:
        on_progress(f"{function.module} can be imported only in its region ({result['unsure']})")
    else:
        on_progress(f"{function.handler} imports in {result['import_s'] * 1000:.0f} ms")


def _runtime(container: str) -> tuple[str, str]:
    """The image's Python, and the folder that it finds the runtime in.

    Both are in its entry point: `…/python3 -I -S …/koren_runtime/start.pyc`.
    """
    config = json.loads(_buildah("inspect", container))["OCIv1"]["config"]
    entry = config.get("Entrypoint") or []
    python = next((word for word in entry if Path(word).name.startswith("python")), None)
    if python is None:
        raise BuildError(
            f"the runtime's image starts {entry or 'nothing'}, which is not Python: build the bundle again"
        )
    return python, str(Path(entry[-1]).parent.parent)


def _problem(function: Function, source: Source, result: Mapping[str, Any]) -> str | None:
    if result["problem"] == "missing":
        place = source.requirements_file or "a requirements file, named with --dependencies"
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
        return (
            f"{problem}\nName the Debian package that has it with --packages:"
            f" 'apt-file search {named[1]}' finds it"
        )
    return (
        f"{problem}\nName the Debian package that has it with --packages, or take a release of"
        " the requirement that is built for Debian 12"
    )


@contextmanager
def _container(site: Site) -> Iterator[str]:
    container = _buildah("from", "--quiet", f"oci-archive:{_base_archive(site)}").strip()
    try:
        yield container
    finally:
        _buildah("rm", container)


def _buildah(*arguments: str) -> str:
    done = _run(["buildah", *arguments], _BUILDAH_TIMEOUT_S)
    if done.returncode != 0:
        raise BuildError(f"buildah {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            check=False,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{' '.join(command[:3])} took more than {timeout_s:.0f} s") from None
