# SPDX-License-Identifier: Apache-2.0
"""Archives that hold a function's code: read without trust in what they say of themselves."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from koren_faas.errors import FunctionError

KINDS = ".zip, .tar.gz, .tar.bz2 or .tar.xz"
"""What is unpacked, as users know it."""

_MOST_BYTES = 512 << 20
_MOST_FILES = 20_000
_MOST_LINKS = 40
_LONGEST_NAME = 4096
_TAR_MARK = slice(257, 262)
_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, UnicodeError, ValueError, OSError),
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of an archive, or a link to one.

    Attributes:
        name: where it is.
        target: where what it links to is; None of a file.
        open: gives its content, until the next entry is asked for.
    """

    name: str
    target: str | None
    open: Callable[[], IO[bytes] | None]


class _Bounded:
    """A stream of which no more than so many bytes are read."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._left = most

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise FunctionError(f"it holds more than {_MOST_BYTES >> 20} MiB")
        return data


def is_archive(file: Path) -> bool:
    """Whether the file has the form of one of the `KINDS`, whatever its name."""
    with file.open("rb") as stream:
        head = stream.read(_TAR_MARK.stop)
    return zipfile.is_zipfile(file) or _opener(head) is not open or head[_TAR_MARK] == b"ustar"


def unpack(file: Path, folder: Path) -> None:
    """Write the files of an archive into `folder`, which is empty. A link becomes what it points to.

    Raises:
        FunctionError: the archive is damaged or encrypted, leads out of its folder, is too large,
            or has an entry that is no file.
    """
    try:
        entries = _zip(file) if zipfile.is_zipfile(file) else _tar(file)
        _write(entries, folder)
    except FunctionError as error:
        raise FunctionError(f"{file} can't be taken: {error}") from None
    except _DAMAGED as error:
        raise FunctionError(f"{file} can't be unpacked: {error or type(error).__name__}") from error


def _write(entries: Iterator[_Entry], folder: Path) -> None:
    links: dict[str, str] = {}
    left = _MOST_BYTES
    for count, entry in enumerate(entries, start=1):
        if count > _MOST_FILES:
            raise FunctionError(f"it holds more than {_MOST_FILES} files")
        name = _inside(entry.name, entry.name)
        # A later entry of one name replaces the earlier.
        links.pop(name, None)
        if entry.target is not None:
            links[name] = _inside(entry.target, entry.name)
            continue
        source = entry.open()
        if source is None:
            raise FunctionError(f"{entry.name} is no file")
        with source:
            left -= _copy(source, folder / name, left)
    for name, target in links.items():
        for _ in range(_MOST_LINKS):
            target = links.get(target, target)
        path = folder / target
        if target in links or not path.is_file():
            raise FunctionError(f"{name} is a link to what is no file in it")
        with path.open("rb") as source:
            left -= _copy(source, folder / name, left)


def _copy(source: IO[bytes], path: Path, most: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        shutil.copyfileobj(_Bounded(source, most), target)
        return target.tell()


def _inside(path: str, name: str) -> str:
    """`path` in its shortest form; `name` is the entry that it is of."""
    path.encode()  # What is no text can't be a file's name in an image.
    short = posixpath.normpath(path)
    if short.startswith("/") or short.split("/")[0] == "..":
        raise FunctionError(f"{name} leads out of it")
    return short


def _zip(file: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            target = None
            if stat.S_ISLNK(info.external_attr >> 16):
                with archive.open(info) as stream:
                    link = stream.read(_LONGEST_NAME).decode()
                target = posixpath.join(posixpath.dirname(info.filename), link)
            if not info.is_dir():
                yield _Entry(info.filename, target, partial(archive.open, info))


def _tar(file: Path) -> Iterator[_Entry]:
    with file.open("rb") as stream:
        opener = _opener(stream.read(_TAR_MARK.stop))
    with opener(file, "rb") as content:
        # As a stream: what it expands to is counted, also what is no file's content.
        bounded = cast("IO[bytes]", _Bounded(content, 2 * _MOST_BYTES))
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                target = None
                if member.issym():
                    target = posixpath.join(posixpath.dirname(member.name), member.linkname)
                elif member.islnk():
                    target = member.linkname
                if not member.isdir():
                    yield _Entry(member.name, target, partial(archive.extractfile, member))


def _opener(head: bytes) -> Any:
    found = (opener for mark, opener in _COMPRESSED.items() if head.startswith(mark))
    return next(found, open)
