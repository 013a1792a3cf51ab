# SPDX-License-Identifier: Apache-2.0
"""What a run shows on the screen, and what is in its log file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PLAYS = """
- name: Clusters
  hosts: all
  gather_facts: false
  tasks:
    - name: Tell
      ansible.builtin.debug: {msg: "{{ inventory_hostname }} is ready"}
      loop: [1]
    - name: Write a file
      ansible.builtin.copy: {content: "new\\n", dest: "{{ folder }}/{{ inventory_hostname }}", mode: "0600"}
    - name: Try something
      ansible.builtin.command: /bin/false
      ignore_errors: true
      check_mode: false
    - name: Try twice
      block: [{name: Try once, ansible.builtin.fail: {msg: not yet}}]
      rescue: [{name: Try again, ansible.builtin.debug: {msg: done}}]
- name: Nothing to do
  hosts: all
  gather_facts: false
  tasks: []
- name: Functions
  hosts: all
  gather_facts: false
  tasks:
    - name: Start it
      ansible.builtin.fail: {msg: "no room on {{ inventory_hostname }}"}
      when: inventory_hostname == broken
    - name: Start each
      ansible.builtin.command: "test {{ item }} = 1"
      loop: [1, 2]
      when: inventory_hostname == broken_item
"""


def play(folder: Path, *arguments: str, **variables: str) -> tuple[str, list[Path]]:
    """What a run of two hosts shows, and its log files."""
    (folder / "play.yml").write_text(PLAYS)
    given = {"broken": "none", "broken_item": "none", "folder": str(folder)} | variables
    extra = [part for name, value in given.items() for part in ("-e", f"{name}={value}")]
    inventory = ("-i", "seoul,busan,", "-c", "local", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        ["ansible-playbook", *inventory, *extra, *arguments, str(folder / "play.yml")],
        cwd=REPO,
        env=environment | {"ANSIBLE_FORCE_COLOR": "0", "KOREN_LOG_FOLDER": str(folder / "log")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stdout, sorted(folder.glob("log/*.log"))


def test_a_run_is_a_line_a_stage_and_the_log_has_the_rest(tmp_path: Path) -> None:
    shown, (log,) = play(tmp_path)
    assert re.search(r"^\[ 1/3\] Clusters +0:\d\d  changed on 2 hosts$", shown, re.MULTILINE)
    assert re.search(r"^\[ 3/3\] Functions +0:\d\d$", shown, re.MULTILINE)
    assert "Nothing to do" not in shown
    assert {"seoul is ready", "busan is ready", "done"} <= set(shown.splitlines())
    assert not re.search("Write a file|Try something|not yet|ERROR", shown)
    assert f"The whole output is in {log}" in shown
    whole = log.read_text()
    assert "TASK [Write a file]" in whole and "changed: [seoul]" in whole and "not yet" in whole
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["broken", "broken_item"])
def test_a_failure_is_shown_in_full_with_its_task(tmp_path: Path, kind: str) -> None:
    shown, _ = play(tmp_path, **{kind: "busan"})
    name = "Start it" if kind == "broken" else "Start each"
    assert shown.count(f"TASK [{name}]") == 1
    assert re.search(r"^(fatal|failed): \[busan\]", shown, re.MULTILINE)
    assert "FAILED in site:\n  busan failed at" in shown


def test_check_mode_shows_what_would_change(tmp_path: Path) -> None:
    shown, _ = play(tmp_path, "--check", "--diff")
    assert shown.count("TASK [Write a file]") == 1
    assert shown.count("\n+new\n") == 2
    assert {"changed: [seoul]", "changed: [busan]"} <= set(shown.splitlines())


def test_more_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    shown, logs = play(tmp_path, "-v")
    assert "TASK [Write a file] ***" in shown and "changed: [seoul] => " in shown
    assert logs == []


def test_old_logs_go(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for number in range(25):
        (tmp_path / f"log/20200101T0000{number:02}-site-1.log").write_text("old")
    _, logs = play(tmp_path)
    assert len(logs) == 20 and logs[0].name.startswith("20200101T000006")
