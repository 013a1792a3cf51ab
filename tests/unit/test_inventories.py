"""KOREN's regions, one inventory each: the centre with any of them, or with all, is a site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KOREN = REPO / "inventories" / "koren"
LOCAL = REPO / "inventories" / "local" / "group_vars"
COMMON = REPO / "inventories" / "common" / "group_vars"
EDGES = sorted(path.name for path in KOREN.iterdir() if path.name != "central")
NUMBERS = {"central": 10, "seoul": 11, "busan": 12, "suwon": 13, "daejeon": 14, "daegu": 15, "gwangju": 16, "jeju": 17}


def run(program: str, *arguments: str, regions: list[str], ok: bool = True) -> str:
    """Run one of Ansible's programs on the inventories of those regions; its output."""
    inventories = [word for region in regions for word in ("-i", str(KOREN / region))]
    done = subprocess.run(
        [str(BIN / program), *inventories, *arguments], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout


def templated(
    expressions: dict[str, str], regions: list[str], folder: Path, *arguments: str
) -> dict[str, dict[str, Any]]:
    """What the expression for a pattern is on each of its hosts."""
    plays = []
    for pattern, expression in expressions.items():
        (folder / pattern).mkdir()
        task = {
            "ansible.builtin.copy": {
                "content": "{{ shown | to_json }}",
                "dest": f"{folder}/{pattern}/{{{{ inventory_hostname }}}}.json",
            },
            "delegate_to": "localhost",
            "vars": {"shown": f"{{{{ {expression} }}}}"},
        }
        plays.append({"hosts": pattern, "gather_facts": False, "tasks": [task]})
    playbook = folder / "show.yml"
    playbook.write_text(yaml.safe_dump(plays))
    run("ansible-playbook", str(playbook), *arguments, regions=regions)
    return {
        pattern: {path.stem: json.loads(path.read_text()) for path in (folder / pattern).iterdir()}
        for pattern in expressions
    }


FLOWS = "nfv_gateway_flows | koren.faas.nfv_flows(groups | koren.faas.nfv_inventory(hostvars),"
FLOWS += " nfv_gateway_places, ['events', 'bulk', 'rest'])"
FLOWS += " | koren.faas.nfv_gateway_flows(region_lan_cidr, [ansible_host, backbone_address])"
CLOCK = f"lookup('ansible.builtin.template', '{REPO}/roles/host_base/templates/chrony.conf.j2')"
FLOWS = f"{{'flows': {FLOWS}, 'routes': host_base_routes, 'clock': {CLOCK}}}"


@pytest.fixture(scope="module")
def two_edges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What hosts of a site of the centre, Seoul and Jeju know, by group."""
    known = "{'names': host_base_names, 'bridges': mosquitto_bridges | map(attribute='name'),"
    known += " 'shared': kubernetes_node_shared_machine | default(false),"
    known += " 'cameras': console_cameras | map(attribute='id')}"
    cameras = "detector_cameras | map(attribute='id')"
    expressions = {"control_planes": known, "hpc": cameras, "nfv_gateways": FLOWS}
    return templated(expressions, ["central", "seoul", "jeju"], tmp_path_factory.mktemp("two"))


def given(state: Path, edges: list[str]) -> None:
    """What people put into the site's state: the accounts of the regions and the login of the cameras."""
    keys = ("consumer_key", "consumer_secret", "access_token", "access_token_secret")
    files = [f"twitter-{edge}/{key}" for edge in edges for key in keys]
    for file in [*files, "cameras/user", "cameras/password"]:
        (state / "given" / file).parent.mkdir(parents=True, exist_ok=True)
        (state / "given" / file).write_text("known\n")


@pytest.mark.parametrize("edges", [EDGES, *([edge] for edge in EDGES)], ids=",".join)
def test_the_centre_and_edges_are_a_site_that_the_preflight_passes(edges: list[str], tmp_path: Path) -> None:
    regions = ["central", *edges]
    inventory = InventoryManager(loader=DataLoader(), sources=[str(KOREN / region) for region in regions])

    def members(pattern: str) -> set[str]:
        return {host.name for host in inventory.get_hosts(pattern)}

    hosts = {f"{region}-{kind}" for region in edges for kind in ("gw", "cp", "w1")}
    hosts |= {"central-gw", "central-cp", "hpc-1"}
    assert members("site") == hosts
    assert members("koren") == hosts | {"localhost"}
    assert members("edges") == hosts - members("central")
    assert members("nfv_gateways") == {f"{region}-gw" for region in regions}
    assert members("control_planes") == {f"{region}-cp" for region in regions}
    assert members("workers") == {f"{region}-w1" for region in edges}
    assert members("kubernetes_nodes") == members("control_planes") | members("workers")

    given(tmp_path, edges)
    machine = ["-e", "preflight_memory_mb=1", "-e", "preflight_disk_gb=0", "-e", f"site_dir={tmp_path}"]
    # The strictest look: with hosts on this machine, each address is compared with its network too.
    run("ansible-playbook", "playbooks/preflight.yml", "-e", "site_driver=podman", *machine, regions=regions)


def test_accounts_and_logins_that_miss_are_told_before_anything_is_changed(tmp_path: Path) -> None:
    edges = ["seoul", "jeju"]
    given(tmp_path, edges)
    run("ansible-playbook", "playbooks/preflight.yml", "-e", f"site_dir={tmp_path}", regions=["central", *edges])
    (tmp_path / "given/twitter-jeju/access_token").unlink()
    (tmp_path / "given/cameras/password").unlink()
    told = run(*("ansible-playbook", "site.yml", "-e", f"site_dir={tmp_path}"), regions=["central", *edges], ok=False)
    told = " ".join(told.split())
    key = f"{tmp_path}/given/twitter-jeju/access_token"
    assert f"report-incident needs secret_files for jeju: {key} (it does not exist" in told
    assert "detector_rtsp_password of hpc-1 has no value:" in told and f"{tmp_path}/given/cameras/password" in told
    assert "for seoul" not in told and "detector_rtsp_user" not in told
    assert "changed=0" in told and [path.name for path in tmp_path.iterdir()] == ["given"]


def test_a_reset_keeps_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A driver that has made nothing.
    programs = tmp_path.with_name("bin")
    programs.mkdir()
    (programs / "podman").write_text("#!/bin/sh\n")
    (programs / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    reset = ["playbooks/reset.yml", "-e", "reset_confirm=yes", "-e", "site_driver=podman"]
    reset += ["-e", f"site_dir={tmp_path}"]
    given(tmp_path, ["seoul"])
    before = sorted((tmp_path / "given").rglob("*"))
    (tmp_path / "secrets").mkdir()
    for name in ("kubeconfig", ".hidden", "secrets/cctv"):
        (tmp_path / name).touch()
    assert "given" in run("ansible-playbook", *reset, regions=["central", "seoul"])
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
    assert sorted((tmp_path / "given").rglob("*")) == before
    (tmp_path / "given").rename(tmp_path.with_name("aside"))
    run("ansible-playbook", *reset, regions=["central", "seoul"])
    assert not tmp_path.exists()


def test_a_reset_keeps_the_state_of_a_site_whose_hosts_do_not_answer(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    # Nothing listens on that port of this machine.
    silent = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_private_key_file": f"{tmp_path}/key"}
    site = {"site_driver": "existing", "site_dir": str(tmp_path), "provision_existing_scan_host_keys": True}
    reset = ["playbooks/reset.yml", "-e", json.dumps(silent | site)]
    told = run("ansible-playbook", *reset, "-e", "reset_confirm=yes", regions=["central", "seoul"], ok=False)
    assert "on these hosts: central-cp, central-gw, hpc-1, seoul-cp, seoul-gw, seoul-w1." in " ".join(told.split())
    assert "seoul-w1 failed at 'koren.faas.provision_existing : Fail if the host's key is unknown'" in told
    assert "no SSH key is known for seoul-w1 (127.0.0.1)" in told and "it shows none" in told
    assert (tmp_path / "key").exists()
    # With a limit that leaves the controller out, nobody would be asked.
    told = run("ansible-playbook", *reset, "--limit=seoul-w1", regions=["central", "seoul"], ok=False)
    assert "run it without --limit" in told and "Look up the host's known key" not in told


def test_each_region_has_its_own_ranges_and_nothing_of_the_local_site(tmp_path: Path) -> None:
    names = "{'name': region_name, 'title': region_title.en, 'site': [site_name, site_domain, site_driver],"
    names += " 'dir': site_dir, 'gateway': region_lan_gateway,"
    names += " 'cidrs': [region_lan_cidr, region_pod_cidr, region_service_cidr]}"
    shown = templated({"nfv_gateways": names}, ["central", *EDGES], tmp_path)["nfv_gateways"]
    assert set(NUMBERS) == {"central", *EDGES}
    for region, number in NUMBERS.items():
        assert shown[f"{region}-gw"] == {
            "name": region,
            "title": region.capitalize(),
            "site": ["koren", "koren.internal", "openstack"],
            "dir": str(REPO / ".state" / "koren"),
            "cidrs": [f"10.80.{number}.0/24", f"10.{100 + number}.0.0/16", f"10.{200 + number}.0.0/16"],
            "gateway": f"10.80.{number}.2",
        }


def test_what_hosts_know_of_each_other_follows_the_regions(two_edges: dict[str, dict[str, Any]]) -> None:
    shown = two_edges["control_planes"]
    assert shown["central-cp"]["names"]["seoul-gw"] == "10.80.11.2"
    assert shown["jeju-cp"]["names"]["central-cp"] == shown["jeju-cp"]["names"]["api.central.koren.internal"]
    assert {"jeju-gw", "jeju-cp", "jeju-w1", "api.jeju.koren.internal"} <= set(shown["jeju-cp"]["names"])
    assert not [name for name in shown["jeju-cp"]["names"] if "seoul" in name]
    assert shown["central-cp"]["bridges"] == ["jeju", "seoul"]
    assert shown["jeju-cp"]["bridges"] == ["central"]
    assert not any(host["shared"] for host in shown.values())
    assert shown["central-cp"]["cameras"] == two_edges["hpc"]["hpc-1"] == ["cctv-jeju-01", "cctv-seoul-01"]


def test_the_centres_gateway_asks_the_world_for_the_time_and_all_others_ask_it(
    two_edges: dict[str, dict[str, Any]],
) -> None:
    asked = {
        host: [line.split()[1] for line in shown["clock"].splitlines() if line.startswith("server ")]
        for host, shown in two_edges["nfv_gateways"].items()
    }
    assert asked["seoul-gw"] == asked["jeju-gw"] == ["10.80.0.10"]
    assert asked["central-gw"] and "10.80.0.10" not in asked["central-gw"]


def test_what_passes_a_gateway_follows_the_regions(two_edges: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    one_edge = templated({"nfv_gateways": FLOWS}, ["central", "seoul"], tmp_path)
    shown = {1: one_edge["nfv_gateways"], 2: two_edges["nfv_gateways"]}
    assert shown[1]["seoul-gw"] == shown[2]["seoul-gw"], "a further region is none of this one's business"
    assert shown[2]["seoul-gw"]["routes"] == [{"to": "10.80.10.0/24", "via": "10.80.0.10"}]
    assert [route["to"] for route in shown[2]["central-gw"]["routes"]] == ["10.80.17.0/24", "10.80.11.0/24"]
    flows = {flow["name"]: flow for flow in shown[2]["central-gw"]["flows"]}
    assert flows["events-to-centre"]["in"] == [{"from": ["10.80.11.10", "10.80.17.10"], "to": ["10.80.10.10"]}]
    assert flows["cameras-of-regions"]["out"][0]["from"] == ["10.80.10.20"]
    assert "posts-to-the-world" in {flow["name"] for flow in shown[2]["jeju-gw"]["flows"]}


def test_backups_go_from_those_that_have_data_to_a_repository_of_their_region(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("10.80.10.20 ssh-ed25519 AAAA\n10.80.10.2 ssh-ed25519 BBBB\n")
    shown = "{'repository': backup_repository | replace('{region}', backup_region), 'parts': backup_parts,"
    shown += " 'server': backup_known_hosts, 'password': backup_password}"
    flow = f"({FLOWS}).flows | selectattr('name', 'equalto', 'backups')"
    for server, chosen in {"hpc-1": "sftp:koren-backup-{}@10.80.10.20:/backup", "": ""}.items():
        (tmp_path / f"from-{server}").mkdir()
        told = templated(
            {"all": shown, "nfv_gateways": flow}, ["central", "seoul"], tmp_path / f"from-{server}",
            "-e", f"backup_server={server}", "-e", f"site_dir={tmp_path}",
        )  # fmt: skip
        hosts, passing = told["all"], told["nfv_gateways"]
        assert {name: host["parts"] for name, host in hosts.items() if host["parts"]} == {
            "central-cp": ["etcd", "registry", "redis", "console"],
            "seoul-cp": ["etcd", "registry", "redis"],
            "localhost": ["site"],
        }
        assert hosts["seoul-cp"]["repository"] == chosen.format("seoul")
        assert hosts["localhost"]["repository"] == chosen.format("controller")
        assert hosts["seoul-cp"]["server"] == ("10.80.10.20 ssh-ed25519 AAAA" if server else "")
        assert len({hosts[name]["password"] for name in ("central-cp", "seoul-cp", "localhost")}) == 3
        ends = [{"from": ["10.80.10.10", "10.80.11.10"], "to": ["10.80.10.20"]}] if server else []
        assert [pair["from"] for one in passing["seoul-gw"] for pair in one["out"]] == [["10.80.11.10"] for _ in ends]


def test_the_way_to_the_world_is_the_gateway_host_and_its_router(tmp_path: Path) -> None:
    flows = "nfv_gateway_flows | koren.faas.nfv_flows(groups | koren.faas.nfv_inventory(hostvars), nfv_gateway_places)"
    pods = f"{flows} | koren.faas.nfv_gateway_flows(region_pod_cidr, [])"
    shown = templated(
        {"nfv_gateways": FLOWS, "workers": f"{{'pods': {pods}, 'routes': host_base_routes}}"},
        ["central", "seoul"],
        tmp_path,
        *("-e", "provision_openstack_external_network=public"),
    )
    gateway, node = shown["nfv_gateways"]["seoul-gw"], shown["workers"]["seoul-w1"]
    assert {"to": "default", "via": "10.80.11.1"} in gateway["routes"]
    assert node["routes"] == [{"to": "default", "via": "10.80.11.2"}]

    def beyond(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
        world = [flow for flow in found if any(pair["to"] == ["0.0.0.0/0"] for pair in flow["out"])]
        return {(flow["protocol"], port) for flow in world for port in flow["ports"]}

    # What a pod may send, its node may send on.
    assert beyond(node["pods"]) == beyond(gateway["flows"]) == {("tcp", "443"), ("udp", "53")}


@pytest.mark.parametrize("folder", ["/root/koren/.state/local", "/srv" * 19, "/srv" * 25, "/" + "나" * 30])
def test_sockets_of_open_connections_have_paths_that_the_system_allows(folder: str) -> None:
    said = yaml.safe_load((COMMON / "all/site.yml").read_text(encoding="utf-8"))["ansible_control_path_dir"]
    shown = Templar(loader=DataLoader(), variables={"site_dir": folder}).template(trust_as_template(said))
    # Ansible adds 11 bytes, SSH 17 while it makes one, and 107 is the most.
    assert len(shown.encode()) + 11 + 17 <= 107
    assert shown == f"{folder}/ssh" or (len(folder.encode()) > 75 and shown.startswith("~/.ssh/koren-"))


def test_open_connections_of_a_site_are_in_its_own_folder(tmp_path: Path) -> None:
    playbook = tmp_path / "state.yml"
    playbook.write_text("[{hosts: localhost, gather_facts: false, roles: [koren.faas.site_state]}]")
    # Folders of pytest may be too deep for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as state:
        run("ansible-playbook", str(playbook), "-e", f"site_dir={state}", regions=["central", "seoul"])
        paths = []
        for host in ("central-cp", "seoul-cp"):
            ssh = ["ssh", "-F", f"{state}/ssh_config", "-G", host]
            told = subprocess.run(ssh, capture_output=True, text=True, check=True).stdout.splitlines()
            paths += [line.split()[1] for line in told if line.startswith("controlpath ")]
        assert len(set(paths)) == 2 and {str(Path(path).parent) for path in paths} == {f"{state}/ssh"}
        assert Path(state, "ssh").stat().st_mode & 0o777 == 0o700


def test_what_sites_have_in_common_is_in_each_of_them() -> None:
    links = {site: [path for path in site.rglob("*") if path.is_symlink()] for site in (LOCAL, KOREN)}
    for site, found in links.items():
        led_to = {path.resolve() for path in found}
        missing = {path.name for path in COMMON.iterdir()} - {path.name for path in led_to if path.parent == COMMON}
        assert not missing, f"link them in {site}: {missing}"
        assert not [path for path in found if not path.exists() or COMMON not in path.resolve().parents]
