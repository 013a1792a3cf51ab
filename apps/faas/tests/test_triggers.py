# SPDX-License-Identifier: Apache-2.0
"""Triggers, typed as a user types them: what the region's API server then holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from api_server import ApiServer
from click.testing import CliRunner, Result

from koren_faas import Site, TriggerError, cron_triggers, triggers
from koren_faas.cli import main
from koren_faas.cron_triggers import CronTrigger

CONFIGMAPS = "/api/v1/namespaces/functions/configmaps"
HELLO = "/apis/apps/v1/namespaces/functions/deployments/hello"
CREATE = ("cronjob", "create", "nightly", "--function", "hello", "--schedule", "0 3 * * *")
Servers = dict[str, ApiServer]


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), "trigger", *arguments])


def _done(site: Site, *arguments: str) -> Result:
    result = _faas(site, *arguments)
    assert result.exit_code == 0, result.output
    return result


def _listed(site: Site, kind: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = json.loads(_done(site, kind, "list", "-o", "json").stdout)
    return found


def _declared(server: ApiServer, name: str) -> Any:
    return server.objects[f"{CONFIGMAPS}/trigger-{name}"]["data"]


def test_a_cron_trigger_is_created_listed_and_deleted(live_site: Site, servers: Servers) -> None:
    more = ("--timezone", "Asia/Seoul", "--payload", '{"keep": 30}')
    made = _done(live_site, *CREATE, *more)
    assert "Cronjob trigger nightly created in namespace functions successfully!" in made.stderr
    assert _declared(servers["seoul"], "nightly") == {
        "kind": "cron",
        "function": "hello",
        "schedule": "0 3 * * *",
        "timezone": "Asia/Seoul",
        "starting-deadline-s": "3600",
        "payload": '{"keep": 30}',
    }
    assert not [path for path in servers["central"].objects if "trigger-" in path]

    before = [list(server.asked) for server in servers.values()]
    again = _done(live_site, *CREATE, *more)
    assert "in place already in busan, seoul" in again.stderr
    assert [server.asked for server in servers.values()] == before

    listed = _listed(live_site, "cronjob")
    assert [(one["name"], one["schedule"], one["status"], one["region"]) for one in listed] == [
        ("nightly", "0 3 * * *", "ACTIVE", region) for region in ("busan", "seoul")
    ]
    assert not _listed(live_site, "mqtt")
    head = _done(live_site, "cronjob", "ls").stdout.splitlines()[0]
    assert head.split() == [
        *("NAME", "NAMESPACE", "SCHEDULE", "TIMEZONE", "FUNCTION", "STATUS", "LAST", "NEXT", "REGION")
    ]

    _done(live_site, "cronjob", "delete", "nightly", "--region", "seoul")
    assert [one["region"] for one in _listed(live_site, "cronjob")] == ["busan"]
    gone = _faas(live_site, "cronjob", "delete", "nightly", "--region", "seoul")
    assert gone.exit_code == 1 and "there is no cron trigger 'nightly'" in gone.stderr


def test_another_schedule_takes_the_place_of_the_one_before(live_site: Site, servers: Servers) -> None:
    _done(live_site, *CREATE)
    _done(live_site, *CREATE[:-1], "@hourly", "--region", "seoul")
    assert _declared(servers["seoul"], "nightly")["schedule"] == "@hourly"
    assert _declared(servers["busan"], "nightly")["schedule"] == "0 3 * * *"


def test_what_would_change_is_shown_and_nothing_changed(live_site: Site, servers: Servers) -> None:
    result = _done(live_site, *CREATE, "--region", "seoul", "--dryrun")
    assert "ConfigMap trigger-nightly" in result.stdout and "+  schedule: 0 3 * * *" in result.stdout
    assert f"{CONFIGMAPS}/trigger-nightly" not in servers["seoul"].objects


@pytest.mark.parametrize(
    ("its", "problem"),
    [
        ({"name": "Nightly"}, "lower-case"),
        ({"schedule": "* * * *"}, "minute, hour"),
        ({"schedule": "0 * * * * *"}, "minute, hour"),
        ({"schedule": "61 * * * *"}, "Bad minute"),
        ({"schedule": "@often"}, "@hourly"),
        ({"timezone": "Seoul"}, "IANA"),
        ({"starting_deadline_s": 0}, "starting-deadline is 0"),
        ({"payload": float("nan")}, "payload can't be JSON"),
        ({"payload": "x" * 300_000}, "payload has 300002 bytes"),
    ],
)
def test_a_description_that_is_wrong_says_what_it_should_be_and_changes_nothing(
    live_site: Site, servers: Servers, its: Any, problem: str
) -> None:
    with pytest.raises(TriggerError, match=problem):
        spec = CronTrigger(**{"name": "nightly", "function": "hello", "schedule": "@daily", **its})
        cron_triggers.create(live_site, spec)
    assert [server.asked for server in servers.values()] == [[], [], []]


def test_a_payload_that_is_no_json_says_how_to_write_a_text(live_site: Site) -> None:
    result = _faas(live_site, *CREATE, "--payload", "text")
    assert result.exit_code == 1 and "put a text in quotes" in result.stderr


def test_a_function_that_is_not_there_can_t_be_started(live_site: Site, servers: Servers) -> None:
    result = _faas(live_site, "cronjob", "create", "t", "--function", "no", "--schedule", "@daily")
    assert result.exit_code == 1 and "function 'no' is not in any region" in result.stderr
    # Before the first run of a site, check mode tells what would be made.
    spec = CronTrigger(name="t", function="no", schedule="@daily")
    assert cron_triggers.create(live_site, spec, ["seoul"], check=True).changed


def test_a_name_belongs_to_one_trigger(live_site: Site, servers: Servers) -> None:
    _done(live_site, *CREATE)
    before = [list(server.asked) for server in servers.values()]
    topic = ("--trigger-topic", "events/{region}/#", "--function-selector", "function=hello")
    other = _faas(live_site, "mqtt", "create", "nightly", *topic)
    assert other.exit_code == 1 and "is of kind cron: choose another name" in other.stderr
    servers["seoul"].objects[f"{CONFIGMAPS}/trigger-nightly"]["data"]["function"] = "other"
    other = _faas(live_site, *CREATE)
    assert other.exit_code == 1 and "starts the function other" in other.stderr
    assert [server.asked for server in servers.values()] == before


def test_a_function_has_further_topics_beside_its_own(live_site: Site, servers: Servers) -> None:
    servers["seoul"].objects[HELLO]["metadata"]["annotations"]["faas.koren.kr/topic"] = "events/seoul/+/a"
    create = ("mqtt", "create", "hello", "--region", "seoul", "--trigger-topic")
    assert "in place already" in _done(live_site, *create, "events/{region}/+/a").stderr
    refused = _faas(live_site, *create, "events/seoul/#")
    assert refused.exit_code == 1 and "faas function update hello --topic" in refused.stderr
    more = ("mqtt", "create", "more", *create[3:], "events/seoul/#")
    _done(live_site, *more, "--function-selector", "function=hello")
    listed = _listed(live_site, "mqtt")
    assert [(one["name"], one["topic"]) for one in listed] == [
        ("hello", "events/seoul/+/a"),
        ("more", "events/seoul/#"),
    ]
    _done(live_site, "mqtt", "delete", "hello", "--region", "seoul")
    assert [one["name"] for one in _listed(live_site, "mqtt")] == ["more"]
    assert "faas.koren.kr/topic" not in servers["seoul"].objects[HELLO]["metadata"]["annotations"]


def test_a_trigger_is_paused_and_resumed_and_a_create_leaves_it_paused(live_site: Site, servers: Servers) -> None:
    _done(live_site, *CREATE, "--region", "seoul")
    assert "seoul: trigger nightly is paused" in _done(live_site, "pause", "nightly").stderr
    assert _declared(servers["seoul"], "nightly")["paused"] == "true"
    assert "paused already in seoul" in _done(live_site, "pause", "nightly").stderr
    _done(live_site, *CREATE[:-1], "@hourly", "--region", "seoul")
    assert [one["status"] for one in _listed(live_site, "cronjob")] == ["PAUSED"]
    assert "seoul: trigger nightly is active" in _done(live_site, "resume", "nightly").stderr
    assert "paused" not in _declared(servers["seoul"], "nightly")
    none = _faas(live_site, "pause", "none")
    assert none.exit_code == 1 and "there is no trigger 'none'" in none.stderr


def test_a_function_s_own_trigger_is_paused_and_resumed(live_site: Site, servers: Servers) -> None:
    notes = servers["seoul"].objects[HELLO]["metadata"]["annotations"]
    notes["faas.koren.kr/topic"] = "events/seoul/+/a"
    _done(live_site, "pause", "hello", "--region", "seoul")
    assert servers["seoul"].objects[HELLO]["metadata"]["annotations"]["faas.koren.kr/paused"] == "true"
    assert [one["status"] for one in _listed(live_site, "mqtt")] == ["PAUSED"]
    _done(live_site, "resume", "hello")
    assert "faas.koren.kr/paused" not in servers["seoul"].objects[HELLO]["metadata"]["annotations"]


def test_a_delay_is_created_shown_changed_and_taken_away(live_site: Site, servers: Servers) -> None:
    create = ("mqtt", "create", "more", "--trigger-topic", "events/{region}/#", "--function-selector", "function=hello")
    _done(live_site, *create, "--delay", "90s")
    assert _declared(servers["seoul"], "more")["delay-s"] == "90"
    assert [one["delay_s"] for one in _listed(live_site, "mqtt")] == ["90", "90"]
    assert "in place already" in _done(live_site, *create, "--delay", "90s").stderr
    _done(live_site, *create, "--delay", "2m", "--region", "seoul")
    assert "2m" in _done(live_site, "mqtt", "list", "--region", "seoul").stdout
    _done(live_site, *create)
    assert "delay-s" not in _declared(servers["seoul"], "more")
    for wrong, problem in (("soon", "'soon'; give a whole number of s, m, h or d"), ("8d", "8d; give 7d at most")):
        result = _faas(live_site, *create, "--delay", wrong)
        assert result.exit_code and problem in result.stderr


def test_a_function_s_own_trigger_has_the_delay_of_its_description(live_site: Site, servers: Servers) -> None:
    notes = servers["seoul"].objects[HELLO]["metadata"]["annotations"]
    notes |= {"faas.koren.kr/topic": "events/seoul/+/a", "faas.koren.kr/delay-s": "30"}
    create = ("mqtt", "create", "hello", "--region", "seoul", "--trigger-topic", "events/{region}/+/a")
    assert "in place already" in _done(live_site, *create, "--delay", "30s").stderr
    refused = _faas(live_site, *create, "--delay", "1m")
    assert refused.exit_code == 1 and "faas function update hello --delay" in refused.stderr
    _done(live_site, "mqtt", "delete", "hello", "--region", "seoul")
    assert "faas.koren.kr/delay-s" not in servers["seoul"].objects[HELLO]["metadata"]["annotations"]


def test_a_function_is_described_with_all_that_starts_it(live_site: Site, servers: Servers) -> None:
    notes = servers["seoul"].objects[HELLO]["metadata"]["annotations"]
    notes |= {"faas.koren.kr/topic": "events/seoul/+/a", "faas.koren.kr/delay-s": "30"}
    _done(live_site, *CREATE, "--region", "seoul")
    _done(live_site, "http", "create", "orders", "--function", "hello", "--anonymous", "--region", "seoul")
    _done(live_site, "pause", "nightly")
    words = ["--site-dir", str(live_site.dir), "function", "describe", "hello", "--region", "seoul"]
    shown = CliRunner().invoke(main, words).stdout
    found = [line.removeprefix("Trigger:").strip() for line in shown.splitlines() if line.startswith("Trigger:")]
    assert found == [
        "mqtt hello: events/seoul/+/a, after 30s",
        "cron nightly: 0 3 * * * UTC (paused)",
        "http orders: POST /orders",
    ]
    [one] = json.loads(CliRunner().invoke(main, [*words, "-o", "json"]).stdout)
    assert [(its["kind"], its["name"], its["status"]) for its in one["triggers"]] == [
        ("mqtt", "hello", "ACTIVE"),
        ("cron", "nightly", "PAUSED"),
        ("http", "orders", "ACTIVE"),
    ]


def test_a_region_that_refuses_a_trigger_says_why(live_site: Site, servers: Servers) -> None:
    servers["seoul"].trigger_problem = "the ConfigMap must have another name"
    result = _faas(live_site, *CREATE, "--region", "seoul")
    assert result.exit_code == 1 and "is refused: the ConfigMap must have another name" in result.stderr
    assert [one["status"] for one in _listed(live_site, "cronjob")] == ["REFUSED"]


def test_a_region_that_is_cut_off_keeps_no_other_from_its_trigger(live_site: Site, servers: Servers) -> None:
    servers["busan"].close()
    spec = CronTrigger(name="nightly", function="hello", schedule="@daily")
    assert triggers.every(live_site)[1].keys() == {"busan"}
    assert cron_triggers.create(live_site, spec, ["seoul"]).changed


def test_a_function_s_triggers_go_with_it(live_site: Site, servers: Servers) -> None:
    _done(live_site, *CREATE, "--region", "seoul")
    # Its registry does not answer here: what starts the function goes before.
    CliRunner().invoke(main, ["--site-dir", str(live_site.dir), "function", "delete", "hello", "--region", "seoul"])
    assert f"{CONFIGMAPS}/trigger-nightly" not in servers["seoul"].objects
