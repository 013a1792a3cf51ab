# SPDX-License-Identifier: Apache-2.0
"""Secrets that the controller makes once."""

import re
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, lookup_loader


@pytest.fixture(scope="module")
def look_up() -> Any:
    """The lookup, called as a template calls it."""
    init_plugin_loader()
    return lookup_loader.get("koren.faas.secret", loader=DataLoader()).run


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(look_up: Any, tmp_path: Path) -> None:
    """The second call returns what the first has made."""
    path = tmp_path / "secrets/queue"
    (secret,) = look_up([str(path)], {"ansible_check_mode": False})
    assert re.fullmatch("[A-Za-z0-9]{40}", secret)
    assert look_up([str(path)], {}) == [secret]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert re.fullmatch("[01]{8}", look_up([str(tmp_path / "bits")], {}, length=8, chars=["01"])[0])


def test_check_mode_makes_no_secret_and_reads_one_that_is_there(look_up: Any, tmp_path: Path) -> None:
    """A look at what would change leaves no file and no folder."""
    dry = {"ansible_check_mode": True}
    assert len(look_up([str(tmp_path / "secrets/queue")], dry, length=24)[0]) == 24
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").write_text("known\n")
    assert look_up([str(tmp_path / "kept")], dry) == ["known"]
