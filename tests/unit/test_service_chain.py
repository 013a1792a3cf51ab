# SPDX-License-Identifier: Apache-2.0
"""What a service chain comes to, on a gateway and on OpenStack."""

from __future__ import annotations

import runpy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.koren.faas.plugins.module_utils.service_chain import (
    DESCRIPTION,
    FROM_FUNCTION,
    KINDS,
    Realisation,
    check_classifiers,
    check_name,
    flow_matches,
    loaded_marker,
    mark,
    read,
    routing,
    steering,
)

ROOT = Path(__file__).parents[2]
FLOW = {"protocol": "tcp", "ports": ["8554"], "sources": ["10.0.10.20"], "destinations": ["10.0.0.20", "10.0.0.21"]}
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]


def lines_of(rules: str, chain: str) -> list[str]:
    """The rules of one chain."""
    body = rules.split(f"  chain {chain} {{\n")[1].split("  }\n")[0]
    return [line.strip() for line in body.splitlines()]


def test_who_has_seen_a_packet_is_followed_by_the_next() -> None:
    rules = steering("cameras", [FLOW], MACS, "eth0", False)
    first, second = (hex(mark("cameras", one)) for one in (0, 1))
    assert lines_of(rules, "forth") == [
        f'iifname "eth0" ether saddr {MACS[0]} meta mark set {second} return',
        f'iifname "eth0" ether saddr {MACS[1]} meta mark set {hex(FROM_FUNCTION)} return',
        f"meta mark set {first}",
    ]
    assert "chain back" not in rules
    assert "ip saddr 10.0.10.20 ip daddr { 10.0.0.20, 10.0.0.21 } tcp dport 8554 jump forth" in rules


def test_answers_go_the_opposite_way() -> None:
    rules = steering("cameras", [FLOW], MACS, "eth0", True)
    assert lines_of(rules, "back")[-1] == f"meta mark set {hex(mark('cameras', 1))}"
    assert lines_of(rules, "back")[0].startswith(f'iifname "eth0" ether saddr {MACS[1]}')
    assert "ip saddr { 10.0.0.20, 10.0.0.21 } ip daddr 10.0.10.20 tcp sport 8554 jump back" in rules


def test_other_rules_have_another_marker() -> None:
    rules = steering("cameras", [FLOW], MACS, "eth0", False)
    assert loaded_marker(rules) == loaded_marker(steering("cameras", [FLOW], MACS, "eth0", False))
    assert loaded_marker(rules) != loaded_marker(steering("cameras", [FLOW], MACS[::-1], "eth0", False))


def test_each_function_has_a_way_of_its_own() -> None:
    rules = [rule for rule, _ in routing("cameras", ["10.0.10.30", "10.0.10.31"], "eth0")]
    assert len({rule[5] for rule in rules}) == 2
    assert int(rules[0][5], 16) == int(rules[0][7])


@pytest.mark.parametrize("name", ["", "Cameras", "a b", "-x", "x" * 42, "x;reboot"])
def test_a_name_that_can_not_be_is_told(name: str) -> None:
    assert "lower case letters" in str(check_name(name))


@pytest.mark.parametrize("ports", [[], ["http"], ["1-2-3"], ["1; reboot"]])
def test_ports_that_can_not_be_are_told(ports: list[str]) -> None:
    assert "ports" in str(check_classifiers([FLOW | {"ports": ports}]))


class Memory:
    """networking-sfc as far as a chain goes: refuses what Neutron refuses."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.calls = 0
        self._numbers = count(1)

    def every(self, kind: str) -> list[dict[str, Any]]:
        return [dict(one) for one in self.objects[kind].values()]

    def create(self, kind: str, **values: Any) -> dict[str, Any]:
        if kind == "port_pair":
            ports = [(one["ingress"], one["egress"]) for one in self.objects[kind].values()]
            assert (values["ingress"], values["egress"]) not in ports
        if kind == "port_chain":
            orders = [one["port_pair_groups"] for one in self.objects[kind].values()]
            assert values["port_pair_groups"] not in orders
        self.calls += 1
        made = {"id": f"{kind}-{next(self._numbers)}", **values}
        self.objects[kind][made["id"]] = made
        return dict(made)

    def update(self, kind: str, identity: str, **values: Any) -> None:
        assert "chain_parameters" not in values
        self.calls += 1
        self.objects[kind][identity] |= values

    def delete(self, kind: str, identity: str) -> None:
        users = {"port_pair": ("port_pair_group", "port_pairs"), "port_pair_group": ("port_chain", "port_pair_groups"),
                 "flow_classifier": ("port_chain", "flow_classifiers")}  # fmt: skip
        if kind in users:
            other, key = users[kind]
            assert not any(identity in one[key] for one in self.objects[other].values()), "in use"
        self.calls += 1
        del self.objects[kind][identity]

    def counts(self) -> list[int]:
        return [len(self.objects[kind]) for kind in KINDS]


def bring_about(
    network: Memory, name: str, flow: dict[str, Any], *functions: str, symmetric: bool = False, check: bool = False
) -> list[str]:
    """Have a chain; what was changed."""
    chain = Realisation(network, read(network), name, check=check)
    wanted = [{"name": one, "ingress": f"{one}-in", "egress": f"{one}-out"} for one in functions]
    chain.present(flow_matches([flow]), wanted, symmetric=symmetric)
    return chain.changes


def test_a_flow_of_several_ends_and_ports_is_a_classifier_each() -> None:
    matches = flow_matches([FLOW | {"ports": ["1-9", "443"]}])
    assert len(matches) == 4
    assert (matches[0]["destination_port_range_min"], matches[0]["destination_port_range_max"]) == (1, 9)
    assert matches[1]["source_ip_prefix"] == "10.0.10.20/32"


def test_a_chain_is_made_once() -> None:
    network = Memory()
    told = bring_about(network, "cameras", FLOW, "filter", "counter", check=True)
    assert network.counts() == [0, 0, 0, 0]
    assert bring_about(network, "cameras", FLOW, "filter", "counter") == told
    assert network.counts() == [2, 2, 2, 1]
    calls = network.calls
    assert bring_about(network, "cameras", FLOW, "filter", "counter") == []
    assert network.calls == calls


def test_what_differs_is_changed_and_nothing_else() -> None:
    network = Memory()
    bring_about(network, "cameras", FLOW, "filter", "counter")
    assert bring_about(network, "cameras", FLOW, "counter", "filter") == ["update port_chain cameras"]
    less = FLOW | {"destinations": ["10.0.0.20"]}
    changes = bring_about(network, "cameras", less, "counter", "filter")
    assert [change.split()[0] for change in changes] == ["update", "delete"]
    assert bring_about(network, "cameras", less, "counter") == [
        "update port_chain cameras",
        "delete port_pair_group filter",
        "delete port_pair filter",
    ]
    assert network.counts() == [1, 1, 1, 1]
    changes = bring_about(network, "cameras", less, "counter", symmetric=True)
    assert changes == ["delete port_chain cameras", "create port_chain cameras"]
    changes = bring_about(network, "cameras", less | {"ports": ["8554-8560"]}, "counter")
    assert [change.rsplit("-", 1)[0] for change in changes] == [
        "delete port_chain cameras",
        "delete flow_classifier cameras",
        "create flow_classifier cameras",
        "create port_chain cameras",
    ]


def test_two_chains_share_a_function_and_leave_it_to_each_other() -> None:
    network = Memory()
    bring_about(network, "cameras", FLOW, "filter")
    bring_about(network, "events", FLOW | {"ports": ["8883"]}, "filter", "counter")
    assert network.counts() == [2, 2, 4, 2]
    gone = Realisation(network, read(network), "cameras", check=False)
    gone.absent()
    assert network.counts() == [2, 2, 2, 1]
    Realisation(network, read(network), "events", check=False).absent()
    assert network.counts() == [0, 0, 0, 0]
    again = Realisation(network, read(network), "events", check=False)
    again.absent()
    assert again.changes == []


def test_the_same_functions_in_the_same_order_are_one_chain() -> None:
    network = Memory()
    bring_about(network, "cameras", FLOW, "filter", "counter")
    before = network.counts()
    with pytest.raises(LookupError, match="chain 'cameras' passes the same functions"):
        bring_about(network, "events", FLOW | {"ports": ["8883"]}, "filter", "counter")
    assert network.counts() == before


def test_what_is_others_is_used_and_left_alone() -> None:
    network = Memory()
    pair = network.create("port_pair", name="theirs", description="", ingress="filter-in", egress="filter-out")
    network.create("port_pair_group", name="theirs", description="", port_pairs=[pair["id"]])
    network.create("port_chain", name="cameras", description="", port_pair_groups=[], flow_classifiers=[])
    bring_about(network, "cameras", FLOW, "filter")
    assert network.counts() == [1, 1, 2, 2]
    Realisation(network, read(network), "cameras", check=False).absent()
    assert network.counts() == [1, 1, 0, 1]


def test_a_run_that_was_cut_is_finished() -> None:
    network = Memory()
    (first, _) = flow_matches([FLOW])
    network.create("flow_classifier", name="cameras-0123abcd", description=DESCRIPTION, **first)
    assert "create port_chain cameras" in bring_about(network, "cameras", FLOW, "filter")
    assert network.counts() == [1, 1, 2, 1]


FILTERS = runpy.run_path(str(ROOT / "plugins/filter/nfv.py"))
INVENTORY = {
    "hosts": {"filter-1": ["10.0.10.30"], "hpc-1": ["10.0.10.20"], "seoul-cp": ["10.0.11.10"]},
    "groups": {},
    "regions": {"central": "10.0.10.0/24", "seoul": "10.0.11.0/24"},
}
FLOWS = FILTERS["nfv_flows"](
    [
        {"name": "cameras", "from": "hpc-1", "to": "10.0.0.20", "ports": [8554]},
        {"name": "near", "from": "seoul-cp", "to": "10.0.0.20", "ports": [1]},
        {"name": "posts", "from": "hpc-1", "to": "world", "ports": [443], "masquerade": True},
    ],
    INVENTORY,
)


def at(lan: str, **chain: Any) -> list[dict[str, Any]]:
    """The chains of the gateway of a LAN."""
    chains = [{"name": "one", "flow": "cameras", "functions": ["filter-1"]} | chain]
    found: list[dict[str, Any]] = FILTERS["nfv_gateway_chains"](chains, FLOWS, INVENTORY, lan, [])
    return found


def test_a_chain_is_realised_where_its_functions_are() -> None:
    assert at("10.0.11.0/24") == []
    (chain,) = at("10.0.10.0/24", symmetric=True)
    assert chain["functions"] == [{"name": "filter-1", "address": "10.0.10.30"}]
    assert chain["classifiers"] == [
        {"protocol": "tcp", "ports": ["8554"], "sources": ["10.0.10.20"], "destinations": ["10.0.0.20"]}
    ]
    assert chain["symmetric"]


def test_a_cloud_is_told_the_ports_that_the_flow_leaves_and_passes() -> None:
    inventory = INVENTORY | {"hosts": INVENTORY["hosts"] | {"central-gw": ["10.0.10.2", "10.0.0.10"]}}
    flows = [
        {"name": "out", "from": "central", "to": "10.0.0.20", "ports": [8554]},
        {"name": "in", "from": "10.0.0.20", "to": "hpc-1", "ports": [1]},
        {"name": "nobodys", "from": "10.0.10.77", "to": "10.0.0.20", "ports": [1]},
    ]

    def sent(flow: str) -> list[tuple[str, list[str]]]:
        chains = [{"name": "one", "flow": flow, "functions": ["filter-1"]}]
        own = ["10.0.10.2", "10.0.0.10"]
        table = FILTERS["nfv_flows"](flows, inventory)
        (chain,) = FILTERS["nfv_gateway_chains"](chains, table, inventory, "10.0.10.0/24", own, "koren-a-")
        assert chain["functions"] == [{"name": "filter-1", "ingress": "koren-a-filter-1"}]
        return [(one["source_port"], one["sources"]) for one in chain["classifiers"]]

    assert sent("out") == [("koren-a-hpc-1", ["10.0.10.20"]), ("koren-a-central-gw", ["10.0.10.2"])]
    assert sent("in") == [("koren-a-central-gw", ["10.0.0.20"])]
    with pytest.raises(AnsibleFilterError, match="flow: 'nobodys': no other host of the inventory sends"):
        sent("nobodys")


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ({"flow": "tokyo"}, "flow: 'tokyo': it is not declared; there are cameras, near, posts"),
        ({"flow": "near"}, "does not pass the gateway of 10.0.10.0/24"),
        ({"flow": "posts"}, "flow: 'posts': a gateway can't masquerade what it sends to functions before"),
        ({"functions": ["tokyo"]}, "functions: 'tokyo': there is no such host"),
        ({"functions": ["filter-1", "seoul-cp"]}, "they have to be in one region"),
    ],
)
def test_a_chain_that_can_not_be_is_told(chain: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        at("10.0.10.0/24", **chain)
    assert str(error.value).startswith("chain 'one'")
    assert said in str(error.value)
