# SPDX-License-Identifier: Apache-2.0
"""HTTP triggers, typed as a user types them: the region's ConfigMap, and the gateway's right to its Secret."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from api_server import ApiServer
from click.testing import CliRunner, Result

from koren_faas import Site, http_triggers, triggers
from koren_faas.cli import main
from koren_faas.errors import RegionError, TriggerError
from koren_faas.http_triggers import HttpTrigger

NAMESPACE = "/api/v1/namespaces/functions"
DECLARED = f"{NAMESPACE}/configmaps/trigger-orders"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/functions"
ROLE, BINDING = f"{RBAC}/roles/trigger-orders", f"{RBAC}/rolebindings/trigger-orders"
Servers = dict[str, ApiServer]


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), "trigger", "http", *arguments])


def _create(site: Site, *arguments: str) -> Result:
    return _faas(site, "create", "orders", "--function", "hello", *arguments)


def _secret(server: ApiServer, value: bytes = b"a-long-token-of-the-tests") -> None:
    data = {"token": base64.b64encode(value).decode()}
    server.objects[f"{NAMESPACE}/secrets/doors"] = {"kind": "Secret", "metadata": {"name": "doors"}, "data": data}


def test_a_trigger_is_declared_where_its_function_is(live_site: Site, servers: Servers) -> None:
    for region in ("seoul", "busan"):
        _secret(servers[region])
    words = ("--host", "shop.{region}.example", "--methods", "post,get", "--async", "--rate", "10/s")
    more = ("--token-secret", "doors", "--header", "X-GitHub-Event")
    result = _create(live_site, *words, *more)
    assert result.exit_code == 0, result.output
    assert servers["seoul"].objects[DECLARED]["data"] == {
        "kind": "http",
        "function": "hello",
        "path": "/orders",
        "host": "shop.seoul.example",
        "methods": "GET POST",
        "async": "true",
        "rate": "10/s",
        "token-secret": "doors",
        "headers": "X-GitHub-Event",
    }
    assert servers["seoul"].objects[DECLARED]["metadata"]["labels"]["faas.koren.kr/trigger"] == "orders"
    [rule] = servers["busan"].objects[ROLE]["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == (["doors"], ["get"])
    [owner] = servers["busan"].objects[ROLE]["metadata"]["ownerReferences"]
    assert owner["uid"] == servers["busan"].objects[DECLARED]["metadata"]["uid"]
    [gateway] = servers["busan"].objects[BINDING]["subjects"]
    assert (gateway["name"], gateway["namespace"]) == ("gateway", "koren-faas")
    assert DECLARED not in servers["central"].objects

    before = [list(server.asked) for server in servers.values()]
    assert "in place already in busan, seoul" in _create(live_site, *words, *more).stderr
    assert [server.asked for server in servers.values()] == before

    # For anybody, it needs no right to a Secret any more.
    assert _create(live_site, "--anonymous").exit_code == 0
    assert servers["seoul"].objects[DECLARED]["data"]["anonymous"] == "true"
    assert ROLE not in servers["seoul"].objects and BINDING not in servers["seoul"].objects

    listed = json.loads(_faas(live_site, "list", "-o", "json").stdout)
    assert [(one["region"], one["function"], one["status"]) for one in listed] == [
        ("busan", "hello", "SERVING"),
        ("seoul", "hello", "SERVING"),
    ]
    assert _faas(live_site, "delete", "orders").exit_code == 0
    assert DECLARED not in servers["seoul"].objects
    gone = _faas(live_site, "delete", "orders")
    assert gone.exit_code == 1 and "there is no HTTP trigger 'orders'" in gone.stderr


def test_the_address_of_the_ingress_is_told(live_site: Site, servers: Servers) -> None:
    regions = {
        name: replace(region, ingress=f"https://{name}.test") for name, region in live_site.regions.items()
    }
    told: list[str] = []
    site = replace(live_site, regions=regions)
    http_triggers.create(site, HttpTrigger(name="orders", function="hello", path="/o"), on_progress=told.append)
    assert "seoul: hello is served at https://seoul.test/o" in told


def test_who_may_start_it_must_be_said(live_site: Site, servers: Servers) -> None:
    for words in ((), ("--anonymous", "--token-secret", "doors")):
        result = _create(live_site, *words)
        assert result.exit_code == 2 and "--token-secret, or --anonymous" in result.stderr


def test_a_secret_without_a_token_is_refused_before_anything_changed(live_site: Site, servers: Servers) -> None:
    words = ("--token-secret", "doors", "--region", "seoul")
    missing = _create(live_site, *words)
    assert missing.exit_code == 1 and "there is no Secret doors" in missing.stderr
    assert "create secret generic doors" in missing.stderr
    _secret(servers["seoul"], b"short\n")
    short = _create(live_site, *words)
    assert short.exit_code == 1 and "at least 20 bytes" in short.stderr
    assert servers["seoul"].asked == []


def test_what_would_change_is_shown_and_nothing_changed(live_site: Site, servers: Servers) -> None:
    result = _create(live_site, "--anonymous", "--region", "seoul", "--dryrun")
    assert result.exit_code == 0, result.output
    assert "ConfigMap trigger-orders" in result.stdout and "+  path: /orders" in result.stdout
    assert DECLARED not in servers["seoul"].objects


def test_a_path_that_another_trigger_has_is_refused(live_site: Site, servers: Servers) -> None:
    assert _create(live_site, "--anonymous").exit_code == 0
    other = _faas(live_site, "create", "other", "--function", "hello", "--path", "/orders", "--anonymous")
    assert other.exit_code == 1 and "HTTP trigger orders has /orders already" in other.stderr


def test_a_name_that_a_trigger_of_another_kind_has_is_refused(live_site: Site, servers: Servers) -> None:
    declared = {"name": "trigger-orders", "labels": {"faas.koren.kr/trigger": "orders"}}
    servers["seoul"].objects[DECLARED] = {"kind": "ConfigMap", "metadata": declared, "data": {"kind": "cron"}}
    result = _create(live_site, "--anonymous", "--region", "seoul")
    assert result.exit_code == 1 and "trigger orders of kind cron" in result.stderr


def test_a_trigger_is_paused_and_resumed_and_a_create_leaves_it_paused(live_site: Site, servers: Servers) -> None:
    assert _create(live_site, "--anonymous", "--region", "seoul").exit_code == 0
    commands = ["--site-dir", str(live_site.dir), "trigger"]
    paused = CliRunner().invoke(main, [*commands, "pause", "orders"])
    assert paused.exit_code == 0 and "seoul: trigger orders is paused" in paused.stderr
    assert _create(live_site, "--anonymous", "--rate", "1/s", "--region", "seoul").exit_code == 0
    assert servers["seoul"].objects[DECLARED]["data"]["paused"] == "true"
    assert [one["status"] for one in json.loads(_faas(live_site, "list", "-o", "json").stdout)] == ["PAUSED"]
    resumed = CliRunner().invoke(main, [*commands, "resume", "orders"])
    assert "seoul: trigger orders is active" in resumed.stderr
    assert "paused" not in servers["seoul"].objects[DECLARED]["data"]


def test_before_the_first_run_of_a_site_check_mode_tells_what_would_be_made(live_site: Site, servers: Servers) -> None:
    spec = http_triggers.described("orders", "no", token_secret="doors")
    would = http_triggers.create(live_site, spec, ["seoul"], check=True)
    assert [change.what for change in would.diff if "trigger-" in change.what] == [
        f"seoul: {kind} trigger-orders" for kind in ("ConfigMap", "Role", "RoleBinding")
    ]
    assert servers["seoul"].asked == []
    with pytest.raises(TriggerError, match="either a token secret, or anonymous: true"):
        http_triggers.described("orders", "hello")


def test_a_trigger_of_another_kind_is_not_taken_away(live_site: Site, servers: Servers) -> None:
    assert _create(live_site, "--anonymous", "--region", "seoul").exit_code == 0
    with pytest.raises(RegionError, match="trigger orders is of kind http, not cron; it stays"):
        triggers.remove(live_site, "orders", triggers.CRON)
    assert DECLARED in servers["seoul"].objects
    assert triggers.remove(live_site, "orders", triggers.HTTP).changed_regions == ("seoul",)
    assert not triggers.remove(live_site, "orders", triggers.HTTP).changed


def test_a_region_that_refuses_a_trigger_says_why(live_site: Site, servers: Servers) -> None:
    servers["seoul"].trigger_problem = "trigger old has /orders already"
    result = _create(live_site, "--anonymous", "--region", "seoul")
    assert result.exit_code == 1 and "is refused: trigger old has /orders" in result.stderr
    listed = _faas(live_site, "list")
    assert "REFUSED" in listed.stdout and "seoul refuses orders: trigger old" in listed.stderr


def test_a_function_that_is_not_there_has_no_trigger(live_site: Site, servers: Servers) -> None:
    result = _faas(live_site, "create", "x", "--function", "none", "--anonymous")
    assert result.exit_code == 1 and "none" in result.stderr


@pytest.mark.parametrize(
    ("its", "problem"),
    [
        ({"name": "Orders"}, "lower-case"),
        ({"path": "orders"}, "path is"),
        ({"path": "/a/../b"}, "path is"),
        ({"path": "/-/healthz"}, "the gateway's own"),
        ({"host": "Shop.example"}, "host is"),
        ({"methods": ("HEAD",)}, "methods are"),
        ({"rate": "10"}, "give N/s"),
        ({"token_secret": "A"}, "name of a Secret"),
        ({"headers": ("Authorization",)}, "can't be passed on"),
    ],
)
def test_a_description_that_is_wrong_says_what_it_should_be(its: Any, problem: str) -> None:
    with pytest.raises(TriggerError, match=problem):
        HttpTrigger(**{"name": "orders", "function": "hello", "path": "/orders", **its})
