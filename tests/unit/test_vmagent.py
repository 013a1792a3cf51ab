# SPDX-License-Identifier: Apache-2.0
"""What each region's agent is told to collect, and the centre's server to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
SERVER_TOOL = REPO / ".state/bundle/prometheus/bin/promtool"
AGENT = REPO / ".state/bundle/vmagent/bin/vmagent"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of the centre's agent and of a region's, as files named after their hosts."""
    target = tmp_path_factory.mktemp("settings")
    role = REPO / "roles/vmagent"
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
    inventory = yaml.safe_load((REPO / "inventories/local/group_vars/control_planes/vmagent.yml").read_text("utf-8"))
    play = [
        {
            "hosts": "central-cp:seoul-cp",
            "gather_facts": False,
            "vars_files": [str(role / "vars/main.yml")],
            "vars": {name: value for name, value in defaults.items() if name not in inventory},
            "tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(role / "templates/scrape.yml.j2"),
                        "dest": f"{target}/{{{{ inventory_hostname }}}}.yml",
                        "mode": "0644",
                    },
                    "delegate_to": "localhost",
                },
                {
                    "ansible.builtin.template": {
                        "src": str(REPO / "roles/prometheus/templates/prometheus.yml.j2"),
                        "dest": f"{target}/prometheus.yml",
                        "mode": "0644",
                    },
                    "delegate_to": "localhost",
                    "run_once": True,
                    "vars": {"prometheus_interval_s": 15, "prometheus_retention_days": 15},
                },
            ],
        }
    ]
    book = target / "render.yml"
    book.write_text(json.dumps(play), encoding="utf-8")
    subprocess.run(
        ["ansible-playbook", "--inventory=inventories/local", str(book)],
        check=True, cwd=REPO, capture_output=True, env=os.environ | {"ANSIBLE_LOCALHOST_WARNING": "False"},
    )  # fmt: skip
    return target


def _jobs(settings: Path, host: str) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load((settings / f"{host}.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert len({job["job_name"] for job in found}) == len(found)
    return {job["job_name"]: job for job in found}


def _region(job: dict[str, Any]) -> set[str]:
    static = {one["labels"]["region"] for one in job.get("static_configs", [])}
    return static | {
        rule["replacement"] for rule in job.get("relabel_configs", []) if rule.get("target_label") == "region"
    }


def test_every_job_of_a_region_carries_its_name(settings: Path) -> None:
    jobs = _jobs(settings, "seoul-cp")
    assert {name: _region(job) for name, job in jobs.items()} == {name: {"seoul"} for name in jobs}
    assert set(jobs) >= {"node", "kubelet", "containers", "apiserver", "etcd", "coredns", "keda", "gateway", "cluster"}


def test_the_centre_watches_its_own_services_and_the_hosts_of_no_region(settings: Path) -> None:
    jobs = _jobs(settings, "central-cp")
    assert set(jobs) - set(_jobs(settings, "seoul-cp")) == {"prometheus", "alertmanager", "logs", "detector"}
    assert {job["scheme"] for name, job in jobs.items() if name in ("prometheus", "alertmanager", "logs")} == {"https"}
    assert _region(jobs["node"]) == {"central", "backbone"}


def test_every_job_says_what_of_it_is_used(settings: Path) -> None:
    for name, job in _jobs(settings, "central-cp").items():
        keep = [rule for rule in job["metric_relabel_configs"] if rule.get("action") == "keep"]
        assert len(keep) == 1, name
        assert re.compile(keep[0]["regex"])


def test_a_kubelet_is_known_by_its_certificate_and_shown_a_token_for_figures_only(settings: Path) -> None:
    jobs = _jobs(settings, "seoul-cp")
    assert not [name for name, job in jobs.items() if (job.get("tls_config") or {}).get("insecure_skip_verify")]
    for name in ("kubelet", "containers"):
        assert jobs[name]["tls_config"] == {"ca_file": "/etc/koren/pki/ca.crt"}
        assert jobs[name]["bearer_token_file"] == "/etc/vmagent/cluster/kubelet-token"
    # The API server itself is known by the cluster's authority.
    for job in jobs.values():
        for discovery in job.get("kubernetes_sd_configs", []):
            assert discovery["tls_config"] == {"ca_file": "/etc/vmagent/cluster/ca.crt"}


@pytest.mark.skipif(not AGENT.exists(), reason="the bundle is not built")
@pytest.mark.parametrize("host", ["central-cp", "seoul-cp"])
def test_the_agent_takes_its_settings(settings: Path, host: str) -> None:
    done = subprocess.run(
        [AGENT, "-dryRun", f"-promscrape.config={settings}/{host}.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not SERVER_TOOL.exists(), reason="the bundle is not built")
def test_the_server_takes_its_settings_and_scrapes_nothing(settings: Path) -> None:
    file = settings / "prometheus.yml"
    done = subprocess.run([SERVER_TOOL, "check", "config", file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scrape_configs" not in yaml.safe_load(file.read_text(encoding="utf-8"))
