# SPDX-License-Identifier: Apache-2.0
"""What passes between regions, seen by real packets."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]

TCP = (80, 443, 1883, 5000, 6379, 6443, 7002, 7005, 7006, 7007, 7008, 8883, 9090, 9101)
UDP = (7003, 7004, 8472)
# Where something listens on every host, or a port that is none's.
TARGETS = [f"tcp/{port}" for port in (22, 9100, 3000, *TCP)] + [f"udp/{port}" for port in (123, *UDP)]
PROGRAM = "/root/probes.py"
POLICY = "/etc/koren-nfv.json"


@pytest.fixture(scope="module", autouse=True)
def servers(site: Site) -> Iterator[None]:
    """Servers on every host but the function."""
    program = (Path(__file__).parent / "probes.py").read_text()
    hosts = [host for host in site.hosts if host != "filter-1"]
    for host in site.hosts:
        site.run(host, f"cat >{PROGRAM} <<'END'\n{program}\nEND")
    ports = " ".join(",".join(map(str, some)) for some in (TCP, UDP))
    for host in hosts:
        site.run(host, f"systemd-run --quiet --collect --unit=probes python3 {PROGRAM} serve {ports}")
    yield
    for host in hosts:
        site.run(host, "systemctl stop probes")


@pytest.fixture
def addresses(site: Site) -> dict[str, list[str]]:
    """All addresses of each host."""
    found = {
        host: site.run(host, "ip -4 -o address show scope global | awk '{ sub(/\\/.*/, \"\", $4); print $4 }'").split()
        for host in site.hosts
    }
    assert len(found["seoul-gw"]) == 2
    return found


def probe(site: Site, host: str, *words: Any) -> Any:
    """What the program of probes says on a host."""
    return json.loads(site.run(host, " ".join(["python3", PROGRAM, *map(str, words)])) or "null")


def open_from(site: Site, addresses: dict[str, list[str]], start: str, *ends: str) -> set[str]:
    """Which of all targets on the hosts answer a host, as ``host tcp/22``."""
    targets = {f"{address}/{port}": f"{end} {port}" for end in ends for address in addresses[end] for port in TARGETS}
    answers = probe(site, start, "reach", *targets)
    return {targets[target] for target, answer in answers.items() if answer == "open"}


def counters(site: Site, gateway: str) -> dict[str, dict[str, int]]:
    """Packets and bytes of each of a gateway's counters."""
    listed = json.loads(site.run(gateway, "nft --json list counters table inet koren_nfv"))["nftables"]
    return {one["counter"]["name"]: one["counter"] for one in listed if "counter" in one}


def edit(site: Site, gateway: str, change: str) -> None:
    """Write a changed policy beside the host's own: Python that changes ``policy``."""
    code = f"import json; policy = json.load(open('{POLICY}')); {change}; json.dump(policy, open('/root/policy', 'w'))"
    site.run(gateway, f'python3 -c "{code}"')


def load(site: Site, gateway: str, path: str) -> None:
    """Load a policy and confirm it."""
    assert "loaded" in site.run(gateway, f"koren-nfv stage {path} 20")
    assert "confirmed" in site.run(gateway, "koren-nfv confirm")


@pytest.fixture
def changed(site: Site) -> Iterator[Callable[[str, str], None]]:
    """Loads a changed policy on a gateway; its own comes back in the end."""
    touched = []

    def change(gateway: str, how: str) -> None:
        edit(site, gateway, how)
        touched.append(gateway)
        load(site, gateway, "/root/policy")

    yield change
    for gateway in touched:
        site.run(gateway, f"koren-nfv stage {POLICY} 20 && koren-nfv confirm || true")


def test_nothing_passes_from_an_edge_to_another(site: Site, addresses: dict[str, list[str]]) -> None:
    assert open_from(site, addresses, "seoul-cp", "busan-cp", "busan-gw") == set()
    assert open_from(site, addresses, "busan-cp", "seoul-cp", "seoul-gw") == set()


def test_from_the_centre_to_an_edge_passes_what_is_declared(site: Site, addresses: dict[str, list[str]]) -> None:
    assert open_from(site, addresses, "central-cp", "busan-cp", "busan-gw") == {
        "busan-cp tcp/8883",
        "busan-cp tcp/6443",
    }


def test_from_an_edge_to_the_centre_passes_what_is_declared(site: Site, addresses: dict[str, list[str]]) -> None:
    assert open_from(site, addresses, "busan-cp", "central-cp", "central-gw", "sns-1") == {
        "central-cp tcp/8883",
        "central-cp tcp/9090",
        "central-gw udp/123",
        "sns-1 tcp/443",
    }


def test_only_control_planes_are_declared_so_others_of_the_region_are_not(
    site: Site, addresses: dict[str, list[str]]
) -> None:
    assert open_from(site, addresses, "filter-1", "busan-cp", "busan-gw", "seoul-gw") == set()


def test_from_outside_passes_what_is_declared(site: Site, addresses: dict[str, list[str]]) -> None:
    everyone = [host for host in site.hosts if host not in ("sns-1", "filter-1")]
    assert open_from(site, addresses, "sns-1", *everyone) == {"central-gw udp/123", "seoul-cp tcp/7007"}


def test_a_regions_hosts_reach_each_other_and_of_their_gateway_what_is_declared(
    site: Site, addresses: dict[str, list[str]]
) -> None:
    assert "seoul-cp tcp/1883" in open_from(site, addresses, "seoul-gw", "seoul-cp")
    assert open_from(site, addresses, "seoul-cp", "seoul-gw") == {"seoul-gw tcp/9101"}


def test_the_controller_reaches_every_host(site: Site) -> None:
    for host in site.hosts:
        assert site.run(host, "hostname").strip() == host


def test_who_is_refused_within_hears_it_at_once_and_outside_hears_nothing(site: Site) -> None:
    target = f"{site.hosts['busan-cp']}/tcp/22"
    assert probe(site, "seoul-cp", "reach", target)[target] == "EHOSTUNREACH"
    assert probe(site, "sns-1", "reach", target)[target] == "timeout"


def test_who_is_refused_is_shown(site: Site) -> None:
    before = counters(site, "seoul-gw")["refused-out"]["packets"]
    probe(site, "seoul-cp", "reach", f"{site.hosts['busan-cp']}/tcp/2222")
    assert counters(site, "seoul-gw")["refused-out"]["packets"] > before
    line = f"{site.hosts['seoul-cp']}  {site.hosts['busan-cp']}  tcp  2222"
    assert line in site.run("seoul-gw", "koren-nfv show")


def test_an_address_of_the_region_does_not_come_from_outside(site: Site) -> None:
    before = counters(site, "central-gw")["refused-spoofed"]["packets"]
    site.run("sns-1", f"python3 {PROGRAM} forge {site.hosts['central-gw']} {site.hosts['central-cp']} 9 20")
    assert counters(site, "central-gw")["refused-spoofed"]["packets"] == before + 20


def test_a_foreign_address_does_not_come_from_a_region(site: Site) -> None:
    before = counters(site, "seoul-gw")["refused-spoofed"]["packets"]
    site.run("seoul-cp", f"python3 {PROGRAM} forge {site.hosts['busan-cp']} {site.hosts['central-cp']} 9 20")
    assert counters(site, "seoul-gw")["refused-spoofed"]["packets"] == before + 20


def test_a_flow_is_counted_to_the_packet_and_told_to_the_exporter(site: Site, eventually: Wait) -> None:
    gateways = ("seoul-gw", "central-gw")
    before = {gateway: counters(site, gateway)["flow-probe-udp"] for gateway in gateways}
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2);"
        f"[(s.sendto(bytes(72), ('{site.hosts['central-cp']}', 7003)), s.recv(100)) for _ in range(50)]"
    )
    site.run("seoul-cp", f'python3 -c "{code}"')
    for gateway in gateways:
        after = counters(site, gateway)["flow-probe-udp"]
        assert after["packets"] - before[gateway]["packets"] == 100
        assert after["bytes"] - before[gateway]["bytes"] == 100 * 100

    folder = "/var/lib/prometheus/node-exporter"
    site.run("seoul-gw", f"mkdir -p {folder}")
    wanted = f'koren_nfv_flow_packets_total{{flow="probe-udp"}} {before["seoul-gw"]["packets"] + 100}'
    eventually(lambda: wanted in site.run("seoul-gw", f"cat {folder}/koren_nfv.prom", check=False).splitlines(), 20)
    told = site.run("seoul-gw", f"cat {folder}/koren_nfv.prom").splitlines()
    assert "koren_nfv_confirmed 1" in told
    assert any(line.startswith('koren_nfv_refused_packets_total{reason="out"}') for line in told)
    link = f'koren_nfv_class_bytes_total{{link="{site.hosts["seoul-gw"]}",class="events"}}'
    assert any(line.startswith(link) for line in told)


def test_a_source_has_no_more_connections_than_the_flow_allows(site: Site) -> None:
    before = counters(site, "seoul-gw")["refused-connections"]["packets"]
    assert probe(site, "seoul-cp", "hold", site.hosts["central-cp"], 7005, 5) == 3
    assert counters(site, "seoul-gw")["refused-connections"]["packets"] > before


def test_what_is_masqueraded_comes_from_the_gateway(site: Site, addresses: dict[str, list[str]]) -> None:
    ask = "python3 -c \"import socket; print(socket.create_connection(('%s', %d), 3).recv(50).decode())\""
    seen = site.run("seoul-cp", ask % (site.hosts["sns-1"], 7006)).strip()
    assert seen in addresses["seoul-gw"]
    assert seen != site.hosts["seoul-gw"]
    # And nothing else is.
    assert site.run("seoul-cp", ask % (site.hosts["sns-1"], 443)).strip() == site.hosts["seoul-cp"]


def test_what_is_published_is_reached_at_the_gateways_address(site: Site, addresses: dict[str, list[str]]) -> None:
    outside = next(one for one in addresses["seoul-gw"] if one != site.hosts["seoul-gw"])
    ask = f"python3 -c \"import socket; print(socket.create_connection(('{outside}', 17007), 3).recv(50).decode())\""
    assert site.run("sns-1", ask).strip() == site.hosts["sns-1"]


def test_a_new_rule_set_loses_no_packet_and_resets_no_connection(
    site: Site, changed: Callable[[str, str], None]
) -> None:
    told: dict[str, Any] = {}
    # To the centre's broker over TCP, and UDP beside it.
    words = ("stream", site.hosts["central-cp"], 8883, 7003, 1000, 12)
    running = threading.Thread(target=lambda: told.update(probe(site, "seoul-cp", *words)))
    running.start()
    time.sleep(1)
    for number in range(4):
        port = 7100 + number
        changed("seoul-gw", f"[flow for flow in policy['flows'] if flow['name'] == 'posts'][0]['ports'] = ['{port}']")
    running.join()
    assert told["sent"] > 5000
    assert (told["lost"], told["resets"]) == (0, 0)


def test_a_change_of_one_flow_leaves_the_counters_of_all(site: Site, changed: Callable[[str, str], None]) -> None:
    probe(site, "seoul-cp", "reach", f"{site.hosts['central-cp']}/tcp/8883")
    before = counters(site, "seoul-gw")
    assert before["flow-events-to-centre"]["packets"] > 0
    changed("seoul-gw", "[flow for flow in policy['flows'] if flow['name'] == 'posts'][0]['ports'] = ['7999']")
    after = counters(site, "seoul-gw")
    assert after.keys() == before.keys()
    assert all(after[name]["packets"] >= before[name]["packets"] for name in before)


def test_a_flow_that_is_taken_away_ends_and_the_others_go_on(
    site: Site, changed: Callable[[str, str], None]
) -> None:
    told: dict[str, Any] = {}
    words = ("stream", site.hosts["central-cp"], 9090, 7003, 100, 6)
    running = threading.Thread(target=lambda: told.update(probe(site, "seoul-cp", *words)))
    running.start()
    time.sleep(2)
    changed("seoul-gw", "policy['flows'] = [one for one in policy['flows'] if one['name'] != 'metrics-to-centre']")
    running.join()
    # Half of the packets are TCP and end with the flow, the others are not touched.
    assert 0.2 < told["lost"] / told["sent"] < 0.5
    assert "flow-metrics-to-centre" not in counters(site, "seoul-gw")


def test_without_confirmation_the_old_rules_come_back(site: Site, eventually: Wait) -> None:
    gateway = "busan-gw"

    def answers() -> bool:
        # A connection of its own: what stands stays.
        ask = ["ssh-keyscan", "-T", "2", "-t", "ed25519", site.hosts[gateway]]
        return b"ssh-ed25519" in subprocess.run(ask, capture_output=True, check=False).stdout

    edit(site, gateway, "policy['flows'] = [one for one in policy['flows'] if one['name'] != 'ssh']")
    before = counters(site, gateway)["flow-time"]["packets"]
    site.run(gateway, "koren-nfv stage /root/policy 8")
    assert not answers()
    eventually(answers, 15)
    assert site.run(gateway, f"koren-nfv stage {POLICY} 20").strip() == "unchanged"
    assert counters(site, gateway)["flow-time"]["packets"] >= before
    with pytest.raises(subprocess.CalledProcessError) as error:
        site.run(gateway, "koren-nfv confirm")
    assert "rolled back" in error.value.stderr


def test_rules_that_the_kernel_refuses_change_nothing(site: Site) -> None:
    before = site.run("busan-gw", "nft list chain inet koren_nfv forward")
    edit(site, "busan-gw", "policy['flows'][0]['ports'] = ['99999']")
    for command in ("check /root/policy", "stage /root/policy 5"):
        with pytest.raises(subprocess.CalledProcessError) as error:
            site.run("busan-gw", f"koren-nfv {command}")
        assert "99999" in error.value.stderr
    assert site.run("busan-gw", "nft list chain inet koren_nfv forward") == before
    assert site.run("busan-gw", f"koren-nfv stage {POLICY} 20").strip() == "unchanged"


def test_rules_are_there_before_the_network_and_come_back_when_taken_away(site: Site, eventually: Wait) -> None:
    site.run("busan-gw", "nft delete table inet koren_nfv && koren-nfv boot && nft list chain inet koren_nfv input")
    site.run("busan-gw", "nft flush ruleset")
    eventually(lambda: "policy drop" in site.run("busan-gw", "nft list chain inet koren_nfv input", check=False), 20)


def test_another_tables_rules_are_left_alone(site: Site, changed: Callable[[str, str], None]) -> None:
    site.run("seoul-gw", "nft add table inet other '{ chain mine { }; }'")
    try:
        changed("seoul-gw", "[flow for flow in policy['flows'] if flow['name'] == 'posts'][0]['ports'] = ['7998']")
        assert "chain mine" in site.run("seoul-gw", "nft list table inet other")
    finally:
        site.run("seoul-gw", "nft delete table inet other")


def test_rates_change_without_new_queues(site: Site, changed: Callable[[str, str], None]) -> None:
    def queues() -> list[str]:
        return sorted(site.run("seoul-gw", "tc qdisc show | awk '/htb|pfifo|codel/ { print $2, $3, $5 }'").splitlines())

    before = queues()
    changed("seoul-gw", "[link.update(mbit=30) for link in policy['links']]")
    assert queues() == before
    assert "rate 30Mbit" in site.run("seoul-gw", "tc class show dev eth0")


def passed(site: Site) -> int:
    """Packets that the function forwarded."""
    return int(site.run("filter-1", "awk '/^Ip:/ && $7 ~ /[0-9]/ { print $7 }' /proc/net/snmp"))


def test_a_flow_passes_its_function_and_stops_when_that_drops_it(site: Site) -> None:
    chained, other = (f"{site.hosts['seoul-cp']}/tcp/{port}" for port in (7008, 8883))
    before = passed(site)
    assert probe(site, "central-cp", "reach", other)[other] == "open"
    assert passed(site) == before
    counted = counters(site, "central-gw")["flow-probe-chained"]["packets"]
    assert probe(site, "central-cp", "reach", chained)[chained] == "open"
    # There and back: the handshake, the answer, the end.
    assert passed(site) >= before + 6
    assert 6 <= counters(site, "central-gw")["flow-probe-chained"]["packets"] - counted < 20

    site.run("filter-1", "nft add rule ip filter-1 forward tcp dport 7008 counter drop")
    try:
        assert probe(site, "central-cp", "reach", chained)[chained] == "timeout"
        assert probe(site, "central-cp", "reach", other)[other] == "open"
        assert "counter packets 0" not in site.run("filter-1", "nft list table ip filter-1")
    finally:
        site.run("filter-1", "nft flush chain ip filter-1 forward")
    assert probe(site, "central-cp", "reach", chained)[chained] == "open"


def test_a_chain_grants_nothing(site: Site) -> None:
    target = f"{site.hosts['busan-cp']}/tcp/7008"
    assert probe(site, "central-cp", "reach", target)[target] == "EHOSTUNREACH"


@contextmanager
def pod_on(site: Site, node: str, net: str) -> Iterator[str]:
    """What a pod is to its node: an address of the pods' range behind the node's own. How to run the probes in it."""
    site.run(
        node,
        f"ip netns add pod && ip link add pod0 type veth peer name eth0 netns pod"
        f" && ip address add {net}.0.1/24 dev pod0 && ip link set pod0 up"
        f" && ip -n pod address add {net}.0.5/24 dev eth0 && ip -n pod link set eth0 up"
        f" && ip -n pod route add default via {net}.0.1 && sysctl --quiet net.ipv4.ip_forward=1"
        f" && nft 'table ip pod {{ chain out {{ type nat hook postrouting priority srcnat; ip saddr {net}.0.0/16"
        f" ip daddr != {net}.0.0/16 masquerade; }}; }}'",
    )
    try:
        yield f"ip netns exec pod python3 {PROGRAM}"
    finally:
        site.run(node, "ip netns del pod; ip link del pod0 2>/dev/null; nft delete table ip pod", check=False)


@pytest.fixture
def pod(site: Site) -> Iterator[str]:
    """A pod of Seoul."""
    with pod_on(site, "seoul-cp", "10.111") as run:
        yield run


def test_a_pod_reaches_no_other_regions_broker_though_its_node_does(
    site: Site, addresses: dict[str, list[str]], pod: str
) -> None:
    targets = {f"{address}/{port}": f"{end} {port}" for end in ("central-cp", "busan-cp", "sns-1", "seoul-cp")
               for address in addresses[end][:1] for port in TARGETS}  # fmt: skip
    answers = json.loads(site.run("seoul-cp", f"{pod} reach {' '.join(targets)}"))
    reached = {targets[target] for target, answer in answers.items() if answer == "open"}
    assert {one for one in reached if not one.startswith("seoul-cp")} == {"sns-1 tcp/443"}
    assert "seoul-cp tcp/8883" in reached
    node = f"{site.hosts['central-cp']}/tcp/8883"
    assert probe(site, "seoul-cp", "reach", node)[node] == "open"


# The world as a cloud's router shows it: the router's own address there, the floating IP of the centre's gateway host,
# and a server.
ROUTER, FLOATING, SERVER = "203.0.113.1", "203.0.113.61", "203.0.113.7"


@pytest.fixture
def world(site: Site, eventually: Wait) -> Iterator[str]:
    """The world behind a router in the centre's LAN, which answers the LAN's hosts directly, as Neutron's does.

    How to run the probes there. What it opens inwards the router hands to the gateway, which is to refuse it.
    """
    gateway, router = site.hosts["central-gw"], "filter-1"
    rules = f"""table ip world {{
      chain inwards {{ type filter hook prerouting priority mangle; iifname world0 ct state new meta mark set 7; }}
      chain in {{ type nat hook prerouting priority dstnat; ip daddr {FLOATING} dnat to {gateway}; }}
      chain out {{
        type nat hook postrouting priority srcnat
        oifname world0 ip saddr {gateway} snat to {FLOATING}
        oifname world0 masquerade
      }}
    }}"""
    site.run(
        router,
        "ip netns add world && ip link add world0 type veth peer name eth0 netns world"
        f" && ip address add {ROUTER}/24 dev world0 && ip address add {FLOATING}/24 dev world0"
        " && ip link set world0 up && ip -n world link set lo up"
        f" && ip -n world address add {SERVER}/24 dev eth0 && ip -n world link set eth0 up"
        f" && ip -n world route add default via {ROUTER}"
        # As a function the host sends everything back to the gateway, which is what table 100 is for.
        f" && ip rule add priority 90 to {SERVER} lookup main && ip rule add priority 91 fwmark 7 lookup 100"
        f" && nft '{rules}' && systemd-run --quiet --collect --unit=world"
        f" ip netns exec world python3 {PROGRAM} serve 22,7010,7011 53,7012",
    )
    site.run("central-gw", f"ip route add default via {site.hosts[router]}")
    program = f"ip netns exec world python3 {PROGRAM}"
    try:
        eventually(lambda: bool(answering(site, router, program, f"{SERVER}/udp/7012")), 20)
        yield program
    finally:
        site.run("central-gw", "ip route del default", check=False)
        site.run(
            router,
            "systemctl stop world; nft delete table ip world; ip netns del world; ip link del world0 2>/dev/null;"
            " ip rule del priority 90; ip rule del priority 91",
            check=False,
        )


def answering(site: Site, host: str, program: str, *targets: str) -> set[str]:
    """Which of the targets answer the probes that run so on a host."""
    answers = json.loads(site.run(host, f"{program} reach {' '.join(targets)}"))
    return {target for target, answer in answers.items() if answer == "open"}


def test_pods_reach_the_world_by_a_router_that_stands_in_their_gateways_lan(site: Site, world: str) -> None:
    targets = [f"{SERVER}/{port}" for port in ("tcp/7010", "udp/53", "tcp/22", "tcp/7011", "udp/7012")]
    declared = set(targets[:2])
    flows = ("flow-probe-world", "flow-probe-names")
    before = counters(site, "central-gw")
    with pod_on(site, "central-cp", "10.110") as pod:
        assert answering(site, "central-cp", pod, *targets) == declared
        ask = f"import socket; print(socket.create_connection(('{SERVER}', 7010), 3).recv(50).decode())"
        seen = site.run("central-cp", f'ip netns exec pod python3 -c "{ask}"').strip()
    # It comes from the gateway host, which has the floating IP.
    assert seen == FLOATING
    assert answering(site, "central-cp", f"python3 {PROGRAM}", *targets) == declared
    after = counters(site, "central-gw")
    # There and back: nothing of the connections goes past the gateway.
    assert after["flow-probe-names"]["packets"] - before["flow-probe-names"]["packets"] == 4
    assert after["refused-invalid"] == before["refused-invalid"]
    assert all(after[flow]["packets"] > before[flow]["packets"] for flow in flows)


def test_the_world_reaches_at_a_floating_ip_what_is_declared_and_beyond_it_nothing(
    site: Site, addresses: dict[str, list[str]], world: str
) -> None:
    ends = {FLOATING, *addresses["central-gw"], *addresses["central-cp"], *addresses["seoul-cp"], "10.110.0.5"}
    with pod_on(site, "central-cp", "10.110") as pod:
        # Who is spoken to has no way back in either.
        assert answering(site, "central-cp", pod, f"{SERVER}/tcp/7010")
        reached = answering(site, "filter-1", world, *(f"{end}/{port}" for end in ends for port in TARGETS))
    assert reached == {f"{FLOATING}/tcp/7002", f"{site.hosts['central-gw']}/tcp/7002"}


@pytest.mark.parametrize(
    ("source", "target"),
    [(SERVER, "busan-cp"), ("seoul-cp", "central-gw"), ("seoul-cp", "busan-cp"), ("seoul-cp", SERVER)],
)
def test_a_router_in_the_lan_lets_nobody_there_bear_anothers_address(
    site: Site, world: str, source: str, target: str
) -> None:
    before = counters(site, "central-gw")["refused-spoofed"]["packets"]
    ends = [site.hosts.get(end, end) for end in (source, target)]
    site.run("central-cp", f"python3 {PROGRAM} forge {' '.join(ends)} 53 20")
    assert counters(site, "central-gw")["refused-spoofed"]["packets"] == before + 20
