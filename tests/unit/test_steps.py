# SPDX-License-Identifier: Apache-2.0
"""Which steps of tests/run are run: by what they depend on, by what has passed, by the time that is left."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("steps", REPO / "tests/steps.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["steps"] = module
    spec.loader.exec_module(module)
    return module


steps = _load()
BUNDLE = {"apt": "a1", "gateway": "g1", "host-image": "h1", "etcd": "e1", "models": "m1", "sns": "s1"}
SUITES = ("collection", "gateway", "runtime", "events", "faas", "detector", "report-incident", "scenes")


def write(repo: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    write(
        folder,
        {
            ".gitignore": "/.state/\n",
            "requirements.txt": "ansible==1\n",
            "inventories/local/hosts.yml": "koren.faas.gateway\n",
            "plugins/modules/thing.py": "pass\n",
            "molecule/default/create.yml": "- role: koren.faas.host_base\n",
            "molecule/redis/converge.yml": "- role: koren.faas.redis\n",
            "molecule/redis/test_redis.py": 'site.playbook("playbooks/renew.yml")\n',
            "molecule/sns/converge.yml": "- role: koren.faas.sns\n",
            "roles/host_base/tasks/main.yml": "- apt\n",
            "roles/redis/tasks/main.yml": "- ansible.builtin.include_role: {name: koren.faas.push}\n",
            "roles/push/tasks/main.yml": "- copy\n",
            "roles/sns/tasks/main.yml": "- {src: '{{ bundle_view }}/etcd'}\n",
            "roles/gateway/tasks/main.yml": "- deploy\n",
            "playbooks/renew.yml": "- role: koren.faas.certificates\n",
            "roles/certificates/tasks/main.yml": "- sign\n",
            "README.md": "koren_scenes\n",
            "changelogs/fragments/1.yml": "---\n",
            "docs/roles.md": "roles\n",
            "pyproject.toml": "[tool.pytest]\n",
            "bundle/clips/requirements.txt": "sumo==1\n",
            "bundle/sns/build.sh": "npm\n",
            "tests/run": 'KOREN_MODELS="$bundle/models"\n',
            "tests/steps.py": "pass\n",
            "tests/unit/test_thing.py": "import koren_events\n",
            "tests/e2e/test_site.py": "pass\n",
            "apps/events/src/koren_events/event.py": "pass\n",
            "apps/events/pyproject.toml": "[project]\n",
            "apps/events/tests/test_event.py": "from koren_events import event\n",
            "apps/gateway/src/koren_gateway/intake.py": "from koren_events import event\n",
            "apps/gateway/tests/lab.py": 'BUNDLE = ROOT / ".state/bundle"\nPROGRAM = BUNDLE / "etcd/bin/etcd"\n'
            'ROLE = ROOT / "roles/gateway/tasks/main.yml"\n',
            "apps/runtime/src/koren_runtime/pod.py": "pass\n",
            "apps/runtime/tests/test_pod.py": 'LAB = Path(__file__).parents[2] / "gateway" / "tests"\nkoren_gateway\n',
            "apps/detector/pyproject.toml": 'dependencies = ["koren-events==0.1.0"]\n',
            "apps/detector/tests/test_clips.py": 'os.environ["KOREN_MODELS"]\n',
            "apps/report-incident/handler.py": "pass\n",
            "apps/report-incident/tests/server.py": 'BUILT = ROOT / ".state/bundle/sns"\nRECIPE = ROOT / "bundle/sns"\n'
            'SCHEMA = Path(__file__).parents[3] / "apps/events/src/koren_events/event.py"\n',
            "apps/scenes/src/koren_scenes/film.py": "pass\n",
            "apps/scenes/tests/test_server.py": 'ROLE = (Path(__file__).resolve().parents[3] / "roles") / "sns"\n',
        },
    )
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git", "-C", folder, "add", "-A"], check=True)
    return folder


def key(repo: Path, name: str = "redis", *versions: str, **built: str) -> str:
    bundle = BUNDLE | {name.replace("_", "-"): value for name, value in built.items()}
    step = name if name == "lint" or "/" in name else f"molecule/{name}"
    found: str = steps.key(repo, step, steps.files_of(repo), bundle, versions)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "molecule/redis/converge.yml",
        "molecule/default/create.yml",
        "roles/redis/tasks/main.yml",
        "roles/push/tasks/main.yml",
        "roles/host_base/tasks/main.yml",
        "roles/certificates/tasks/main.yml",
        "playbooks/renew.yml",
        "plugins/modules/thing.py",
        "inventories/local/hosts.yml",
        "requirements.txt",
        "roles/redis/files/new",
    ],
)
def test_a_change_of_an_input_changes_the_key(repo: Path, name: str) -> None:
    before = key(repo)
    write(repo, {name: "changed\n"})

    assert key(repo) != before


@pytest.mark.parametrize("name", ["roles/gateway/tasks/main.yml", "molecule/sns/converge.yml", "README.md", ".state/x"])
def test_a_change_of_something_else_does_not(repo: Path, name: str) -> None:
    before = key(repo)
    write(repo, {name: "changed\n"})

    assert key(repo) == before


def test_the_content_counts_and_not_the_commit_or_the_time(repo: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "-C", repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"], check=True)
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", repo, copy], check=True)

    assert key(copy) == key(repo)


@pytest.mark.parametrize("change", ["removed", "mode", "link"])
def test_so_do_a_removed_file_a_mode_and_a_link(repo: Path, change: str) -> None:
    before = key(repo)
    file = repo / "roles/push/tasks/main.yml"
    if change == "mode":
        file.chmod(0o755)
    else:
        file.unlink()
    if change == "link":
        file.symlink_to("elsewhere")

    assert key(repo) != before


def test_the_components_that_are_named_count(repo: Path) -> None:
    assert key(repo, "redis", apt="a2") != key(repo, "redis")
    assert key(repo, "redis", host_image="h2") != key(repo, "redis")
    assert key(repo, "redis", etcd="e2") == key(repo, "redis")
    assert key(repo, "sns", etcd="e2") != key(repo, "sns")


def test_a_scenario_that_hands_the_bundle_on_depends_on_all_of_it(repo: Path) -> None:
    write(repo, {"roles/functions/tasks/main.yml": "- run\n", "roles/redis/tasks/main.yml": "koren.faas.functions\n"})

    assert key(repo, "redis", gateway="g2") != key(repo, "redis")


# What each suite depends on beside its own folder, and some of what it does not.
INPUTS = {
    "collection": ["plugins/modules/thing.py", "roles/sns/tasks/main.yml", "docs/roles.md", "tests/unit/test_thing.py"]
    + ["apps/events/src/koren_events/event.py", "molecule/sns/converge.yml", "inventories/local/hosts.yml"],
    "events": ["apps/events/tests/test_event.py"],
    "gateway": ["apps/gateway/tests/lab.py", "apps/events/src/koren_events/event.py", "roles/gateway/tasks/main.yml"],
    "runtime": ["apps/runtime/src/koren_runtime/pod.py", "apps/gateway/tests/lab.py"]
    + ["apps/gateway/src/koren_gateway/intake.py", "apps/events/src/koren_events/event.py"],
    "detector": ["apps/detector/tests/test_clips.py", "apps/events/src/koren_events/event.py"],
    "report-incident": [
        "apps/report-incident/handler.py",
        "apps/events/src/koren_events/event.py",
        "bundle/sns/build.sh",
    ],
    "scenes": ["apps/scenes/src/koren_scenes/film.py", "roles/sns/tasks/main.yml", "bundle/clips/requirements.txt"],
}
OTHERS = {
    "collection": [
        "apps/scenes/tests/test_server.py",
        "changelogs/fragments/1.yml",
        "README.md",
        "tests/e2e/test_site.py",
    ],
    "events": ["apps/gateway/src/koren_gateway/intake.py", "plugins/modules/thing.py"],
    "gateway": ["apps/runtime/src/koren_runtime/pod.py", "apps/events/tests/test_event.py"],
    "runtime": ["apps/events/tests/test_event.py", "apps/scenes/src/koren_scenes/film.py"],
    "detector": ["apps/gateway/src/koren_gateway/intake.py"],
    "report-incident": ["apps/runtime/src/koren_runtime/pod.py"],
    "scenes": ["roles/redis/tasks/main.yml", "apps/events/src/koren_events/event.py"],
}
OF_ALL_SUITES = ["pyproject.toml", "requirements.txt", "tests/run", "tests/steps.py"]


@pytest.mark.parametrize("suite", INPUTS)
def test_a_suite_s_key_follows_its_inputs_and_nothing_else(repo: Path, suite: str) -> None:
    for name in [*INPUTS[suite], *OF_ALL_SUITES]:
        before = key(repo, f"unit/{suite}")
        write(repo, {name: (repo / name).read_text() + "\n"})
        assert key(repo, f"unit/{suite}") != before, name
    before = key(repo, f"unit/{suite}")
    write(repo, {name: "changed\n" for name in OTHERS[suite]})
    assert key(repo, f"unit/{suite}") == before


def test_lint_is_about_every_file(repo: Path) -> None:
    for name in steps.files_of(repo):
        before = key(repo, "lint")
        write(repo, {name: (repo / name).read_text() + "\n"})
        assert key(repo, "lint") != before, name


@pytest.mark.parametrize(
    ("suite", "component"), [("gateway", "etcd"), ("detector", "models"), ("report-incident", "sns"), ("faas", "apt")]
)
def test_a_suite_depends_on_the_components_that_its_tests_name(repo: Path, suite: str, component: str) -> None:
    assert key(repo, f"unit/{suite}", **{component: "other"}) != key(repo, f"unit/{suite}")
    assert key(repo, f"unit/{suite}", gateway="g2") == key(repo, f"unit/{suite}")


def test_so_it_does_on_the_host(repo: Path) -> None:
    assert key(repo, "unit/events", "mosquitto 2.0.11") != key(repo, "unit/events", "mosquitto 2.0.12")


def test_the_host_is_its_python_its_kernel_and_packages_with_what_they_depend_on() -> None:
    python, kernel, *packages = steps.host(["python3"])

    assert python.split()[1] == sys.version.split()[0] and kernel.startswith("kernel ")
    assert {"python3", "python3.11", "libc6"} <= {line.split()[0] for line in packages}
    assert all(line.split()[1:] for line in packages)
    assert steps.host(["no-such-package"]) == [python, kernel]


def files_of_the_project() -> list[str]:
    files: list[str] = steps.files_of(REPO)
    return [name for name in files if (REPO / name).is_file()]


@pytest.mark.parametrize("suite", SUITES)
def test_every_package_that_a_suite_of_the_project_imports_is_an_input(suite: str) -> None:
    files = files_of_the_project()
    found = steps.inputs(REPO, f"unit/{suite}", files)
    own = ("plugins/", "tests/unit/") if suite == "collection" else (f"apps/{suite}/",)
    assert any(name.startswith(own) for name in found)
    for name in found:
        if name.endswith(".py") and name.startswith(("apps/", *own)):
            for app in re.findall(r"^\s*(?:from|import) koren_(\w+)", (REPO / name).read_text(), re.MULTILINE):
                assert [one for one in found if one.startswith(f"apps/{app}/src/koren_{app}/")], f"{name}: {app}"


@pytest.mark.parametrize(
    ("suite", "needed"),
    [
        ("gateway", "roles/gateway/templates/objects.yaml.j2"),
        ("runtime", "apps/gateway/tests/gateway_lab.py"),
        ("report-incident", "apps/events/src/koren_events/accident.schema.json"),
        ("report-incident", "apps/events/src/koren_events/incident.schema.json"),
        ("scenes", "roles/cctv/files/server.py"),
        ("scenes", "bundle/clips/requirements.txt"),
        ("detector", "apps/detector/training/network.py"),
        ("collection", "docs/roles.md"),
    ],
)
def test_what_a_suite_of_the_project_reads_by_path_is_an_input(suite: str, needed: str) -> None:
    assert needed in steps.inputs(REPO, f"unit/{suite}", files_of_the_project())


def test_what_roles_take_from_the_bundle_is_named_on_the_line_that_says_so() -> None:
    for path in (REPO / "roles").rglob("*.yml"):
        for line in path.read_text().splitlines():
            if "bundle_push_components:" in line and path.parent.name == "tasks":
                assert "[" in line, path


def test_every_role_that_a_scenario_of_the_project_names_is_an_input() -> None:
    files = [
        str(path.relative_to(REPO))
        for folder in ("molecule", "roles", "playbooks")
        for path in (REPO / folder).rglob("*")
        if path.is_file()
    ]
    for scenario in (REPO / "molecule").glob("*/converge.yml"):
        found = steps.inputs(REPO, f"molecule/{scenario.parent.name}", files)
        for role in (REPO / "roles").iterdir():
            if f"koren.faas.{role.name}\n" in scenario.read_text():
                assert f"roles/{role.name}/tasks/main.yml" in found, scenario


def test_a_component_s_key_is_where_its_link_leads(tmp_path: Path) -> None:
    (tmp_path / "etcd").symlink_to("/cache/components/etcd/355c361e")

    assert steps.bundle_keys(tmp_path) == {"etcd": "355c361e"}
    assert steps.bundle_keys(tmp_path / "none") == {}


@pytest.fixture
def records(tmp_path: Path) -> steps.Records:  # type: ignore[name-defined]
    return steps.Records(tmp_path / "passed")


def decided(records, left_s=None, *, pace=1.0, everything=False, **keys):  # type: ignore[no-untyped-def]
    return steps.decide(keys, records, left_s, pace, everything=everything)


def test_what_passed_with_these_inputs_is_not_run_again(records) -> None:  # type: ignore[no-untyped-def]
    records.add("a", "k1", steps.Record(10, 1.0))

    assert decided(records, a="k1", b="k1") == ["unchanged a", "run k1 b"]
    assert decided(records, a="k2") == ["run k2 a"]
    assert decided(records, a="k1", everything=True) == ["run k1 a"]
    records.add("a", "k2", steps.Record(10, 1.0))
    assert decided(records, a="k1") == ["unchanged a"], "going back to what passed needs no run either"


def test_without_a_key_a_step_is_run_and_leaves_no_record(records) -> None:  # type: ignore[no-untyped-def]
    assert decided(records, a=None) == ["run - a"]
    steps.passed(["-", "a"], 10, records, 1.0)
    assert records.latest("a") is None


def test_a_record_that_was_cut_short_is_none(records, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    records.add("a", "k1", steps.Record(10, 1.0))
    (path,) = (tmp_path / "passed/a").iterdir()
    path.write_text(path.read_text()[:9])

    assert decided(records, a="k1") == ["run k1 a"]


def test_a_step_that_would_end_too_late_is_left_out_and_a_shorter_one_is_not(records) -> None:  # type: ignore[no-untyped-def]
    for name, seconds in (("a", 100), ("b", 500), ("c", 90)):
        records.add(name, "old", steps.Record(seconds, 1.0))

    assert decided(records, 200, a="k", b="k", c="k") == ["run k a", "late b", "run k c"]
    assert decided(records, 150, a="k", b="k", c="k") == ["run k a", "late b", "late c"]
    assert decided(records, -5, a="k") == ["late a"]
    assert decided(records, None, a="k", b="k") == ["run k a", "run k b"]


def test_a_slower_machine_needs_longer(records) -> None:  # type: ignore[no-untyped-def]
    records.add("a", "old", steps.Record(100, 1.0))

    assert decided(records, 150, pace=1.0, a="k") == ["run k a"]
    assert decided(records, 150, pace=2.0, a="k") == ["late a"]
    assert decided(records, 60, pace=0.5, a="k") == ["run k a"]


def test_what_passed_together_shares_the_time_by_how_long_each_should_take(records) -> None:  # type: ignore[no-untyped-def]
    records.add("a", "old", steps.Record(10, 1.0))
    records.add("b", "old", steps.Record(30, 1.0))
    steps.passed(["k", "a", "k", "b"], 80, records, 1.0)

    assert records.latest("a").seconds == 20 and records.latest("b").seconds == 60
    assert decided(records, a="k", b="k") == ["unchanged a", "unchanged b"]


def test_what_took_no_time_passed_all_the_same(records) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):
        steps.passed(["k", "a"], 0, records, 1.0)

    assert decided(records, a="k") == ["unchanged a"]


def test_records_do_not_grow_for_ever(records, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for number in range(steps.KEPT_RECORDS + 5):
        records.add("molecule/a", f"k{number}", steps.Record(number, 1.0))

    assert len(list((tmp_path / "passed/molecule-a").iterdir())) == steps.KEPT_RECORDS
    assert records.latest("molecule/a").seconds == steps.KEPT_RECORDS + 4
