# SPDX-License-Identifier: Apache-2.0
"""What a table of flows comes to at one gateway."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

FILTERS = runpy.run_path(str(Path(__file__).parents[2] / "plugins/filter/nfv.py"))
INVENTORY: dict[str, Any] = {
    "hosts": {
        "central-gw": ["10.0.10.2", "10.0.0.10"],
        "central-cp": ["10.0.10.10"],
        "seoul-gw": ["10.0.11.2", "10.0.0.11"],
        "seoul-cp": ["10.0.11.10"],
        "busan-cp": ["10.0.12.10"],
        "sns-1": ["10.0.0.30"],
    },
    "groups": {
        "central": ["central-gw", "central-cp"],
        "edges": ["seoul-gw", "seoul-cp", "busan-cp"],
        "control_planes": ["central-cp", "seoul-cp", "busan-cp"],
        "hpc": [],
    },
    "regions": {"central": "10.0.10.0/24", "seoul": "10.0.11.0/24", "busan": "10.0.12.0/24"},
    "pods": {"seoul": "10.111.0.0/16"},
}
SEOUL = ("10.0.11.0/24", ["10.0.11.2", "10.0.0.11"])
CLASSES = ["events", "bulk", "rest"]


def resolve(**flow: Any) -> list[dict[str, Any]]:
    """One flow, resolved."""
    ends = {"from": flow.pop("start"), "to": flow.pop("end")}
    one = {"name": "one", "ports": [8883], **ends, **flow}
    found: list[dict[str, Any]] = FILTERS["nfv_flows"]([one], INVENTORY, {"office": "192.0.2.0/24"}, CLASSES)
    return found


def at_seoul(**flow: Any) -> dict[str, Any]:
    """What one flow is at Seoul's gateway, by way; only ways that it takes."""
    found = FILTERS["nfv_gateway_flows"](resolve(**flow), *SEOUL)
    return {way: found[0][way] for way in ("out", "in", "own") if found[0][way]} if found else {}


def test_names_stand_for_a_regions_lan_a_groups_hosts_a_host_a_place_a_cidr() -> None:
    (flow,) = resolve(start=["seoul", "office", "198.51.100.7"], end=["sns-1", "control_planes"])
    assert flow["pairs"] == [
        {
            "from": ["10.0.11.0/24", "192.0.2.0/24", "198.51.100.7"],
            "to": ["10.0.0.30", "10.0.10.10", "10.0.11.10", "10.0.12.10"],
        }
    ]


def test_joined_groups_stand_for_the_hosts_in_all_of_them() -> None:
    (flow,) = resolve(start="control_planes:&central", end="control_planes:&edges")
    assert flow["pairs"] == [{"from": ["10.0.10.10"], "to": ["10.0.11.10", "10.0.12.10"]}]


def test_a_flow_of_each_region_stays_in_it() -> None:
    (flow,) = resolve(start="{region}", end="{region}")
    assert flow["pairs"] == [{"from": [lan], "to": [lan]} for _, lan in sorted(INVENTORY["regions"].items())]


def test_a_gateway_hears_only_of_what_passes_it() -> None:
    assert at_seoul(start="control_planes:&central", end="control_planes:&edges") == {
        "in": [{"from": ["10.0.10.10"], "to": ["10.0.11.10"]}]
    }
    assert at_seoul(start="edges", end="sns-1") == {
        "out": [{"from": ["10.0.11.2", "10.0.11.10"], "to": ["10.0.0.30"]}]
    }
    assert at_seoul(start="busan", end="central") == {}


def test_another_region_changes_nothing_here() -> None:
    before = at_seoul(start="edges", end="sns-1")
    INVENTORY["hosts"]["jeju-cp"] = ["10.0.13.10"]
    INVENTORY["groups"]["edges"].append("jeju-cp")
    try:
        assert at_seoul(start="edges", end="sns-1") == before
    finally:
        del INVENTORY["hosts"]["jeju-cp"]
        INVENTORY["groups"]["edges"].remove("jeju-cp")


def test_what_ends_at_the_gateway_is_told_from_what_passes_it() -> None:
    assert at_seoul(start="office", end="seoul", ports=[22]) == {
        "in": [{"from": ["192.0.2.0/24"], "to": ["10.0.11.0/24"]}],
        "own": [{"from": ["192.0.2.0/24"], "to": ["10.0.11.2"]}],
    }
    assert at_seoul(start="any", end="seoul-gw") == {
        "own": [{"from": ["0.0.0.0/0"], "to": ["10.0.0.11", "10.0.11.2"]}]
    }


def test_a_flow_to_the_world_leaves_its_region_and_enters_no_other() -> None:
    assert at_seoul(start="edges", end="world", ports=[443]) == {
        "out": [{"from": ["10.0.11.2", "10.0.11.10"], "to": ["0.0.0.0/0"]}]
    }
    assert at_seoul(start="busan-cp", end="world", ports=[443]) == {}
    assert at_seoul(start="world", end="seoul-cp", ports=[443]) == {
        "in": [{"from": ["0.0.0.0/0"], "to": ["10.0.11.10"]}]
    }


def test_a_regions_pods_are_a_place() -> None:
    flows = resolve(start="pods-seoul", end="sns-1")
    assert FILTERS["nfv_gateway_flows"](flows, "10.111.0.0/16", [])[0]["out"] == [
        {"from": ["10.111.0.0/16"], "to": ["10.0.0.30"]}
    ]
    # The gateway does not see them.
    assert at_seoul(start="pods-seoul", end="sns-1") == {}


def test_a_gateway_has_routes_to_the_regions_that_its_flows_name() -> None:
    ways = [{"to": INVENTORY["regions"][region], "via": f"10.0.0.{region}"} for region in ("busan", "central")]

    def routes(**flow: Any) -> list[str]:
        return [one["to"] for one in FILTERS["nfv_gateway_routes"](ways, resolve(**flow), SEOUL[0])]

    assert routes(start="control_planes:&central", end="edges") == ["10.0.10.0/24"]
    assert routes(start="edges", end="busan") == ["10.0.12.0/24"]
    assert routes(start="busan", end="central") == []
    assert routes(start="edges", end="world") == routes(start="any", end="seoul-cp") == []


def test_a_set_holds_no_network_twice() -> None:
    (flow,) = resolve(start=["seoul", "seoul-cp", "seoul-cp"], end="sns-1")
    assert flow["pairs"][0]["from"] == ["10.0.11.0/24"]


def test_a_group_without_hosts_is_no_flow() -> None:
    assert resolve(start="hpc", end="sns-1")[0]["pairs"] == []
    assert at_seoul(start="hpc", end="any") == {}


def test_the_number_of_a_flow_is_its_names() -> None:
    first, second = resolve(start="any", end="seoul"), resolve(start="sns-1", end="seoul", ports=[1])
    assert first[0]["id"] == second[0]["id"] < 1 << 24


def test_without_a_class_it_is_the_last() -> None:
    assert resolve(start="any", end="seoul")[0]["class"] == "rest"


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        ({"start": "tokyo", "end": "seoul"}, "flow 'one': from: 'tokyo'"),
        ({"start": "any", "end": "control_planes:&tokyo"}, "'tokyo' is not a region, group, host"),
        ({"start": "any", "end": "10.0.0.300"}, "flow 'one': to: '10.0.0.300'"),
        ({"start": "any", "end": "10.0.0.1/8"}, "host bits"),
        ({"start": ["world", "seoul"], "end": "seoul"}, "the world stands alone"),
        ({"start": "any", "end": []}, "name a region, group"),
        ({"start": "any", "end": "seoul", "ports": [70000]}, "ports: 70000"),
        ({"start": "any", "end": "seoul", "ports": ["20-10"]}, "ports: '20-10'"),
        ({"start": "any", "end": "seoul", "ports": []}, "tcp and udp need ports"),
        ({"start": "any", "end": "seoul", "proto": "icmp"}, "icmp has none"),
        ({"start": "any", "end": "seoul", "proto": "sctp"}, "proto: 'sctp': use one of tcp, udp, icmp"),
        ({"start": "any", "end": "seoul", "class": "gold"}, "class: 'gold': use one of events, bulk, rest"),
        ({"start": "any", "end": "seoul", "publish": 80}, "only a flow to one port of one host"),
        ({"start": "any", "end": "seoul", "port": 80}, "port: 80: there is no such key"),
        ({"start": "any", "end": "seoul", "name": "no blanks"}, "lower case letters"),
    ],
)
def test_what_is_wrong_is_named(flow: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        resolve(**flow)
    assert said in str(error.value)


def test_two_flows_of_one_name_are_refused() -> None:
    flow = {"name": "one", "from": "any", "to": "seoul", "ports": [1]}
    with pytest.raises(AnsibleFilterError, match="another name"):
        FILTERS["nfv_flows"]([flow, flow], INVENTORY)


def test_an_inventory_tells_addresses_members_and_lans() -> None:
    hostvars = {
        "seoul-gw": {"ansible_host": "10.0.11.2", "backbone_address": "10.0.0.11", "region_name": "seoul",
                     "region_lan_cidr": "10.0.11.0/24", "region_pod_cidr": "10.111.0.0/16"},
        "localhost": {},
    }  # fmt: skip
    groups = {"all": ["localhost", "seoul-gw"], "controller": ["localhost"], "nfv_gateways": ["seoul-gw"]}
    assert FILTERS["nfv_inventory"](groups, hostvars) == {
        "hosts": {"seoul-gw": ["10.0.11.2", "10.0.0.11"]},
        "groups": {"all": ["seoul-gw"], "controller": [], "nfv_gateways": ["seoul-gw"]},
        "regions": {"seoul": "10.0.11.0/24"},
        "pods": {"seoul": "10.111.0.0/16"},
    }
