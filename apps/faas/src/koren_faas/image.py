# SPDX-License-Identifier: Apache-2.0
"""Makes a function's image on this machine: once for the same code, requirements and runtime."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from koren_faas import brought, debian, nodejs, python
from koren_faas.brought import Brought
from koren_faas.errors import NotReadyError
from koren_faas.function import Function
from koren_faas.runtimes import IMAGE, NODEJS, RUNTIMES
from koren_faas.site import Site
from koren_faas.source import Source, read
from koren_faas.tools import Progress as Progress
from koren_faas.tools import buildah


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


def plan(
    site: Site, function: Function, unpacked: Path | None = None
) -> tuple[Image, Source | Brought]:
    """The image that the function's source makes, and that source, without making anything.

    Args:
        unpacked: folder with the content of that source while it is an archive of code.

    Raises:
        FunctionError: the source can't be accepted.
        NotReadyError: the bundle has no image of the runtime.
        BuildError: this machine lacks a program that reads an image.
    """
    if function.runtime == IMAGE:
        found = brought.find(function)
        return _image(site, function, found.tag), found
    source = read(function, unpacked)
    tag = source.digest(_base_digest(_base(site, function)))
    return _image(site, function, tag, source.requirements), source


def _image(site: Site, function: Function, tag: str, requirements: tuple[str, ...] = ()) -> Image:
    return Image(
        name=f"{repository(function.name)}:{tag}",
        archive=site.images / function.name / f"{tag}.tar",
        requirements=requirements,
    )


def repository(name: str) -> str:
    """Name, without tag, of the images of the function `name`.

    It is the same in every region: a node knows by it to ask its own region's registry.
    """
    return f"functions.koren.internal/{name}"


def build(
    site: Site, function: Function, image: Image, source: Source | Brought, on_progress: Progress
) -> None:
    """Make the image, unless its archive is there, and check that its handler loads.

    Raises:
        BuildError: a requirement can't be had, or a package from Debian, or a tool failed.
        FunctionError: the handler does not import, or its function is not there.
    """
    if image.archive.exists():
        return
    image.archive.parent.mkdir(parents=True, exist_ok=True)
    archive = image.archive.with_suffix(f".{os.getpid()}.part")
    try:
        if isinstance(source, Brought):
            on_progress(f"Copying {source.place}")
            brought.fetch(source, archive, image.name)
        else:
            _build(site, function, source, archive, image.name, on_progress)
        archive.rename(image.archive)
    finally:
        archive.unlink(missing_ok=True)


def _build(
    site: Site, function: Function, source: Source, archive: Path, name: str, on_progress: Progress
) -> None:
    base = _base(site, function)
    javascript = RUNTIMES[function.runtime].language == NODEJS
    with tempfile.TemporaryDirectory(prefix="koren-faas-") as scratch:
        root = Path(scratch) / "root"
        _lay_out(source, root / "function")
        if javascript:
            nodejs.prepare(nodejs.Node.at(base / "node"), function, source, root, on_progress)
        else:
            python.prepare(function, source, root, on_progress)
        _make_readable(root)
        with _container(base) as container:
            if source.packages:
                release = RUNTIMES[function.runtime].debian
                _add_packages(base, source, container, Path(scratch) / "debian", release, on_progress)
            buildah("add", "--quiet", "--chown", "0:0", container, str(root), "/")
            if not javascript:
                python.compile_code(container)
            (nodejs if javascript else python).check(function, source, container, on_progress)
            on_progress(f"Writing {name}")
            buildah(
                # Compressed once, here, and not for each region on its way there.
                *("commit", "--quiet", "--disable-compression=false"),
                *("--format", "oci", "--timestamp", "0"),
                *(container, f"oci-archive:{archive}:{name}"),
            )


def forget_old(image: Image) -> None:
    """Delete the archives of the image's function, but its own and the newest other one."""
    others = [path for path in image.archive.parent.glob("*.tar") if path != image.archive]
    others.sort(key=lambda path: path.stat().st_mtime)
    for archive in others[:-1]:
        archive.unlink(missing_ok=True)


def forget_all(site: Site, name: str) -> None:
    """Delete every archive of the function `name`."""
    shutil.rmtree(site.images / name, ignore_errors=True)


def _base(site: Site, function: Function) -> Path:
    """The bundle's folder of the function's runtime."""
    return site.bundle / RUNTIMES[function.runtime].component


def _base_digest(base: Path) -> str:
    archive = base / "image.tar"
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
    base: Path, source: Source, container: str, scratch: Path, release: str, on_progress: Progress
) -> None:
    status = base / "dpkg-status"
    if not status.exists():
        raise NotReadyError(f"{status} does not exist: build the bundle, it tells what is in it")
    on_progress(f"Installing Debian packages {', '.join(source.packages)}")
    scratch.mkdir()
    root = debian.unpack(source.packages, status, scratch, release)
    _make_readable(root)
    for path in sorted(root.iterdir()):
        # Each by itself: /lib is a link in some images, which is to stay one.
        buildah("add", "--quiet", "--chown", "0:0", container, str(path), f"/{path.name}")
    buildah("run", "--network", "none", "--user", "0:0", container, "--", "/sbin/ldconfig")


def _make_readable(root: Path) -> None:
    """Let everyone read: neither the umask of whoever deploys nor a package keeps the pod from it."""
    for entry in [root, *root.rglob("*")]:
        if not entry.is_symlink():
            entry.chmod(0o755 if entry.is_dir() or os.access(entry, os.X_OK) else 0o644)


def _lay_out(source: Source, folder: Path) -> None:
    for path, file in source.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


@contextmanager
def _container(base: Path) -> Iterator[str]:
    container = buildah("from", "--quiet", f"oci-archive:{base / 'image.tar'}").strip()
    try:
        yield container
    finally:
        buildah("rm", container)
