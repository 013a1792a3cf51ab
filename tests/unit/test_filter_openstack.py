# SPDX-License-Identifier: Apache-2.0
"""What an inventory asks of OpenStack clouds, and which inventories are refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.koren.faas.plugins.filter.openstack import openstack_clouds

SETTINGS: dict[str, Any] = {
    "site": "s",
    "prefix": "koren-s",
    "backbone_cidr": "10.0.0.0/24",
    "public_key": "ssh-ed25519 AAAA me",
    "chosen": ["gw", "cp"],
    "controllers": ["192.0.2.0/24"],
    "flows": [
        {"to": ["site"], "protocol": "tcp", "ports": [22], "from": ["controllers"]},
        {"to": ["control_planes"], "protocol": "tcp", "ports": ["2379-2380"], "from": ["region", "hpc", "nobody"]},
        {"to": ["control_planes"], "in": "busan", "protocol": "any", "from": ["regions"]},
    ],
    "gateways_group": "nfv_gateways",
    "control_planes_group": "control_planes",
    "nodes_group": "kubernetes_nodes",
    "more_clouds": ["left"],
    "anti_affinity": "anti-affinity",
    "backbone_network": "",
    "cloud": "a",
    "cores": 2,
    "disk_gb": 20,
    "dns_servers": [],
    "external_network": "",
    "floating_ip": "",
    "host_key": "",
    "image": "debian-12",
    "image_file": "",
    "memory_mb": 4096,
    "user_data": {},
    "volumes": [],
    "zone": "",
}
GROUPS = {
    "site": ["gw", "cp"],
    "nfv_gateways": ["gw"],
    "control_planes": ["cp"],
    "kubernetes_nodes": ["cp"],
}
REGION = {
    "region_name": "seoul",
    "region_lan_cidr": "10.0.11.0/24",
    "region_lan_gateway": "10.0.11.2",
    "region_pod_cidr": "10.111.0.0/16",
}
GATEWAY = {"inventory_hostname": "gw", "ansible_host": "10.0.11.2", "backbone_address": "10.0.0.11", **REGION}
NODE = {"inventory_hostname": "cp", "ansible_host": "10.0.11.10", "ansible_user": "root", **REGION}


def clouds(*hosts: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return openstack_clouds(hosts or (GATEWAY, NODE), GROUPS, SETTINGS | settings)


def test_a_region_becomes_networks_groups_and_servers() -> None:
    cloud, left = clouds()
    assert (left["cloud"], left["servers"], left["networks"]) == ("left", [], [])
    backbone, lan = cloud["networks"]
    assert (backbone["name"], backbone["gateway"]) == ("koren-s-backbone", None)
    # Without a router the region's gateway host is the way out; what a cloud gives away itself is above the hosts.
    assert (lan["gateway"], lan["pool"]) == ("10.0.11.2", ["10.0.11.192", "10.0.11.254"])
    gateway, node = cloud["servers"]
    assert [port["allowed"] for port in gateway["ports"]] == [["0.0.0.0/0"], ["10.0.11.0/24"]]
    assert [port["allowed"] for port in node["ports"]] == [["10.111.0.0/16"]]
    assert cloud["server_groups"] == [{"name": "koren.faas:s:seoul-control-planes", "policy": "anti-affinity"}]
    assert (gateway["group"], node["group"]) == ("", "koren.faas:s:seoul-control-planes")


def test_flows_become_rules_of_the_groups_that_they_go_to() -> None:
    groups = {group["name"]: group["rules"] for group in clouds()[0]["security_groups"]}
    assert groups == {
        "koren-s-seoul-control_planes": [
            {"protocol": "tcp", "first_port": 2379, "last_port": 2380, "cidr": "10.0.11.0/24"}
        ],
        "koren-s-seoul-site": [{"protocol": "tcp", "first_port": 22, "last_port": 22, "cidr": "192.0.2.0/24"}],
    }


def test_a_limited_run_is_about_its_regions_alone() -> None:
    other = NODE | {"inventory_hostname": "far", "region_name": "busan", "region_lan_cidr": "10.0.12.0/24"}
    other |= {"ansible_host": "10.0.12.10", "provision_openstack_cloud": "b"}
    (cloud,) = clouds(GATEWAY, NODE, other, chosen=["cp"])
    assert (cloud["cloud"], cloud["whole"]) == ("a", False)
    assert {server["host"]: server["chosen"] for server in cloud["servers"]} == {"gw": False, "cp": True}


@pytest.mark.parametrize("user", ["root", "debian"])
def test_user_data_lets_in_who_ansible_is(user: str) -> None:
    text = clouds(GATEWAY, NODE | {"ansible_user": user})[0]["servers"][1]["user_data"]
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    assert (data["hostname"], data["ssh_pwauth"]) == ("cp", False)
    if user == "root":
        assert data["disable_root"] is False
    else:
        assert data["users"][0]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    far = NODE | {"inventory_hostname": "far", "ansible_host": "10.0.11.x", "provision_openstack_cloud": ""}
    first = NODE | {"inventory_hostname": "first", "ansible_host": "10.0.11.1", "backbone_address": "10.0.0.12"}
    first |= {"provision_openstack_cloud": "b", "provision_openstack_external_network": "public"}
    floating = NODE | {"provision_openstack_floating_ip": "any"}
    with pytest.raises(AnsibleFilterError) as error:
        clouds(GATEWAY, floating, far, first, controllers=[])
    for words in (
        "provision_openstack_controllers is empty",
        "provision_openstack_cloud of host far is empty",
        "ansible_host of host far: '10.0.11.x'",
        "host cp needs a floating IP",
        "host first has the address 10.0.11.1, which the router to public uses",
        "the backbone spans the clouds a, b",
    ):
        assert words in str(error.value)
