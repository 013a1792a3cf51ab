# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

FILTERS = runpy.run_path(str(Path(__file__).parents[2] / "plugins/filter/site.py"))
merge_kubeconfig = FILTERS["merge_kubeconfig"]
nodes_that_left = FILTERS["nodes_that_left"]
older_versions = FILTERS["older_versions"]
site_regions = FILTERS["site_regions"]


def _admin(server: str) -> dict[str, Any]:
    return {
        "clusters": [{"name": "kubernetes", "cluster": {"server": server, "certificate-authority-data": "CA"}}],
        "users": [{"name": "kubernetes-admin", "user": {"client-key-data": "key"}}],
    }


def test_a_cluster_is_called_at_its_address_and_known_by_its_name() -> None:
    merged = merge_kubeconfig({}, _admin("https://api.seoul.koren.test:6443"), "seoul", "10.90.11.10")
    assert merged["clusters"] == [
        {
            "name": "seoul",
            "cluster": {
                "server": "https://10.90.11.10:6443",
                "tls-server-name": "api.seoul.koren.test",
                "certificate-authority-data": "CA",
            },
        }
    ]
    assert merged["current-context"] == "seoul"


def test_a_cluster_known_by_its_address_stays_so() -> None:
    merged = merge_kubeconfig({}, _admin("https://10.90.11.10:6443"), "seoul", "10.90.11.10")
    assert merged["clusters"][0]["cluster"]["server"] == "https://10.90.11.10:6443"
    assert "tls-server-name" not in merged["clusters"][0]["cluster"]


def test_merging_again_replaces_and_leaves_the_others() -> None:
    merged = merge_kubeconfig({}, _admin("https://a:6443"), "seoul", "10.0.0.1")
    merged = merge_kubeconfig(merged, _admin("https://b:6443"), "busan", "10.0.0.2")
    again = merge_kubeconfig(merged, _admin("https://c:6443"), "seoul", "10.0.0.3")
    assert [one["name"] for one in again["contexts"]] == ["busan", "seoul"]
    assert [one["cluster"]["tls-server-name"] for one in again["clusters"]] == ["b", "c"]
    assert again["current-context"] == "seoul"


def test_a_regions_workers_are_its_nodes_and_its_broker_is_on_the_first() -> None:
    hosts = [
        {"region_name": "seoul", "inventory_hostname": "seoul-cp", "ansible_host": "10.0.0.1"},
        {"region_name": "busan", "inventory_hostname": "busan-cp", "ansible_host": "10.0.1.1"},
        {"region_name": "seoul", "inventory_hostname": "seoul-w1", "ansible_host": "10.0.0.2"},
    ]
    regions = site_regions(hosts)
    assert regions["seoul"] == {
        "context": "seoul",
        "broker": "10.0.0.1",
        "registry": "10.0.0.1:5000",
        "nodes": ["seoul-cp", "seoul-w1"],
    }
    assert regions["busan"]["nodes"] == ["busan-cp"]


def test_only_nodes_that_do_not_stay_have_left() -> None:
    def node(name: str, ready: str, **labels: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "labels": labels},
            "status": {
                "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "10.0.0.2"}],
                "conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": ready}],
            },
        }

    nodes = [
        node("cp", "True", **{"node-role.kubernetes.io/control-plane": ""}),
        node("w1", "True"),
        node("w2", "Unknown"),
    ]
    assert nodes_that_left(nodes, ["cp", "w1", "new"]) == [
        {"name": "w2", "address": "10.0.0.2", "ready": False, "begun": False, "control_plane": False}
    ]
    assert nodes_that_left(nodes, ["w1", "w2"])[0]["control_plane"]
    # A run was cut while it removed the host.
    nodes[1]["metadata"]["annotations"] = {"koren.faas/leaving": "true"}
    assert [node["begun"] for node in nodes_that_left(nodes, ["cp"])] == [True, False]


def test_of_a_components_versions_the_one_in_use_and_the_one_before_stay() -> None:
    def version(path: str, ctime: float) -> dict[str, object]:
        return {"path": f"/b/{path}", "ctime": ctime}

    found = [version("gateway/a", 1), version("gateway/b", 2), version("gateway/c", 3), version("gateway/d", 4)]
    other = [version("vmagent/x", 1), version("vmagent/y", 2)]
    # Also where the one in use is not the newest: somebody went back.
    for current, gone in (("d", ["a", "b"]), ("a", ["b", "c"]), ("c", ["a", "b"])):
        assert older_versions(found + other, [f"/b/gateway/{current}", "/b/vmagent/y"]) == [
            f"/b/gateway/{name}" for name in gone
        ]
    # What was cut while it was copied is not what ran before.
    assert older_versions([*other, version("vmagent/z.part", 3)], ["/b/vmagent/y"]) == ["/b/vmagent/z.part"]


def test_a_region_with_an_ingress_tells_its_address() -> None:
    hosts = [
        {"region_name": "seoul", "inventory_hostname": "seoul-cp", "ansible_host": "10.0.0.1", "ingress_enabled": True},
        {"region_name": "seoul", "inventory_hostname": "seoul-w1", "ansible_host": "10.0.0.2", "ingress_enabled": True},
    ]
    assert site_regions(hosts)["seoul"]["ingress"] == "https://10.0.0.1"


def test_an_address_of_a_network_is_at_its_place() -> None:
    assert FILTERS["nth_address"]("10.211.0.0/16", 20) == "10.211.0.20"
    with pytest.raises(ValueError, match="has no address at place 4"):
        FILTERS["nth_address"]("10.0.0.0/30", 4)
