# SPDX-License-Identifier: Apache-2.0
"""The role of the console, rendered for the local site: settings that the console reads, and rights that are least."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from argon2 import PasswordHasher

from koren_console.settings import Settings

REPO = Path(__file__).resolve().parents[2]
ROLE = REPO / "roles" / "console"
TRACES = "https://tempo.example/trace/{trace_id}"
TEMPLATES = ("namespace.yaml", "region.yaml", "objects.yaml")

Objects = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the site's state and what is rendered go."""
    made = tmp_path_factory.mktemp("console")
    (made / "state" / "secrets").mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def rendered(folder: Path) -> Objects:
    """The objects of each template, with the inventory's values before the role's defaults."""
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    inventory = yaml.safe_load((REPO / "inventories/local/group_vars/control_planes/console.yml").read_text())
    (folder / "defaults.json").write_text(json.dumps({k: v for k, v in defaults.items() if k not in inventory}))
    task = {
        "ansible.builtin.copy": {
            "dest": f"{folder}/{{{{ item }}}}",
            "content": f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/' ~ item ~ '.j2') }}}}",
            "mode": "0600",
        },
        "loop": list(TEMPLATES),
        "vars": {
            "console_image": "bundle.koren.internal/console:1",
            "console_trace_url": TRACES,
            "__console_pki": {"ca.crt": "YQ==", "console.crt": "Yg==", "console.key": "Yw=="},
        },
    }
    play = {
        "hosts": "central:&control_planes",
        "gather_facts": False,
        "connection": "local",
        "vars_files": [f"{folder}/defaults.json", f"{ROLE}/vars/main.yml"],
        "tasks": [task],
    }
    (folder / "play.yml").write_text(json.dumps([play]))
    subprocess.run(
        [
            f"{Path(sys.executable).parent}/ansible-playbook",
            "--inventory=inventories/local/hosts.yml",
            f"--extra-vars=site_dir={folder}/state",
            f"{folder}/play.yml",
        ],
        cwd=REPO,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0"},
        check=True,
        capture_output=True,
    )
    return {name: [one for one in yaml.safe_load_all((folder / name).read_text()) if one] for name in TEMPLATES}


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def test_the_settings_are_what_the_console_reads(rendered: Objects, tmp_path: Path) -> None:
    [config] = of_kind(rendered["objects.yaml"], "ConfigMap")
    (tmp_path / "settings.json").write_text(config["data"]["settings.json"])
    settings = Settings.load(tmp_path / "settings.json")
    assert [region.name for region in settings.regions] == ["central", "busan", "seoul"]
    assert settings.regions[2].title.ko == "서울"
    assert settings.regions[2].server == "https://10.90.11.10:6443"
    assert settings.regions[2].place is not None
    assert {camera.region for camera in settings.cameras} == {"seoul", "busan"}
    assert settings.prometheus == "https://10.90.10.10:9090"
    assert settings.alertmanager == "https://10.90.10.10:9093"
    assert settings.logs == "https://10.90.10.10:9428"
    assert settings.public_url == "https://10.90.10.10:30443"
    assert settings.trace_url == TRACES


def test_an_address_that_leads_to_no_trace_is_named_before_anything_is_done(tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROLE / "tasks" / "main.yml").read_text())
    [check] = [task for task in tasks if task["name"] == "Validate the address of traces"]
    good = ("", TRACES, "https://grafana.example/explore?traceId={trace_id}&orgId=1")
    bad = (TRACES.replace("https", "http"), "https://tempo.example/", TRACES + "/{trace_id}", "https://{trace_id}/x")
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{**check, "vars": {"console_trace_url": one}, "ignore_errors": one in bad} for one in good + bad],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = subprocess.run(
        [f"{Path(sys.executable).parent}/ansible-playbook", "--inventory=localhost,", f"{tmp_path}/play.yml"],
        cwd=REPO,
        # What failed and is ignored is in the whole output alone.
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_STDOUT_CALLBACK": "default"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"ignored={len(bad)}" in done.stdout
    for one in bad:
        assert f"console_trace_url {one} can't lead to a trace: give an https address" in done.stdout


def test_no_secret_is_in_the_settings(rendered: Objects) -> None:
    [config] = of_kind(rendered["objects.yaml"], "ConfigMap")
    assert "rtsp" not in config["data"]["settings.json"]
    assert "argon2" not in config["data"]["settings.json"]


def test_users_have_a_hash_of_the_password_that_the_controller_keeps(rendered: Objects, folder: Path) -> None:
    [login] = [one for one in of_kind(rendered["objects.yaml"], "Secret") if one["metadata"]["name"] == "console-login"]
    users = json.loads(base64.b64decode(login["data"]["users.json"]))
    assert {name: user["role"] for name, user in users.items()} == {"viewer": "viewer", "operator": "operator"}
    for name, user in users.items():
        password = (folder / f"state/secrets/console-{name}").read_text().strip()
        assert PasswordHasher().verify(user["hash"], password)
    assert users["viewer"]["hash"].split("$")[4] != users["operator"]["hash"].split("$")[4], "each has its own salt"


def test_the_pod_keeps_to_the_restricted_standard(rendered: Objects) -> None:
    [deployment] = of_kind(rendered["objects.yaml"], "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    assert deployment["spec"]["strategy"]["type"] == "Recreate"


def test_a_regions_rights_are_to_read_and_to_ask_for_the_tokens_of_two_roles(rendered: Objects) -> None:
    roles = {
        (one["metadata"]["name"], one["metadata"].get("namespace")): one["rules"]
        for one in of_kind(rendered["region.yaml"], "Role") + of_kind(rendered["region.yaml"], "ClusterRole")
    }
    reads = {"list", "watch", "get"}
    for (name, namespace), rules in roles.items():
        for rule in rules:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            if set(rule["verbs"]) - reads and rule["apiGroups"] == [""]:
                assert (name, namespace) in (("console", "koren-faas"), ("console", "koren-console"))
                assert rule["resourceNames"] in (["https:gateway:functions"], ["console-viewer", "console-operator"])
    viewer = {verb for rule in roles["console-viewer", "functions"] for verb in rule["verbs"]}
    assert viewer == {"list", "get", "logs"}
    operator = {verb for rule in roles["console-operator", "functions"] for verb in rule["verbs"]}
    assert operator - viewer == {"invoke", "redrive", "delete", "release", "dismiss", "replay"}
