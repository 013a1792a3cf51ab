# SPDX-License-Identifier: Apache-2.0
"""The cloud drivers against a real OpenStack API: what is made, what a change changes, what a reset leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml
from conftest import Site

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NET = os.environ.get("KOREN_TEST_NET", "10.92")
NAME = os.environ.get("KOREN_RUN", "openstack")
PREFIX = f"koren-{NAME}"
INVENTORY = HERE / "inventory/hosts.yml"
BUSAN = HERE / "inventory/busan.yml"
GROUND = HERE / "ground.yml"
PROVISION = ROOT / "playbooks/provision.yml"
CLUSTERS = ROOT / "playbooks/clusters.yml"


@dataclass(frozen=True)
class Run:
    """One run of a playbook: how often each host was changed, each task's results by host, and what it said."""

    code: int
    changed: dict[str, int]
    results: dict[str, dict[str, Any]]
    output: str
    took_s: float

    @property
    def steps(self) -> list[str]:
        """What was done in clouds, without the site's prefix."""
        made: list[str] = self.results["Create networks and servers"]["localhost"]["steps"]
        return [step.replace(f"{PREFIX}-", "") for step in made]

    @property
    def error(self) -> str:
        """What the failed tasks said."""
        failed = [r for task in self.results.values() for r in task.values() if r.get("failed")]
        items = [item for result in failed for item in result.get("results", ()) if item.get("failed")]
        return " ".join(str(result["msg"]) for result in failed + items)


def play(playbook: Path, *arguments: str, more: tuple[Path, ...] = (), **variables: Any) -> Run:
    """Run a playbook on the scenario's site, with more inventories and variables."""
    site = {
        "site_name": NAME,
        "site_net": NET,
        "site_driver": "openstack",
        "site_dir": str(ROOT / ".state" / NAME),
        "bundle_view": str(ROOT / ".state/bundle"),
    }
    inventories = [f"--inventory={path}" for path in (INVENTORY, *more)]
    began = time.monotonic()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            *inventories,
            "--extra-vars",
            json.dumps(site | variables),
            str(playbook),
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    took_s = time.monotonic() - began
    # The times of tasks stand before and after.
    start = done.stdout.find("{\n")
    assert start >= 0, done.stdout + done.stderr
    said, _ = json.JSONDecoder().raw_decode(done.stdout, start)
    results: dict[str, dict[str, Any]] = {}
    for one in said["plays"]:
        for task in one["tasks"]:
            results.setdefault(task["task"]["name"].split(" : ")[-1], {}).update(task["hosts"])
    changed = {host: stats["changed"] for host, stats in said["stats"].items()}
    return Run(done.returncode, changed, results, done.stdout + done.stderr, took_s)


def good(run: Run) -> Run:
    """The run, which must not have failed."""
    assert run.code == 0, run.error or run.output[-4000:]
    return run


@pytest.fixture(scope="module")
def seoul() -> Any:
    """Seoul's cloud."""
    return openstack.connect(cloud="lab-seoul")


@pytest.fixture(scope="module")
def central() -> Any:
    """The centre's cloud."""
    return openstack.connect(cloud="lab-central")


@pytest.fixture(scope="module")
def admin() -> Any:
    """The cloud's administrator."""
    return openstack.connect(cloud="lab")


def port_of(cloud: Any, name: str) -> Any:
    return cloud.network.find_port(f"{PREFIX}-{name}", ignore_missing=False)


# What is there


def test_a_server_has_what_the_inventory_asks(seoul: Any) -> None:
    server = seoul.compute.find_server(f"{PREFIX}-seoul-cp", ignore_missing=False)
    server = seoul.compute.get_server(server.id)
    assert server.status == "ACTIVE"
    # 2 cores and 4096 MiB: the smallest flavor that has them.
    assert server.flavor.original_name == "m1.medium"
    assert server.availability_zone == "nova"
    assert server.key_name == PREFIX
    group = seoul.compute.find_server_group(f"koren.faas:{NAME}:seoul-control-planes", ignore_missing=False)
    assert server.id in seoul.compute.get_server_group(group.id).member_ids


def test_ports_have_fixed_addresses_and_let_pods_pass(seoul: Any) -> None:
    node, gateway = port_of(seoul, "seoul-cp"), port_of(seoul, "seoul-gw")
    assert [f["ip_address"] for f in node.fixed_ips] == [f"{NET}.11.10"]
    assert [p["ip_address"] for p in node.allowed_address_pairs] == ["10.111.0.0/16"]
    assert [p["ip_address"] for p in gateway.allowed_address_pairs] == ["0.0.0.0/0"]


def test_a_gateway_is_on_the_backbone_by_the_port_that_it_was_given(seoul: Any) -> None:
    server = seoul.compute.find_server(f"{PREFIX}-seoul-gw", ignore_missing=False)
    addresses = {f["ip_address"] for p in seoul.network.ports(device_id=server.id) for f in p.fixed_ips}
    assert addresses == {f"{NET}.11.2", f"{NET}.0.11"}


def test_a_floating_ip_and_a_router_are_where_they_were_asked(seoul: Any, central: Any) -> None:
    (address,) = seoul.network.ips(port_id=port_of(seoul, "seoul-gw").id)
    assert address.status == "ACTIVE"
    assert [r.name for r in seoul.network.routers()] == [f"{PREFIX}-seoul"]
    assert list(central.network.routers()) == []
    assert list(central.network.ips()) == []


def test_only_declared_flows_come_in(seoul: Any) -> None:
    groups = {g.id: g.name for g in seoul.network.security_groups()}
    node = port_of(seoul, "seoul-cp")
    assert sorted(groups[i] for i in node.security_group_ids) == [
        f"{PREFIX}-seoul-control_planes",
        f"{PREFIX}-seoul-kubernetes_nodes",
        f"{PREFIX}-seoul-site",
    ]
    rules = {
        (r.protocol, r.port_range_min, r.remote_ip_prefix)
        for i in node.security_group_ids
        for r in seoul.network.security_group_rules(security_group_id=i, direction="ingress")
    }
    assert ("tcp", 6443, f"{NET}.10.0/24") in rules
    assert ("tcp", 22, f"{NET}.0.0/16") in rules
    # Redis and etcd are for the region alone, and nothing is open to all.
    assert {source for protocol, port, source in rules if port in (6379, 2379)} == {f"{NET}.11.0/24"}
    assert all(source and source != "0.0.0.0/0" for _, _, source in rules)


def test_host_keys_come_from_the_consoles(site: Site) -> None:
    known = (site.folder / "known_hosts").read_text()
    for host, address in site.hosts.items():
        key = site.run(host, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
        assert re.search(rf"^{re.escape(address)}[ ,].*{re.escape(key)} ", known, re.MULTILINE)


# What a change changes


@pytest.fixture
def back() -> Iterator[None]:
    """Bring the site back to its inventory after the test."""
    yield
    good(play(GROUND, provision_openstack_prune=True, provision_openstack_more_clouds=["lab-busan"]))


CHAINS = """
- hosts: seoul-gw
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: koren.faas.nfv_gateway
        tasks_from: chains
"""


def chain_of(
    folder: Path, function: str, *arguments: str, more: tuple[Path, ...] = (), state: str = "present", **ends: str
) -> int:
    """Have a flow pass a function by Seoul's cloud; how much was changed."""
    book = folder / "chains.yml"
    book.write_text(CHAINS)
    flow = {"name": "probe", "from": "central", "to": "seoul", "ports": [7008]} | ends
    chain = {"name": "probe", "flow": "probe", "functions": [function], "symmetric": True, "state": state}
    run = play(
        book, *arguments, more=more, nfv_gateway_chain_driver="openstack", nfv_gateway_chain_cloud="lab-seoul",
        nfv_gateway_chain_port_prefix=f"{PREFIX}-", nfv_gateway_flows=[flow], nfv_gateway_chains=[chain],
    )  # fmt: skip
    return good(run).changed["seoul-gw"]


def chain_objects(cloud: Any) -> list[int]:
    """How many chains, groups, pairs and classifiers there are."""
    kinds = ("port_chains", "port_pair_groups", "port_pairs", "flow_classifiers")
    return [len(list(getattr(cloud.network, f"sfc_{kind}")())) for kind in kinds]


def test_a_flow_passes_its_functions_by_a_port_chain(seoul: Any, tmp_path: Path) -> None:
    network = seoul.network
    other = network.create_sfc_flow_classifier(
        name="another's", logical_source_port=port_of(seoul, "seoul-cp").id, source_ip_prefix="192.0.2.0/24"
    )
    try:
        assert chain_of(tmp_path, "seoul-cp", "--check") == 1 and chain_objects(seoul) == [0, 0, 0, 1]
        assert chain_of(tmp_path, "seoul-cp") == 1 and chain_objects(seoul) == [1, 1, 1, 2]
        (pair,) = network.sfc_port_pairs()
        assert (pair.ingress, pair.egress) == (port_of(seoul, "seoul-cp").id,) * 2
        (mine,) = (one for one in network.sfc_flow_classifiers() if one.id != other.id)
        assert mine.logical_source_port == port_of(seoul, "seoul-gw").id
        assert (mine.source_ip_prefix, mine.destination_ip_prefix) == (f"{NET}.10.0/24", f"{NET}.11.0/24")
        assert (mine.destination_port_range_min, mine.destination_port_range_max) == (7008, 7008)
        assert chain_of(tmp_path, "seoul-cp") == 0
        # The other way it leaves the ports of the region's hosts, but not the function's, which would have it again.
        back = {"from": "seoul", "to": "central"}
        assert chain_of(tmp_path, "seoul-cp", **back) == 1 and chain_objects(seoul) == [1, 1, 1, 2]
        assert chain_of(tmp_path, "seoul-cp", state="absent", **back) == 1 and chain_objects(seoul) == [0, 0, 0, 1]
    finally:
        network.delete_sfc_flow_classifier(other.id)


def test_a_changed_rule_changes_that_rule(back: None, seoul: Any) -> None:
    defaults = openstack_defaults()["provision_openstack_flows"]
    flows = [*defaults, {"to": ["hpc", "control_planes"], "protocol": "tcp", "ports": [30080], "from": ["region"]}]
    wanted = [
        f"lab-{region}: update security group {region}-control_planes: rules +tcp 30080-30080 from {NET}.{net}.0/24"
        for region, net in (("central", 10), ("seoul", 11))
    ]
    check = good(play(GROUND, "--check", provision_openstack_flows=flows))
    assert check.steps == wanted
    assert good(play(GROUND, provision_openstack_flows=flows)).steps == wanted
    assert good(play(GROUND, provision_openstack_flows=flows)).changed == {"localhost": 0}


def test_a_changed_size_resizes_the_server_in_place(back: None, seoul: Any, tmp_path: Path) -> None:
    larger = inventory(tmp_path, "seoul", {"seoul-cp": {"provision_openstack_memory_mb": 6000}})
    before = seoul.compute.find_server(f"{PREFIX}-seoul-cp", ignore_missing=False).id
    run = good(play(GROUND, more=(larger,)))
    assert run.steps == ["lab-seoul: update server seoul-cp: flavor m1.medium -> m1.large, size 2x4096 -> 2x6000"]
    after = seoul.compute.get_server(before)
    assert (after.status, after.flavor.original_name) == ("ACTIVE", "m1.large")


def test_one_more_host_is_one_more_server(back: None, tmp_path: Path, seoul: Any) -> None:
    (lab_state() / "consoles" / f"{PREFIX}-seoul-2").write_text(console())
    more = inventory(tmp_path, "seoul", {"seoul-2": {"ansible_host": f"{NET}.11.11"}})
    run = good(play(GROUND, more=(more,)))
    assert run.steps == ["lab-seoul: create port seoul-2", "lab-seoul: create server seoul-2"]
    # Taken out of the inventory it stays until that is asked for.
    left = good(play(GROUND))
    assert left.steps == []
    assert seoul.compute.find_server(f"{PREFIX}-seoul-2") is not None
    # Neutron keeps a port that a chain needs: the chain goes before it.
    assert chain_of(tmp_path, "seoul-2", more=(more,)) == 1 and chain_objects(seoul) == [1, 1, 1, 1]
    gone = good(play(GROUND, provision_openstack_prune=True))
    assert chain_objects(seoul) == [0, 0, 0, 0]
    assert gone.steps == ["lab-seoul: delete server seoul-2", "lab-seoul: delete port seoul-2"]


def test_a_volume_is_made_attached_and_grows_and_goes_with_its_host(back: None, tmp_path: Path, seoul: Any) -> None:
    (lab_state() / "consoles" / f"{PREFIX}-seoul-3").write_text(console())

    def with_volume(size_gb: int) -> Path:
        volumes = [{"name": "data", "size_gb": size_gb}]
        return inventory(
            tmp_path, "seoul", {"seoul-3": {"ansible_host": f"{NET}.11.12", "provision_openstack_volumes": volumes}}
        )

    run = good(play(GROUND, more=(with_volume(1),)))
    assert "lab-seoul: create volume seoul-3-data" in run.steps
    server = seoul.compute.find_server(f"{PREFIX}-seoul-3", ignore_missing=False)
    (volume,) = seoul.block_storage.volumes()
    assert [one["server_id"] for one in volume.attachments] == [server.id]
    assert good(play(GROUND, more=(with_volume(1),))).steps == []
    larger = good(play(GROUND, more=(with_volume(2),)))
    assert larger.steps == ["lab-seoul: update volume seoul-3-data: size_gb 1 -> 2"]
    assert seoul.block_storage.get_volume(volume.id).size == 2
    refused(seoul, "seoul-3-data has 2 GB, but the inventory says 1", "can't shrink", more=(with_volume(1),))
    other = seoul.block_storage.create_volume(name="another's", size=1)
    seoul.block_storage.wait_for_status(other, "available", interval=1, wait=30)
    try:
        gone = good(play(GROUND, provision_openstack_prune=True))
        kinds = {"server": "seoul-3", "port": "seoul-3", "volume": "seoul-3-data"}
        assert set(gone.steps) == {f"lab-seoul: delete {kind} {name}" for kind, name in kinds.items()}
        assert [one.id for one in seoul.block_storage.volumes()] == [other.id]
    finally:
        seoul.block_storage.delete_volume(other.id)


def test_a_lost_server_is_made_again_with_its_address(back: None, site: Site, seoul: Any) -> None:
    lost = seoul.compute.find_server(f"{PREFIX}-seoul-cp", ignore_missing=False)
    seoul.compute.delete_server(lost.id)
    seoul.compute.wait_for_delete(lost, interval=1, wait=60)
    assert good(play(GROUND)).steps == ["lab-seoul: create server seoul-cp"]
    new = seoul.compute.find_server(f"{PREFIX}-seoul-cp", ignore_missing=False)
    # Its key is read anew, as it is another machine.
    assert f" {new.id}\n" in (site.folder / "known_hosts").read_text()
    assert f" {lost.id}\n" not in (site.folder / "known_hosts").read_text()


def test_a_stopped_server_is_started(seoul: Any) -> None:
    server = seoul.compute.find_server(f"{PREFIX}-seoul-gw", ignore_missing=False)
    seoul.compute.stop_server(server.id)
    seoul.compute.wait_for_server(seoul.compute.get_server(server.id), "SHUTOFF", interval=1, wait=60)
    assert good(play(GROUND)).steps == ["lab-seoul: update server seoul-gw: stopped True -> False"]


def test_a_region_is_added_beside_running_ones(back: None) -> None:
    for host in ("busan-gw", "busan-cp", "busan-2"):
        (lab_state() / "consoles" / f"{PREFIX}-{host}").write_text(console())
    run = good(play(GROUND, "--limit", "busan,localhost", more=(BUSAN,)))
    assert {step.split(":")[0] for step in run.steps} == {"lab-busan"}
    assert sum("create server busan" in step for step in run.steps) == 3
    # On a machine that others use besides, in proportion.
    share = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(f"a region of 3 hosts: {run.took_s:.1f} s, the machine's load being {share:.1f}")
    assert run.took_s < 60 * share
    # The rest of the site lets the new region in at the centre, and nowhere else.
    rest = good(play(GROUND, more=(BUSAN,)))
    assert rest.steps
    assert all(step.startswith("lab-central: update security group central-") for step in rest.steps)
    assert good(play(GROUND, more=(BUSAN,))).changed == {"localhost": 0}
    # And it is removed without the others noticing.
    gone = good(play(GROUND, provision_openstack_prune=True, provision_openstack_more_clouds=["lab-busan"]))
    assert sum("lab-busan: delete server busan" in step for step in gone.steps) == 3
    assert not any("lab-seoul" in step for step in gone.steps)


# What is refused, and nothing is changed


def refused(seoul: Any, *words: str, **arguments: Any) -> None:
    """A run fails before anything is changed, and says these words."""
    before = [s.id for s in seoul.compute.servers()], [p.id for p in seoul.network.ports()]
    run = play(GROUND, **arguments)
    assert run.code != 0
    for word in words:
        assert word in run.error
    assert ([s.id for s in seoul.compute.servers()], [p.id for p in seoul.network.ports()]) == before


def test_a_quota_that_is_too_small(seoul: Any, admin: Any, tmp_path: Path) -> None:
    admin.set_compute_quotas("seoul", cores=4)
    try:
        more = inventory(
            tmp_path, "seoul", {"seoul-2": {"ansible_host": f"{NET}.11.11", "provision_openstack_cores": 4}}
        )
        refused(seoul, "quota of cores: 4 more are needed", "are left", more=(more,))
    finally:
        admin.delete_compute_quotas("seoul")


def test_wrong_credentials_an_unknown_cloud_and_one_that_is_away(seoul: Any, tmp_path: Path) -> None:
    clouds = {
        "seoul-2": {"ansible_host": f"{NET}.11.11", "provision_openstack_cloud": "lab-wrong"},
        "seoul-3": {"ansible_host": f"{NET}.11.12", "provision_openstack_cloud": "nowhere"},
        "seoul-4": {"ansible_host": f"{NET}.11.13", "provision_openstack_cloud": "lab-away"},
    }
    refused(
        seoul,
        "cloud lab-wrong: it refuses the credentials in clouds.yaml",
        "cloud nowhere: ",
        "add it to clouds.yaml",
        "cloud lab-away does not answer",
        more=(inventory(tmp_path, "seoul", clouds),),
    )


def test_a_missing_image_flavor_zone_and_network_are_told_at_once(seoul: Any, tmp_path: Path) -> None:
    host = {
        "ansible_host": f"{NET}.11.11",
        "provision_openstack_image": "debian-11",
        "provision_openstack_cores": 64,
        "provision_openstack_zone": "moon",
        "provision_openstack_volumes": [],
    }
    more = inventory(tmp_path, "seoul", {"seoul-2": host})
    refused(
        seoul,
        "image debian-11 does not exist; there are: debian-12",
        "no flavor has the 64 cores",
        "m1.large (4, 8192, 80)",
        "availability zone moon of host seoul-2",
        more=(more,),
    )


def test_a_name_that_is_there_twice(seoul: Any, admin: Any, tmp_path: Path) -> None:
    twin = seoul.image.create_image(
        "debian-12", data=b"another", disk_format="raw", container_format="bare", allow_duplicates=True
    )
    try:
        refused(seoul, "image debian-12 exists 2 times", "use the ID")
    finally:
        seoul.image.delete_image(twin.id)
    port = seoul.network.find_network("other", ignore_missing=False)
    taken = seoul.network.create_port(network_id=port.id, name=f"{PREFIX}-seoul-2")
    try:
        more = inventory(tmp_path, "seoul", {"seoul-2": {"ansible_host": f"{NET}.11.11"}})
        refused(seoul, f"port {PREFIX}-seoul-2 exists and does not belong to this site", more=(more,))
    finally:
        seoul.network.delete_port(taken.id)


def test_volumes_where_a_cloud_has_none(seoul: Any, admin: Any, tmp_path: Path) -> None:
    host = {"ansible_host": f"{NET}.11.11", "provision_openstack_volumes": [{"name": "data", "size_gb": 1}]}
    service = admin.identity.find_service("cinder", ignore_missing=False)
    admin.identity.update_service(service.id, is_enabled=False)
    try:
        more = inventory(tmp_path, "seoul", {"seoul-2": host})
        refused(seoul, "lab-seoul offers no volumes", "seoul-2", more=(more,))
    finally:
        admin.identity.update_service(service.id, is_enabled=True)


def test_an_address_outside_of_its_network_or_taken(seoul: Any, tmp_path: Path) -> None:
    hosts = {"seoul-2": {"ansible_host": f"{NET}.12.11"}, "seoul-3": {"ansible_host": f"{NET}.11.10"}}
    refused(
        seoul,
        f"ansible_host of host seoul-2, {NET}.12.11, is not in {NET}.11.0/24",
        f"hosts seoul-cp and seoul-3 have the address {NET}.11.10",
        more=(inventory(tmp_path, "seoul", hosts),),
    )


# The next playbook, and the other driver


def cluster_is_ready(folder: Path) -> bool:
    """Whether Seoul's one node is Ready."""
    kubectl = [
        str(ROOT / ".state/bundle/kubernetes/bin/kubectl"),
        *("--kubeconfig", str(folder / "kubeconfig"), "--context", "seoul"),
    ]
    done = subprocess.run([*kubectl, "get", "nodes", "--no-headers"], capture_output=True, text=True, check=False)
    return done.stdout.split()[:2] == ["seoul-cp", "Ready"]


def test_the_next_playbook_makes_a_cluster_of_it(site: Site, eventually: Callable[..., None]) -> None:
    good(play(CLUSTERS, "--limit", "seoul-cp,localhost"))
    eventually(lambda: cluster_is_ready(site.folder), 120)


def test_a_worker_goes_with_its_server_and_nothing_else(back: None, site: Site, seoul: Any, tmp_path: Path) -> None:
    (lab_state() / "consoles" / f"{PREFIX}-seoul-4").write_text(console())
    host = {
        "ansible_host": f"{NET}.11.13",
        "provision_openstack_volumes": [{"name": "data", "size_gb": 1}],
        "provision_openstack_floating_ip": "any",
    }
    good(play(GROUND, more=(inventory(tmp_path, "seoul", {"seoul-4": host}),)))
    theirs = seoul.block_storage.create_volume(name=f"{PREFIX}-seoul-4-theirs", size=1)
    seoul.block_storage.wait_for_status(theirs, "available", interval=1, wait=30)
    server = seoul.compute.find_server(f"{PREFIX}-seoul-4", ignore_missing=False)
    rest = {one.id for one in seoul.compute.servers()} - {server.id}

    def kubectl(*arguments: str, **more: Any) -> str:
        done = subprocess.run(
            [
                str(ROOT / ".state/bundle/kubernetes/bin/kubectl"),
                *("--kubeconfig", str(site.folder / "kubeconfig"), "--context", "seoul", *arguments),
            ],
            capture_output=True,
            text=True,
            check=True,
            **more,
        )
        return done.stdout

    def node(ready: bool) -> None:
        """Nobody stands in for the server's guest: its node object is all that there is of it."""
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "seoul-4"}}
        kubectl("apply", "-f", "-", input=json.dumps(made))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {"type": "Ready", "status": str(ready), "lastHeartbeatTime": now, "lastTransitionTime": now}
        patch = json.dumps({"status": {"conditions": [status]}})
        kubectl("patch", "node", "seoul-4", "--subresource=status", "--type=merge", "--patch", patch)

    def leave() -> Run:
        return play(ROOT / "playbooks/leave.yml", "--limit", "seoul-cp,localhost", scale_confirm=True)

    try:
        node(ready=True)
        seoul.compute.lock_server(server.id)
        locked = leave()
        assert locked.code != 0
        assert f"server {PREFIX}-seoul-4 is locked: unlock it" in locked.error
        assert "unschedulable" not in kubectl("get", "node", "seoul-4", "-o", "json")
        seoul.compute.unlock_server(server.id)

        run = good(leave())
        shown = run.results["Show what will be removed"]["localhost"]["msg"]
        assert {line.replace(f"{PREFIX}-", "").rpartition(" ")[0] for line in shown} == {
            *("lab-seoul: server", "lab-seoul: port", "lab-seoul: volume", "lab-seoul: floating ip")
        }
        assert kubectl("get", "nodes", "-o", "name").split() == ["node/seoul-cp"]
        assert {one.id for one in seoul.compute.servers()} == rest
        assert [one.name for one in seoul.block_storage.volumes()] == [theirs.name]
        assert seoul.network.find_port(f"{PREFIX}-seoul-4") is None
        assert len(list(seoul.network.ips())) == 1
        assert set(good(leave()).changed.values()) == {0}

        # One that runs somewhere that is not looked at.
        node(ready=True)
        unseen = leave()
        assert unseen.code != 0
        assert "the node seoul-4" in unseen.error and "provision_openstack_more_clouds" in unseen.error
        assert "unschedulable" not in kubectl("get", "node", "seoul-4", "-o", "json")
        # A run that was cut once the server had gone.
        kubectl("annotate", "node", "seoul-4", "koren.faas/leaving=true")
        good(leave())
        assert kubectl("get", "nodes", "-o", "name").split() == ["node/seoul-cp"]
    finally:
        seoul.block_storage.delete_volume(theirs.id)


HERE = "--limit=seoul-cp,localhost"


@pytest.fixture
def existing(site: Site, tmp_path: Path) -> dict[str, Any]:
    """What makes the same hosts another site's, whose driver makes none."""
    return {
        "site_driver": "existing",
        "site_dir": str(tmp_path / "state"),
        "ansible_ssh_private_key_file": str(site.folder / "ssh/id_ed25519"),
        "provision_existing_timeout_s": 60,
    }


def test_hosts_of_another_site_are_refused(site: Site, existing: dict[str, Any]) -> None:
    def take(**variables: Any) -> Run:
        return play(PROVISION, "--tags=provision", HERE, **(existing | variables))

    unknown = take()
    assert unknown.code != 0
    assert f"no SSH key is known for seoul-cp ({site.hosts['seoul-cp']})" in unknown.error
    assert "provision_existing_host_key" in unknown.error
    # Another site's, of which this one knows nothing: it is refused, and nothing has changed.
    other = take(provision_existing_scan_host_keys=True)
    assert other.code != 0
    assert "seoul-cp (" in other.error and "belongs to another site" in other.error
    assert "playbooks/reset.yml" in other.error
    assert cluster_is_ready(site.folder)

    # Nobody would be asked, with a limit that leaves the controller out.
    limited = play(ROOT / "playbooks/reset.yml", "--limit=seoul-cp", **existing)
    assert limited.code != 0 and "run it without --limit" in limited.error
    assert cluster_is_ready(site.folder)


@pytest.mark.skipif(not os.environ.get("KOREN_TEST_SOAK"), reason="makes a cluster anew: make test-long")
def test_hosts_that_are_there_are_taken_as_they_are(
    site: Site, existing: dict[str, Any], eventually: Callable[..., None]
) -> None:
    state = Path(existing["site_dir"])

    def take(**variables: Any) -> Run:
        return play(PROVISION, "--tags=provision", HERE, **(existing | variables))

    def reset(**variables: Any) -> Run:
        return play(ROOT / "playbooks/reset.yml", reset_confirm=True, **(existing | variables))

    # A reset takes the site off the hosts, which stay. One that does not answer is named, and is done once it does.
    port = "{{ 1 if inventory_hostname == 'seoul-gw' else 22 }}"
    run = reset(provision_existing_scan_host_keys=True, ansible_port=port)
    assert run.code == 2
    assert "the site is still on these hosts: seoul-gw." in run.error
    assert "no SSH key is known for seoul-gw" in run.error
    assert "Ansible managed" in site.run("seoul-gw", "cat /etc/hosts")
    assert site.run("seoul-cp", "ls -d /opt/koren /etc/kubernetes", check=False) == ""
    run = good(reset(provision_existing_scan_host_keys=True))
    shown = run.results["Show what will be removed"]["localhost"]["msg"]
    assert "what the site put on the host seoul-cp, which itself stays" in shown
    assert not state.exists()
    for host in site.hosts:
        assert site.run(host, "hostname").strip() == host
        # The image has no names of hosts.
        assert "Ansible managed" not in site.run(host, "cat /etc/hosts /etc/chrony/chrony.conf", check=False)
        assert site.run(host, "systemctl --failed --no-legend --plain") == ""
        assert site.run(host, "ls -d /opt/koren /etc/koren* /etc/kubernetes /var/lib/koren*", check=False) == ""
        assert site.run(host, "ls -A /var/lib/etcd /var/lib/kubelet | grep -v :", check=False).strip() == ""

    # Then they are as good as new.
    assert good(take(provision_existing_scan_host_keys=True)).changed["seoul-cp"] == 1
    assert set(good(take()).changed.values()) == {0}
    for playbook in (PROVISION, CLUSTERS):
        good(play(playbook, HERE, **existing))
    eventually(lambda: cluster_is_ready(state), 120)
    keys = {host: site.run(host, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip() for host in site.hosts}
    assert set(good(take(provision_existing_host_key=keys["seoul-cp"])).changed.values()) == {0}
    wrong = take(provision_existing_host_key=keys["seoul-gw"])
    assert wrong.code != 0
    assert "cannot be reached as root" in wrong.error
    release = take(provision_existing_host_key=keys["seoul-cp"], provision_existing_debian_release="13")
    assert release.code != 0
    assert "it must be Debian 13" in release.error


# The end


def test_a_reset_leaves_nothing_but_what_is_others(site: Site, seoul: Any, central: Any) -> None:
    run = good(play(ROOT / "playbooks/reset.yml", reset_confirm=True))
    shown = run.results["Show what will be removed"]["localhost"]["msg"]
    assert f"lab-seoul: server {PREFIX}-seoul-cp" in shown
    assert not any("other" in line for line in shown)
    for cloud in (seoul, central):
        left = [
            *cloud.compute.servers(),
            *cloud.network.networks(project_id=cloud.current_project_id),
            *cloud.network.routers(),
            *cloud.network.security_groups(project_id=cloud.current_project_id),
            *cloud.network.ports(project_id=cloud.current_project_id),
            *cloud.network.ips(),
            *cloud.compute.server_groups(),
            *cloud.compute.keypairs(),
        ]
        # What remains of others' things has other names, or none.
        names = {thing.name for thing in left}
        others = {"other", ""} if cloud is seoul else set()
        assert names == {"default", "given-seoul" if cloud is seoul else "given-central"} | others
    assert not site.folder.exists()


# Helpers


def lab_state() -> Path:
    return Path(os.environ["LAB_STATE"])


def console() -> str:
    """A console as cloud-init leaves it, of a guest that nobody stands in for."""
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBmE2mNo1lRrzgU6yCxzkiZC1GG9aQKJqP3j6m1h3Jb root@guest"
    return f"-----BEGIN SSH HOST KEY KEYS-----\n{key}\n-----END SSH HOST KEY KEYS-----\n"


def openstack_defaults() -> dict[str, Any]:
    defaults: dict[str, Any] = yaml.safe_load((ROOT / "roles/provision_openstack/defaults/main.yml").read_text())
    return defaults


def inventory(folder: Path, region: str, hosts: dict[str, dict[str, Any]]) -> Path:
    """Write an inventory that adds hosts, or variables of hosts, to a region."""
    path = folder / "more.yml"
    path.write_text(json.dumps({region: {"hosts": hosts}}))
    return path
