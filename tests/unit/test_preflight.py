"""Each mistake is found before anything is touched, named with its value and its remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.koren.faas.plugins.module_utils.preflight import (
    ACCOUNT_KEYS,
    Function,
    Host,
    Used,
    check_addresses_free,
    check_functions,
    check_inventory,
    check_machine,
    site_networks,
    used_ranges,
)

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def host(name: str, region: str, number: int, *groups: str, **variables: str) -> Host:
    """A host of a region, at address ``number`` of its LAN."""
    octet = {"central": 10, "seoul": 11}.get(region, 12)
    own = {
        "ansible_host": f"10.90.{octet}.{number}",
        "host_base_package_set": "base",
        "region_name": region,
        "region_lan_cidr": f"10.90.{octet}.0/24",
        "region_lan_gateway": f"10.90.{octet}.2",
        "region_pod_cidr": f"10.{100 + octet}.0.0/16",
        "region_service_cidr": f"10.{200 + octet}.0.0/16",
    }
    if "nfv_gateways" in groups:
        own["backbone_address"] = f"10.90.0.{octet}"
    return Host(name, ["site", "regions", region, *groups], own | variables, {})


CENTRAL = [host("central-gw", "central", 2, "nfv_gateways"), host("central-cp", "central", 10, "control_planes")]
SEOUL_GATEWAY = host("seoul-gw", "seoul", 2, "nfv_gateways")
SEOUL = [SEOUL_GATEWAY, host("seoul-cp", "seoul", 10, "control_planes")]
INVENTORY: dict[str, Any] = {
    "site_name": "local",
    "driver": "podman",
    "drivers": ["podman"],
    "backbone_cidr": "10.90.0.0/24",
    "hosts": CENTRAL + SEOUL,
    "package_sets": ["base"],
}
# Hosts that are no containers on this machine.
CLOUD: dict[str, Any] = {
    "driver": "cloud",
    "drivers": ["cloud"],
    "hosts": [
        host("central-gw", "central", 2, "nfv_gateways", host_base_ntp_servers="ntp.example"),
        *(CENTRAL[1], *SEOUL),
    ],
}
MACHINE: dict[str, Any] = {
    "architecture": "x86_64",
    "system": "debian 12",
    "uid": 0,
    "become": False,
    "programs": {"podman": True, "apt-get": True},
    "cgroup_controllers": {"cpu", "memory", "pids"},
    "kernel_config": None,
    "memory_mb": 24000,
    "memory_wanted_mb": 10000,
    "disk_gb": 80.0,
    "disk_wanted_gb": 25,
    "disk_path": "/var/lib",
}


def test_a_good_inventory_and_machine_pass() -> None:
    assert check_inventory(**INVENTORY) == []
    assert check_machine(**MACHINE) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"site_name": "My Site"}, ["site_name", "'My Site'", "lower case"]),
        ({"site_name": "local-two"}, ["site_name", "'local-two'", "letters and digits"]),
        (CLOUD | {"driver": "vmware", "drivers": ["podman"]}, ["site_driver", "'vmware'", "podman"]),
        ({"hosts": SEOUL}, ["region_name", "'central'", "another -i"]),
        ({"hosts": [*CENTRAL, SEOUL_GATEWAY]}, ["'seoul'", "control_planes", "add one"]),
        ({"hosts": [*CENTRAL, SEOUL[1]]}, ["'seoul'", "nfv_gateways", "add one"]),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("seoul-cp2", "seoul", 11, "control_planes")]},
            ["'seoul'", "2 hosts", "seoul-cp, seoul-cp2", "a region has one"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("other-gw", "seoul", 3, "nfv_gateways", backbone_address="10.90.0.9")]},
            ["region_name", "'seoul'", "two regions", "seoul-gw and other-gw"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("seoul-w", "seoul", 12, region_pod_cidr="10.9.0.0/16")]},
            ["region_name", "'seoul'", "two regions", "10.111.0.0/16 and 10.9.0.0/16"],
        ),
        (
            {
                "hosts": [
                    *CENTRAL,
                    *SEOUL,
                    Host("x", ["site", "jeju"], SEOUL[1].variables | {"ansible_host": "10.90.11.9"}, {}),
                ]
            },
            ["region_name of x", "'seoul'", "not one of its groups"],
        ),
        ({"hosts": [*CENTRAL, *SEOUL, host("Seoul_W", "seoul", 12)]}, ["host", "'Seoul_W'", "DNS label"]),
        (
            {"backbone_cidr": "10.90.10.128/25", **CLOUD},
            ["site_backbone_cidr (10.90.10.128/25) overlaps region_lan_cidr of central (10.90.10.0/24)"],
        ),
        ({"backbone_cidr": "10.90.0.1/24"}, ["site_backbone_cidr", "'10.90.0.1/24'", "not a CIDR"]),
        ({"hosts": [*CENTRAL, *SEOUL, host("seoul-w", "seoul", 10)]}, ["10.90.11.10", "seoul-cp and seoul-w"]),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("seoul-w", "seoul", 9, ansible_host="10.90.12.9")]},
            ["ansible_host of seoul-w", "10.90.12.9", "10.90.11.0/24"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("hpc", "seoul", 20, host_base_package_set="gpu")]},
            ["host_base_package_set of hpc", "'gpu'", "base", "bundle/apt/gpu.txt"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("hpc", "seoul", 20, detector_cameras="set")]},
            ["detector_rtsp_user of hpc is not set", "detector_rtsp_password", "''"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, host("hpc", "seoul", 20, detector_cameras="set", detector_rtsp_user="set")]},
            ["detector_rtsp_password of hpc is not set", "detector_rtsp_user is"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, Host("sns", ["site"], {}, {})]},
            ["ansible_host of sns is not set"],
        ),
        (
            {"hosts": [*CENTRAL, *SEOUL, Host("sns", ["site"], {}, {"ansible_host": "'net' is undefined"})]},
            ["ansible_host of sns has no value: 'net' is undefined"],
        ),
    ],
)
def test_a_mistake_in_the_inventory_is_named(change: dict[str, Any], words: list[str]) -> None:
    (error,) = check_inventory(**(INVENTORY | change))
    assert all(word in error for word in words), error


def test_cameras_that_ask_for_no_login_need_none() -> None:
    open_ones = host("hpc", "seoul", 20, detector_cameras="set", detector_rtsp_user="")
    assert check_inventory(**(INVENTORY | {"hosts": [*CENTRAL, *SEOUL, open_ones]})) == []


@pytest.mark.parametrize("provider", sorted(ACCOUNT_KEYS))
def test_an_account_that_is_not_described_in_full_is_named(provider: str, tmp_path: Path) -> None:
    *keys, last = ACCOUNT_KEYS[provider]
    function = Function("report", [], {"sns": ["provider", *keys]}, {}, {"sns": provider})
    (error,) = check_functions([function], INVENTORY["hosts"], tmp_path)
    assert all(word in error for word in ("functions_list", "report", provider, f"no {last};", "secret_files"))
    whole = Function("report", [], {"sns": ["provider", *keys, last]}, {}, {"sns": provider})
    assert check_functions([whole], INVENTORY["hosts"], tmp_path) == []
    (error,) = check_functions([Function("report", [], {"sns": []}, {}, {"sns": "twiter"})], [], tmp_path)
    assert "'twiter'" in error and "mastodon" in error


def test_the_keys_of_accounts_are_those_that_the_function_reads() -> None:
    code = (REPO / "apps/report-incident/handler.py").read_text()
    for provider, keys in ACCOUNT_KEYS.items():
        branch = code.partition(f'if provider == "{provider}":')[2].partition("    if provider")[0]
        assert all(f'"{key}"' in branch for key in keys), provider


def test_files_that_people_put_there_are_looked_for_and_others_are_not(tmp_path: Path) -> None:
    files = {"sns": {"key": "given/{region}/key", "ca.crt": "pki/ca.crt", "password": "secrets/sns-{region}"}}
    function = Function("report", [], {"sns": list(files["sns"])}, files, {})
    (error,) = check_functions([function], INVENTORY["hosts"], tmp_path)
    assert f"report needs secret_files for seoul: {tmp_path}/given/seoul/key (it does not exist); put" in error
    (tmp_path / "given/seoul").mkdir(parents=True)
    (tmp_path / "given/seoul/key").write_text("\n")
    (error,) = check_functions([function], INVENTORY["hosts"], tmp_path)
    assert "it is empty" in error
    (tmp_path / "given/seoul/key").write_text("key\n")
    assert check_functions([function], INVENTORY["hosts"], tmp_path) == []
    elsewhere = Function("report", ["central"], {"sns": ["key"]}, {"sns": {"key": "/nowhere/key"}}, {})
    (error,) = check_functions([elsewhere], INVENTORY["hosts"], tmp_path)
    assert "for central: /nowhere/key" in error


def test_where_a_cloud_gives_addresses_they_are_not_compared_with_the_networks() -> None:
    elsewhere = host("seoul-w", "seoul", 9, ansible_host="seoul-w.example.net")
    assert check_inventory(**(INVENTORY | CLOUD | {"hosts": [*CLOUD["hosts"], elsewhere]})) == []


def test_where_hosts_have_clocks_of_their_own_somebody_must_tell_the_time() -> None:
    (error,) = check_inventory(**(INVENTORY | CLOUD | {"hosts": [*CENTRAL, *SEOUL]}))
    assert all(word in error for word in ("host_base_ntp_servers", "signed with a wrong time", "set it to NTP servers"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "aarch64"}, ["aarch64", "amd64"]),
        ({"system": "ubuntu 24.04"}, ["ubuntu 24.04", "Debian 12"]),
        ({"uid": 1000}, ["1000", "--ask-become-pass"]),
        ({"programs": {"podman": False, "apt-get": False}}, ["podman is missing", "install podman"]),
        ({"cgroup_controllers": {"cpu"}}, ["memory, pids"]),
        (
            {
                "kernel_config": "CONFIG_OVERLAY_FS=y\nCONFIG_BRIDGE=m\nCONFIG_VETH=m\n# CONFIG_VXLAN is not set\n"
                "CONFIG_NF_CONNTRACK=m\nCONFIG_NET_NS=y\n"
            },
            ["vxlan, nftables", "boot"],
        ),
        ({"memory_mb": 4000}, ["4000 MiB", "preflight_memory_mb"]),
        ({"disk_gb": 3.0}, ["/var/lib", "preflight_disk_gb"]),
    ],
)
def test_what_the_machine_lacks_is_named(change: dict[str, Any], words: list[str]) -> None:
    (error,) = check_machine(**(MACHINE | change))
    assert all(word in error for word in words), error


def test_addresses_of_another_site_are_named_and_the_own_are_free() -> None:
    podman = [
        {"name": "koren-local-seoul", "network_interface": "podman1", "subnets": [{"subnet": "10.90.11.0/24"}]},
        {"name": "koren-two-backbone", "network_interface": "podman2", "subnets": [{"subnet": "10.90.0.0/24"}]},
    ]
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "10.90.11.0/24", "dev": "podman1"},
        {"dst": "10.90.10.1", "dev": "tun0"},
    ]
    used = used_ranges(podman, routes, "koren-local-")
    assert used == [
        Used("10.90.0.0/24", "the podman network koren-two-backbone"),
        Used("10.90.10.1", "the machine's interface tun0"),
    ]
    errors = check_addresses_free(site_networks("10.90.0.0/24", INVENTORY["hosts"]), used)
    assert len(errors) == 2
    assert all(word in errors[0] for word in ("site_backbone_cidr", "koren-two-backbone", "site_net"))
    assert "region_lan_cidr of central (10.90.10.0/24)" in errors[1]


# What a second inventory says beside the local one, by file, and words of each error that it is to get.
BAD: dict[str, tuple[dict[str, str], list[str]]] = {
    "overlap": (
        {"group_vars/busan.yml": "region_pod_cidr: 10.111.128.0/17"},
        ["region_pod_cidr of seoul (10.111.0.0/16) overlaps region_pod_cidr of busan (10.111.128.0/17)"],
    ),
    "same name": (
        {"group_vars/busan.yml": "region_name: seoul"},
        ["region_name of busan-gw: 'seoul' is not one of its groups", "'seoul' is the name of two regions"],
    ),
    "no control plane": (
        {
            "hosts.yml": "all: {children: {edges: {children: {jeju: {}}}, nfv_gateways: {hosts: {jeju-gw: {}}},"
            " jeju: {hosts: {jeju-gw: {ansible_host: 10.98.13.2, backbone_address: 10.98.0.13}}}}}",
            "group_vars/jeju.yml": "{region_name: jeju, region_lan_cidr: 10.98.13.0/24, region_lan_gateway: 10.98.13.2,"
            " region_pod_cidr: 10.113.0.0/16, region_service_cidr: 10.213.0.0/16}",
        },
        ["region 'jeju' has no host in the group control_planes"],
    ),
    "two control planes": (
        {
            "hosts.yml": "all: {children: {busan: {hosts: {busan-cp2: {ansible_host: 10.98.12.11}}},"
            " control_planes: {hosts: {busan-cp2: {}}}}}"
        },
        ["region 'busan' has 2 hosts in the group control_planes"],
    ),
    "no names": (
        {
            "hosts.yml": "all: {children: {busan: {hosts: {Busan_W: {ansible_host: 10.98.12.20}}}}}",
            "group_vars/seoul.yml": "region_lan_gateway: '{{ nowhere }}'",
        },
        ["host: 'Busan_W' is not a DNS label", "region_lan_gateway of", "'nowhere' is undefined"],
    ),
    "driver and machine": (
        {"group_vars/all.yml": "{preflight_memory_mb: 99999999, preflight_disk_gb: 9999999}"},
        ["preflight_memory_mb asks for 99999999", "preflight_disk_gb asks for 9999999"],
    ),
    "unknown driver": (
        {"group_vars/all.yml": "site_driver: vmware"},
        ["site_driver: 'vmware' is not known; use one of:"],
    ),
}


# All errors of a run are told at once: those of these together do not get in each other's way.
TOGETHER = (
    ("overlap", "no control plane", "two control planes", "driver and machine"),
    ("same name", "no names", "unknown driver"),
)


@pytest.mark.parametrize("cases", TOGETHER, ids=", ".join)
def test_a_bad_inventory_stops_the_run_at_its_first_step(cases: tuple[str, ...], tmp_path: Path) -> None:
    inventories = []
    for case in cases:
        folder = tmp_path / case.replace(" ", "-")
        (folder / "group_vars").mkdir(parents=True)
        for name, text in ({"hosts.yml": "all:"} | BAD[case][0]).items():
            (folder / name).write_text(text)
        inventories += ["-i", str(folder)]
    state = tmp_path / "state"
    run = subprocess.run(
        [
            *(str(BIN / "ansible-playbook"), "-i", "inventories/local", *inventories, "site.yml"),
            *("-e", "site_name=preflight", "-e", "site_net=10.98", "-e", f"site_dir={state}"),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    errors = run.stdout.partition("errors:")[2].partition("msg:")[0].replace("\n", " ")
    errors = " ".join(errors.replace("''", "'").split())
    for case in cases:
        assert all(word in errors for word in BAD[case][1]), f"{case}: {run.stdout}"
    recap = run.stdout.partition("PLAY RECAP")[2].partition("TASKS RECAP")[0]
    assert [line.split(":")[0].strip() for line in recap.splitlines() if "ok=" in line] == ["localhost"]
    assert "changed=0" in recap and "failed=1" in recap
    assert not state.exists()


def test_every_bad_inventory_is_tried() -> None:
    assert sorted(case for cases in TOGETHER for case in cases) == sorted(BAD)
