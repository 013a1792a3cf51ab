# SPDX-License-Identifier: Apache-2.0
"""tests/run, with programs that stand in for what it calls: what is run in which order, and what it says in the end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCENARIOS = ("base", "default", "nfv", "openstack", "redis")
OF_SCENARIOS = [f"molecule/{name}" for name in SCENARIOS if name != "default"]
# In the order in which they are run.
OF_SUITES = [
    f"unit/{name}"
    for name in ("gateway", "runtime", "events", "faas", "collection", "report-incident", "detector", "scenes")
]
# What tests/run waits for in the output of a playbook, and what it looks for.
PLAYBOOK = r"""
changed=0 code=0
[ -z "${ANSIBLE_STRATEGY-}" ] || echo "strategy $ANSIBLE_STRATEGY" >>"$STATE/calls"
case "$*" in
  *inventory-without-busan*)
    [ -e "$STATE/cut" ] || {
      touch "$STATE/cut"
      # In a session of its own, with the arguments of who forked it; and one of another site.
      for site in ${FORKS+"$3" "${3}9"}; do
        setsid bash -c 'echo $$ >>"$STATE/forked"; while :; do /bin/sleep 0.1; done' site.yml -e "$site" &
        until grep -qx "$!" "$STATE/forked"; do /bin/sleep 0.1; done
      done
      echo 'Initialise the control plane'
      exec /bin/sleep 60
    }
    ;;
  *redis_maxmemory*)
    printf '%s\n' '-    "fps": 3,' '+    "fps": "2",' -SystemMaxUse=256M +SystemMaxUse=255M
    printf '%s\n' '-maxmemory 512mb' '+maxmemory 77mb'
    ;;
  *--check* | *--limit*) ;;
  'site.yml -e site_name='*)
    [ -e "$STATE/added" ] || {
      changed=1 code=2
      printf 'FAILED in seoul:\n  seoul-cp unreachable at it\n'
    }
    touch "$STATE/added"
    ;;
esac
for host in busan-cp central-cp; do echo "$host : ok=9 changed=$changed failed=0 "; done
exit "$code"
"""
FAILING = '[ "$(basename "$0") $*" != "${FAILING-}" ]\n'


@dataclass
class Checkout:
    """A checkout of stand-ins; `ran` are the lines of what the last run called."""

    folder: Path

    @property
    def ran(self) -> list[str]:
        return (self.folder / ".state/calls").read_text().splitlines()

    def run(self, *steps: str, **environment: str) -> subprocess.CompletedProcess[str]:
        state = self.folder / ".state"
        shutil.rmtree(state, ignore_errors=True)
        (state / "bundle").mkdir(parents=True)
        (state / "bundle/apt").symlink_to("/nowhere/apt/0123")
        known = {name: value for name, value in os.environ.items() if name not in ("CI",) and "KOREN" not in name}
        cache = self.folder.parent / "cache"
        return subprocess.run(
            ["bash", "tests/run", *steps],
            cwd=self.folder,
            env=known | {"XDG_CACHE_HOME": str(cache), "STATE": str(state)} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def places(self, *calls: str) -> list[int]:
        return [next(number for number, line in enumerate(self.ran) if line.startswith(call)) for call in calls]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "checkout"
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (folder / "tests").mkdir()
    for name in ("run", "steps.py"):
        shutil.copy(REPO / "tests" / name, folder / "tests")
    for name in SCENARIOS:
        (folder / "molecule" / name).mkdir(parents=True)
        (folder / "molecule" / name / "molecule.yml").write_text("---\n")
    for app in ("events", "gateway", "runtime", "faas", "console", "detector", "scenes", "report-incident"):
        (folder / "apps" / app).mkdir(parents=True)
    (folder / "inventories/local").mkdir(parents=True)
    (folder / "inventories/local/hosts.yml").write_text("seoul-w1: {}\nbusan: {}\n")
    for name in ("apps/report-incident", "apps/report-incident/tests", "bundle/clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "requirements.txt").write_text("x\n")
    (folder / "requirements.txt").write_text("pytest==1\n")
    (folder / ".gitignore").write_text("/.state/\n/.venv/\n")
    called = 'echo "$(basename "$0") $*" >>"$STATE/calls"\n'
    quiet = {
        "sleep": "",
        "podman": "",
        "dpkg-deb": "",
        "sha256sum": "cat >/dev/null; echo 0000000000000000",
    }
    stand_ins = quiet | {
        "dpkg-query": "echo installed",
        "ansible": "echo hosts; echo one",
        "ansible-playbook": called + PLAYBOOK,
        "python": f'[ "$2" != pytest ] || {{ echo "python $*" >>"$STATE/calls"; exit 0; }}\nexec {sys.executable} "$@"',
    }
    for name in ("molecule", "pytest", "yamllint", "ruff", "mypy", "ansible-lint", "antsibull-changelog", "mkdocs"):
        stand_ins[name] = called + FAILING
    stand_ins["pytest"] += """[ -z "${KOREN_LONG_TABLE-}" ] || echo 'a test  passed  1 s' >>"$KOREN_LONG_TABLE"\n"""
    stand_ins["pytest"] += """[ -z "${KOREN_BENCH_OUT-}" ] || echo '{"lost": 0}' >"$KOREN_BENCH_OUT"\n"""
    for name, text in stand_ins.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    for name in ("functions", "scenes"):
        environment = tmp_path / f"cache/koren-faas/environments/{name}-0000000000000000"
        (environment / "bin").mkdir(parents=True)
        (environment / ".ready").touch()
        shutil.copy(programs / "python", environment / "bin")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return Checkout(folder)


def test_what_matters_most_is_first_and_the_figures_are_on_a_line_of_their_own(checkout: Checkout) -> None:
    done = checkout.run()

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" passed, 0 failed, 0 skipped")
    assert done.stdout.splitlines()[-1].split()[0].isdigit()
    reset, shared, openstack, nfv = checkout.places(
        "ansible-playbook playbooks/reset.yml",
        "molecule test --all --exclude openstack --exclude nfv",
        "molecule test --scenario-name openstack",
        "molecule test --scenario-name nfv",
    )
    assert reset < min(shared, openstack) and openstack < nfv
    assert max(checkout.places("ruff", "python -m pytest")) < reset


def test_what_a_killed_run_has_forked_ends_and_nothing_of_another_site(checkout: Checkout) -> None:
    done = checkout.run("site", FORKS="1")

    assert done.returncode == 0, done.stdout
    own, other = (int(pid) for pid in (checkout.folder / ".state/forked").read_text().split())
    # Of one that has ended, at most its number is left.
    arguments = [Path(f"/proc/{pid}/cmdline") for pid in (own, other)]
    with contextlib.suppress(FileNotFoundError):
        assert arguments[0].read_text() == ""
    assert re.search(r"\0site_name=test\d+9\0", arguments[1].read_text())
    os.kill(other, signal.SIGKILL)


def test_what_has_passed_with_these_inputs_is_not_run_again(checkout: Checkout) -> None:
    checkout.run()
    again = checkout.run()

    assert again.returncode == 0
    (told,) = [line for line in again.stdout.splitlines() if line.startswith("Skipped, because nothing has changed")]
    assert set(told.split(": ")[1].split()) == {"lint", *OF_SUITES, *OF_SCENARIOS}
    assert again.stdout.splitlines()[-1].endswith(
        f" passed, 0 failed, {1 + len(OF_SUITES) + len(OF_SCENARIOS)} skipped"
    )
    assert not any(line.startswith(("molecule", "ruff", "pytest -q tests/unit", "python -m")) for line in checkout.ran)
    assert checkout.places("ansible-playbook playbooks/verify.yml", "pytest -q --durations=10 tests/e2e"), "always run"

    (checkout.folder / "molecule/redis/converge.yml").write_text("changed\n")
    changed = checkout.run()
    # Lint and the suite of the collection, too, are about such a file.
    assert changed.stdout.splitlines()[-1].endswith(" passed, 0 failed, 10 skipped")
    assert "molecule test --all --exclude openstack --exclude nfv --exclude base" in checkout.ran
    assert "pytest -q tests/unit" in checkout.ran and "ruff check ." in checkout.ran
    assert not any(line.startswith("python -m pytest") for line in checkout.ran)

    assert checkout.run(KOREN_TEST_ALL="1").stdout.splitlines()[-1].endswith(" 0 failed, 0 skipped")


def test_a_change_of_an_app_runs_its_own_suite(checkout: Checkout) -> None:
    checkout.run("lint", "unit")
    (checkout.folder / "apps/faas/module.py").write_text("changed\n")
    (checkout.folder / "apps/other/tests").mkdir(parents=True)
    (checkout.folder / "apps/other/tests/test_it.py").write_text("new\n")
    changed = checkout.run()

    ran = [line.split()[2] for line in changed.stdout.splitlines() if " unit " in line and line.endswith("begins")]
    assert ran == ["faas", "other"], "an app that is new is tested, too"


def test_suites_are_run_in_the_order_of_what_they_matter(checkout: Checkout) -> None:
    checkout.run("unit")
    logs = checkout.folder / ".state/test-logs/passed"

    assert [line.removeprefix("unit ") for line in logs.read_text().splitlines() if line.startswith("unit ")] == [
        name.removeprefix("unit/") for name in OF_SUITES
    ]


def test_a_step_that_is_asked_for_by_name_is_always_run(checkout: Checkout) -> None:
    checkout.run("nfv")
    checkout.run("nfv", KOREN_TEST_DEADLINE_S="0")

    assert checkout.ran == ["molecule test --scenario-name nfv"]


def test_what_there_is_no_time_for_is_named(checkout: Checkout) -> None:
    late = checkout.run(KOREN_TEST_DEADLINE_S="0")

    assert late.returncode == 0
    (told,) = [line for line in late.stdout.splitlines() if line.startswith("NOT RUN, ")]
    assert set(told.split(": ")[1].split()) == {"lint", *OF_SUITES, *OF_SCENARIOS}
    assert late.stdout.splitlines()[-1].endswith(f" passed, 0 failed, {1 + len(OF_SUITES) + len(OF_SCENARIOS)} skipped")
    assert not any(line.startswith(("molecule", "ruff", "python -m")) for line in checkout.ran)
    assert checkout.places("ansible-playbook playbooks/verify.yml"), "it always runs"


def test_only_where_ci_runs_it_there_is_a_deadline_by_itself(checkout: Checkout) -> None:
    record = checkout.folder.parent / "cache/koren-faas/passed/molecule-redis/earlier.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"seconds": 100000, "pace_s": 0.1}')

    assert "NOT RUN, because the deadline is too close: molecule/redis\n" in checkout.run(CI="true").stdout
    assert "NOT RUN" not in checkout.run(CI="true", KOREN_TEST_DEADLINE_S="").stdout
    assert "NOT RUN" not in checkout.run(KOREN_TEST_ALL="1").stdout


def test_a_scenario_that_fails_leaves_no_record_and_its_hosts_go(checkout: Checkout) -> None:
    failing = "molecule test --all --exclude openstack --exclude nfv"
    failed = checkout.run("molecule", FAILING=failing)

    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    assert checkout.ran == [failing, "molecule destroy --all"]
    again = checkout.run()
    assert failing in checkout.ran and again.returncode == 0


def test_what_fails_beside_is_found(checkout: Checkout) -> None:
    failed = checkout.run(FAILING="molecule test --scenario-name openstack")

    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1].split(", ")[1:] == ["1 failed", "0 skipped"]
    assert "molecule destroy --scenario-name openstack" in checkout.ran
    assert "molecule test --scenario-name nfv" not in checkout.ran


@pytest.mark.parametrize(("step", "file"), [("soak", "soak.py"), ("bench-peers", "bench_peers.py")])
def test_a_step_about_the_running_site_ends_with_its_figures(checkout: Checkout, step: str, file: str) -> None:
    done = checkout.run(step)

    assert done.stdout.splitlines()[-1] == '{"lost": 0}'
    assert checkout.ran == [f"pytest -q -o python_files={file} tests/e2e"]


def test_long_tests_run_all_that_has_passed_and_a_site_with_faults_and_fuzzing(checkout: Checkout) -> None:
    checkout.run("molecule", "openstack", "nfv")
    long = checkout.run("all", "long", "fuzz", CI="true", KOREN_TEST_ALL="1", KOREN_TEST_DEADLINE_S="")

    lines = long.stdout.splitlines()
    assert lines[-1].endswith(" 0 failed, 0 skipped"), long.stdout
    assert "a test  passed  1 s" in lines, "the table of long tests"
    faults, soak, reset, upgrade = (
        len(checkout.ran) - 1 - checkout.ran[::-1].index(line)
        for line in (
            "pytest -q -m long tests/e2e",
            "pytest -q -o python_files=soak.py tests/e2e",
            next(line for line in reversed(checkout.ran) if line.startswith("ansible-playbook playbooks/reset.yml")),
            "pytest -q -m long tests/e2e/test_upgrade.py",
        )
    )
    assert faults < soak < reset < upgrade
    assert "strategy linear" in checkout.ran
    assert checkout.ran.count("python -m pytest -q -m fuzz or hypothesis tests") == 6
