# SPDX-License-Identifier: Apache-2.0
"""Sources of events, typed as a user types them: the region's ConfigMap, and the rights at its broker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from click.testing import CliRunner, Result

from koren_faas import Site, SourceError, mqtt_sources
from koren_faas.cli import main
from koren_faas.mqtt_sources import MqttSource

DECLARED = "/api/v1/namespaces/functions/configmaps/mqtt-source-common"
SCRIPT = Path(__file__).parents[3] / "roles/mosquitto/files/koren-mosquitto-acl"
Servers = dict[str, ApiServer]


@pytest.fixture
def brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each host, which is its /etc/mosquitto to who comes by SSH."""
    folder = tmp_path / "hosts"
    for host in ("central-cp", "seoul-cp", "busan-cp"):
        (folder / host / "acl.d").mkdir(parents=True)
        (folder / host / "acl.d/site.acl").write_text("user operator\ntopic write events/#\n")
        script = SCRIPT.read_text().replace("/etc/mosquitto", str(folder / host))
        script = script.replace("chown mosquitto", "true")
        script = script.replace("systemctl reload mosquitto", f"echo >>{folder / host}/reloads")
        (folder / host / "program").write_text(script)
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        f'#!/bin/sh\nset -- "$5" "${{6#/usr/local/sbin/koren-mosquitto-acl }}"\n'
        f'test -d {folder}/"$1" || {{ echo "no route to $1" >&2; exit 255; }}\n'
        f'exec sh {folder}/"$1"/program $2\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    return folder


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), "source", "mqtt", *arguments])


def _create(site: Site, *arguments: str) -> Result:
    return _faas(site, "create", "common", "--topic", "plant/{region}/+", *arguments)


def test_a_source_is_declared_in_its_regions_with_the_rights_of_its_publishers(
    live_site: Site, servers: Servers, brokers: Path
) -> None:
    result = _create(
        live_site,
        *("--publisher", "sensor-1", "--publisher", "meter"),
        *("--subject-from", "topic.3", "--id-from", "payload.n"),
    )
    assert result.exit_code == 0, result.output
    assert "seoul: listens to plant/seoul/+" in result.stderr
    assert servers["seoul"].objects[DECLARED]["data"] == {
        "topic": "plant/seoul/+",
        "subject-from": "topic.3",
        "id-from": "payload.n",
        "publishers": "sensor-1 meter",
        "at": "region",
    }
    assert DECLARED not in servers["central"].objects
    assert (brokers / "seoul-cp/koren.acl").read_text() == (
        "user operator\ntopic write events/#\n"
        "user sources.seoul\ntopic read plant/seoul/+\n"
        "user sensor-1\ntopic write plant/seoul/+\nuser meter\ntopic write plant/seoul/+\n"
    )
    assert (brokers / "seoul-cp/reloads").exists()
    assert not (brokers / "central-cp/koren.acl").exists()

    # The same again changes nothing, and reloads no broker.
    before = [list(server.asked) for server in servers.values()]
    again = _create(
        live_site,
        *("--publisher", "sensor-1", "--publisher", "meter"),
        *("--subject-from", "topic.3", "--id-from", "payload.n"),
    )
    assert "in place already in busan, seoul" in again.stderr
    assert [server.asked for server in servers.values()] == before
    assert (brokers / "seoul-cp/reloads").read_text() == "\n"

    listed = json.loads(_faas(live_site, "ls", "-o", "json").stdout)
    assert [(one["region"], one["topic"], one["status"]) for one in listed] == [
        ("busan", "plant/busan/+", "LISTENING"),
        ("seoul", "plant/seoul/+", "LISTENING"),
    ]
    described = _faas(live_site, "describe", "common", "--region", "seoul").stdout
    assert "Trigger topic:  events/seoul/common/mqtt" in described

    assert _faas(live_site, "delete", "common").exit_code == 0
    assert DECLARED not in servers["seoul"].objects
    assert (brokers / "seoul-cp/koren.acl").read_text() == "user operator\ntopic write events/#\n"
    gone = _faas(live_site, "delete", "common")
    assert gone.exit_code == 1 and "there is no source 'common'" in gone.stderr


def test_what_would_change_is_shown_and_nothing_changed(
    live_site: Site, servers: Servers, brokers: Path
) -> None:
    result = _create(live_site, "--publisher", "sensor-1", "--region", "seoul", "--dryrun")
    assert result.exit_code == 0, result.output
    assert "+topic write plant/seoul/+" in result.stdout
    assert "ConfigMap mqtt-source-common" in result.stdout
    assert DECLARED not in servers["seoul"].objects
    assert not (brokers / "seoul-cp/koren.acl").exists()


def test_a_topic_that_another_source_has_is_refused_before_anything_changed(
    live_site: Site, servers: Servers, brokers: Path
) -> None:
    assert _create(live_site, "--region", "seoul").exit_code == 0
    before = [list(server.asked) for server in servers.values()]
    result = _faas(live_site, "create", "other", "--topic", "plant/#")
    assert result.exit_code == 1
    assert "common (plant/seoul/+) in seoul" in result.stderr
    assert [server.asked for server in servers.values()] == before


def test_a_region_that_refuses_a_source_says_why(
    live_site: Site, servers: Servers, brokers: Path
) -> None:
    servers["seoul"].source_problem = "source old takes messages of plant/# already"
    result = _create(live_site, "--region", "seoul")
    assert result.exit_code == 1
    assert "source common is refused: source old takes messages of plant/#" in result.stderr
    assert "REFUSED" in _faas(live_site, "ls").stdout
    assert "Problem:" in _faas(live_site, "describe", "common").stdout


def test_a_source_at_the_centre_lets_its_publishers_write_there_and_the_bridge_here(
    live_site: Site, servers: Servers, brokers: Path
) -> None:
    def spec(**more: Any) -> MqttSource:
        its = {"name": "common", "topic": "plant/{region}/+", "publishers": ("sensor-1",)}
        return MqttSource(**{**its, "at": "centre", **more})

    mqtt_sources.create(live_site, spec())
    centre = (brokers / "central-cp/koren.acl").read_text()
    assert centre.endswith(
        "user sensor-1\ntopic write plant/busan/+\nuser sensor-1\ntopic write plant/seoul/+\n"
    )
    assert (brokers / "seoul-cp/koren.acl").read_text().endswith(
        "user sources.seoul\ntopic read plant/seoul/+\n"
        "user bridge.central\ntopic write plant/seoul/+\n"
    )
    assert not mqtt_sources.create(live_site, spec()).changed
    mqtt_sources.create(live_site, spec(at="region"))
    assert "sensor-1" not in (brokers / "central-cp/koren.acl").read_text()
    assert "user sensor-1" in (brokers / "seoul-cp/koren.acl").read_text()
    with pytest.raises(SourceError, match="goes to one region"):
        mqtt_sources.create(live_site, spec(topic="plant"))
    with pytest.raises(SourceError, match="leave out central"):
        mqtt_sources.create(live_site, spec(), ["central"])
    mqtt_sources.create(live_site, spec())
    mqtt_sources.delete(live_site, "common")
    assert not [path for path in brokers.rglob("source-*")]


def test_a_cut_off_centre_keeps_no_edge_from_its_source(
    live_site: Site, servers: Servers, brokers: Path
) -> None:
    servers["central"].close()
    (brokers / "central-cp").rename(brokers / "away")
    assert _create(live_site).exit_code == 0


@pytest.mark.parametrize(
    ("its", "problem"),
    [
        ({"name": "Common"}, "lower-case"),
        ({"topic": "#"}, "first level"),
        ({"topic": "events/seoul/#"}, "the platform's"),
        ({"topic": "a\nuser x"}, "no MQTT topic filter"),
        ({"topic": "a/b#"}, "whole level"),
        ({"subject_from": "payload"}, "subject-from"),
        ({"id_from": "topic"}, "id-from"),
        ({"publishers": ("x\ntopic write #",)}, "can't be the name"),
        ({"at": "here"}, "give region or centre"),
    ],
)
def test_a_description_that_is_wrong_says_what_it_should_be(its: Any, problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        MqttSource(**{"name": "common", "topic": "common", **its})


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/#", "a", True),
        ("a/#", "a/+/c", True),
        ("a/b", "a/c", False),
        ("a", "a/b", False),
        ("a/+/c", "a/b/d", False),
    ],
)
def test_filters_meet_where_a_topic_matches_both(one: str, other: str, meet: bool) -> None:
    assert mqtt_sources.overlap(one, other) is mqtt_sources.overlap(other, one) is meet
