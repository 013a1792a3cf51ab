# SPDX-License-Identifier: Apache-2.0
"""The functions of a file in regions: real images in a real registry, API servers and nodes that stand in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from api_server import ApiServer
from click.testing import CliRunner, Result

from koren_faas import Site
from koren_faas.cli import main

Servers = dict[str, ApiServer]

FUNCTIONS = """\
defaults: {runtime: python3.11, handler: hello.handler, from-file: hello.py}
functions:
  hello:
    topic: events/{region}/+/accident
    env: {PLACE: "{region}"}
  other:
    regions: [seoul]
environments:
  trial:
    defaults: {regions: [busan]}
"""
# A node's containerd: a line of `ctr images ls` for each image that was pulled.
NODE = """\
#!/bin/sh
images=$(dirname "$0")/images-$5
case $6 in
  *"images ls") echo "REF TYPE DIGEST SIZE PLATFORMS LABELS"; cat "$images" 2>/dev/null || true ;;
  "koren-image pull "*) echo "${6##* } type sha256:0 1KiB linux io.cri-containerd.pinned=pinned" >>"$images" ;;
  *"images rm "*) for image in ${6#*rm }; do sed -i "\\\\|^$image |d" "$images"; done ;;
esac
"""


@pytest.fixture
def ready_site(
    registry_site: Site, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """A site that takes functions, with a faas.yaml in the current folder."""
    kubeconfig = json.loads(registry_site.kubeconfig.read_text())
    for cluster in kubeconfig["clusters"]:
        cluster["cluster"]["server"] = servers[cluster["name"]].url
    registry_site.kubeconfig.write_text(json.dumps(kubeconfig))
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    (nodes / "ssh").write_text(NODE)
    (nodes / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(nodes), prepend=":")
    return _here(registry_site, tmp_path, monkeypatch)


@pytest.fixture
def checked_site(live_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose regions are not to be asked for anything."""
    return _here(live_site, tmp_path, monkeypatch)


def _here(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "functions"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "hello.py").write_text("def handler(event, context): ...\n")
    (folder / "faas.yaml").write_text(FUNCTIONS)
    return site


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), *arguments])


def _env(server: ApiServer, name: str) -> dict[str, str]:
    path = f"/apis/apps/v1/namespaces/functions/deployments/{name}"
    pod = server.objects[path]["spec"]["template"]["spec"]
    return {one["name"]: one.get("value", "") for one in pod["containers"][0]["env"]}


def test_a_file_is_applied_once_and_then_nothing_changes(
    ready_site: Site, servers: Servers
) -> None:
    before = _faas(ready_site, "diff")
    assert before.exit_code == 3, before.output
    assert "hello would change in busan, seoul" in before.stderr
    assert "other would change in seoul" in before.stderr
    assert "+++ seoul: Deployment other (after)" in before.stdout
    assert [server.asked for server in servers.values()] == [[], [], []]

    first = _faas(ready_site, "apply")
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines() == ["hello changed in busan, seoul", "other changed in seoul"]
    assert _env(servers["busan"], "hello")["PLACE"] == "busan"
    assert _env(servers["seoul"], "hello")["PLACE"] == "seoul"
    assert not servers["central"].asked

    after = _faas(ready_site, "diff")
    assert (after.exit_code, after.stdout) == (0, ""), after.output
    for server in servers.values():
        server.asked.clear()
    second = _faas(ready_site, "apply")
    assert second.exit_code == 0, second.output
    assert "Nothing changed" in second.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]

    file = Path("faas.yaml")
    file.write_text(FUNCTIONS.replace("regions: [seoul]", "regions: [seoul]\n    timeout: 7"))
    changed = _faas(ready_site, "apply", "--region", "seoul")
    assert changed.exit_code == 0, changed.output
    assert changed.stdout.splitlines() == [
        "hello is in place already in seoul",
        "other changed in seoul",
    ]

    deployed = _faas(ready_site, "function", "deploy", "other", "--timeout", "8")
    assert deployed.exit_code == 0, deployed.output
    assert _env(servers["seoul"], "other")["FUNC_TIMEOUT"] == "8"


def test_a_function_that_fails_does_not_keep_the_others_from_their_regions(
    ready_site: Site, servers: Servers
) -> None:
    text = FUNCTIONS.replace("topic: events", "secrets: [missing]\n    topic: events")
    Path("faas.yaml").write_text(text)
    done = _faas(ready_site, "apply")
    assert done.exit_code == 1
    assert "there is no Secret missing" in done.stderr
    assert done.stdout.splitlines() == ["other changed in seoul"]


def test_a_trigger_that_cannot_be_created_leaves_its_function_untouched(ready_site: Site, servers: Servers) -> None:
    http = "http: {orders: {methods: [POST], token-secret: missing}}"
    Path("faas.yaml").write_text(FUNCTIONS.replace("topic: events", f"{http}\n    topic: events"))
    done = _faas(ready_site, "apply", "hello")
    assert done.exit_code == 1
    assert "there is no Secret missing" in done.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]


@pytest.mark.parametrize("command", ["apply", "diff", "check"])
def test_a_mistake_in_one_function_touches_no_region(
    checked_site: Site, servers: Servers, command: str
) -> None:
    Path("faas.yaml").write_text(FUNCTIONS.replace("seoul]", "seoul]\n    memory: much"))
    done = _faas(checked_site, command)
    assert done.exit_code == 1
    assert "faas.yaml:8: functions.other.memory: Wrong format" in done.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]


def test_a_region_that_the_site_lacks_is_told_with_its_line(checked_site: Site) -> None:
    Path("faas.yaml").write_text(FUNCTIONS.replace("[seoul]", "[tokyo]"))
    done = _faas(checked_site, "apply")
    assert done.exit_code == 1
    assert "faas.yaml:7: functions.other.regions: site test has no region tokyo" in done.stderr


def test_check_needs_no_site_and_reads_the_code(
    tmp_path: Path, checked_site: Site
) -> None:
    done = CliRunner().invoke(main, ["--site-dir", "/nowhere", "check"])
    assert (done.exit_code, "faas.yaml is valid: hello, other" in done.stderr) == (0, True)
    Path("hello.py").write_text("def handler(:\n")
    broken = CliRunner().invoke(main, ["check"])
    assert (broken.exit_code, "hello.py, line 1" in broken.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("deploy", "hello", "--memory", "much"), "functions.hello: Wrong format of the memory value"),
        (("deploy", "absent"), "faas.yaml has no function absent; it has: hello, other"),
        (("deploy", "hello", "--environment", "live"), "has no environment live; it has: trial"),
    ],
)
def test_a_deploy_from_the_file_that_is_wrong_touches_nothing(
    checked_site: Site, servers: Servers, arguments: tuple[str, ...], told: str
) -> None:
    done = _faas(checked_site, "function", *arguments)
    assert (done.exit_code, told in done.stderr) == (1, True), done.output
    assert [server.asked for server in servers.values()] == [[], [], []]
