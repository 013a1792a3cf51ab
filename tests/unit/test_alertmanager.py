# SPDX-License-Identifier: Apache-2.0
"""Who is told of which alert, as Alertmanager's own tool says; a receiver that lacks something is refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
ROLE = REPO / "roles" / "alertmanager"
RECEIVERS = [
    {"name": "hook", "type": "webhook", "url": "https://hook.example.org/a", "bearer": "not-in-a-file"},
    {
        "name": "mail",
        "type": "email",
        "smarthost": "mail.example.org:587",
        "from": "a@example.org",
        "to": "b@example.org",
        "user": "u",
        "password": "not-in-a-file",
        "severities": ["critical"],
    },
    {"name": "chat", "type": "slack", "url": "https://slack.example.org/not-in-a-file", "channel": "#koren"},
]


def play(tasks: list[dict[str, Any]], folder: Path, **values: Any) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine with the role's variables."""
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    found: dict[str, Any] = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": defaults
        | {"ansible_host": "127.0.0.1"}
        | yaml.safe_load((ROLE / "vars/main.yml").read_text())
        | values,
        "tasks": tasks,
    }
    path = folder / "play.yml"
    path.write_text(yaml.safe_dump([found]))
    program = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [program, "-i", "localhost,", path], cwd=REPO, check=False, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="session")
def amtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alertmanager's tool, of the package that the centre gets."""
    packages = sorted((REPO / ".state/bundle/apt/region").glob("prometheus-alertmanager_*.deb"))
    if not packages:
        pytest.fail("there is no package of Alertmanager; run make bundle")
    folder = tmp_path_factory.mktemp("alertmanager")
    subprocess.run(["dpkg-deb", "--extract", packages[0], folder], check=True)
    return folder / "usr/bin/amtool"


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alertmanager's settings for receivers of each type; its files are beside it."""
    folder = tmp_path_factory.mktemp("settings")
    template = {"src": f"{ROLE}/templates/{{{{ item }}}}.j2", "dest": f"{folder}/{{{{ item }}}}"}
    task = {"ansible.builtin.template": template, "loop": ["alertmanager.yml", "koren.tmpl"]}
    watchdog = {"url": "https://dead.example.org/b", "bearer": "not-in-a-file"}
    done = play([task], folder, alertmanager_receivers=RECEIVERS, alertmanager_watchdog=watchdog)
    assert done.returncode == 0, done.stdout + done.stderr
    path = folder / "alertmanager.yml"
    path.write_text(path.read_text().replace("/etc/prometheus/alertmanager/koren.tmpl", str(folder / "koren.tmpl")))
    return path


def test_alertmanager_takes_its_settings_and_they_hold_no_secret(amtool: Path, settings: Path) -> None:
    subprocess.run([amtool, "check-config", settings], check=True, capture_output=True)
    assert "not-in-a-file" not in settings.read_text()


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        (["alertname=Watchdog", "severity=none"], {"webhook_configs"}),
        (["alertname=RedisDown", "severity=critical"], {"webhook_configs", "email_configs", "slack_configs"}),
        (["alertname=BridgeDown", "severity=warning"], {"webhook_configs", "slack_configs"}),
        (["alertname=Other", "severity=none"], set()),
    ],
)
def test_each_severity_reaches_whom_it_should(amtool: Path, settings: Path, labels: list[str], kinds: set[str]) -> None:
    routed = [amtool, "config", "routes", "test", f"--config.file={settings}", *labels]
    name = subprocess.run(routed, check=True, capture_output=True, text=True).stdout.strip()
    (receiver,) = [one for one in yaml.safe_load(settings.read_text())["receivers"] if one["name"] == name]
    assert set(receiver) - {"name"} == kinds
    if name == "watchdog":
        assert [one["url"] for one in receiver["webhook_configs"]] == ["https://dead.example.org/b"]


HOOK, MAIL, CHAT = RECEIVERS
WRONG: dict[str, dict[str, Any]] = {
    "no url": HOOK | {"url": ""},
    "no name": HOOK | {"name": "With Spaces"},
    "no file": HOOK | {"ca": "/nowhere/ca.crt"},
    "no port": MAIL | {"smarthost": "mail.example.org"},
    "no recipient": MAIL | {"to": ""},
    "no password": MAIL | {"password": ""},
    "no scheme": CHAT | {"url": "slack.example.org/not-in-a-file"},
    "twice": HOOK | {"name": "chat"},
}


@pytest.fixture(scope="session")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the role says of each wrong receiver beside good ones."""
    folder = tmp_path_factory.mktemp("refusals")
    check = {"ansible.builtin.include_tasks": str(ROLE / "tasks/check.yml")}
    tasks = []
    for name, wrong in WRONG.items():
        values = {"alertmanager_receivers": [CHAT if wrong["type"] != "slack" else HOOK, wrong]}
        said = {"content": "{{ ansible_failed_result | to_json }}", "dest": f"{folder}/{name}"}
        tasks.append({"block": [check], "rescue": [{"ansible.builtin.copy": said}], "vars": values})
    done = play(tasks, folder)
    assert "not-in-a-file" not in done.stdout.replace(f"{folder}", "")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_a_receiver_that_cannot_be_told_is_refused_by_name(refusals: Path, name: str) -> None:
    assert f"alertmanager_receivers, {WRONG[name]['name']}: name must be" in (refusals / name).read_text()
