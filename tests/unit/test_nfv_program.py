# SPDX-License-Identifier: Apache-2.0
"""The rules and rates that a gateway's policy comes to, and that the kernel takes them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/nfv_gateway/files/koren-nfv"


@pytest.fixture(scope="module")
def nfv() -> ModuleType:
    """The program, as a module."""
    loader = importlib.machinery.SourceFileLoader("koren_nfv", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def flow(name: str, number: int, **more: Any) -> dict[str, Any]:
    """A flow as the policy has it."""
    return {
        "name": name, "id": number, "protocol": "tcp", "ports": ["8883"], "class": "rest", "connections": 0,
        "masquerade": False, "publish": "", "out": [], "in": [], "own": [],
    } | more  # fmt: skip


def policy(*flows: dict[str, Any]) -> dict[str, Any]:
    """A gateway of 10.0.11.0/24."""
    return {
        "lan": {"address": "10.0.11.2", "cidr": "10.0.11.0/24"},
        "outside": ["10.0.0.11"],
        "classes": [{"name": "events", "share": 80}, {"name": "rest", "share": 20}],
        "links": [{"address": "10.0.0.11", "mbit": 20}],
        "flows": list(flows),
    }


PAIR = {"from": ["10.0.11.10"], "to": ["10.0.10.10", "10.0.12.0/24"]}
EVERYTHING = policy(
    flow("all-ways", 1, out=[PAIR], own=[{"from": ["0.0.0.0/0"], "to": ["10.0.11.2"]}], ports=["22", "80-90"]),
    flow("few", 2, out=[PAIR], connections=3, **{"in": [PAIR]}),
    flow("ping", 3, protocol="icmp", ports=[], own=[PAIR]),
    flow("masked", 4, out=[PAIR], masquerade=True, protocol="udp"),
    flow("shown", 5, publish="8443", **{"in": [{"from": ["0.0.0.0/0"], "to": ["10.0.11.10"]}]}),
    flow("fast", 6, out=[PAIR], **{"class": "events"}),
)


def test_nothing_passes_that_no_flow_declares(nfv: ModuleType) -> None:
    rules = nfv.ruleset(policy(), "eth0")
    assert rules.count("policy drop") == 2
    assert "goto pass" not in rules.replace("0x1000000 : goto pass", "")


def test_a_connection_bears_its_flows_number_and_an_unknown_number_is_no_connection(nfv: ModuleType) -> None:
    rules = nfv.ruleset(policy(flow("mine", 0xABC, out=[PAIR])), "eth0")
    ends = "ip saddr 10.0.11.10 ip daddr { 10.0.10.10, 10.0.12.0/24 }"
    assert f"{ends} tcp dport 8883 ct mark set 0xabc goto pass" in rules
    assert "ct state established,related ct mark vmap { 0xabc : goto pass, 0x1000000 : goto pass }" in rules
    assert "established,related accept" not in rules


def test_what_a_router_in_the_lan_takes_bears_the_gateways_address(nfv: ModuleType) -> None:
    rules = nfv.ruleset(policy(), "eth0")
    own = "ip saddr 10.0.11.0/24 ip daddr != 10.0.11.0/24 masquerade"
    assert f'oifname "eth0" meta mark & 0xff000000 != 0x4e000000 {own}' in rules
    # And from it comes what is for the gateway itself, no more.
    assert 'ip saddr != 10.0.11.0/24 jump foreign' in rules
    foreign = rules.split("chain foreign {")[1].split("}")[0].strip().splitlines()
    assert [line.strip() for line in foreign] == [
        "ip daddr 10.0.11.2 fib saddr . iif oif exists return",
        "counter name refused-spoofed drop",
    ]


def test_the_transaction_keeps_what_is_still_named(nfv: ModuleType) -> None:
    rules = nfv.ruleset(EVERYTHING, "eth0")
    present = {
        "chain": {"forward", "loaded-old", "gone"},
        "counter": {"flow-few", "flow-gone"},
        "set": {"connections-few-3", "connections-few-9"},
    }
    text = nfv.transaction(rules, "loaded-new", present)
    deleted = [line.split()[-1] for line in text.splitlines() if line.startswith("delete")]
    assert deleted == ["gone", "loaded-old", "connections-few-9", "flow-gone"]
    assert text.index("flush table") < text.index("delete")


def test_rates_follow_the_shares_and_the_order(nfv: ModuleType) -> None:
    (lines,) = nfv.shaping(EVERYTHING, {"10.0.0.11": "eth1"}).values()
    assert "classid 1:1 htb rate 20000kbit" in lines[0]
    assert "classid 1:10 htb rate 16000kbit ceil 20000kbit" in lines[1]
    assert lines[1].endswith("prio 0")
    assert "classid 1:11 htb rate 4000kbit ceil 20000kbit" in lines[2]
    assert lines[2].endswith("prio 1")


def test_counters_are_told_as_prometheus_reads_them(nfv: ModuleType) -> None:
    table = {
        "nftables": [
            {"counter": {"name": "flow-few", "packets": 7, "bytes": 900}},
            {"counter": {"name": "refused-out", "packets": 2, "bytes": 80}},
        ]
    }
    lines = nfv.metrics(table, [("10.0.0.11", "events", 123, 4)], False).splitlines()
    assert 'koren_nfv_flow_packets_total{flow="few"} 7' in lines
    assert 'koren_nfv_flow_bytes_total{flow="few"} 900' in lines
    assert 'koren_nfv_refused_packets_total{reason="out"} 2' in lines
    assert 'koren_nfv_class_bytes_total{link="10.0.0.11",class="events"} 123' in lines
    assert 'koren_nfv_class_dropped_packets_total{link="10.0.0.11",class="events"} 4' in lines
    assert "koren_nfv_confirmed 0" in lines


@pytest.mark.skipif(not shutil.which("nft"), reason="nftables is not here")
def test_the_kernel_takes_it_and_changes_it_without_forgetting(nfv: ModuleType, tmp_path: Path) -> None:
    without = policy(*EVERYTHING["flows"][1:])
    without["links"][0]["mbit"] = 30
    for name, one in (("first", EVERYTHING), ("second", without)):
        (tmp_path / name).write_text(json.dumps(one))
    code = f"""
import importlib.machinery, json, subprocess, sys
sys.dont_write_bytecode = True
nfv = importlib.machinery.SourceFileLoader("nfv", {str(PROGRAM)!r}).load_module()
first, second = (nfv._Plan(json.load(open(path))) for path in sys.argv[1:])
first.check()
assert not first.loaded()
first.load()
assert first.loaded() and not second.loaded()
queues = subprocess.check_output(["tc", "qdisc", "show", "dev", "wan"])
element = "{{ 10.0.0.1 . 10.0.0.2 . tcp . 9 }}"
subprocess.run(["nft", "add", "element", "inet", "koren_nfv", "refused", element], check=True)
second.load()
assert second.loaded() and not first.loaded()
assert subprocess.check_output(["tc", "qdisc", "show", "dev", "wan"]) == queues
assert b"rate 30Mbit" in subprocess.check_output(["tc", "class", "show", "dev", "wan"])
assert b"10.0.0.1" in subprocess.check_output(["nft", "list", "set", "inet", "koren_nfv", "refused"])
names = nfv.names(nfv._table())
assert "flow-few" in names["counter"] and "flow-all-ways" not in names["counter"]
"""
    ground = (
        "ip link add lan type veth peer name lan-peer && ip link add wan type veth peer name wan-peer &&"
        " ip address add 10.0.11.2/24 dev lan && ip address add 10.0.0.11/24 dev wan &&"
        " ip link set lan up && ip link set wan up && exec /usr/bin/python3 -c \"$0\" \"$@\""
    )
    files = [str(tmp_path / name) for name in ("first", "second")]
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", ground, code, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
