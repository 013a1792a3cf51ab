"""What the centre's Prometheus knows of a running site."""

from __future__ import annotations

import json
import ssl
import urllib.parse
import urllib.request
from typing import Any

from conftest import SITE_DIR, until


def ask(site: dict[str, Any], query: str) -> dict[tuple[str, str], float]:
    """The answer of the centre, by region and instance."""
    pki = SITE_DIR / "pki"
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "operator.crt", pki / "operator.key")
    host = site["central_broker"].rpartition(":")[0]
    url = f"https://{host}:9090/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10, context=tls) as answer:
        found = json.load(answer)["data"]["result"]
    return {
        (one["metric"].get("region", ""), one["metric"].get("instance", "")): float(one["value"][1])
        for one in found
    }


def test_one_query_tells_the_state_of_every_host(site: dict[str, Any]) -> None:
    hosts = [line.split()[1] for line in (SITE_DIR / "ssh_config").read_text().splitlines() if line.startswith("Host ")]
    every = {host for host in hosts if "*" not in host}

    def all_well() -> bool:
        states = ask(site, "koren:node:state")
        return {instance for _, instance in states} == every and set(states.values()) == {1.0}

    until("every host is well", all_well, 90)


def test_gateway_and_keda_of_every_region_are_scraped(site: dict[str, Any]) -> None:
    def scraped() -> bool:
        return all(
            {region for (region, _), value in ask(site, f'up{{job="{job}"}}').items() if value == 1}
            == set(site["regions"])
            for job in ("gateway", "keda")
        )

    until("gateway and KEDA of every region are up", scraped, 90)


def test_the_brokers_figures_of_every_region_are_collected(site: dict[str, Any]) -> None:
    def stand() -> bool:
        bridges = ask(site, "min by (region) (mosquitto_bridge_up)")
        return {region for region, _ in bridges} == set(site["regions"]) and set(bridges.values()) == {1.0}

    until("every bridge stands, as its broker tells", stand, 90)
    dropped = ask(site, "mosquitto_messages_dropped_total")
    assert {region for region, _ in dropped} == set(site["regions"])


def test_the_detector_tells_of_its_cameras_and_of_what_it_has_not_sent(site: dict[str, Any]) -> None:
    until("every camera's stream comes", lambda: ask(site, "min(koren_detector_stream_connected)") == {("", ""): 1}, 90)
    until("every event is in its region", lambda: ask(site, "sum(koren_detector_spooled_events)") == {("", ""): 0}, 90)
