# SPDX-License-Identifier: Apache-2.0
"""What every host has, and the runtime of pods."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]


def test_a_host_knows_its_region_the_centre_and_the_backbone_by_name_and_the_centre_knows_all(site: Site) -> None:
    for host in site.hosts:
        place = host.partition("-")[0]
        for name, address in site.hosts.items():
            known = place == "central" or name.partition("-")[0] in (place, "central", "sns")
            found = site.run(host, f"getent ahostsv4 {name}", check=False).split()
            assert found[:1] == ([address] if known else []), f"{name} on {host}"


def test_regions_reach_each_other_through_their_gateways(site: Site) -> None:
    answer = site.run("seoul-cp", "ssh-keyscan -T 5 -t ed25519 central-cp 2>/dev/null")
    key = site.run("central-cp", "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
    assert answer.strip() == f"central-cp {key}"
    # With its own address: who it was is seen at the other end.
    seen = site.run("seoul-cp", "ip -o route get " + site.hosts["central-cp"])
    assert f"via {site.hosts['seoul-gw']}" in seen
    assert f"src {site.hosts['seoul-cp']}" in seen


def test_routes_come_with_a_late_interface_and_go_when_they_are_no_longer_listed(site: Site, eventually: Wait) -> None:
    # Of a listed destination a host has the listed way alone; 203.0.113.0/24 is in nobody's list.
    gateway = site.hosts["seoul-gw"]
    stale = f"203.0.113.0/24 via {gateway} dev eth0 proto 201"
    site.run("seoul-w1", f"ip route add {stale} && systemctl restart koren-routes")
    listed = site.run("seoul-w1", "ip route show proto 201")
    assert listed.strip() == f"default via {gateway} dev eth0"
    # As at a boot whose interface comes after the service was started.
    site.run(
        "seoul-w1",
        "systemd-run --quiet sh -c 'ip link set eth0 down; systemctl restart --no-block koren-routes;"
        " until systemctl show -p NRestarts koren-routes | grep -q =[1-9]; do sleep 0.2; done; ip link set eth0 up'",
    )

    def back() -> bool:
        try:
            shown = site.run("seoul-w1", "systemctl is-active koren-routes && ip route show proto 201")
        except subprocess.SubprocessError:
            return False
        return shown == f"active\n{listed}"

    eventually(back, 60)


def test_packages_come_from_the_bundle_alone(site: Site) -> None:
    sources = site.run("seoul-cp", "apt-cache policy | grep -E '^ *[0-9]+ (file|http)'").splitlines()
    assert sources
    assert all("file:/opt/koren/apt-" in line for line in sources)


def test_clocks_agree(site: Site, eventually: Wait) -> None:
    # The centre's gateway keeps the time; chronyc would need its command port.
    sources = "journalctl -u chrony | grep -c 'Selected source'"
    for host in ("central-cp", "seoul-cp", "sns-1"):
        eventually(lambda h=host: int(site.run(h, sources, check=False) or 0) > 0, 30)  # type: ignore[misc]


def test_nothing_of_a_host_has_failed(site: Site) -> None:
    for host in site.hosts:
        assert site.run(host, "systemctl --failed --no-legend --plain") == ""


@pytest.mark.parametrize("name", ["coredns", "pause"])
def test_images_are_there_and_pinned(site: Site, name: str) -> None:
    listed = site.run("seoul-cp", "ctr -n k8s.io images list")
    line = next(line for line in listed.splitlines() if f"/{name}:" in line)
    assert "io.cri-containerd.pinned=pinned" in line


def test_a_container_runs(site: Site) -> None:
    image = site.run("seoul-cp", "ctr -n k8s.io images list -q | grep /coredns:").strip()
    said = site.run("seoul-cp", f"ctr -n k8s.io run --rm {image} molecule coredns -version")
    assert "CoreDNS" in said


def test_what_the_site_overwrote_is_put_back_when_it_is_taken_off(site: Site) -> None:
    host, routes = "sns-1", "ip route show | grep ' via '"
    files = "tail -n +1 /etc/hosts /etc/chrony/chrony.conf"
    ours, ways = site.run(host, files), site.run(host, routes)
    assert ours.count("Ansible managed") == 2 and ways
    # The image has no names of hosts, and its chrony is as Debian has it.
    site.playbook("molecule/base/reset.yml")
    assert site.run(host, "ls /etc/hosts /opt/koren /etc/apt/sources.list.d/koren.list", check=False) == ""
    assert "pool 2.debian.pool.ntp.org" in site.run(host, "cat /etc/chrony/chrony.conf")
    assert site.run(host, routes, check=False) == ""
    assert site.run(host, "systemctl --failed --no-legend --plain") == ""
    again = site.playbook("molecule/base/reset.yml", "--diff")
    assert not re.search("changed=[1-9]", again), again
    # What is there when the site comes back is what the next reset puts back.
    gateway = site.run(host, "ip -4 -brief address show | awk '$1 != \"lo\" {print $3}'").split(".")[:3]
    site.run(host, f"echo '192.0.2.1 theirs' >/etc/hosts && ip route add 198.51.100.0/24 via {'.'.join(gateway)}.10")
    site.playbook("molecule/base/converge.yml", f"--limit={host}")
    assert site.run(host, files) == ours
    site.playbook("molecule/base/reset.yml")
    assert site.run(host, "cat /etc/hosts") == "192.0.2.1 theirs\n"
    assert site.run(host, routes).split()[0] == "198.51.100.0/24"
    site.run(host, "rm /etc/hosts && ip route delete 198.51.100.0/24")
    site.playbook("molecule/base/converge.yml", f"--limit={host}")
    assert site.run(host, files) == ours and site.run(host, routes) == ways
