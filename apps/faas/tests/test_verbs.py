# SPDX-License-Identifier: Apache-2.0
"""The verbs that change or show what is deployed, typed as a user types them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from click.testing import CliRunner, Result

from koren_faas import Site, deployment
from koren_faas.cli import main

SCALED = "/apis/keda.sh/v1alpha1/namespaces/functions/scaledobjects/hello"
DEPLOYED = "/apis/apps/v1/namespaces/functions/deployments/hello"
Servers = dict[str, ApiServer]


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), *arguments])


def _rows(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()[1:]]


def _annotations(server: ApiServer) -> dict[str, str]:
    found: dict[str, str] = server.objects[DEPLOYED]["metadata"]["annotations"]
    return found


# function deploy


@pytest.mark.parametrize(
    ("code", "requirements", "named"),
    [
        ("def handle(event, context): ...\n", "", "no function handler; it has: handle"),
        ("def handler(event, context): ...\n", "greeting==9.9\n", "greeting==9.9"),
    ],
)
def test_a_function_that_would_not_start_touches_no_region(
    live_site: Site,
    servers: Servers,
    bundle: Path,
    wheels: Path,
    tmp_path: Path,
    code: str,
    requirements: str,
    named: str,
) -> None:
    described = json.loads((live_site.dir / "site.json").read_text())
    (live_site.dir / "site.json").write_text(json.dumps(described | {"bundle": str(bundle)}))
    (tmp_path / "hello.py").write_text(code)
    (tmp_path / "requirements.txt").write_text(requirements)
    result = _faas(
        live_site,
        *("function", "deploy", "hello", "--runtime", "python3.11", "--handler", "hello.handler"),
        *("--from-file", str(tmp_path / "hello.py")),
        *("--dependencies", str(tmp_path / "requirements.txt")),
    )
    assert result.exit_code == 1
    assert named in result.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]


def _twin(server: ApiServer) -> dict[str, Any]:
    """Another Deployment with the label of hello."""
    twin: dict[str, Any] = copy.deepcopy(server.objects[DEPLOYED])
    twin["metadata"]["name"] = "twin"
    server.objects[DEPLOYED.replace("hello", "twin")] = twin
    return twin


def test_a_label_that_another_deployment_has_is_refused_before_anything_changed(
    live_site: Site, servers: Servers
) -> None:
    _twin(servers["busan"])
    result = _faas(live_site, "function", "update", "hello", "--timeout", "7")
    assert result.exit_code == 1
    assert "twin in busan" in result.stderr
    assert "nothing was changed" in result.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]
    assert (
        _faas(
            live_site, "function", "update", "hello", "--timeout", "7", "--region", "seoul"
        ).exit_code
        == 0
    )


def test_a_deploy_with_a_label_in_use_builds_nothing(
    live_site: Site, servers: Servers, bundle: Path, tmp_path: Path
) -> None:
    described = json.loads((live_site.dir / "site.json").read_text())
    (live_site.dir / "site.json").write_text(json.dumps(described | {"bundle": str(bundle)}))
    (tmp_path / "hello.py").write_text("def handler(event, context): ...\n")
    _twin(servers["busan"])
    result = _faas(
        live_site,
        *("function", "deploy", "hello", "--runtime", "python3.11", "--handler", "hello.handler"),
        *("--from-file", str(tmp_path / "hello.py")),
    )
    assert result.exit_code == 1
    assert "twin in busan" in result.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]
    assert not live_site.images.exists()


def test_what_is_no_function_is_shown_with_the_reason(live_site: Site, servers: Servers) -> None:
    seoul = servers["seoul"]
    _twin(seoul)
    seoul.objects[DEPLOYED.replace("hello", "broken")] = {
        "metadata": {"name": "broken", "labels": {"faas.koren.kr/function": "broken"}}
    }
    seoul.refused = [{"deployment": "twin", "problem": "hello is Deployment hello's"}]
    listed = _faas(live_site, "function", "ls")
    assert listed.exit_code == 0, listed.output
    rows = {(row[0], row[-1]): row for row in _rows(listed)}
    assert set(rows) == {
        *(("hello", region) for region in ("busan", "seoul")),
        *((name, "seoul") for name in ("broken", "twin")),
    }
    assert "REFUSED" in rows["twin", "seoul"] and "REFUSED" in rows["broken", "seoul"]
    assert "REFUSED" not in rows["hello", "seoul"]
    assert "Deployment twin is refused: hello is Deployment hello's" in listed.stderr
    as_json = json.loads(_faas(live_site, "function", "ls", "twin", "-o", "json").stdout)
    assert (as_json[0]["status"], as_json[0]["problem"]) == (
        "REFUSED",
        "hello is Deployment hello's",
    )
    called = _faas(live_site, "function", "call", "broken", "--region", "seoul")
    assert (called.exit_code, "does not describe a function" in called.stderr) == (1, True)
    described = _faas(live_site, "function", "describe", "twin")
    assert described.exit_code == 0, described.output
    assert "hello is Deployment hello's" in described.stdout


def test_a_function_that_its_gateway_refuses_says_so(live_site: Site, servers: Servers) -> None:
    servers["seoul"].refused = [{"deployment": "hello", "problem": "twin was there before"}]
    described = _faas(live_site, "function", "describe", "hello", "--region", "seoul")
    assert "REFUSED" in described.stdout and "twin was there before" in described.stdout
    # A gateway that is away keeps nobody from seeing what is deployed.
    servers["seoul"].refused = None
    listed = _faas(live_site, "function", "ls")
    assert (listed.exit_code, len(_rows(listed))) == (0, 2)
    assert "Warning: Deployments that the gateway refuses are not shown" in listed.stderr


def test_a_deploy_waits_for_what_a_delete_left_behind(live_site: Site, servers: Servers) -> None:
    seoul = servers["seoul"]
    left = seoul.objects[SCALED]
    left["metadata"] |= {"deletionTimestamp": "2026-11-28T01:02:03Z", "uid": "before"}
    seoul.leaving[SCALED] = 2
    change = ("function", "update", "hello", "--timeout", "7", "--region", "seoul")
    done = _faas(live_site, *change)
    assert done.exit_code == 0, done.output
    assert "waiting for ScaledObject hello" in done.stderr
    assert "uid" not in seoul.objects[SCALED]["metadata"]


def test_a_deploy_says_what_holds_it_up_and_what_helps(
    live_site: Site, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "_GONE_TIMEOUT_S", 0.1)
    seoul = servers["seoul"]
    seoul.objects[SCALED]["metadata"] |= {
        "deletionTimestamp": "2026-11-28T01:02:03Z",
        "finalizers": ["finalizer.keda.sh"],
    }
    result = _faas(live_site, "function", "update", "hello", "--timeout", "7", "--region", "seoul")
    assert result.exit_code == 1
    for part in ("ScaledObject hello", "finalizer.keda.sh", "operator", "patch scaledobject hello"):
        assert part in result.stderr
    assert seoul.asked == []


def test_an_update_of_the_runtime_needs_the_code(live_site: Site) -> None:
    change = ("function", "update", "hello", "--runtime", "nodejs22")
    result = _faas(live_site, *change)
    assert result.exit_code == 1
    assert "the runtime is part of the image: give the source with it (--from-file)" in result.stderr


def test_an_update_keeps_packages_and_takes_new_ones_with_a_source_only(
    live_site: Site, servers: Servers
) -> None:
    change = ("function", "update", "hello", "--region", "seoul")
    alone = _faas(live_site, *change, "--packages", "libgl1")
    assert (alone.exit_code, "give the source with them" in alone.stderr) == (1, True)
    assert servers["seoul"].asked == []
    notes = _annotations(servers["seoul"])
    notes["faas.koren.kr/packages"] = "libgl1 libmagic1"
    assert _faas(live_site, *change, "--tmp-size", "1Gi").exit_code == 0
    shown = json.loads(_faas(live_site, "function", "describe", "hello", "-o", "json").stdout)
    assert [one["packages"] for one in shown] == [[], ["libgl1", "libmagic1"]]
    assert [one["tmp_size"] for one in shown] == ["64Mi", "1Gi"]


def test_a_priority_needs_its_class_in_the_region_and_is_taken_back(live_site: Site, servers: Servers) -> None:
    deployment = "/apis/apps/v1/namespaces/functions/deployments/hello"
    priority = "/apis/scheduling.k8s.io/v1/priorityclasses/koren-function-high"
    before = servers["seoul"].objects[deployment]["spec"]["template"]
    change = ("function", "update", "hello", "--region", "seoul", "--priority")
    refused = _faas(live_site, *change, "high")
    assert refused.exit_code == 1 and "seoul: there is no PriorityClass koren-function-high" in refused.stderr
    assert servers["seoul"].objects[deployment]["spec"]["template"] == before
    servers["seoul"].objects[priority] = {"kind": "PriorityClass", "metadata": {"name": "koren-function-high"}}
    assert _faas(live_site, *change, "high").exit_code == 0
    changed = servers["seoul"].objects[deployment]["spec"]["template"]["spec"]
    assert changed["priorityClassName"] == "koren-function-high"
    described = _faas(live_site, "function", "describe", "hello", "--region", "seoul").stdout
    assert ["Priority:", "high"] in [line.split() for line in described.splitlines()]
    assert _faas(live_site, *change, "normal").exit_code == 0
    assert servers["seoul"].objects[deployment]["spec"]["template"] == before


# trigger mqtt


def test_a_trigger_is_created_listed_and_deleted(live_site: Site, servers: Servers) -> None:
    create = ("trigger", "mqtt", "create", "accidents", "--trigger-topic", "events/{region}/+/x")
    select = ("--function-selector", "created-by=kubeless,function=hello")
    made = _faas(live_site, *create, *select)
    assert made.exit_code == 0, made.output
    assert "MQTT trigger accidents created in namespace functions successfully!" in made.stderr
    for region in ("seoul", "busan"):
        declared = servers[region].objects["/api/v1/namespaces/functions/configmaps/trigger-accidents"]
        topic = f"events/{region}/+/x"
        assert declared["data"] == {"kind": "mqtt", "function": "hello", "topic": topic}
        assert "faas.koren.kr/topic" not in _annotations(servers[region])

    listed = _faas(live_site, "trigger", "mqtt", "list")
    head = listed.stdout.splitlines()[0]
    assert " ".join(head.split()) == "NAME NAMESPACE TOPIC FUNCTION SELECTOR DELAY STATUS REGION"
    assert _rows(listed) == [
        ["accidents", "functions", f"events/{region}/+/x", "function=hello", "ACTIVE", region]
        for region in ("busan", "seoul")
    ]
    again = _faas(live_site, *create, *select)
    assert (again.exit_code, "in place already in busan, seoul" in again.stderr) == (0, True)

    gone = _faas(live_site, "trigger", "mqtt", "delete", "accidents", "--region", "seoul")
    assert "MQTT trigger accidents deleted from namespace functions successfully!" in gone.stderr
    assert [row[-1] for row in _rows(_faas(live_site, "trigger", "mqtt", "ls"))] == ["busan"]


def test_a_trigger_needs_no_selector_for_the_function_of_its_name(
    live_site: Site, servers: Servers
) -> None:
    topic = ("--trigger-topic", "events/seoul/#")
    made = _faas(live_site, "trigger", "mqtt", "create", "hello", *topic, "--region", "seoul")
    assert made.exit_code == 0, made.output
    assert servers["busan"].asked == []


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--trigger-topic", "accidents"), "does not begin with events/<region>/"),
        (("--trigger-topic", "events/seoul/#"), "can't match an event of busan"),
        (("--trigger-topic", "events/+/#", "--function-selector", "app=x"), "Invalid label"),
        (("--trigger-topic", "events/+/#", "--function-selector", "function=no"), "not in any"),
        (("--trigger-topic", "events/+/#", "--region", "tokyo"), "no region tokyo"),
        ((), "--trigger-topic"),
    ],
)
def test_a_trigger_that_is_wrong_changes_nothing(
    live_site: Site, servers: Servers, more: tuple[str, ...], named: str
) -> None:
    result = _faas(live_site, "trigger", "mqtt", "create", "hello", *more)
    assert result.exit_code != 0
    assert named in result.stderr
    assert [server.asked for server in servers.values()] == [[], [], []]


def test_a_trigger_that_is_not_there_can_t_be_deleted(live_site: Site) -> None:
    result = _faas(live_site, "trigger", "mqtt", "delete", "none")
    assert result.exit_code == 1
    assert "Failed to delete MQTT trigger object none in namespace functions" in result.stderr


# autoscale


def test_a_rule_changes_how_a_function_scales_and_goes_again(
    live_site: Site, servers: Servers
) -> None:
    rule = ("--min", "1", "--max", "4", "--value", "3")
    made = _faas(live_site, "autoscale", "create", "hello", *rule, "--region", "seoul")
    assert made.exit_code == 0, made.output
    assert "Autoscaling rule for hello submitted for deployment" in made.stderr
    spec: dict[str, Any] = servers["seoul"].objects[SCALED]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 4)
    assert spec["triggers"][0]["metadata"]["target"] == "3"

    listed = _faas(live_site, "autoscale", "list")
    head = "NAME NAMESPACE TARGET MIN MAX METRIC VALUE REGION"
    assert listed.stdout.splitlines()[0].split() == head.split()
    assert _rows(listed) == [
        ["hello", "functions", "hello", "0", "10", "backlog", "1", "busan"],
        ["hello", "functions", "hello", "1", "4", "backlog", "3", "seoul"],
    ]
    as_json = json.loads(_faas(live_site, "autoscale", "ls", "-o", "json").stdout)
    assert as_json[1]["max_scale"] == 4

    # What is not given stays.
    _faas(live_site, "autoscale", "create", "hello", "--max", "6", "--region", "seoul")
    assert servers["seoul"].objects[SCALED]["spec"]["minReplicaCount"] == 1

    gone = _faas(live_site, "autoscale", "delete", "hello", "--region", "seoul")
    assert "Removed Autoscaling rule from hello" in gone.stderr
    assert servers["seoul"].objects[SCALED]["spec"]["minReplicaCount"] == 0
    again = _faas(live_site, "autoscale", "delete", "hello", "--region", "seoul")
    assert (again.exit_code, "Not found an auto scale definition" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--min", "-1"), "can't be negative"),
        (("--min", "5", "--max", "4"), "must be greater than or equal to"),
        (("--value", "0"), "target is 0"),
        (("--metric", "cpu", "--max", "4"), "'cpu' is not 'backlog'"),
        ((), "Nothing to change"),
    ],
)
def test_a_rule_that_is_wrong_changes_nothing(
    live_site: Site, servers: Servers, more: tuple[str, ...], named: str
) -> None:
    result = _faas(live_site, "autoscale", "create", "hello", *more)
    assert result.exit_code != 0
    assert named in result.stderr
    assert servers["seoul"].asked == []


# dlq


def _letter(id: str, function: str | None, reason: str) -> dict[str, Any]:
    event = {"id": "e-1", "source": "cctv", "type": "accident", "subject": "i-1", "time": None}
    return {
        "id": id,
        "function": function,
        "reason": reason,
        "attempts": 5,
        "time": "2026-11-25T01:02:03Z",
        "event": event if function else None,
        "message": {"id": "e-1", "data": {"severity": "severe"}},
    }


@pytest.fixture
def letters(servers: Servers) -> Servers:
    """Two dead letters of two functions in seoul, one that is no event in busan."""
    first = _letter("hello.1", "hello", "ValueError: bad\nTraceback: line 3")
    second = _letter("other.2", "other", "no answer in time")
    servers["seoul"].letters = {"hello.1": first, "other.2": second}
    servers["busan"].letters = {"none/3": _letter("none/3", None, "not JSON")}
    return servers


def test_dead_letters_are_listed_with_why_and_where(live_site: Site, letters: Servers) -> None:
    listed = _faas(live_site, "dlq", "list")
    assert listed.exit_code == 0, listed.output
    head = "ID FUNCTION REASON ATTEMPTS TIME EVENT TYPE SUBJECT REGION"
    assert " ".join(listed.stdout.splitlines()[0].split()) == head
    lines = listed.stdout.splitlines()[1:]
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("none/3", "busan"),
        ("hello.1", "seoul"),
        ("other.2", "seoul"),
    ]
    assert "ValueError: bad " in listed.stdout and "Traceback" not in listed.stdout
    one = _faas(live_site, "dlq", "list", "--function", "hello", "-o", "json")
    assert [letter["id"] for letter in json.loads(one.stdout)] == ["hello.1"]


def test_a_region_where_nothing_was_deployed_has_dead_letters_too(
    live_site: Site, letters: Servers
) -> None:
    letters["busan"].deployed_to = False
    listed = _faas(live_site, "dlq", "list", "--region", "busan")
    assert listed.exit_code == 0, listed.output
    assert "none/3" in listed.stdout


def test_a_dead_letter_is_shown_with_its_event(live_site: Site, letters: Servers) -> None:
    shown = _faas(live_site, "dlq", "show", "hello.1")
    assert shown.exit_code == 0, shown.output
    assert "Traceback: line 3" in shown.stdout
    assert '"severity": "severe"' in shown.stdout
    as_json = json.loads(_faas(live_site, "dlq", "show", "none/3", "-o", "json").stdout)
    assert (as_json["region"], as_json["message"]["id"]) == ("busan", "e-1")
    missing = _faas(live_site, "dlq", "show", "hello.9")
    assert (missing.exit_code, "no dead letter hello.9" in missing.stderr) == (1, True)


def test_dead_letters_are_redriven_by_id_by_function_or_all(
    live_site: Site, letters: Servers
) -> None:
    done = _faas(live_site, "dlq", "redrive", "hello.1")
    assert "seoul: 1 dead letter redriven" in done.stderr
    assert letters["seoul"].asked == ["POST /dead-letters/hello.1/redrive"]
    _faas(live_site, "dlq", "redrive", "--function", "other")
    assert letters["seoul"].asked[1:] == ["POST /dead-letters/other.2/redrive"]
    left = _faas(live_site, "dlq", "purge", "--all")
    assert "busan: 1 dead letter purged" in left.stderr
    assert letters["busan"].asked == ["DELETE /dead-letters/none/3"]
    assert "There is no dead letter" in _faas(live_site, "dlq", "purge", "--all").stderr


def test_nothing_is_sent_or_purged_that_was_not_named(live_site: Site, letters: Servers) -> None:
    for verb in ("redrive", "purge"):
        vague = _faas(live_site, "dlq", verb)
        assert (vague.exit_code, "--all" in vague.stderr) == (2, True)
        wrong = _faas(live_site, "dlq", verb, "hello.1", "hello.9")
        assert (wrong.exit_code, "no dead letter hello.9" in wrong.stderr) == (1, True)
    assert letters["seoul"].asked == []


def test_a_region_that_is_away_is_told_and_the_others_are_shown(
    live_site: Site, letters: Servers
) -> None:
    letters["busan"].close()
    listed = _faas(live_site, "dlq", "list")
    assert listed.exit_code == 1
    assert "Warning: busan" in listed.stderr
    assert "hello.1" in listed.stdout
    # It may have some too.
    assert _faas(live_site, "dlq", "purge", "--all").exit_code == 1
    assert letters["seoul"].asked == []
    assert _faas(live_site, "dlq", "redrive", "hello.1").exit_code == 0


def _handled(id: str, time: str) -> dict[str, Any]:
    event = {"id": id, "source": "cctv", "type": "kr.koren.seen", "subject": "incident-1", "time": time}
    return {"time": time, "attempts": 1, "bytes": 1800, "event": event}


@pytest.fixture
def handled(servers: Servers) -> Servers:
    """Two events that hello handled in seoul, one in busan."""
    servers["seoul"].handled = [_handled("e-1", "2026-11-25T01:00:00Z"), _handled("e-2", "2026-11-25T02:00:00Z")]
    servers["busan"].handled = [_handled("e-3", "2026-11-25T01:30:00Z")]
    return servers


def test_what_was_handled_is_listed(live_site: Site, handled: Servers) -> None:
    listed = _faas(live_site, "function", "history", "hello")
    assert listed.exit_code == 0, listed.output
    assert [(row[1], row[-1]) for row in _rows(listed)] == [("e-3", "busan"), ("e-1", "seoul"), ("e-2", "seoul")]
    span = ("--since", "2026-11-25T01:15Z", "--until", "2026-11-25T01:45Z")
    assert _faas(live_site, "function", "history", "hello", *span, "-o", "name").stdout == "e-3\n"
    [first, _] = json.loads(
        _faas(live_site, "function", "history", "hello", "--region", "seoul", "-o", "json").stdout
    )
    assert (first["region"], first["event"]["source"], first["bytes"]) == ("seoul", "cctv", 1800)
    handled["busan"].handled = None
    some = _faas(live_site, "function", "history", "hello")
    assert some.exit_code == 1 and "e-1" in some.stdout
    assert "busan" in some.stderr and "--history 24h" in some.stderr


def test_a_replay_says_what_it_queued_in_each_region(live_site: Site, handled: Servers) -> None:
    since = ("--since", "2026-11-25T01:15Z")
    dry = _faas(live_site, "function", "replay", "hello", *since, "--dry-run")
    assert "seoul: 1 event would be queued" in dry.stderr
    assert all(asked["dry_run"] for asked in handled["seoul"].replays)
    done = _faas(live_site, "function", "replay", "hello", *since, "--subject", "incident-1", "--region", "seoul")
    assert (done.exit_code, done.stderr) == (0, "seoul: 1 event queued\n")
    asked = handled["seoul"].replays[-1]
    assert (asked["since"], asked["subject"], asked["dry_run"]) == ("2026-11-25T01:15:00.000Z", "incident-1", False)
    assert [one["dry_run"] for one in handled["busan"].replays] == [True]


def test_a_replay_whose_answer_was_lost_may_be_repeated(live_site: Site, handled: Servers) -> None:
    words = ("function", "replay", "hello", "--since", "2026-11-25T01:15Z", "--region", "seoul")
    handled["seoul"].replay_lost = True
    lost = _faas(live_site, *words)
    request = handled["seoul"].replays[-1]["request"]
    assert lost.exit_code == 1 and f"--request-id {request} queues nothing twice" in lost.stderr
    handled["seoul"].replay_lost = False
    assert "seoul: 1 event queued before" in _faas(live_site, *words, "--request-id", request).stderr


def test_nothing_is_replayed_where_a_region_refuses_or_the_span_is_wrong(live_site: Site, handled: Servers) -> None:
    handled["busan"].handled = None
    refused = _faas(live_site, "function", "replay", "hello", "--since", "2026-11-25T01:00Z")
    assert refused.exit_code == 1 and "keeps no history" in refused.stderr
    assert [asked["dry_run"] for asked in handled["seoul"].replays] == [True]
    words = ("function", "replay", "hello")
    assert _faas(live_site, *words).exit_code == 2
    assert "--until" in _faas(live_site, *words, "--since", "1h", "--until", "2h").stderr
    assert "is no time" in _faas(live_site, *words, "--since", "yesterday").stderr
    assert _faas(live_site, *words, "--since", "2026-11-25T01:00Z", "--region", "central").exit_code == 1


def test_a_history_is_set_and_taken_away(live_site: Site, servers: Servers) -> None:
    for given, noted in (("24h", "24h"), ("none", None)):
        changed = _faas(live_site, "function", "update", "hello", "--history", given, "--region", "seoul")
        assert changed.exit_code == 0, changed.output
        assert _annotations(servers["seoul"]).get("faas.koren.kr/history") == noted
    wrong = _faas(live_site, "function", "update", "hello", "--history", "8d")
    assert wrong.exit_code == 1 and "at most 7d" in wrong.stderr


def test_dead_letters_come_by_page(live_site: Site, servers: Servers) -> None:
    servers["seoul"].letters = {
        f"hello.{n}": _letter(f"hello.{n}", "hello", "no answer") | {"bytes": 900}
        for n in range(1100)
    }
    listed = _faas(live_site, "dlq", "list")
    assert [row[0] for row in _rows(listed)] == [f"hello.{n}" for n in range(100)]
    assert "seoul has more than 100: show them with --limit or --all" in listed.stderr
    some = _faas(live_site, "dlq", "list", "--limit", "1050", "-o", "json")
    assert [one["id"] for one in json.loads(some.stdout)] == [f"hello.{n}" for n in range(1050)]
    everything = _faas(live_site, "dlq", "list", "--all")
    assert (len(_rows(everything)), everything.stderr) == (1100, "")
    assert _faas(live_site, "dlq", "list", "--limit", "1100").stderr == ""
    assert _faas(live_site, "dlq", "list", "--limit", "0").exit_code == 2
    # Who names one, or all, means those behind the first page too.
    assert "900" in _faas(live_site, "dlq", "show", "hello.1090").stdout
    assert "1100 dead letters purged" in _faas(live_site, "dlq", "purge", "--all").stderr


# event


def _held(id: str, subject: str, **more: Any) -> dict[str, Any]:
    event = {"id": f"event-of-{id}", "source": "cctv", "type": "accident", "subject": subject}
    return {
        "id": id,
        "state": "held",
        "received": "2026-11-28T01:02:03Z",
        "until": "2026-11-29T01:02:03Z",
        "by": None,
        "event": event | {"time": None},
        "bytes": 17,
        "message": {"id": f"event-of-{id}", "data": {"severity": "severe"}},
        **more,
    }


@pytest.fixture
def waiting(servers: Servers) -> Servers:
    """Two held events of one incident and one of another in seoul, one dismissed in busan."""
    found = (_held("s/1", "i-1"), _held("s-2", "i-1"), _held("s-3", "i-2"))
    servers["seoul"].held = {one["id"]: one for one in found}
    gone = _held("b-1", "i-9", state="dismissed", by="kim", until=None)
    servers["busan"].held = {"b-1": gone}
    return servers


def test_held_events_are_listed_and_shown(live_site: Site, waiting: Servers) -> None:
    listed = _faas(live_site, "event", "held")
    assert listed.exit_code == 0, listed.output
    head = "ID STATE RECEIVED UNTIL BY EVENT TYPE SUBJECT REGION"
    assert " ".join(listed.stdout.splitlines()[0].split()) == head
    assert [(row[0], row[1], row[-2], row[-1]) for row in _rows(listed)] == [
        ("b-1", "dismissed", "i-9", "busan"),
        ("s/1", "held", "i-1", "seoul"),
        ("s-2", "held", "i-1", "seoul"),
        ("s-3", "held", "i-2", "seoul"),
    ]
    as_json = json.loads(_faas(live_site, "event", "held", "-o", "json").stdout)
    assert (as_json[0]["by"], as_json[1]["event"]["subject"]) == ("kim", "i-1")
    part = _faas(live_site, "event", "held", "--limit", "2")
    assert (len(_rows(part)), "seoul has more than 2" in part.stderr) == (3, True)
    one = _faas(live_site, "event", "held", "s/1")
    assert '"severity": "severe"' in one.stdout and "seoul" in one.stdout
    missing = _faas(live_site, "event", "held", "s-9")
    assert (missing.exit_code, "no held event s-9" in missing.stderr) == (1, True)


def test_held_events_are_released_and_dismissed_by_subject(
    live_site: Site, waiting: Servers
) -> None:
    # Both are of one incident: the second goes with the first.
    done = _faas(live_site, "event", "release", "s/1", "s-2")
    assert done.exit_code == 0, done.output
    assert "seoul: 2 held events of i-1 released" in done.stderr
    assert waiting["seoul"].asked == ["POST /held/s/1/release"]
    gone = _faas(live_site, "event", "dismiss", "s-3")
    assert "seoul: 1 held event of i-2 dismissed" in gone.stderr
    again = _faas(live_site, "event", "release", "b-1")
    assert (again.exit_code, "not held any more" in again.stderr) == (1, True)


def test_nothing_is_released_when_one_is_not_there(live_site: Site, waiting: Servers) -> None:
    wrong = _faas(live_site, "event", "release", "s-3", "s-9")
    assert (wrong.exit_code, "no held event s-9" in wrong.stderr) == (1, True)
    assert _faas(live_site, "event", "dismiss").exit_code == 2
    assert waiting["seoul"].asked == []
    # It may be in a region that is away, which then is told of instead.
    waiting["busan"].close()
    away = _faas(live_site, "event", "dismiss", "b-1")
    assert (away.exit_code, "busan" in away.stderr) == (1, True)
    assert _faas(live_site, "event", "dismiss", "s-3").exit_code == 0


# function top


def test_top_shows_what_functions_did(live_site: Site, servers: Servers) -> None:
    servers["seoul"].metrics = """\
# TYPE koren_gateway_invocations_total counter
koren_gateway_invocations_total{function="hello",outcome="succeeded"} 7.0
koren_gateway_invocations_total{function="hello",outcome="failed"} 2.0
koren_gateway_invocations_total{function="hello",outcome="dead-lettered"} 1.0
koren_gateway_invocations_total{function="other",outcome="succeeded"} 9.0
koren_gateway_handler_seconds_bucket{function="hello",le="0.1"} 9.0
koren_gateway_handler_seconds_sum{function="hello"} 2.5
"""
    top = _faas(live_site, "function", "top")
    assert top.exit_code == 0, top.output
    head, busan, seoul = (line.split() for line in top.stdout.splitlines())
    assert head[:4] == ["NAME", "NAMESPACE", "TOTAL_CALLS", "TOTAL_FAILURES"]
    assert busan == ["hello", "functions", "0", "0", "0.000", "busan"]
    assert seoul == ["hello", "functions", "10", "3", "2.500", "0.250", "seoul"]
    as_json = json.loads(_faas(live_site, "function", "stats", "-f", "hello", "-o", "json").stdout)
    assert as_json[1]["average_s"] == 0.25
    assert _faas(live_site, "function", "top", "-f", "none").exit_code == 1
