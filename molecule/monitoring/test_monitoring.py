# SPDX-License-Identifier: Apache-2.0
"""What the centre knows of the hosts of all regions."""

from __future__ import annotations

import itertools
import json
import ssl
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPResponse

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]
QUERY = "koren:node:state"
# As the scenario sets it.
INTERVAL_S = 2


def _ask(site: Site, query: str, at: float | None = None, certificate: str | None = "operator") -> HTTPResponse:
    context = ssl.create_default_context(cafile=site.client_files("operator")[0])
    if certificate:
        context.load_cert_chain(*site.client_files(certificate)[1:])
    asked = urllib.parse.urlencode({"query": query} | ({"time": at} if at else {}))
    url = f"https://{site.hosts['central-cp']}:9090/api/v1/query?{asked}"
    answer: HTTPResponse = urllib.request.urlopen(url, context=context, timeout=10)
    return answer


def _query(
    site: Site, query: str, *, at: float | None = None, certificate: str | None = "operator"
) -> dict[tuple[str, str], float]:
    """The answer of the centre, by region and instance."""
    with _ask(site, query, at, certificate) as answer:
        found = json.load(answer)["data"]["result"]
    return {
        (one["metric"].get("region", ""), one["metric"].get("instance", "")): float(one["value"][1]) for one in found
    }


def _times(site: Site, query: str, at: float) -> list[float]:
    """When the samples of a range were taken."""
    with _ask(site, query, at) as answer:
        found = json.load(answer)["data"]["result"]
    return [time_s for one in found for time_s, _ in one["values"]]


def _number(value: int) -> bytes:
    """A varint of protobuf."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _number(rest) if rest else bytes([low])


def _part(number: int, content: bytes) -> bytes:
    """A field of protobuf that has a length."""
    return _number(number << 3 | 2) + _number(len(content)) + content


def _send(site: Site, labels: dict[str, str], at: float, value: float) -> None:
    """Write a sample to the centre as an agent does."""
    sample = b"\x09" + struct.pack("<d", value) + b"\x10" + _number(int(at * 1000))
    pairs = (_part(1, key.encode()) + _part(2, text.encode()) for key, text in sorted(labels.items()))
    message = _part(1, b"".join(_part(1, pair) for pair in pairs) + _part(2, sample))
    # Snappy, all of it as one literal.
    packed = _number(len(message)) + bytes([61 << 2]) + struct.pack("<H", len(message) - 1) + message
    context = ssl.create_default_context(cafile=site.client_files("operator")[0])
    context.load_cert_chain(*site.client_files("operator")[1:])
    url = f"https://{site.hosts['central-cp']}:9090/api/v1/write"
    kind = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    urllib.request.urlopen(urllib.request.Request(url, packed, kind), context=context, timeout=10).close()


def _longest_gap_s(site: Site, began: float, ended: float) -> float:
    """The longest time without a sample that the centre has of Seoul's node, between two times."""
    count = f'up{{job="node", instance="seoul-cp"}}[{int(ended - began)}s]'
    times = [began, *_times(site, count, ended), ended]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def _all(site: Site) -> set[tuple[str, str]]:
    regions = {"central": "central", "seoul": "seoul", "sns": "backbone"}
    return {(regions[name.split("-")[0]], name) for name in site.hosts}


def test_one_query_at_the_centre_tells_the_state_of_every_host(site: Site, eventually: Wait) -> None:
    eventually(lambda: _query(site, QUERY) == dict.fromkeys(_all(site), 1.0), 40)


def test_the_centre_answers_to_those_alone_who_have_to_do_with_metrics(site: Site) -> None:
    for certificate in (None, "detector", "gateway.seoul"):
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            _query(site, QUERY, certificate=certificate)


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


def test_a_region_that_was_cut_off_is_unknown_and_fills_its_gap(site: Site, eventually: Wait) -> None:
    seoul = ("seoul", "seoul-cp")
    began = time.time()
    with site.cut_off("central-cp", "seoul-cp", 9090):
        eventually(lambda: _query(site, QUERY)[seoul] == -1, 60)
    ended = time.time()
    eventually(lambda: _query(site, QUERY)[seoul] == 1, 60)
    eventually(lambda: _longest_gap_s(site, began, ended) < 2 * INTERVAL_S, 60)


def test_an_agent_that_starts_anew_in_a_cut_loses_nothing_but_the_time_it_takes(site: Site, eventually: Wait) -> None:
    page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8429/metrics').read().decode())"
    queue = f'python3 -c "{page}" | grep ^vm_persistentqueue_bytes_pending'

    def kept() -> float:
        # While it starts it says nothing.
        return float(site.run("seoul-cp", queue, check=False).rpartition(" ")[2] or 0)

    began = time.time()
    with site.cut_off("central-cp", "seoul-cp", 9090):
        eventually(lambda: kept() > 0, 60)
        site.run("seoul-cp", "systemctl restart vmagent")
        before = kept()
        assert before > 0
        eventually(lambda: kept() > before, 60)
        # What it was given last may still be in its memory.
        site.run("seoul-cp", "systemctl kill --signal=KILL vmagent")
        eventually(lambda: kept() > before, 60)
    ended = time.time()
    # Ten seconds for what a kill takes with it, and the clock that the service waits for at its start.
    eventually(lambda: _longest_gap_s(site, began, ended) < 10 + INTERVAL_S, 90)
    eventually(lambda: _query(site, QUERY)["seoul", "seoul-cp"] == 1, 60)


def test_a_sample_dated_ahead_shuts_nobody_out(site: Site, eventually: Wait) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        _send(site, {"__name__": "dated_ahead", "region": "seoul"}, time.time() + 20 * 86400, 1)
    sent = time.time()
    latest = 'timestamp(up{job="node"})'
    eventually(lambda: min(_query(site, latest).values()) > sent, 30)
    assert _query(site, QUERY) == dict.fromkeys(_all(site), 1.0)
    # Its region's good ones, and what comes late.
    _send(site, {"__name__": "dated_ahead", "region": "seoul"}, sent, 2)
    assert _query(site, "dated_ahead") == {("seoul", ""): 2.0}
    _send(site, {"__name__": "late", "region": "busan"}, sent - 23 * 3600, 1)
    assert _query(site, "late", at=sent - 23 * 3600) == {("busan", ""): 1.0}


def test_certificates_tell_when_they_end(site: Site, eventually: Wait) -> None:
    days = '(koren_certificate_end_timestamp_seconds{name="/etc/koren/pki/prometheus.crt"} - time()) / 86400'
    site.run("central-cp", "systemctl start koren-host-view")
    eventually(lambda: 700 < _query(site, days).get(("central", "central-cp"), 0) < 826, 30)


def test_only_what_is_used_is_sent(site: Site) -> None:
    assert _query(site, 'count({__name__=~"scrape_.+|go_.+|node_(cooling|procs|memory_Slab).*"})') == {}
    assert _query(site, 'count(up{job="vmagent"})') == {("", ""): 2.0}
    assert _query(site, "sum(vmagent_remotewrite_packets_dropped_total)") == {("", ""): 0.0}


def test_a_file_that_was_set_aside_is_alarming(site: Site, eventually: Wait) -> None:
    told = "/var/lib/prometheus/node-exporter/koren_redis.prom"
    metric = 'koren_set_aside_timestamp_seconds{service="redis-server"}'
    site.run("seoul-cp", f"echo '{metric} '$(date +%s) >{told}")
    alert = 'ALERTS{alertname="BrokenFileSetAside"}'
    try:
        eventually(lambda: ("seoul", "seoul-cp") in _query(site, alert), 60)
    finally:
        site.run("seoul-cp", f"rm {told}")


def test_host_services_and_clocks_are_watched(site: Site) -> None:
    active = _query(site, 'node_systemd_unit_state{name="chrony.service", state="active"} == 1')
    assert set(active) == _all(site)
    assert set(_query(site, "node_timex_sync_status")) == _all(site)
    assert set(_query(site, 'node_filesystem_avail_bytes{mountpoint="/"}')) == _all(site)


def test_exporters_and_servers_listen_on_the_lan_only(site: Site) -> None:
    for host in ("seoul-cp", "seoul-gw", "central-cp"):
        # The agent and the broker's exporter answer their own host alone.
        listening = site.run(host, "ss -Hltnp | grep -E 'prometheus|vmagent' | grep -v prometheus-mqtt")
        local = [line.split()[3] for line in listening.splitlines() if "127.0.0.1" not in line]
        assert local
        assert {address.rsplit(":", 1)[0] for address in local} == {site.hosts[host]}
