# SPDX-License-Identifier: Apache-2.0
"""What is backed up of a running host is of one moment, and what a part needs of another comes with it."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
import redis
import yaml
from test_mend import running_redis

REPO = Path(__file__).parents[2]
PROGRAM = REPO / "roles/backup/files/koren-backup"


@pytest.fixture(scope="module")
def backup() -> ModuleType:
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("koren_backup", str(PROGRAM))
    spec = importlib.util.spec_from_loader("koren_backup", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on one disk with its stage, whose path is short enough for a socket."""
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made)


def test_redis_is_copied_as_it_was_at_one_moment_while_it_rewrites_its_file(backup: ModuleType, folder: Path) -> None:
    stop = threading.Event()
    with running_redis(folder) as client:

        def write() -> None:
            number = 0
            while not stop.is_set():
                client.rpush("koren:list", *range(number, number + 100))
                number += 100

        def rewrite() -> None:
            while not stop.is_set():
                with contextlib.suppress(redis.ResponseError):
                    client.bgrewriteaof()

        workers = [threading.Thread(target=work) for work in (write, rewrite)]
        for worker in workers:
            worker.start()
        try:
            for number in range(5):
                while client.llen("koren:list") <= number * 1000:
                    pass
                stage = folder / ".koren-backup"
                stage.mkdir()
                least = client.llen("koren:list")
                backup.stage_aof(folder, stage)
                copied = folder.with_name(f"{folder.name}-copied")
                shutil.copytree(stage, copied)
                shutil.rmtree(stage)
                try:
                    with running_redis(copied) as copy:
                        values = [int(value) for value in copy.lrange("koren:list", 0, -1)]
                finally:
                    shutil.rmtree(copied)
                assert values == list(range(len(values))) and len(values) >= least
        finally:
            stop.set()
            for worker in workers:
                worker.join()


def test_a_redis_that_never_ran_is_named(backup: ModuleType, folder: Path) -> None:
    with pytest.raises(backup.BackupError, match="manifest does not exist: has Redis ever started"):
        backup.stage_aof(folder, folder / ".koren-backup")


def test_a_database_is_copied_while_its_program_writes(backup: ModuleType, folder: Path) -> None:
    (folder / "actors").mkdir()
    path = folder / "actors/store.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as program:
        program.execute("PRAGMA journal_mode = WAL")
        program.execute("CREATE TABLE kept (number INTEGER)")
        program.execute("INSERT INTO kept VALUES (1)")
        program.commit()
        path.chmod(0o640)
        # Not yet written: it is in no backup.
        program.execute("INSERT INTO kept VALUES (2)")
        (folder / "blob").write_bytes(b"picture" * 1000)
        backup.stage_files(folder, folder / ".koren-backup", [""])
    stage = folder / ".koren-backup"
    assert sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()) == [
        "actors/store.sqlite",
        "blob",
    ]
    copied = stage / "actors/store.sqlite"
    assert copied.stat().st_mode & 0o777 == 0o640
    with contextlib.closing(sqlite3.connect(copied)) as copy:
        assert copy.execute("SELECT number FROM kept").fetchall() == [(1,)]
    assert os.path.samefile(stage / "blob", folder / "blob")


def test_what_has_nothing_yet_has_something_to_save(backup: ModuleType, folder: Path) -> None:
    stage = backup.stage_part({"kind": "files", "folder": str(folder), "order": []})
    assert [path.name for path in stage.iterdir()] == [backup.EMPTY]


def test_what_is_named_comes_with_what_names_it(
    backup: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, layers = folder / "repositories", folder / "blobs"
    for made in (names, layers):
        made.mkdir()
    (names / "first").write_text("1")
    (layers / "1").touch()
    take = backup.take

    def push(source: Path, target: Path) -> None:
        # An image that comes while the names are linked: first its layer, then its name.
        if source.parent == names and not (names / "second").exists():
            (layers / "2").touch()
            (names / "second").write_text("2")
        take(source, target)
        # And another name for the first.
        (names / "first").write_text("2")

    monkeypatch.setattr(backup, "take", push)
    backup.stage_files(folder, folder / ".koren-backup", ["repositories", "blobs"])
    stage = folder / ".koren-backup"
    assert {path.read_text() for path in (stage / "repositories").iterdir()} == {"1"}
    assert {path.name for path in (stage / "blobs").iterdir()} == {"1", "2"}


def test_what_tells_that_a_part_is_there_comes_last(
    backup: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"present": str(folder / "account.sqlite"), "owner": ""}
    stage = folder / ".koren-backup"
    (stage / "blobs").mkdir(parents=True)
    for name in ("account.sqlite", "sequencer.sqlite", "blobs/picture"):
        (stage / name).touch()
    (folder / "blobs/empty").mkdir(parents=True)
    seen = []
    rename = Path.rename

    def look(source: Path, target: Path) -> Path:
        seen.append((source.name, (folder / "account.sqlite").exists()))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", look)
    backup.put_in_place(stage, folder, part)
    assert [name for name, _ in seen][-1] == "account.sqlite" and not any(there for _, there in seen)
    assert (folder / "blobs/picture").exists()


@pytest.mark.parametrize(
    ("repository", "reached"),
    [
        ("sftp:koren@192.0.2.5:/backup", "ssh -F /etc/ssh_config koren@192.0.2.5 -s sftp"),
        ("sftp://koren@backup.example:2222//srv/backup", "ssh -F /etc/ssh_config -p 2222 koren@backup.example -s sftp"),
        ("s3:https://s3.example/koren-seoul", None),
        ("rest:https://backup.example/seoul", None),
        ("/mnt/backup/seoul", None),
    ],
)
def test_only_the_given_settings_of_ssh_count(backup: ModuleType, repository: str, reached: str | None) -> None:
    expected = ["-o", f"sftp.command={reached}"] if reached else []
    assert backup.sftp_options(repository, "/etc/ssh_config") == expected


def test_times_are_taken_as_restic_and_people_write_them(backup: ModuleType) -> None:
    assert backup.moment("2026-05-01T13:00:00.123456789+09:00") == datetime(2026, 5, 1, 4, 0, 0, 123456, UTC)
    assert backup.moment("2026-05-01T13:00") == backup.moment("2026-05-01T13:00:00Z")
    with pytest.raises(backup.BackupError, match="'yesterday' is no time; give it as 2026-"):
        backup.moment("yesterday")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backup_repository": "s3:https://s3.example/koren"}, "is the same for all regions"),
        ({"backup_server": "nobody"}, "backup_server nobody is no host of the inventory"),
        ({"backup_repository": "sftp:koren-{region}@192.0.2.5:/backup"}, "backup_known_hosts is missing"),
        ({"backup_repository": "/mnt/{region}", "backup_password": "short"}, "backup_password is missing or shorter"),
    ],
)
def test_a_repository_that_can_not_do_is_refused_before_anything_is_changed(
    tmp_path: Path, given: dict[str, str], said: str
) -> None:
    play = [{"hosts": "seoul-cp", "connection": "local", "gather_facts": False, "roles": ["koren.faas.backup"]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "ansible-playbook", "-i", "inventories/local", tmp_path / "play.yml"),
            *("-e", json.dumps({"site_dir": str(tmp_path / "state"), **given})),
        ],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and said in " ".join(done.stdout.split()), done.stdout + done.stderr
    assert "changed=0" in done.stdout
