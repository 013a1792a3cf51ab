# SPDX-License-Identifier: Apache-2.0
"""Which upgrade of a running cluster is possible under Kubernetes' version skew policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Release(NamedTuple):
    """A version's numbers. A suffix such as ``+koren.1`` makes another version of the same release."""

    major: int
    minor: int
    patch: int

    @property
    def next(self) -> str:
        """The minor release after this one, as in ``v1.36``."""
        return f"v{self.major}.{self.minor + 1}"


def release(version: str) -> Release:
    """The release of a version such as ``v1.36.3+koren.1``; ValueError if it is not a version."""
    if not (found := re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)([-+][-+.\w]*)?", version)):
        raise ValueError(f"{version!r} is not a version of Kubernetes")
    return Release(*(int(number) for number in found.groups()[:3]))


def others(server: str, kubelets: Mapping[str, str], wanted: str) -> list[str]:
    """Components that run another version than the wanted one, as text; empty if there are none."""
    found = [] if server == wanted else [f"the API server runs {server}"]
    return found + [f"{node} runs kubelet {version}" for node, version in kubelets.items() if version != wanted]


def refusal(server: str, kubelets: Mapping[str, str], wanted: str) -> str:
    """Why a cluster can't be upgraded to a version, and what to do instead; empty when it can.

    ``server`` is the version of the API server, ``kubelets`` that of each node. They differ in a cluster whose upgrade
    was interrupted.
    """
    goal = release(wanted)
    running = {"the API server": server, **{f"kubelet on {node}": version for node, version in kubelets.items()}}
    for what, version in running.items():
        now = release(version)
        if now > goal:
            return (
                f"{what} runs {version}, and the bundle has the older {wanted}. Kubernetes can't be downgraded: "
                f"use a checkout whose bundle/kubernetes/go.mod has {version} or newer"
            )
        if (now.major, now.minor + 1) < (goal.major, goal.minor):
            return (
                f"{what} runs {version}, and the bundle has {wanted}. No minor release may be skipped: upgrade first "
                f"with a checkout whose bundle/kubernetes/go.mod has {now.next}"
            )
    return ""
