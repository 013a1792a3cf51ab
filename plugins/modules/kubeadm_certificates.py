#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Renew a control plane's certificates that are about to expire."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm_certificates
short_description: Renew a control plane's certificates that are about to expire
description:
  - Runs on a host of the control plane. Renews, by C(kubeadm certs renew), each certificate that expires within
    O(renew_days) days.
  - Restarts controller manager and scheduler if their credentials are newer than the running process, since they read
    them only at startup. API server, etcd and kubelet reload theirs and keep running.
options:
  renew_days:
    description: Days before expiry at which a certificate is renewed.
    type: int
    default: 60
  config:
    description: The configuration with which C(kubeadm) created the control plane.
    type: path
    default: /etc/kubernetes/kubeadm.yml
  timeout_s:
    description: Seconds within which a restarted program must be healthy.
    type: int
    default: 90
attributes:
  check_mode:
    support: full
    description: Reports what would be renewed and restarted.
  diff_mode:
    support: full
    description: Shows the remaining days of each certificate that is renewed.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Renew certificates that expire within a hundred days
  koren.faas.kubeadm_certificates:
    renew_days: 100
"""

RETURN = r"""
renewed:
  description: Names of the certificates that were renewed, as kubeadm calls them.
  returned: always
  type: list
  elements: str
restarted:
  description: Programs that were restarted.
  returned: always
  type: list
  elements: str
"""

import json
import os
import signal
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.kubeadm_certificates import (
    DAY_S,
    READ_AT_START,
    due,
    stale,
    start_of,
)

FOLDER = Path("/etc/kubernetes")
HEALTH = {
    "kube-controller-manager": "https://127.0.0.1:10257/healthz",
    "kube-scheduler": "https://127.0.0.1:10259/healthz",
}


def _kubeadm(module: AnsibleModule, *words: str) -> str:
    code, out, err = module.run_command(["kubeadm", *words, f"--config={module.params['config']}"])
    if code != 0:
        module.fail_json(msg=f"kubeadm {' '.join(words)} failed: {err.strip() or out.strip()}", rc=code)
    return str(out)


def _processes(programs: Iterable[str]) -> dict[str, tuple[int, float]]:
    """Process ID and start time in seconds, by program."""
    wanted = set(programs)
    boot_s = next(
        float(line.split()[1])
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()
        if line.startswith("btime ")
    )
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = (folder / "cmdline").read_bytes().split(b"\0")[0].decode().rpartition("/")[2]
            if program in wanted:
                stat = (folder / "stat").read_text(encoding="utf-8")
                found[program] = (int(folder.name), start_of(stat, boot_s, os.sysconf("SC_CLK_TCK")))
        except (OSError, UnicodeDecodeError, IndexError):
            continue  # the process has ended or is ending
    return found


def _healthy(program: str) -> bool:
    # The program's certificate is self-signed. Only the answer of this host's program matters.
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(HEALTH[program], timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _restart(module: AnsibleModule, program: str, pid: int) -> None:
    """End the process; kubelet restarts it with the new credentials."""
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + module.params["timeout_s"]
    while time.monotonic() < end:
        now = _processes([program])
        if program in now and now[program][0] != pid and _healthy(program):
            return
        time.sleep(0.5)
    module.fail_json(
        msg=f"{program} was restarted to read its new certificate and is not healthy after"
        f" {module.params['timeout_s']} s; see 'journalctl -u kubelet' and /var/log/containers on this host"
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "renew_days": {"type": "int", "default": 60},
            "config": {"type": "path", "default": "/etc/kubernetes/kubeadm.yml"},
            "timeout_s": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    told = json.loads(_kubeadm(module, "certs", "check-expiration", "--output=json"))
    left_days = {str(one["name"]): int(one["residualTime"]) // DAY_S for one in told["certificates"]}
    renewed = due(told["certificates"], module.params["renew_days"])

    if not module.check_mode:
        for name in renewed:
            _kubeadm(module, "certs", "renew", name)
    processes = _processes(READ_AT_START)
    restarted = stale(
        {program: started for program, (_, started) in processes.items()},
        {file: (FOLDER / file).stat().st_mtime for file in READ_AT_START.values() if (FOLDER / file).exists()},
        renewed,
    )
    if not module.check_mode:
        for program in restarted:
            _restart(module, program, processes[program][0])

    result: dict[str, Any] = {"changed": bool(renewed or restarted), "renewed": renewed, "restarted": restarted}
    if module._diff and result["changed"]:
        result["diff"] = {
            "before": "".join(f"{name}: {left_days[name]} days left\n" for name in renewed),
            "after": "".join(f"{name}: renewed\n" for name in renewed)
            + "".join(f"{program}: restarted\n" for program in restarted),
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
