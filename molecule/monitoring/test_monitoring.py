# SPDX-License-Identifier: Apache-2.0
"""What the centre knows of the hosts of all regions."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]
QUERY = "koren:node:state"
# As the scenario sets it.
INTERVAL_S = 2


def _query(
    site: Site, query: str, *, at: float | None = None, certificate: str | None = "operator"
) -> dict[tuple[str, str], float]:
    """The answer of the centre, by region and instance."""
    context = ssl.create_default_context(cafile=site.client_files("operator")[0])
    if certificate:
        context.load_cert_chain(*site.client_files(certificate)[1:])
    asked = urllib.parse.urlencode({"query": query} | ({"time": at} if at else {}))
    url = f"https://{site.hosts['central-cp']}:9090/api/v1/query?{asked}"
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return {
        (one["metric"].get("region", ""), one["metric"].get("instance", "")): float(one["value"][1])
        for one in found
    }


def _all(site: Site) -> set[tuple[str, str]]:
    regions = {"central": "central", "seoul": "seoul", "sns": "backbone"}
    return {(regions[name.split("-")[0]], name) for name in site.hosts}


def test_one_query_at_the_centre_tells_the_state_of_every_host(
    site: Site, eventually: Wait
) -> None:
    eventually(lambda: _query(site, QUERY) == dict.fromkeys(_all(site), 1.0), 40)


def test_the_centre_answers_to_certificates_only(site: Site) -> None:
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        _query(site, QUERY, certificate=None)


def test_a_host_that_does_not_answer_is_down(site: Site, eventually: Wait) -> None:
    site.run("seoul-gw", "systemctl stop prometheus-node-exporter")
    try:
        eventually(lambda: _query(site, QUERY)["seoul", "seoul-gw"] == 0, 30)
        assert _query(site, QUERY)["seoul", "seoul-cp"] == 1
    finally:
        site.run("seoul-gw", "systemctl start prometheus-node-exporter")


def test_a_node_that_its_cluster_calls_not_ready_is_down(site: Site, eventually: Wait) -> None:
    told = "/var/lib/prometheus/node-exporter/koren_node_ready.prom"
    site.run("seoul-cp", f"""echo 'koren_node_ready{{node="seoul-cp"}} 0' >{told}""")
    try:
        eventually(lambda: _query(site, QUERY)["seoul", "seoul-cp"] == 0, 30)
    finally:
        site.run("seoul-cp", f"rm {told}")
    eventually(lambda: _query(site, QUERY)["seoul", "seoul-cp"] == 1, 90)


def test_a_region_that_was_cut_off_is_unknown_and_fills_its_gap(
    site: Site, eventually: Wait
) -> None:
    seoul = ("seoul", "seoul-cp")
    rules = (
        "add table ip cut",
        "add chain ip cut input { type filter hook input priority 0; }",
        f"add rule ip cut input ip saddr {site.hosts['seoul-cp']} tcp dport 9090 drop",
    )
    began = time.time()
    site.run("central-cp", " && ".join(f"nft '{rule}'" for rule in rules))
    try:
        eventually(lambda: _query(site, QUERY)[seoul] == -1, 60)
    finally:
        site.run("central-cp", "nft delete table ip cut")
    cut_s = int(time.time() - began)
    eventually(lambda: _query(site, QUERY)[seoul] == 1, 60)
    samples = f'count_over_time(up{{job="node", instance="seoul-cp"}}[{cut_s}s])'
    expected = cut_s / INTERVAL_S - 2
    eventually(lambda: _query(site, samples, at=began + cut_s).get(seoul, 0) >= expected, 30)


def test_host_services_and_clocks_are_watched(site: Site) -> None:
    active = _query(site, 'node_systemd_unit_state{name="chrony.service", state="active"} == 1')
    assert set(active) == _all(site)
    assert set(_query(site, "node_timex_sync_status")) == _all(site)
    assert set(_query(site, 'node_filesystem_avail_bytes{mountpoint="/"}')) == _all(site)


def test_exporters_and_servers_listen_on_the_lan_only(site: Site) -> None:
    for host in ("seoul-cp", "seoul-gw", "central-cp"):
        # The broker's exporter answers its own host alone.
        listening = site.run(host, "ss -Hltnp | grep prometheus | grep -v prometheus-mqtt")
        local = [line.split()[3] for line in listening.splitlines()]
        assert local
        assert {address.rsplit(":", 1)[0] for address in local} == {site.hosts[host]}
