# SPDX-License-Identifier: Apache-2.0
"""Which of kubeadm's certificates are about to expire, and which programs have not read a new one yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DAY_S = 86400

#: Programs that read their credentials only at startup, with the file that has them. API server, etcd and kubelet
#: reload theirs.
READ_AT_START = {
    "kube-controller-manager": "controller-manager.conf",
    "kube-scheduler": "scheduler.conf",
}
#: The kernel reports its boot time only to the second.
_CLOCK_S = 2.0


def due(certificates: Iterable[Mapping[str, Any]], renew_days: int) -> list[str]:
    """Names of the certificates that expire within ``renew_days`` days, per ``kubeadm certs check-expiration``.

    Certificates that are missing, or that kubeadm does not manage, are left out.
    """
    return sorted(
        str(one["name"])
        for one in certificates
        if not one.get("missing") and not one.get("externallyManaged") and int(one["residualTime"]) < renew_days * DAY_S
    )


def stale(started: Mapping[str, float], written: Mapping[str, float], renewed: Iterable[str] = ()) -> list[str]:
    """Programs that run with credentials older than their file.

    Args:
        started: start time in seconds by program; one that does not run is left out.
        written: modification time in seconds by file name.
        renewed: names of files that are about to be written.
    """
    coming = set(renewed)
    return sorted(
        program
        for program, file in READ_AT_START.items()
        if program in started and (file in coming or written.get(file, 0.0) > started[program] + _CLOCK_S)
    )


def start_of(stat: str, boot_s: float, ticks: int) -> float:
    """The second at which a process started.

    Args:
        stat: content of ``/proc/<pid>/stat``.
        boot_s: second at which the machine started.
        ticks: clock ticks per second.
    """
    after_name = stat.rpartition(")")[2].split()
    return boot_s + int(after_name[19]) / ticks
