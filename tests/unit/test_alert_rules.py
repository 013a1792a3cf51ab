# SPDX-License-Identifier: Apache-2.0
"""Every alert rings when it should and not when it should not, leads to a runbook, and reads what is collected."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from koren_gateway.metrics import Metrics

REPO = Path(__file__).parents[2]
ROLE = REPO / "roles" / "prometheus"
CASES = sorted((Path(__file__).parent / "rules").glob("*.yml"))
# Which job of vmagent has what a program outside of this project tells.
FOREIGN = {
    "node_": "node",
    "prometheus_": "prometheus",
    "alertmanager_": "alertmanager",
    "vm_persistentqueue_": "vmagent",
    "vmagent_": "vmagent",
    "mqtt2prometheus_": "mosquitto",
    "haproxy_": "ingress",
}


def promtool() -> str:
    """Prometheus' tool: the bundle's, or that of this machine."""
    built = REPO / ".state" / "bundle" / "prometheus" / "bin" / "promtool"
    found = str(built) if built.exists() else shutil.which("promtool")
    if not found:
        pytest.fail("there is no promtool; run make bundle")
    return found


@pytest.fixture(scope="session")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files of rules as the centre has them."""
    folder = tmp_path_factory.mktemp("rules")
    names = [path.name.removesuffix(".j2") for path in (ROLE / "templates").glob("*.rules.yml.j2")]
    expected = {"central-cp": "central", "seoul-cp": "seoul", "seoul-w1": "seoul", "sns-1": "backbone"}
    values = {
        "prometheus_interval_s": 15,
        "prometheus_retention_days": 15,
        "prometheus_expected": [{"name": name, "region": region} for name, region in expected.items()],
    }
    task = {
        "ansible.builtin.template": {"src": f"{ROLE}/templates/{{{{ item }}}}.j2", "dest": f"{folder}/{{{{ item }}}}"},
        "loop": names,
    }
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": values, "tasks": [task]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    program = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [program, "-i", "localhost,", folder / "play.yml"], cwd=REPO, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "play.yml").unlink()
    for path in (ROLE / "files").glob("*.rules.yml"):
        shutil.copy(path, folder)
    return folder


def all_rules(folder: Path) -> list[dict[str, Any]]:
    """Every rule of every file."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.rules.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_an_alert_rings_when_it_should_and_only_then(path: Path, rules: Path) -> None:
    # promtool compares whole alerts: the texts are left out, the labels are what this is about.
    case = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in case["rule_files"]:
        file = yaml.safe_load((rules / name).read_text(encoding="utf-8"))
        for group in file["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
        (rules / f"plain-{name}").write_text(yaml.safe_dump(file))
    case["rule_files"] = [f"plain-{name}" for name in case["rule_files"]]
    tested = rules / f"test-{path.name}"
    tested.write_text(yaml.safe_dump(case))
    try:
        done = subprocess.run(
            [promtool(), "test", "rules", tested], cwd=rules, check=False, capture_output=True, text=True
        )
    finally:
        for made in (tested, *rules.glob("plain-*")):
            made.unlink()
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_of_rules_is_one_that_promtool_takes(rules: Path) -> None:
    done = subprocess.run(
        [promtool(), "check", "rules", *sorted(rules.glob("*.rules.yml"))], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_rings_and_one_in_which_it_does_not(rules: Path) -> None:
    rings: set[tuple[str, str]] = set()
    quiet: set[str] = set()
    for path in CASES:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", ()):
                rings |= {(case["alertname"], alert["exp_labels"]["severity"]) for alert in case["exp_alerts"]}
                if not case["exp_alerts"]:
                    quiet.add(case["alertname"])
    alerts = [rule for rule in all_rules(rules) if "alert" in rule]
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in alerts} == rings
    assert {rule["alert"] for rule in alerts} - quiet == {"Watchdog"}


def test_every_alert_says_how_bad_it_is_and_leads_to_its_runbook(rules: Path) -> None:
    text = (REPO / "docs" / "runbooks.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    alerts = {rule["alert"]: rule for rule in all_rules(rules) if "alert" in rule}
    assert list(sections) == sorted(alerts), "docs/runbooks.md has a section for each alert, by name, and no other"
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning") or name == "Watchdog", name
        assert rule["annotations"]["summary"].strip(), name
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert part in sections[name], f"the runbook of {name} has no {part}"


def test_the_reference_has_every_alert_with_its_severities(rules: Path) -> None:
    severities: dict[str, set[str]] = {}
    for rule in all_rules(rules):
        if "alert" in rule:
            severities.setdefault(rule["alert"], set()).add(rule["labels"]["severity"])
    text = (REPO / "docs" / "reference" / "alerts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(\.\./runbooks\.md#(\w+)\) \| ([\w ]+) \|", text, re.M)
    assert {name: set(severity.split(" or ")) for name, _, severity in rows} == severities
    assert all(anchor == name.lower() for name, anchor, _ in rows)


def exported() -> set[str]:
    """The metrics that programs of this project tell of."""
    found = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    for metric in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
        found |= {metric.name + suffix for suffix in suffixes}
    spec = importlib.util.spec_from_file_location(
        "detector_metrics", REPO / "apps/detector/src/koren_detector/metrics.py"
    )
    assert spec and spec.loader
    detector = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(detector)
    for value in vars(detector).values():
        if isinstance(value, MetricWrapperBase):
            for metric in value.describe():
                found |= {metric.name, f"{metric.name}_total"}
    template = (REPO / "roles/mosquitto/templates/mqtt-exporter.yaml.j2").read_text(encoding="utf-8")
    found |= {f"mosquitto_{name}" for name in re.findall(r"^  \('(\w+)', '", template, re.M)}
    # Host programs write theirs as text.
    for path in (REPO / "roles").glob("*/files/koren-*"):
        found |= set(re.findall(r"\bkoren_\w+", path.read_text(encoding="utf-8")))
    return found


def metrics_of(expression: str) -> set[str]:
    """The metrics' names in an expression; those that rules record have colons."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w:.])[a-z_][\w:]*+(?!\s*\()", bare)
    return {word for word in words if word == "up" or re.search("[_:]", word)} - {"group_left", "group_right"}


def test_rules_read_only_what_is_exported_and_collected(rules: Path) -> None:
    kept = yaml.safe_load((REPO / "roles/vmagent/vars/main.yml").read_text(encoding="utf-8"))["__vmagent_kept"]
    patterns = {job: re.compile("|".join(names)) for job, names in kept.items()}
    ours = exported()
    records = {rule["record"] for rule in all_rules(rules) if "record" in rule}
    wrong = []
    for rule in all_rules(rules):
        for name in metrics_of(rule["expr"]) - {"up"}:
            if ":" in name:
                if name not in records:
                    wrong.append(f"{name}: no rule records it")
                continue
            jobs = [job for prefix, job in FOREIGN.items() if name.startswith(prefix)] or list(patterns)
            if name not in ours and jobs == list(patterns):
                wrong.append(f"{name}: nothing exports it")
            if not any(patterns[job].fullmatch(name) for job in jobs):
                wrong.append(f"{name}: job {', '.join(jobs)} does not keep it")
    assert sorted(set(wrong)) == []


def test_what_a_rule_reads_is_found_in_its_expression() -> None:
    expression = 'sum by (region) (rate(a_total{b_c="d_e"}[5m])) / on (x_y) group_left koren:slo:allowed > up'
    assert metrics_of(expression) == {"a_total", "koren:slo:allowed", "up"}
