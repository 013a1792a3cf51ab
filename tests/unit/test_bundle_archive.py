"""A bundle as one file: what comes out is what went in, or nothing does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.koren.faas.plugins.module_utils.bundle import (
    MANIFEST,
    BundleError,
    Entry,
    build,
    plan,
)
from ansible_collections.koren.faas.plugins.module_utils.bundle_archive import (
    INDEX,
    is_current,
    sum_file,
    unpack_archive,
    write_archive,
)

Members = dict[str, tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with two components; one has a program, and links to a file and to a folder."""
    recipes = {
        "data": "printf '%100000s' >$OUT/big\n",
        "program": "mkdir $OUT/bin; printf '#!/bin/sh\\necho hello\\n' >$OUT/bin/run; chmod 755 $OUT/bin/run\n"
        "ln -s bin/run $OUT/run; ln -s bin $OUT/programs\n",
    }
    for name, text in recipes.items():
        (tmp_path / "repo" / "bundle" / name).mkdir(parents=True)
        (tmp_path / "repo" / "bundle" / name / "build.sh").write_text(text)
    return tmp_path / "repo"


@pytest.fixture
def archive(repo: Path, tmp_path: Path) -> Path:
    """The archive of the built components, without the file that has its sum."""
    entries = plan(repo, tmp_path / "built", [], "go1")
    for entry in entries:
        build(repo, tmp_path / "built", entries, entry.name, [])
    path = tmp_path / "koren.tar"
    write_archive(path, plan(repo, tmp_path / "built", [], "go1"))
    assert is_current(path, entries)
    sum_file(path).rename(tmp_path / "sum")
    return path


def unpack(repo: Path, archive: Path, cache: Path, sha256: str = "") -> list[Entry]:
    """Bring everything; what the cache has then."""
    unpack_archive(archive, cache, plan(repo, cache, [], "go1"), sha256)
    entries = plan(repo, cache, [], "go1")
    assert all(entry.present for entry in entries)
    return entries


def test_what_comes_out_is_what_went_in(repo: Path, archive: Path, tmp_path: Path) -> None:
    before = {entry.name: entry for entry in plan(repo, tmp_path / "built", [], "go1")}
    for entry in unpack(repo, archive, tmp_path / "cache"):
        assert subprocess.run(["diff", "-r", "--no-dereference", before[entry.name].path, entry.path]).returncode == 0
        if entry.name == "program":
            assert subprocess.check_output([entry.path / "programs" / "run"]) == b"hello\n"
            assert os.readlink(entry.path / "run") == "bin/run"
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"components", "locks"}


def test_a_compressed_archive_serves_too(repo: Path, archive: Path, tmp_path: Path) -> None:
    packed = tmp_path / "koren.tar.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes(), 1))
    unpack(repo, packed, tmp_path / "cache")


def test_an_archive_is_written_once_and_again_after_a_change(repo: Path, archive: Path, tmp_path: Path) -> None:
    entries = plan(repo, tmp_path / "built", [], "go1")
    assert not is_current(archive, entries), "without its sum it was not written to its end"
    (tmp_path / "sum").rename(sum_file(archive))
    assert is_current(archive, entries)
    subprocess.run(["sha256sum", "--check", "--quiet", sum_file(archive)], cwd=tmp_path, check=True)
    (repo / "bundle" / "data" / "build.sh").write_text("echo new >$OUT/big\n")
    entries = plan(repo, tmp_path / "built", [], "go1")
    build(repo, tmp_path / "built", entries, "data", [])
    assert not is_current(archive, plan(repo, tmp_path / "built", [], "go1"))


def test_a_damaged_component_is_not_written(repo: Path, archive: Path, tmp_path: Path) -> None:
    entries = plan(repo, tmp_path / "built", [], "go1")
    other = tmp_path / "other.tar"
    (entries[0].path / "more").write_text("x")
    with pytest.raises(BundleError, match="other files than its manifest"):
        write_archive(other, entries)
    (entries[0].path / "more").unlink()
    (entries[0].path / "big").write_text("x" * 100000)
    with pytest.raises(BundleError, match="differs from its manifest"):
        write_archive(other, entries)
    assert not list(tmp_path.glob("other.tar*"))


def rewrite(archive: Path, change: Callable[[Members], None]) -> None:
    """Write the archive anew with its members changed, as somebody would who knows tar."""
    with tarfile.open(archive) as tar:
        members = {m.name: (m, tar.extractfile(m).read() if m.isreg() else b"") for m in tar}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(archive, "w") as tar:
        for info, content in members.values():
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def find(members: Members, end: str) -> str:
    """The one member whose name ends so."""
    (name,) = [name for name in members if name.endswith(end)]
    return name


def other_content(members: Members) -> None:
    name = find(members, "data/" + name_part(members, "data") + "/big")
    members[name] = (members[name][0], b"y" * 100000)


def name_part(members: Members, component: str) -> str:
    return next(name.split("/")[2] for name in members if name.startswith(f"components/{component}/"))


def other_content_and_manifest(members: Members) -> None:
    other_content(members)
    name = find(members, f"data/{name_part(members, 'data')}/{MANIFEST}")
    manifest: dict[str, Any] = json.loads(members[name][1])
    manifest["files"]["big"]["sha256"] = hashlib.sha256(b"y" * 100000).hexdigest()
    members[name] = (members[name][0], json.dumps(manifest).encode())


def one_more(members: Members) -> None:
    name = f"components/data/{name_part(members, 'data')}/evil"
    members[name] = (tarfile.TarInfo(name), b"evil")


def outside(members: Members) -> None:
    name = f"components/data/{name_part(members, 'data')}/../../../evil"
    members[name] = (tarfile.TarInfo(name), b"evil")


def one_less(members: Members) -> None:
    del members[find(members, "/big")]


def no_index(members: Members) -> None:
    del members[INDEX]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_content, "big differs from its manifest"),
        (other_content_and_manifest, "the manifest of data differs from index.json"),
        (one_more, "evil is not in a manifest"),
        (outside, "evil is not in a manifest"),
        (one_less, "it ends before data does"),
        (no_index, "it is not a bundle"),
    ],
)
def test_a_tampered_archive_is_refused(
    repo: Path, archive: Path, tmp_path: Path, change: Callable[[Members], None], words: str
) -> None:
    rewrite(archive, change)
    refused(repo, archive, tmp_path / "cache", words)


def refused(repo: Path, archive: Path, cache: Path, words: str, sha256: str = "") -> None:
    """The archive is refused with those words, and the cache has nothing of it."""
    with pytest.raises(BundleError, match=words) as raised:
        unpack(repo, archive, cache, sha256)
    assert str(archive) in str(raised.value)
    assert not list(cache.glob("components/*")) and not (cache / "incoming").exists()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.6, 0.95])
def test_a_cut_archive_is_refused(repo: Path, archive: Path, tmp_path: Path, part: float) -> None:
    content = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(content[: int(len(content) * part)])
    refused(repo, archive, tmp_path / "cache", "bundle_archive")


def test_a_file_that_is_no_archive_or_not_there_is_refused(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello" * 1000)
    refused(repo, tmp_path / "x", tmp_path / "cache", "damaged")
    refused(repo, tmp_path / "none.tar", tmp_path / "cache", "No such file")


def test_its_sum_is_compared_first(repo: Path, archive: Path, tmp_path: Path) -> None:
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    (tmp_path / "sum").rename(sum_file(archive))
    refused(repo, archive, tmp_path / "cache", "SHA-256", "0" * 64)
    rewrite(archive, lambda members: setattr(members[INDEX][0], "mtime", 1))
    refused(repo, archive, tmp_path / "cache", f"not {right}")
    sum_file(archive).unlink()
    unpack(repo, archive, tmp_path / "cache")


def test_an_archive_of_another_checkout_says_what_it_lacks(repo: Path, archive: Path, tmp_path: Path) -> None:
    (repo / "bundle" / "data" / "build.sh").write_text("echo newer >$OUT/big\n")
    refused(repo, archive, tmp_path / "cache", "does not have this checkout's data;")
