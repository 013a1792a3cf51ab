# SPDX-License-Identifier: Apache-2.0
"""What is to be done in a cloud, told from what is there; where the lab has no such thing or state."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.koren.faas.plugins.module_utils.openstack.departure import departure
from ansible_collections.koren.faas.plugins.module_utils.openstack.known_hosts import (
    console_key,
    known_servers,
    merge_known_hosts,
)
from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import mark
from ansible_collections.koren.faas.plugins.module_utils.openstack.plan import plan
from ansible_collections.koren.faas.plugins.module_utils.openstack.quotas import exceeded, needs

KEY = "ssh-ed25519 " + "A" * 68
FLAVORS = [
    {"id": "f1", "name": "small", "vcpus": 1, "ram": 2048, "disk": 20},
    {"id": "f2", "name": "medium", "vcpus": 2, "ram": 4096, "disk": 40},
]


def server(**other: Any) -> dict[str, Any]:
    port = {"name": "koren-s-cp", "network": "koren-s-seoul", "address": "10.0.0.10", "security_groups": ["g"]}
    return {
        "host": "cp",
        "name": "koren-s-cp",
        "chosen": True,
        "image": "debian-12",
        "cores": 1,
        "memory_mb": 2048,
        "disk_gb": 10,
        "zone": "",
        "group": "",
        "user_data": "#cloud-config\n",
        "ports": [port],
        "floating_ip": "",
        "external": "",
        "volumes": [],
    } | other


def wanted(*servers: dict[str, Any], whole: bool = True) -> dict[str, Any]:
    return {
        "whole": whole,
        "key_pair": "koren-s",
        "public_key": "ssh-ed25519 AAAA me",
        "images": [{"name": "debian-12", "file": ""}],
        "networks": [{"name": "koren-s-seoul", "cidr": "10.0.0.0/24", "gateway": None, "dns": [], "external": ""}],
        "security_groups": [{"name": "g", "rules": []}],
        "server_groups": [],
        "servers": list(servers),
    }


def found(**other: Any) -> dict[str, Any]:
    """A cloud in which the site is as wanted."""
    ours = {"description": mark("s")}
    return {
        "key_pair": [{"id": "koren-s", "name": "koren-s", "public_key": "ssh-ed25519 AAAA other-comment"}],
        "image": [{"id": "i1", "name": "debian-12", "status": "active"}],
        "flavor": FLAVORS,
        "network": [{"id": "n1", "name": "koren-s-seoul", **ours}],
        "subnet": [{"id": "u1", "network_id": "n1", "cidr": "10.0.0.0/24", "gateway_ip": None, "dns_nameservers": []}],
        "security_group": [{"id": "g1", "name": "g", "security_group_rules": [], **ours}],
        "port": [
            {
                "id": "p1",
                "name": "koren-s-cp",
                "network_id": "n1",
                "device_id": "s1",
                "fixed_ips": [{"ip_address": "10.0.0.10"}],
                "security_group_ids": ["g1"],
                "allowed_address_pairs": [],
                **ours,
            }
        ],
        "server": [there()],
    } | other


def there(**other: Any) -> dict[str, Any]:
    return {
        "id": "s1",
        "name": "koren-s-cp",
        "status": "ACTIVE",
        "launched_at": "2026-01-01",
        "metadata": {"koren_site": "s", "koren_size": "1x2048"},
        "flavor": {"original_name": "small", "vcpus": 1, "ram": 2048},
        "attached_volumes": [],
    } | other


def steps(want: dict[str, Any], have: dict[str, Any], *, prune: bool = False) -> list[str]:
    made = plan("s", want, have, prune=prune)
    assert made.errors == []
    return [str(step) for step in made.steps]


def test_nothing_is_to_be_done_where_all_is_as_wanted() -> None:
    assert steps(wanted(server()), found()) == []


def test_a_smaller_flavor_that_comes_later_resizes_nothing() -> None:
    smaller = {"id": "f0", "name": "tiny", "vcpus": 1, "ram": 2048, "disk": 10}
    assert steps(wanted(server()), found(flavor=[*FLAVORS, smaller])) == []


def test_a_server_that_never_ran_is_made_again() -> None:
    failed = there(status="ERROR", launched_at=None, fault={"message": "No valid host was found."})
    assert steps(wanted(server()), found(server=[failed])) == ["create server koren-s-cp"]


@pytest.mark.parametrize("status", ["ERROR", "PAUSED", "SHELVED_OFFLOADED"])
def test_a_server_that_ran_is_not_thrown_away(status: str) -> None:
    broken = there(status=status, fault={"message": "disk is gone"})
    made = plan("s", wanted(server()), found(server=[broken]), prune=False)
    assert made.steps == []
    assert f"server koren-s-cp is {status} (disk is gone)" in made.errors[0]


def test_a_resize_that_was_cut_is_confirmed() -> None:
    cut = there(status="VERIFY_RESIZE")
    assert steps(wanted(server()), found(server=[cut])) == [
        "update server koren-s-cp: resized, not confirmed True -> False"
    ]


def test_a_network_whose_subnet_is_missing_gets_one() -> None:
    assert "update network koren-s-seoul: subnet None -> 10.0.0.0/24" in steps(wanted(server()), found(subnet=[]))


def test_volumes_are_made_attached_and_grown() -> None:
    want = wanted(server(volumes=[{"name": "koren-s-cp-data", "size_gb": 10, "zone": ""}]))
    assert steps(want, found(volume=[])) == [
        "create volume koren-s-cp-data",
        "update server koren-s-cp: attached +koren-s-cp-data",
    ]
    volume = {"id": "v1", "name": "koren-s-cp-data", "size": 5, "metadata": {"koren_site": "s"}}
    held = found(volume=[volume], server=[there(attached_volumes=[{"id": "v1"}])])
    assert steps(want, held) == ["update volume koren-s-cp-data: size_gb 5 -> 10"]
    held["volume"] = [volume | {"size": 20}]
    assert "can't shrink" in plan("s", want, held, prune=False).errors[0]


def test_what_is_not_chosen_is_left_alone() -> None:
    assert steps(wanted(server(chosen=False), whole=False), found(server=[], port=[])) == []


def test_another_site_of_a_longer_name_is_not_this_one() -> None:
    groups = [
        {"id": "a", "name": "koren.faas:s:seoul-control-planes", "policy": "anti-affinity"},
        {"id": "b", "name": "koren.faas:s-2:seoul-control-planes", "policy": "anti-affinity"},
    ]
    others = {"id": "n2", "name": "koren-s-2-seoul", "description": mark("s-2")}
    have = found(server_group=groups, network=[*found()["network"], others])
    gone = steps({**wanted(), "networks": [], "security_groups": [], "images": []}, have, prune=True)
    assert "delete server group koren.faas:s:seoul-control-planes" in gone
    assert not any("s-2" in step for step in gone)
    # Servers go before what they hang on.
    assert gone.index("delete server koren-s-cp") < gone.index("delete port koren-s-cp")
    assert gone.index("delete port koren-s-cp") < gone.index("delete network koren-s-seoul")


def test_a_key_pair_of_another_key_is_not_taken_nor_removed() -> None:
    other = found(key_pair=[{"id": "koren-s", "name": "koren-s", "public_key": "ssh-ed25519 BBBB x"}])
    assert "another public key" in plan("s", wanted(server()), other, prune=False).errors[0]
    nothing = {**wanted(), "networks": []}
    assert "delete key pair koren-s" not in steps(nothing, other, prune=True)


def test_two_of_one_name_are_told_apart_by_id() -> None:
    twice = found(server=[there(), there(id="s2")])
    assert "server koren-s-cp exists 2 times: s1, s2" in plan("s", wanted(server()), twice, prune=False).errors[0]


def test_an_address_of_a_running_server_can_not_change() -> None:
    moved = server(ports=[server()["ports"][0] | {"address": "10.0.0.11"}])
    (error,) = plan("s", wanted(moved), found(), prune=False).errors
    assert "host cp has the address 10.0.0.10, but the inventory says 10.0.0.11" in error


def test_a_quota_counts_what_a_resize_adds() -> None:
    larger = plan("s", wanted(server(cores=2, memory_mb=4096)), found(), prune=False)
    assert needs(larger.steps) == {"cores": 1, "ram": 2048}
    assert exceeded({"cores": 1, "ram": 2048, "ports": 3}, {"cores": 1, "ram": 0}) == [
        "quota of ram: 2048 MiB more are needed, 0 MiB are left; ask for a higher quota, or reduce the inventory"
    ]


def test_the_last_whole_block_of_a_console_has_the_key() -> None:
    block = "[  9.1] cloud-init: -----BEGIN SSH HOST KEY KEYS-----\n{}\n-----END SSH HOST KEY KEYS-----\n"
    rsa = "ssh-rsa " + "B" * 68
    old = "ssh-ed25519 " + "C" * 68
    assert console_key(block.format(f"{old} root@x") + block.format(f"{rsa} root@x\n{KEY} root@x")) == KEY
    assert console_key("-----BEGIN SSH HOST KEY KEYS-----\n" + KEY) == ""


def test_a_replaced_server_replaces_its_line_and_no_other() -> None:
    before = f"10.0.0.10,203.0.113.9 {KEY} old\n10.0.0.100 {KEY} other\n"
    new = {"addresses": ["10.0.0.10"], "host_key": "ssh-ed25519 new", "id": "s2"}
    after = merge_known_hosts(before, [new])
    assert after == f"10.0.0.10 ssh-ed25519 new s2\n10.0.0.100 {KEY} other\n"
    assert known_servers(after)["10.0.0.10"] == ("ssh-ed25519 new", "s2")


OURS = {"metadata": {"koren_site": "s"}}


def leaving(**other: Any) -> dict[str, Any]:
    """A cloud with the host w1 besides, which has a port, a floating IP and a volume, and with things of others."""
    own = {"description": mark("s")}
    kinds = found()
    attached = {"attachments": [{"server_id": "s2"}]}
    return kinds | {
        "server": [*kinds["server"], there(id="s2", name="koren-s-w1"), there(id="s3", name="koren-s-w1-b")],
        "port": [
            *kinds["port"],
            {"id": "p2", "name": "koren-s-w1", "device_id": "s2", **own},
            {"id": "p3", "name": "koren-s-w1-b", "device_id": "s3", **own},
            {"id": "p4", "name": "koren-s-w1-given", "device_id": "s2", "description": ""},
        ],
        "volume": [
            {"id": "v2", "name": "koren-s-w1-data", **attached, **OURS},
            {"id": "v3", "name": "koren-s-w1-b-data", "attachments": [{"server_id": "s3"}], **OURS},
            {"id": "v4", "name": "koren-s-w1-mine", "metadata": {}, **attached},
        ],
        "floating_ip": [
            {"id": "f2", "floating_ip_address": "203.0.113.2", "port_id": "p2", **own},
            {"id": "f3", "floating_ip_address": "203.0.113.3", "port_id": "p2", "description": ""},
        ],
    } | other


def gone(have: dict[str, Any], *names: str, want: dict[str, Any] | None = None) -> list[str]:
    made = departure("s", want or wanted(server()), have, names)
    assert made.errors == []
    return [str(step) for step in made.steps]


def test_with_a_server_goes_what_is_its_own_and_nothing_else() -> None:
    assert gone(leaving(), "koren-s-w1") == [
        "delete floating ip 203.0.113.2",
        "delete server koren-s-w1",
        "delete volume koren-s-w1-data",
        "delete port koren-s-w1",
    ]
    assert gone(leaving()) == []
    assert gone(leaving(), "koren-s-w9") == []


def test_a_removal_that_was_cut_goes_on_where_it_ended() -> None:
    have = leaving()
    have["server"] = [one for one in have["server"] if one["id"] != "s2"]
    for one in have["port"]:
        one["device_id"] = "" if one["device_id"] == "s2" else one["device_id"]
    have["volume"][0]["attachments"] = []
    left = ["delete floating ip 203.0.113.2", "delete volume koren-s-w1-data", "delete port koren-s-w1"]
    assert gone(have, "koren-s-w1") == left
    have["floating_ip"], have["volume"] = [], have["volume"][1:]
    assert gone(have, "koren-s-w1") == left[-1:]


def test_what_another_host_of_the_inventory_is_to_have_stays() -> None:
    have = leaving()
    have["volume"][0]["attachments"] = []
    port = {"name": "koren-s-w1-data", "network": "koren-s-seoul", "address": "10.0.0.12", "security_groups": ["g"]}
    other = server(host="w1-data", name="koren-s-w1-data", ports=[port], volumes=[{"name": "koren-s-w1-data"}])
    assert "delete volume koren-s-w1-data" not in gone(have, "koren-s-w1", want=wanted(server(), other))


@pytest.mark.parametrize(
    ("have", "words"),
    [
        ({"server": [there(id="s2", name="koren-s-w1", is_locked=True)]}, "is locked: unlock it (openstack server"),
        ({"server": [there(id="s9", name="koren-s-w1", metadata={})]}, "exists and does not belong to this site (s9)"),
        ({"snapshot": [{"id": "t1", "volume_id": "v2"}]}, "volume koren-s-w1-data has snapshots (t1)"),
    ],
)
def test_what_can_not_be_removed_is_told_before(have: dict[str, Any], words: str) -> None:
    (error,) = departure("s", wanted(server()), leaving(**have), ["koren-s-w1"]).errors
    assert words in error
