# SPDX-License-Identifier: Apache-2.0
"""Secrets that the controller makes once."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]


def look_up(path: Path, more: str = "", *flags: str) -> str:
    """What a template gets from the lookup, or the error that it ends with."""
    template = f"{{{{ lookup('koren.faas.secret', '{path}'{more}) }}}}"
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible", "-i", "localhost,", "-c", "local", "localhost", *flags]
        + ["-m", "ansible.builtin.debug", "-a", f'msg="{template}"'],
        cwd=REPO,
        env=os.environ | {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        return done.stdout + done.stderr
    return str(json.loads(done.stdout.partition("=>")[2])["msg"])


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """The second call returns what the first has made."""
    path = tmp_path / "secrets/queue"
    secret = look_up(path)
    assert re.fullmatch("[A-Za-z0-9]{40}", secret)
    assert look_up(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert re.fullmatch("[ab]{8}", look_up(tmp_path / "letters", ", length=8, chars=['ab']"))


def test_an_empty_secret_is_an_error(tmp_path: Path) -> None:
    """A full disk may have left it."""
    (tmp_path / "queue").touch()
    assert "queue is empty: restore it from a backup, or delete it" in look_up(tmp_path / "queue")


def test_check_mode_makes_no_secret_and_reads_one_that_is_there(tmp_path: Path) -> None:
    """A look at what would change leaves no file and no folder."""
    assert len(look_up(tmp_path / "secrets/queue", ", length=24", "--check")) == 24
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").write_text("known\n")
    assert look_up(tmp_path / "kept", "", "--check") == "known"
