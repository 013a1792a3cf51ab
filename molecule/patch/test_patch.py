# SPDX-License-Identifier: Apache-2.0
"""Running hosts get newer packages one after the other, and what runs older files is restarted."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from conftest import Site

# In this order.
FIRST, SECOND = "seoul-gw", "sns-1"
# A service that uses a package's library and belongs to no package.
USER = """[Service]
ExecStartPre=/usr/bin/test ! -e /root/broken
ExecStart=/usr/bin/python3 -c 'import ctypes, time; ctypes.CDLL("libnet.so.1"); time.sleep(1e9)'
"""


@pytest.fixture(autouse=True)
def user(site: Site) -> Iterator[None]:
    """Both hosts have the service."""
    unit = "/etc/systemd/system/user.service"
    for host in (FIRST, SECOND):
        site.run(host, f"cat >{unit} <<'END'\n{USER}END\nsystemctl daemon-reload")
    yield
    for host in (FIRST, SECOND):
        site.run(host, f"rm -f /root/broken; systemctl stop user; rm {unit}; systemctl daemon-reload")


def make_older(site: Site, host: str, package: str) -> str:
    """Give a host an older version of a package that it has; the newer version."""
    found = site.run(host, f"ls /opt/koren/*/{package}_*.deb | head -n 1").strip()
    site.run(
        host,
        f"cd $(mktemp -d) && dpkg-deb -R {found} tree && sed -i 's/^Version: .*/&~older/' tree/DEBIAN/control"
        " && dpkg-deb -b tree older.deb && dpkg -i older.deb",
    )
    newer = version(site, host, package).removesuffix("~older")
    assert version(site, host, package) == f"{newer}~older"
    return newer


def version(site: Site, host: str, package: str) -> str:
    """The version of a package that a host has."""
    return site.run(host, f"dpkg-query -W -f '${{Version}}' {package}")


def process(site: Site, host: str, service: str) -> str:
    """The id of a service's main process."""
    return site.run(host, f"systemctl show {service} --property=MainPID --value").strip()


def patch(site: Site, *args: str) -> str:
    """What a run prints."""
    return site.playbook("playbooks/patch.yml", *args)


def test_an_older_package_is_replaced_and_what_uses_it_restarted(site: Site) -> None:
    newer = make_older(site, FIRST, "libnet1")
    make_older(site, SECOND, "libnet1")
    clock = make_older(site, FIRST, "chrony")
    for host in (FIRST, SECOND):
        site.run(host, "systemctl restart user")
    before = {name: process(site, FIRST, name) for name in ("user", "chrony", "ssh")}

    told = patch(site, "--check")
    assert f"libnet1 {newer}~older -> {newer}" in told and f"chrony {clock}~older -> {clock}" in told
    assert len(re.findall(r"changed=[1-9]", told)) == 2
    assert version(site, FIRST, "libnet1") == f"{newer}~older"

    patch(site, f"--limit={FIRST}")
    assert version(site, FIRST, "libnet1") == newer and version(site, FIRST, "chrony") == clock
    assert process(site, FIRST, "user") not in ("0", before["user"])
    assert process(site, FIRST, "chrony") not in ("0", before["chrony"])
    assert process(site, FIRST, "ssh") == before["ssh"]
    assert "Ansible managed" in site.run(FIRST, "cat /etc/chrony/chrony.conf")
    assert version(site, SECOND, "libnet1") == f"{newer}~older"

    patch(site)
    assert version(site, SECOND, "libnet1") == newer
    again = patch(site)
    assert not re.search("changed=[1-9]", again), again


def test_a_host_that_is_not_well_stops_the_run_which_then_goes_on_with_it(site: Site) -> None:
    newer = make_older(site, FIRST, "libnet1")
    make_older(site, SECOND, "libnet1")
    site.run(FIRST, "systemctl restart user; touch /root/broken")
    with pytest.raises(AssertionError, match=rf"(?s){FIRST} is not completely patched.*make\s+patch.*user.service"):
        patch(site)
    assert version(site, SECOND, "libnet1") == f"{newer}~older"
    site.run(FIRST, "rm /root/broken; systemctl reset-failed")
    assert FIRST in patch(site, "--check").partition("TASK [Show what is to be patched]")[2]
    patch(site)
    assert process(site, FIRST, "user") != "0"
    assert version(site, FIRST, "libnet1") == version(site, SECOND, "libnet1") == newer


def test_a_host_is_restarted_where_no_service_alone_can_be(site: Site) -> None:
    newer = make_older(site, FIRST, "libexpat1")
    began = site.run(FIRST, "stat --format=%Y /proc/1")
    # Of the connection that ends with the host nobody would tell.
    subprocess.run(["ssh", "-o", f"ControlPath={site.sockets}/%h", "-O", "exit", site.hosts[FIRST]], check=False)
    patch(site, f"--limit={FIRST}")
    assert version(site, FIRST, "libexpat1") == newer
    assert site.run(FIRST, "stat --format=%Y /proc/1") != began
    assert site.run(FIRST, "systemctl is-active chrony koren-routes").split() == ["active", "active"]
    assert site.run(FIRST, "sysctl --values net.ipv4.ip_forward").strip() == "1"
    assert not re.search("changed=[1-9]", patch(site, f"--limit={FIRST}"))
