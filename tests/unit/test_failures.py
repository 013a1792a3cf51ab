# SPDX-License-Identifier: Apache-2.0
"""A run in which hosts fail: the other regions go on, and its end says what failed where."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

REPO = Path(__file__).parents[2]
HERE = {
    "ansible_connection": "{{ 'ssh' if inventory_hostname in away else 'local' }}",
    "ansible_port": 1,
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}
INVENTORY = {
    "all": {
        "children": {
            "controller": {"hosts": {"localhost": HERE}},
            "site": {
                "children": {
                    "regions": {
                        "children": {
                            "central": {"hosts": {"central-cp": HERE}},
                            "edges": {
                                "children": {
                                    "seoul": {"hosts": {"seoul-cp": HERE, "seoul-w1": HERE}},
                                    "busan": {"hosts": {"busan-cp": HERE}},
                                }
                            },
                        }
                    },
                    "backbone": {"hosts": {"sns-1": HERE}},
                }
            },
            "control_planes": {"hosts": {"central-cp": {}, "seoul-cp": {}, "busan-cp": {}}},
            "workers": {"hosts": {"seoul-w1": {}}},
            "sns": {"hosts": {"sns-1": {}}},
        }
    }
}
# A play for all; one for a single host; one for all again. Then what site.yml ends with.
SITE = """
- hosts: site
  gather_facts: false
  tasks:
    - name: Install
      ansible.builtin.fail: {msg: "no room on {{ inventory_hostname }}"}
      when: inventory_hostname in broken
    - name: Try twice
      block: [{ansible.builtin.fail: {msg: first}}]
      rescue: [{ansible.builtin.debug: {msg: second}}]
- hosts: site
  gather_facts: false
  pre_tasks:
    - ansible.builtin.import_tasks: REPO/playbooks/tasks/only.yml
      vars: {only: sns}
  tasks:
    - name: Serve posts
      ansible.builtin.fail: {msg: "port taken\nby another"}
      when: inventory_hostname in alone
    - ansible.builtin.file: {path: "{{ marks }}/only-{{ inventory_hostname }}", state: touch, mode: "0600"}
- hosts: site
  gather_facts: false
  tasks:
    - name: Mark
      ansible.builtin.file: {path: "{{ marks }}/{{ inventory_hostname }}", state: touch, mode: "0600"}
- hosts: controller
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {functions_problem: "{{ problem }}"}
- ansible.builtin.import_playbook: REPO/playbooks/summary.yml
"""


def run(folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    marks = folder / "marks"
    marks.mkdir()
    (folder / "hosts.yml").write_text(json.dumps(INVENTORY))
    (folder / "site.yml").write_text(SITE.replace("REPO", str(REPO)))
    given = {
        "broken": [],
        "alone": [],
        "away": [],
        "problem": "",
        "marks": str(marks),
        "site_dir": str(folder),
        "ansible_control_path_dir": str(folder),
    } | variables
    return subprocess.run(
        ["ansible-playbook", "-i", folder / "hosts.yml", folder / "site.yml", "-e", json.dumps(given)],
        cwd=REPO,
        env=os.environ | {"ANSIBLE_FORCE_COLOR": "0", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def end_of(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout[done.stdout.index("PLAY RECAP") :]


def marked(folder: Path) -> set[str]:
    return {file.name for file in (folder / "marks").iterdir()}


def test_what_fails_stops_no_other_region_and_the_end_names_it(tmp_path: Path) -> None:
    done = run(tmp_path, broken=["seoul-cp"], alone=["sns-1"], problem="seoul does not answer.")
    assert done.returncode == 2, done.stdout
    # A play of a single host that fails would end the run.
    assert marked(tmp_path) == {"central-cp", "busan-cp", "seoul-w1"}
    end = end_of(done)
    assert "FAILED in seoul:\n  seoul-cp failed at 'Install': no room on seoul-cp" in end
    assert "sns-1 failed at 'Serve posts': port taken by another" in end
    assert "These hosts do not match the inventory: seoul-cp, sns-1. Not every region has its functions" in end
    assert "functions: seoul does not answer. The end" in end
    assert "first" not in end, "what was rescued is no failure"


def test_a_host_that_is_unreachable_ends_a_run_with_the_same_code(tmp_path: Path) -> None:
    done = run(tmp_path, away=["busan-cp"])
    assert done.returncode == 2, done.stdout
    assert marked(tmp_path) == {"only-sns-1", "central-cp", "seoul-cp", "seoul-w1", "sns-1"}
    assert "FAILED in busan:\n  busan-cp unreachable at 'Mark': " in end_of(done)


def test_a_run_without_failures_says_nothing_of_them(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "FAILED in" not in done.stdout
    assert "do not match the inventory" not in done.stdout
