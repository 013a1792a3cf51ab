# SPDX-License-Identifier: Apache-2.0
"""The bundle as one file, for a site that can't build it.

The archive is a tar file, compressed or not. Its first member is ``index.json`` with each component's key and the
SHA-256 of its manifest, which lists the SHA-256 of each file. A component's manifest precedes its files. The archive's
own SHA-256 is in a file beside it that ``sha256sum --check`` reads.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ansible_collections.koren.faas.plugins.module_utils.bundle import (
    MANIFEST,
    BundleError,
    Entry,
    digest,
    is_whole,
    listed_files,
    locked,
)

INDEX = "index.json"
_CHUNK = 1 << 20


class _Hashing:
    """A file that hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def sum_file(archive: Path) -> Path:
    """The file that contains an archive's SHA-256."""
    return archive.with_name(archive.name + ".sha256")


def index_of(entries: list[Entry]) -> dict[str, Any]:
    """The index at the start of an archive of these components."""
    return {
        "format": 1,
        "components": {entry.name: {"key": entry.key, "manifest": digest(entry.path / MANIFEST)} for entry in entries},
    }


def is_current(archive: Path, entries: list[Entry]) -> bool:
    """Whether a completely written archive has exactly these components."""
    if not archive.is_file() or not sum_file(archive).is_file():
        return False
    try:
        with tarfile.open(archive) as tar:
            return bool(_read_index(tar, archive) == index_of(entries))
    except (BundleError, tarfile.TarError, OSError):
        return False


def write_archive(archive: Path, entries: list[Entry]) -> None:
    """Write the components into a temporary file, move it into place, and write its SHA-256 beside it.

    Raises BundleError if a component differs from its manifest.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(archive.name + ".part")
    try:
        sha256 = write_components(part, entries)
        sum_file(archive).unlink(missing_ok=True)
        part.rename(archive)
        sum_file(archive).write_text(f"{sha256}  {archive.name}\n", encoding="utf-8")
    finally:
        part.unlink(missing_ok=True)


def write_components(path: Path, entries: list[Entry], *, compress: bool = False) -> str:
    """Write the components into a file and sync it to disk; return its SHA-256.

    Raises BundleError if a component differs from its manifest.
    """
    with path.open("wb") as file:
        out = _Hashing(file)
        # The fastest level: compression takes most of the time, and a higher level saves little space.
        packed = gzip.GzipFile("", "wb", 1, out, 0) if compress else nullcontext(out)
        with packed as plain, tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            _add_text(tar, INDEX, json.dumps(index_of(entries), indent=1, sort_keys=True))
            for entry in entries:
                _add_component(tar, entry)
        file.flush()
        os.fsync(file.fileno())
    return out.hexdigest()


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text.encode())
    tar.addfile(info, io.BytesIO(text.encode()))


def _add_component(tar: tarfile.TarFile, entry: Entry) -> None:
    text = (entry.path / MANIFEST).read_text(encoding="utf-8")
    files = json.loads(text)["files"]
    if listed_files(entry.path) != sorted(files):
        raise BundleError(f"{entry.path} has other files than its manifest lists; remove that folder and build again")
    base = f"components/{entry.name}/{entry.key}"
    _add_text(tar, f"{base}/{MANIFEST}", text)
    for name, meta in files.items():
        path = entry.path / name
        status = path.lstat()
        info = tarfile.TarInfo(f"{base}/{name}")
        info.mode, info.mtime = status.st_mode & 0o777, int(status.st_mtime)
        if path.is_symlink():
            info.type, info.linkname, found = tarfile.SYMTYPE, os.readlink(path), digest(path)
            tar.addfile(info)
        else:
            info.size = status.st_size
            with path.open("rb") as file:
                stream = _Hashing(file)
                tar.addfile(info, stream)
            found = stream.hexdigest()
        if found != meta["sha256"]:
            raise BundleError(f"{path} differs from its manifest; remove {entry.path} and build again")


def unpack_archive(archive: Path, cache: Path, entries: list[Entry], sha256: str) -> None:
    """Unpack the components of a plan that the cache lacks from an archive.

    Everything is unpacked to a temporary folder and compared with its SHA-256 first. Components are moved into place
    only if all are right. ``sha256`` is that of the whole file; empty means the checksum in the file beside it, if
    there is one.

    Raises BundleError, and leaves the cache unchanged, if an archive is truncated, changed, or of another checkout.
    """
    wanted = [entry for entry in entries if not entry.present]
    with _read_errors(archive):
        _check_sum(archive, sha256)
    incoming = cache / "incoming"
    with locked(cache / "locks" / "incoming"):
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        try:
            with _read_errors(archive), tarfile.open(archive) as tar:
                _unpack(tar, archive, incoming, wanted)
            for entry in wanted:
                with locked(cache / "locks" / entry.name):
                    if not is_whole(entry.path):
                        entry.path.parent.mkdir(parents=True, exist_ok=True)
                        shutil.rmtree(entry.path, ignore_errors=True)
                        (incoming / entry.name).rename(entry.path)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


@contextmanager
def _read_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, UnicodeError) as error:
        raise _refused(archive, f"it is truncated or damaged ({error})") from error
    except OSError as error:
        raise _refused(archive, str(error)) from error


def _refused(archive: Path, reason: str) -> BundleError:
    return BundleError(f"bundle_archive {archive}: {reason}; nothing was taken from it. Copy it again.")


def _check_sum(archive: Path, sha256: str) -> None:
    beside = sum_file(archive)
    if not sha256 and beside.is_file():
        sha256 = (beside.read_text(encoding="utf-8").split() or [""])[0]
    if sha256 and (found := digest(archive.resolve())) != sha256.lower():
        raise _refused(archive, f"its SHA-256 is {found}, not {sha256}")


def _read_index(tar: tarfile.TarFile, archive: Path) -> Any:
    member = tar.next()
    file = tar.extractfile(member) if member and member.name == INDEX and member.isreg() else None
    if file is None:
        raise _refused(archive, f"it is not a bundle: it does not begin with {INDEX}")
    try:
        return json.load(file)
    except ValueError as error:
        raise _refused(archive, f"its {INDEX} can't be read ({error})") from error


def _unpack(tar: tarfile.TarFile, archive: Path, incoming: Path, wanted: list[Entry]) -> None:
    has = _read_index(tar, archive)["components"]
    other = [entry.name for entry in wanted if has.get(entry.name, {}).get("key") != entry.key]
    if other:
        raise BundleError(
            f"bundle_archive {archive}: it does not have this checkout's {', '.join(other)}; "
            "write it again from the same checkout"
        )
    bases = {f"components/{entry.name}/{entry.key}/": entry.name for entry in wanted}
    missing: dict[str, dict[str, Any]] = {}
    while (member := tar.next()) is not None:
        base = "/".join(member.name.split("/", 3)[:3]) + "/"
        if base not in bases:
            continue
        component, name = bases[base], member.name.removeprefix(base)
        if name == MANIFEST:
            found = _place(tar, member, incoming / component, MANIFEST)
            if found != has[component]["manifest"]:
                raise _refused(archive, f"the manifest of {component} differs from {INDEX}")
            missing[component] = json.loads((incoming / component / MANIFEST).read_text(encoding="utf-8"))["files"]
            continue
        meta = missing.get(component, {}).pop(name, None)
        if meta is None:
            raise _refused(archive, f"{member.name} is not in a manifest")
        if _place(tar, member, incoming / component, name) != meta["sha256"]:
            raise _refused(archive, f"{member.name} differs from its manifest")
    for entry in wanted:
        left = missing.get(entry.name)
        if left is None or left:
            raise _refused(archive, f"it is truncated: it ends before {entry.name} does")


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, name: str) -> str:
    """Write a member below ``folder`` and nowhere else; return its SHA-256."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = path.parent.resolve().is_relative_to(folder.resolve())
    if not inside or ".." in PurePosixPath(name).parts or os.path.lexists(path):
        raise tarfile.TarError(f"{member.name} would be written elsewhere")
    if member.issym():
        path.symlink_to(member.linkname)
        return digest(path)
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        raise tarfile.TarError(f"{member.name} is neither file nor symbolic link")
    stream = _Hashing(file)
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out, _CHUNK)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)
    os.utime(path, (member.mtime, member.mtime))
    return stream.hexdigest()
