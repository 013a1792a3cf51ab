# SPDX-License-Identifier: Apache-2.0
"""The ingress of a region: asked over the network, with a stand-in for the gateway behind it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]
Ask = Callable[..., tuple[int, str]]

HOST = "seoul-cp"


@pytest.fixture
def ask(site: Site) -> Ask:
    """Asks as a client does, by curl: the answer's status (0 without one) and body."""

    def request(path: str, *options: str) -> tuple[int, str]:
        address = site.hosts[HOST]
        command = ["curl", "--silent", "--cacert", site.client_files("operator")[0], "--write-out", "\n%{http_code}"]
        done = subprocess.run(
            [*command, *options, f"https://{address}{path}"], check=False, capture_output=True, text=True, timeout=60
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    return request


def test_a_request_reaches_the_gateway_as_the_ingress_and_tells_who_the_client_is(ask: Ask) -> None:
    status, body = ask("/orders?x=1", "--header", "X-Forwarded-For: 192.0.2.1", "--data", "hello")
    told = json.loads(body)
    assert status == 200 and told["path"] == "/orders?x=1" and told["bytes"] == 5
    assert told["certificate"] == "ingress.seoul"
    assert len(told["client"]) == 1 and told["client"] != ["192.0.2.1"]


def test_the_certificate_has_the_names_of_the_inventory(site: Site, ask: Ask) -> None:
    resolve = ("--resolve", f"seoul.example:443:{site.hosts[HOST]}", "https://seoul.example/named")
    status, body = ask("/", *resolve)
    assert status == 200, body
    assert "seoul.example" in body


def test_old_tls_and_strangers_certificates_are_refused(site: Site, ask: Ask) -> None:
    assert ask("/", "--tls-max", "1.1")[0] == 0
    assert ask("/", "--tls-max", "1.2")[0] == 200
    # The gateway is known by its name: another certificate of the authority will not do.
    assert "verifyhost gateway.koren-faas.svc" in site.run(HOST, "cat /etc/haproxy/haproxy.cfg")


def test_what_is_too_large_or_the_gateways_own_is_refused(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    status, body = ask("/", "--header", "Expect:", "--data-binary", f"@{tmp_path}/large")
    assert status == 413 and "too large" in json.loads(body)["error"]
    for path in ("/-/healthz", "/%2d/healthz", "/x/../-/healthz"):
        assert ask(path, "--path-as-is")[0] == 404
    assert ask("/-/receipts/1")[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(ask: Ask) -> None:
    status, body = ask("/", "--http1.1", "--header", "Content-Length: 9", "--data", "hello")
    assert status == 408 and "too slowly" in json.loads(body)["error"]


def test_a_gateway_that_is_away_is_told_of_as_json(site: Site, ask: Ask, eventually: Wait) -> None:
    site.run(HOST, "systemctl stop stand-in")
    try:
        eventually(lambda: ask("/")[0] == 503, 20)
        assert "try again" in json.loads(ask("/")[1])["error"]
    finally:
        site.run(HOST, "systemctl start stand-in")
    eventually(lambda: ask("/")[0] == 200, 20)


def test_a_client_that_asks_too_often_is_told_to_come_later(ask: Ask, eventually: Wait) -> None:
    statuses = {ask("/")[0] for _ in range(120)}
    assert statuses == {200, 429}
    eventually(lambda: ask("/")[0] == 200, 30)


def test_metrics_are_for_the_host_alone(site: Site) -> None:
    page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8405/metrics').read().decode())"
    assert 'haproxy_server_status{proxy="gateway",server="gateway",state="UP"} 1' in site.run(
        HOST, f'python3 -c "{page}"'
    )
    listening = site.run(HOST, "ss -Hltnp | grep haproxy | awk '{print $4}'").split()
    assert sorted(set(listening)) == sorted([f"{site.hosts[HOST]}:443", "127.0.0.1:8405"])


def test_the_service_may_do_no_more_than_it_must(site: Site) -> None:
    owner = "stat --format %U /proc/$(systemctl show --property MainPID --value haproxy)"
    assert site.run(HOST, owner).strip() == "haproxy"
    verdict = site.run(HOST, "systemd-analyze security --no-pager haproxy | tail -n 1")
    assert float(verdict.split(":")[1].split()[0]) < 2.5, verdict


def test_it_comes_back_after_a_kill_and_a_reload_breaks_no_request(site: Site, ask: Ask, eventually: Wait) -> None:
    site.run(HOST, "systemctl kill --signal=KILL haproxy")
    eventually(lambda: ask("/")[0] == 200, 20)
    site.run(HOST, "systemctl reload haproxy")
    assert {ask("/")[0] for _ in range(10)} == {200}
