# SPDX-License-Identifier: Apache-2.0
"""A region's control plane is lost with all that it had, and comes back from its backup."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conftest import Site

HOST, SERVER = "seoul-cp", "seoul-w1"
KUBECTL = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
ACCESS = "-F /etc/koren/backup/ssh_config koren-backup-seoul@"


def _redis(site: Site, command: str) -> str:
    password = (site.folder / "secrets/redis-seoul").read_text().strip()
    client = "redis-cli --no-auth-warning --tls --cacert /etc/koren/pki/ca.crt --user gateway"
    return site.run(HOST, f"{client} -a {password} {command}").strip()


def _lose(site: Site) -> None:
    """Leave the host as a new one is: without cluster, queue, and settings of backups."""
    units = "/etc/systemd/system/koren-backup.*"
    site.run(HOST, f"systemctl stop redis-server koren-backup.timer && rm {units} && systemctl daemon-reload")
    site.run(HOST, "kubeadm reset --force 2>&1 && systemctl stop kubelet")
    site.run(HOST, "rm -rf /etc/kubernetes/* /var/lib/etcd/* /var/lib/redis/* /etc/koren/backup /var/lib/koren-backup")


def _changed(told: str, host: str) -> int:
    return int(re.findall(rf"^{host} .*changed=(\d+)", told, re.MULTILINE)[-1])


def test_a_lost_region_comes_back_and_a_second_run_brings_nothing_back(site: Site) -> None:
    _redis(site, "SET koren:kept before")
    _redis(site, "RPUSH koren:list $(seq 200)")
    site.run(HOST, f"{KUBECTL} create configmap kept --from-literal=word=before")
    authority = site.run(HOST, "cat /etc/kubernetes/pki/ca.crt")
    site.run(HOST, "systemctl start koren-backup.service")
    _redis(site, "SET koren:kept after")
    site.run(HOST, f"{KUBECTL} delete configmap kept")
    _lose(site)

    told = site.playbook("molecule/backup/restore.yml")
    assert "has the queue of 20" in told
    assert _redis(site, "GET koren:kept") == "before"
    assert _redis(site, "LLEN koren:list") == "200"
    assert site.run(HOST, f"{KUBECTL} get configmap kept -o jsonpath={{.data.word}}") == "before"
    assert site.run(HOST, "cat /etc/kubernetes/pki/ca.crt") == authority
    assert site.run(HOST, "stat -c %U /var/lib/redis/appendonlydir/*").split() == ["redis"] * 3

    _redis(site, "SET koren:kept later")
    assert _changed(site.playbook("molecule/backup/restore.yml"), HOST) == 0
    assert _redis(site, "GET koren:kept") == "later"


def test_the_newest_backup_is_told_to_prometheus(site: Site) -> None:
    site.run(HOST, "systemctl start koren-backup.service")
    told = site.run(HOST, "cat /var/lib/prometheus/node-exporter/koren_backup.prom; date +%s")
    *rows, now = told.splitlines()
    times = dict(re.findall(r'^koren_backup_timestamp_seconds\{part="(\w+)"\} (\d+)$', "\n".join(rows), re.MULTILINE))
    assert set(times) == {"etcd", "redis"}
    assert all(0 <= int(now) - int(at) < 600 for at in times.values())


def test_a_part_that_fails_keeps_no_other_from_being_backed_up(site: Site) -> None:
    metrics = "grep {part} /var/lib/prometheus/node-exporter/koren_backup.prom"
    site.run(HOST, "systemctl start koren-backup.service")
    before = {part: site.run(HOST, metrics.format(part=part)) for part in ("etcd", "redis")}
    site.run(HOST, "mv /usr/local/bin/etcdctl /root/")
    try:
        site.run(HOST, "! systemctl start koren-backup.service")
    finally:
        site.run(HOST, "mv /root/etcdctl /usr/local/bin/")
    assert site.run(HOST, metrics.format(part="etcd")) == before["etcd"]
    assert site.run(HOST, metrics.format(part="redis")) != before["redis"]
    assert "etcd: " in site.run(HOST, "journalctl --unit=koren-backup --output=cat --lines=5")
    assert site.run(HOST, "ls -A /var/lib/redis").split() == ["appendonlydir"]


@pytest.mark.parametrize("command", ["id", "cat /etc/passwd", "sh"])
def test_a_regions_key_opens_no_shell(site: Site, command: str) -> None:
    # What runs in its place is the sftp server, which waits for other words.
    told = site.run(HOST, f"echo id | timeout 10 ssh {ACCESS}{site.hosts[SERVER]} {command}", check=False)
    assert "uid=" not in told and "root:" not in told


def test_a_region_sees_its_own_backups_alone(site: Site) -> None:
    told = site.run(HOST, f"echo 'ls -1 /' | sftp {ACCESS}{site.hosts[SERVER]}")
    assert [line for line in told.splitlines() if line.startswith("/")] == ["/backup"]
    folders = site.run(SERVER, "stat -c '%n %U %a' /srv/koren-backup/*/backup").splitlines()
    assert folders == [
        f"/srv/koren-backup/koren-backup-{region}/backup koren-backup-{region} 700"
        for region in ("controller", "seoul")
    ]


def test_nothing_is_readable_without_the_password(site: Site) -> None:
    assert site.run(SERVER, "grep -rl -e koren:list -e registry/configmaps /srv/koren-backup", check=False) == ""
    assert site.run(HOST, "find /etc/koren/backup -type f -perm /077 -not -name '*.pub'") == ""
    assert site.run(HOST, "stat -c %a /etc/koren/backup /var/lib/koren-backup").split() == ["700", "700"]
    shown = site.run(HOST, "systemctl start koren-backup & while cat /proc/*/cmdline 2>&1; kill -0 $! 2>&1; do :; done")
    assert "restic" in shown
    assert (site.folder / "secrets/backup-seoul").read_text().strip() not in shown


def test_the_sites_folder_comes_back_with_authority_and_secrets(site: Site, tmp_path: Path) -> None:
    # As docs/how-to/backup.md says it.
    server, settings = f"koren-backup-controller@{site.hosts[SERVER]}", site.folder / "backup"
    ssh = f"sftp.command=ssh -F {settings / 'ssh_config'} {server} -s sftp"
    restic = ["restic", f"--repo=sftp:{server}:/backup", f"--password-file={settings / 'password'}", "-o", ssh]
    subprocess.run([*restic, "restore", "latest", f"--target={tmp_path}"], check=True, capture_output=True)
    for name in ("pki/ca.key", "secrets/redis-seoul", "secrets/backup-seoul", "ssh/id_ed25519", "known_hosts"):
        assert (tmp_path / name).read_bytes() == (site.folder / name).read_bytes()
