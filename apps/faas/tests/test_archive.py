# SPDX-License-Identifier: Apache-2.0
"""Archives of functions' code: what is taken of them, and what they can't do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from koren_faas import Function, FunctionError, archive
from koren_faas.source import read, unpacked

CODE = b"def run(event, context): ...\n"
Entry = tuple[str, bytes, str]
"""Name, content or link target, and kind: file, link, hard or pipe."""

_TYPES = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}
_TYPES |= {"pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE}


def _tar(entries: list[Entry], pack: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content, kind in entries:
            info = tarfile.TarInfo(name)
            info.type = _TYPES[kind]
            if kind == "file":
                info.size = len(content)
            else:
                info.linkname = content.decode()
            tar.addfile(info, io.BytesIO(content) if kind == "file" else None)
    return pack(raw.getvalue())


def _zip(entries: list[Entry]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, kind in entries:
            info = zipfile.ZipInfo(name + ("/" if kind == "folder" else ""))
            kinds = {"link": stat.S_IFLNK, "folder": stat.S_IFDIR}
            info.external_attr = (kinds.get(kind, stat.S_IFREG) | 0o644) << 16
            file.writestr(info, content)
    return raw.getvalue()


FORMS = {
    "zip": _zip,
    "tar.gz": _tar,
    "tar.bz2": lambda entries: _tar(entries, bz2.compress),
    "tar.xz": lambda entries: _tar(entries, lzma.compress),
    "tar": lambda entries: _tar(entries, bytes),
}


def _function(file: Path) -> Function:
    return Function(name="f", handler="handler.run", source=file)


def _taken(file: Path) -> dict[str, bytes]:
    function = _function(file)
    with unpacked(function) as folder:
        assert folder is not None
        files = read(function, folder).files
        return {str(path): place.read_bytes() for path, place in files.items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_may_come_packed(tmp_path: Path, form: str) -> None:
    # The name tells nothing: what it is is in it.
    file = tmp_path / "code"
    file.write_bytes(
        FORMS[form](
            [
                ("./lib", b"", "folder"),
                ("./handler.py", CODE, "file"),
                ("lib/words.txt", "사고".encode(), "file"),
                ("lib/same.txt", b"../lib/other.txt", "link"),
                ("lib/other.txt", b"words.txt", "link"),
                (".git/config", b"x", "file"),
                ("tests/test_handler.py", b"x", "file"),
            ]
        )
    )
    words = "사고".encode()
    assert _taken(file) == {
        "handler.py": CODE,
        "lib/words.txt": words,
        "lib/same.txt": words,
        "lib/other.txt": words,
    }


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (("/etc/evil.py", b"x", "file"), "leads out of it"),
        (("../evil.py", b"x", "file"), "leads out of it"),
        (("lib/../../evil.py", b"x", "file"), "leads out of it"),
        (("evil", b"../../etc/passwd", "link"), "leads out of it"),
        (("evil", b"/etc/passwd", "link"), "leads out of it"),
        (("evil", b"nowhere", "link"), "is no file in it"),
        (("evil", b"evil", "link"), "is no file in it"),
        (("handler.py/evil", b"x", "file"), "can't be unpacked"),
    ],
)
def test_an_archive_stays_in_its_folder(tmp_path: Path, form: str, bad: Entry, named: str) -> None:
    file = tmp_path / f"code.{form}"
    file.write_bytes(FORMS[form]([("handler.py", CODE, "file"), bad]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FunctionError, match=named) as error, unpacked(_function(file)):
        pass
    assert str(file) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "bad",
    [
        ("evil", b"/etc/passwd", "hard"),
        ("evil", b"../x", "hard"),
        ("evil", b"", "pipe"),
    ],
)
def test_what_is_no_file_is_not_taken(tmp_path: Path, bad: Entry) -> None:
    file = tmp_path / "code.tar.gz"
    file.write_bytes(_tar([("handler.py", CODE, "file"), bad]))
    with pytest.raises(FunctionError, match="evil"), unpacked(_function(file)):
        pass


@pytest.mark.parametrize("form", FORMS)
def test_what_an_archive_expands_to_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(archive, "_MOST_BYTES", 1 << 20)
    file = tmp_path / "code"
    half = bytes(600_000)
    file.write_bytes(
        FORMS[form]([("handler.py", CODE, "file"), ("a", half, "file"), ("b", half, "file")])
    )
    with pytest.raises(FunctionError, match="more than 1 MiB"), unpacked(_function(file)):
        pass
    # Links are copies in the image.
    links: list[Entry] = [(f"b{n}", b"a", "link") for n in range(3)]
    file.write_bytes(FORMS[form]([("a", half, "file"), *links]))
    with pytest.raises(FunctionError, match="more than 1 MiB"), unpacked(_function(file)):
        pass


def test_a_header_that_never_ends_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_MOST_BYTES", 1 << 20)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("handler.py")
        info.pax_headers = {"comment": "x" * (4 << 20)}
        tar.addfile(info)
    file = tmp_path / "code.tar.gz"
    file.write_bytes(gzip.compress(raw.getvalue()))
    with pytest.raises(FunctionError, match="more than"), unpacked(_function(file)):
        pass


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_FILES", 10)
    file = tmp_path / "code.zip"
    file.write_bytes(_zip([(f"{n}.py", CODE, "file") for n in range(11)]))
    with pytest.raises(FunctionError, match="more than 10 files"), unpacked(_function(file)):
        pass


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "tar.xz", "tar"])
def test_an_archive_that_breaks_off_is_told(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"code.{form}"
    noise = b"".join(n.to_bytes(3, "big") for n in range(5000))
    whole = FORMS[form]([("handler.py", CODE, "file"), ("noise", noise, "file")])
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FunctionError, match="can't be unpacked"), unpacked(_function(file)):
        pass


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("code.7z", b"7z\xbc\xaf\x27\x1c\x00\x04"),
        ("broken.zip", _zip([("handler.py", CODE, "file")])[:40]),
        ("handler.js", b"exports.handler = (event) => { return 1 }\n"),
        ("handler.bin", b"\x7fELF\x02\x01\x01\x00"),
    ],
)
def test_what_is_neither_python_nor_an_archive_is_told(
    tmp_path: Path, name: str, content: bytes
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    function = _function(file)
    with (
        unpacked(function) as folder,
        pytest.raises(FunctionError, match=rf"{name} is neither Python nor an archive .*\.tar\.xz"),
    ):
        read(function, folder)


def test_a_mistake_in_an_archive_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "code.zip"
    file.write_bytes(_zip([("handler.py", b"x = 1\ndef run(:\n", "file")]))
    function = _function(file)
    with unpacked(function) as folder:
        with pytest.raises(FunctionError, match=r"code\.zip/handler\.py, line 2"):
            read(function, folder)
        with pytest.raises(FunctionError, match=r"needs other\.py in .*code\.zip"):
            read(Function(name="f", handler="other.run", source=file), folder)
