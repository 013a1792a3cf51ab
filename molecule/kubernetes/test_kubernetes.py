# SPDX-License-Identifier: Apache-2.0
"""A region's cluster of two nodes, as its administrators, its nodes and strangers meet it."""

from __future__ import annotations

import json
import re
import shlex
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO, Site

CONTROL_PLANE, WORKER = "seoul-cp", "seoul-w1"
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
Wait = Callable[[Callable[[], bool], float], None]
# Writes down with what arguments kubeadm runs: everyone on a host can read them.
WATCH = """
import pathlib, time
seen = set()
while True:
    for one in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = one.read_text().replace(chr(0), " ")
        except (OSError, ValueError):
            continue
        if arguments.partition(" ")[0].endswith("kubeadm") and arguments not in seen:
            seen.add(arguments)
            pathlib.Path("/run/watched").write_text(chr(10).join(seen))
    time.sleep(0.02)
"""


def _stranger(site: Site, host: str, port: int, path: str) -> int:
    """The status that one without a name gets."""
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(f"https://{site.hosts[host]}:{port}{path}", context=context, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _ready(site: Site) -> dict[str, str]:
    told = site.run(CONTROL_PLANE, f"{KUBECTL} get nodes --no-headers").splitlines()
    return {line.split()[0]: line.split()[1] for line in told}


def _process(site: Site, program: str) -> str:
    return site.run(CONTROL_PLANE, f"pgrep --full '^(/usr/local/bin/)?{program} '").strip()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_probes_are_answered_without_a_name(site: Site, path: str) -> None:
    assert _stranger(site, CONTROL_PLANE, 6443, path) == 200


@pytest.mark.parametrize(
    "path", ["/version", "/api", "/livez/etcd", "/metrics", "/api/v1/namespaces/kube-public/configmaps/cluster-info"]
)
def test_nothing_else_is(site: Site, path: str) -> None:
    assert _stranger(site, CONTROL_PLANE, 6443, path) == 401


@pytest.mark.parametrize("host", [CONTROL_PLANE, WORKER])
def test_kubelet_answers_to_names_only(site: Site, host: str) -> None:
    for path in ("/pods", "/metrics", "/healthz"):
        assert _stranger(site, host, 10250, path) == 401
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((site.hosts[host], 10255), 5)


@pytest.mark.parametrize("host", [CONTROL_PLANE, WORKER])
def test_kubelet_serves_with_a_certificate_of_the_site(site: Site, host: str) -> None:
    context = ssl.create_default_context(cafile=str(site.folder / "pki/ca.crt"))
    with socket.create_connection((site.hosts[host], 10250), 5) as plain:
        # The name, too, is checked.
        context.wrap_socket(plain, server_hostname=site.hosts[host]).close()


def test_nobody_takes_kubelets_certificate_unseen(site: Site, eventually: Wait) -> None:
    running = site.run(CONTROL_PLANE, "tr '\\0' ' ' </proc/$(pgrep --full 'kube-apiserver --' | head -n 1)/cmdline")
    assert "--kubelet-certificate-authority=" in running
    told = site.run(CONTROL_PLANE, f"{KUBECTL} -n kube-system get deploy metrics-server --output=yaml")
    assert "--kubelet-certificate-authority=" in told and "insecure" not in told
    measured = f"{KUBECTL} top nodes --no-headers"
    eventually(lambda: site.run(CONTROL_PLANE, measured, check=False).count("%") >= 4, 120)


def test_profiling_is_off(site: Site) -> None:
    told = site.run(CONTROL_PLANE, f"{KUBECTL} get --raw /debug/pprof/ 2>&1", check=False)
    assert "NotFound" in told


def test_no_token_is_left_that_lets_a_node_in(site: Site) -> None:
    assert site.run(CONTROL_PLANE, "kubeadm --kubeconfig /etc/kubernetes/admin.conf token list") == ""
    assert "koren-join.conf" not in site.run(WORKER, "ls /run")


def test_a_secret_is_encrypted_on_disk_and_its_reader_is_in_the_log(site: Site) -> None:
    site.run(CONTROL_PLANE, f"{KUBECTL} create secret generic at-rest --from-literal=word=unmistakable")
    try:
        site.run(CONTROL_PLANE, f"{KUBECTL} get secret at-rest")
        site.run(CONTROL_PLANE, f"{KUBECTL} get nodes")
        assert site.run(CONTROL_PLANE, "grep -rl unmistakable /var/lib/etcd", check=False) == ""
        assert site.run(CONTROL_PLANE, "grep -rl k8s:enc:secretbox:v1:koren /var/lib/etcd") != ""
        assert site.run(CONTROL_PLANE, "stat -c %a /etc/kubernetes/koren/encryption.yml").strip() == "600"
        log = site.run(CONTROL_PLANE, "cat /var/log/kubernetes/audit.log")
        assert "unmistakable" not in log
        entries = [json.loads(line) for line in log.splitlines()]
        mine = [one["verb"] for one in entries if one.get("objectRef", {}).get("name") == "at-rest"]
        assert {"create", "get"} <= set(mine)
        reads = [
            one["objectRef"]["resource"]
            for one in entries
            if one["verb"] in ("get", "list", "watch") and "objectRef" in one
        ]
        assert set(reads) == {"secrets"}
        assert not any(one.get("objectRef", {}).get("resource") in ("leases", "events") for one in entries)
    finally:
        site.run(CONTROL_PLANE, f"{KUBECTL} delete secret at-rest")


def test_the_controller_reaches_the_cluster_by_a_name_it_can_not_resolve(site: Site) -> None:
    kubectl = REPO / ".state/bundle/kubernetes/bin/kubectl"
    kubeconfig = site.folder / "kubeconfig"
    assert "tls-server-name: api.seoul." in kubeconfig.read_text()
    command = [str(kubectl), f"--kubeconfig={kubeconfig}", "--context=seoul", "get", "--raw", "/readyz"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "ok"


@pytest.mark.parametrize(("host", "note"), [(CONTROL_PLANE, "koren-applied.yml"), (WORKER, "koren-joined")])
def test_a_cluster_without_a_note_of_who_made_it_is_not_touched(site: Site, host: str, note: str) -> None:
    ready = _ready(site)
    site.run(host, f"mv /etc/kubernetes/{note} /root")
    try:
        with pytest.raises(AssertionError, match=f"{host} belongs to a cluster that this project did not create"):
            site.playbook("molecule/kubernetes/converge.yml")
        assert _ready(site) == ready
    finally:
        site.run(host, f"mv /root/{note} /etc/kubernetes")


def test_a_join_that_was_cut_is_finished(site: Site, eventually: Wait) -> None:
    site.run(WORKER, "cd /etc/kubernetes && mv koren-joined koren-begun; systemctl stop kubelet")
    for host in (CONTROL_PLANE, WORKER):
        site.run(host, f"systemd-run --quiet --collect --unit=watch python3 -c {shlex.quote(WATCH)}")
    try:
        site.playbook("molecule/kubernetes/converge.yml")
    finally:
        take = "systemctl stop watch; cat /run/watched; rm /run/watched"
        watched = [site.run(host, take) for host in (CONTROL_PLANE, WORKER)]
    assert " token create " in watched[0] and " join " in watched[1]
    assert not re.search(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", "".join(watched))
    eventually(lambda: _ready(site) == {CONTROL_PLANE: "Ready", WORKER: "Ready"}, 60)
    test_no_token_is_left_that_lets_a_node_in(site)


def test_kubeadms_certificates_are_renewed_beside_the_running_api_server(site: Site, eventually: Wait) -> None:
    renew = ("playbooks/certificates.yml", "--tags=clusters", "--limit=seoul-cp,localhost")
    processes = {name: _process(site, name) for name in ("kube-apiserver", "etcd", "kube-scheduler")}
    told = site.playbook(*renew, "--extra-vars=certificates_renew_days=365", "--diff")
    assert "kube-controller-manager: restarted" in told
    assert _process(site, "kube-apiserver") == processes["kube-apiserver"]
    assert _process(site, "etcd") == processes["etcd"]
    assert _process(site, "kube-scheduler") != processes["kube-scheduler"]
    again = site.playbook(*renew)
    assert not re.search("changed=[1-9]", again)
    test_the_controller_reaches_the_cluster_by_a_name_it_can_not_resolve(site)
    # Behind the API server: the certificate by which kubelet knows it is read again, within minutes, and a request that
    # is under way then fails.
    log = f"{KUBECTL} -n kube-system logs etcd-seoul-cp --tail=1"
    eventually(lambda: site.run(CONTROL_PLANE, log, check=False) != "", 30)


@pytest.mark.parametrize("host", [CONTROL_PLANE, WORKER])
def test_a_process_that_takes_too_much_memory_ends_alone(site: Site, eventually: Wait, host: str) -> None:
    told: list[str] = []

    def asked() -> bool:  # the renewed certificate may be read again just now
        told.append(site.run(CONTROL_PLANE, f"{KUBECTL} get --raw /api/v1/nodes/{host}/proxy/configz", check=False))
        return bool(told[-1])

    eventually(asked, 30)
    assert json.loads(told[-1])["kubeletconfig"]["singleProcessOOMKill"] is True


@pytest.mark.parametrize("host", [CONTROL_PLANE, WORKER])
def test_systemd_manages_the_cgroups_of_version_2(site: Site, host: str) -> None:
    version_2 = site.run(host, "stat --file-system --format=%T /sys/fs/cgroup").strip() == "cgroup2fs"
    assert ("SystemdCgroup = true" in site.run(host, "cat /etc/containerd/config.toml")) is version_2
    taken = site.run(host, "journalctl --unit=kubelet --grep='received from the CRI runtime' --output=cat")
    assert f'cgroupDriver="{"systemd" if version_2 else "cgroupfs"}"' in taken


def _kept(site: Site, host: str) -> set[str]:
    """Whose packet rules are there, as the one who keeps them knows."""
    log = site.run(host, "journalctl --unit=koren-rules --output=cat").splitlines()
    told = dict(line.split(": its rules are ") for line in log if ": its rules are " in line)
    return {name for name, state in told.items() if state == "there"}


@pytest.mark.parametrize("host", [CONTROL_PLANE, WORKER])
@pytest.mark.parametrize("how", ["systemctl restart nftables", "nft flush ruleset"])
def test_packet_rules_that_are_taken_away_come_back(site: Site, eventually: Wait, host: str, how: str) -> None:
    eventually(lambda: _kept(site, host) == {"kube-proxy", "flannel", "koren-pods", "network-policy"}, 120)
    # Who keeps them looks every two seconds: it waits meanwhile.
    held = "systemctl kill --signal={} koren-rules"
    gone = site.run(host, f"{held.format('STOP')} && {how}; koren-rules check; {held.format('CONT')}")
    for chain in ("ip kube-proxy nat-prerouting", "ip flannel-ipv4 postrtg", "inet koren_pods forward"):
        assert chain in gone
    assert "inet koren_network_policy forward" in gone
    eventually(lambda: site.run(host, "koren-rules check", check=False) == "", 120)
    services = "nft list chain ip kube-proxy services | grep -c 'vmap @service-ips'"
    eventually(lambda: site.run(host, services, check=False).strip() == "1", 10)


def _kubelet(site: Site, host: str) -> str:
    return site.run(host, "systemctl show kubelet --property=MainPID --value").strip()


def test_a_changed_setting_reaches_the_running_control_plane(site: Site) -> None:
    kubelets = [_kubelet(site, host) for host in (CONTROL_PLANE, WORKER)]
    change = "--extra-vars=kubernetes_control_plane_audit_days=31"
    site.playbook("molecule/kubernetes/converge.yml", change)
    running = site.run(CONTROL_PLANE, "tr '\\0' ' ' </proc/$(pgrep --full 'kube-apiserver --' | head -n 1)/cmdline")
    assert "--audit-log-maxage=31" in running
    assert [_kubelet(site, host) for host in (CONTROL_PLANE, WORKER)] == kubelets
    assert not re.search("changed=[1-9]", site.playbook("molecule/kubernetes/converge.yml", change))


def _configured(site: Site, host: str) -> dict[str, Any]:
    """The settings with which a node's kubelet runs."""
    told = site.run(CONTROL_PLANE, f"{KUBECTL} get --raw /api/v1/nodes/{host}/proxy/configz", check=False)
    settings: dict[str, Any] = json.loads(told)["kubeletconfig"] if told else {}
    return settings


def test_a_changed_setting_reaches_the_kubelets_and_the_marks_of_the_control_plane(
    site: Site, eventually: Wait
) -> None:
    def taints() -> str:
        node = f"{KUBECTL} get node {CONTROL_PLANE} -o"
        return site.run(CONTROL_PLANE, f"{node} jsonpath='{{.spec.taints[*].key}}'").strip()

    def pods() -> str:
        """The worker's running containers."""
        return site.run(WORKER, "ctr -n k8s.io tasks list -q | sort")

    label = "node-role.kubernetes.io/control-plane"
    running = pods()
    site.run(CONTROL_PLANE, f"{KUBECTL} label node {CONTROL_PLANE} {label}-")
    change = (
        "molecule/kubernetes/converge.yml",
        "--extra-vars={kubernetes_control_plane_schedulable: false, "
        "kubernetes_control_plane_kubelet: {maxPods: 99, authentication: {webhook: {cacheTTL: 1m0s}}}}",
    )
    site.playbook(*change)
    for host in (CONTROL_PLANE, WORKER):
        eventually(lambda h=host: _configured(site, h).get("maxPods") == 99, 120)  # type: ignore[misc]
        authentication = _configured(site, host)["authentication"]
        assert authentication["webhook"] == {"enabled": True, "cacheTTL": "1m0s"}
        assert authentication["anonymous"] == {"enabled": False}
    assert running == pods()
    assert taints() == label
    assert label in site.run(CONTROL_PLANE, f"{KUBECTL} get node {CONTROL_PLANE} --show-labels")
    kubelets = [_kubelet(site, host) for host in (CONTROL_PLANE, WORKER)]
    assert not re.search("changed=[1-9]", site.playbook(*change))
    # A run that was cut after it wrote the settings.
    site.run(WORKER, "touch /var/lib/kubelet/config.yaml")
    site.playbook(*change)
    after = [_kubelet(site, host) for host in (CONTROL_PLANE, WORKER)]
    assert after[0] == kubelets[0] and after[1] != kubelets[1]
    # And back.
    site.playbook("molecule/kubernetes/converge.yml")
    assert taints() == ""
    for host in (CONTROL_PLANE, WORKER):
        eventually(lambda h=host: _configured(site, h).get("maxPods") == 110, 120)  # type: ignore[misc]


def _leave(site: Site, folder: Path, *args: str) -> str:
    """Take the worker out, which the inventory no longer has, as a host that was there before the site."""
    everyone = (REPO / "molecule/inventory/hosts.yml").read_text()
    hosts = yaml.safe_load(everyone)["all"]["children"]
    del hosts["site"]["children"]["regions"]["children"]["edges"]["children"]["seoul"]["hosts"][WORKER]
    del hosts["kubernetes_nodes"]["children"]["workers"]["hosts"][WORKER]
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": hosts}}))
    if not (folder / "group_vars").exists():
        (folder / "group_vars").symlink_to(REPO / "inventories/local/group_vars")
    return site.playbook(
        "playbooks/leave.yml",
        f"--limit={CONTROL_PLANE},localhost",
        f"--extra-vars=site_dir={site.folder}",
        "--extra-vars={site_driver: existing, scale_confirm: true, provision_existing_timeout_s: 5}",
        *args,
        inventory=str(folder),
    )


def _node(site: Site) -> dict[str, object]:
    """The worker's node object."""
    told: dict[str, object] = json.loads(site.run(CONTROL_PLANE, f"{KUBECTL} get node {WORKER} -o json"))
    return told


def test_a_worker_that_can_not_be_cleaned_is_not_drained(site: Site, tmp_path: Path) -> None:
    known = site.folder / "known_hosts"
    before = known.read_text()
    known.write_text("".join(line for line in before.splitlines(True) if not line.startswith(site.hosts[WORKER] + " ")))
    try:
        with pytest.raises(AssertionError, match=f"the node {WORKER} runs, and its host"):
            _leave(site, tmp_path)
    finally:
        known.write_text(before)
    assert "unschedulable" not in str(_node(site)["spec"])
    assert _ready(site)[WORKER] == "Ready"


def test_a_worker_that_was_there_before_the_site_leaves_it_and_comes_back(
    site: Site, tmp_path: Path, eventually: Wait
) -> None:
    site.run(WORKER, "echo theirs >/root/theirs")
    _leave(site, tmp_path)
    assert _ready(site) == {CONTROL_PLANE: "Ready"}
    for path in ("/etc/kubernetes", "/etc/koren", "/opt/koren", "/usr/local/bin/kubelet", "/etc/containerd"):
        assert site.run(WORKER, f"test ! -e {path} && echo gone", check=False) == "gone\n", path
    assert site.run(WORKER, "ls -A /var/lib/kubelet /var/lib/containerd | grep -v :", check=False).strip() == ""
    assert site.run(WORKER, "pgrep --list-name 'kubelet|containerd|kube-proxy|flanneld'", check=False) == ""
    assert "kube-proxy" not in site.run(WORKER, "nft list tables")
    assert site.run(WORKER, "systemctl --failed --no-legend --plain") == ""
    assert site.run(WORKER, "cat /root/theirs") == "theirs\n"
    # A run that was cut before it deleted the node: the host is nobody's any more.
    annotations = {"koren.faas/leaving": "true"}
    lost = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": WORKER, "annotations": annotations}}
    site.run(CONTROL_PLANE, f"echo '{json.dumps(lost)}' | {KUBECTL} create -f -")
    _leave(site, tmp_path)
    assert _ready(site) == {CONTROL_PLANE: "Ready"}
    assert not re.search("changed=[1-9]", _leave(site, tmp_path))
    site.playbook("molecule/base/converge.yml", f"--limit={WORKER}")
    site.playbook("molecule/kubernetes/converge.yml")
    eventually(lambda: _ready(site) == {CONTROL_PLANE: "Ready", WORKER: "Ready"}, 120)
