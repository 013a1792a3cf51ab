"""What the centre's Prometheus knows of a running site."""

from __future__ import annotations

import urllib.parse
from typing import Any

from conftest import SITE_DIR, ask_centre, until

#: What every region's agent reads once.
JOBS = ("apiserver", "cluster", "coredns", "etcd", "gateway", "keda", "mosquitto", "registry", "vmagent")


def ask(site: dict[str, Any], query: str) -> dict[tuple[str, str], float]:
    """The answer of the centre, by region and instance."""
    found = ask_centre(site, 9090, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")["data"]["result"]
    return {
        (one["metric"].get("region", ""), one["metric"].get("instance", "")): float(one["value"][1]) for one in found
    }


def test_one_query_tells_the_state_of_every_host(site: dict[str, Any]) -> None:
    hosts = [line.split()[1] for line in (SITE_DIR / "ssh_config").read_text().splitlines() if line.startswith("Host ")]
    every = {host for host in hosts if "*" not in host}

    def all_well() -> bool:
        states = ask(site, "koren:node:state")
        return {instance for _, instance in states} == every and set(states.values()) == {1.0}

    until("every host is well", all_well, 90)


def test_all_that_a_region_runs_is_watched(site: dict[str, Any]) -> None:
    nodes = {(region, node) for region, one in site["regions"].items() for node in one["nodes"]}

    def silent() -> list[str]:
        found = [
            job
            for job in JOBS
            if {
                region for (region, _), value in ask(site, f'min by (region) (up{{job="{job}"}})').items() if value == 1
            }
            != set(site["regions"])
        ]
        return found + [job for job in ("kubelet", "containers") if set(ask(site, f'up{{job="{job}"}} == 1')) != nodes]

    until("everything of every region answers", lambda: not silent(), 180)


def test_the_centre_watches_itself(site: dict[str, Any]) -> None:
    jobs = 'min(up{job=~"prometheus|alertmanager|logs"})'
    until("Prometheus, Alertmanager and the store of logs answer", lambda: ask(site, jobs) == {("", ""): 1}, 180)
    assert ask(site, "sum(vmagent_remotewrite_packets_dropped_total)") == {("", ""): 0}


def test_pods_are_told_by_function_and_phase(site: dict[str, Any]) -> None:
    functions = 'count by (region) (koren_function_pods{phase="Running"})'
    edges = {region for region in site["regions"] if region != "central"}
    until("every region tells of its functions' pods", lambda: {key[0] for key in ask(site, functions)} >= edges, 90)
    until("KEDA serves all", lambda: ask(site, "min(koren_scaled_object_ready)") == {("", ""): 1}, 60)
    ours = "min(koren_deployment_available_replicas{namespace=~'keda|koren-faas|kube-system'})"
    until("every Deployment of the platform has a pod that is ready", lambda: ask(site, ours)[("", "")] >= 1, 90)


def test_containers_are_told_with_their_function(site: dict[str, Any]) -> None:
    used = 'count by (region) (container_memory_working_set_bytes{namespace="koren-faas", container!=""})'
    until("the gateway's memory is known", lambda: {key[0] for key in ask(site, used)} == set(site["regions"]), 180)


def test_every_region_tells_when_its_certificates_end(site: dict[str, Any]) -> None:
    for pattern in ("/etc/koren/pki/.+", "/etc/kubernetes/pki/.+", "/etc/kubernetes/.+[.]conf"):
        ends = ask(site, f'min by (region) (koren_certificate_end_timestamp_seconds{{name=~"{pattern}"}}) - time()')
        assert {region for region, _ in ends} >= set(site["regions"]), pattern
        assert min(ends.values()) > 0, pattern


def test_every_region_tells_its_versions(site: dict[str, Any]) -> None:
    packages = 'count by (region) (koren_package_info{package=~"mosquitto|redis-server"})'
    assert ask(site, packages) == {(region, ""): 2 for region in site["regions"]}
    kubelets = ask(site, 'count by (region) (kubernetes_build_info{job="kubelet"})')
    assert {region for region, _ in kubelets} == set(site["regions"])


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
