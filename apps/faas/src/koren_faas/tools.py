# SPDX-License-Identifier: Apache-2.0
"""The programs of this machine that make images."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from koren_faas.errors import BuildError

Progress = Callable[[str], None]
"""Gets a line for each long step."""

INSTALL_TIMEOUT_S = 900
"""For the installation of what a function requires."""
BUILDAH_TIMEOUT_S = 300


def buildah(*arguments: str) -> str:
    """What buildah prints.

    Raises:
        BuildError: it failed, or is not there.
    """
    done = run(["buildah", *arguments], BUILDAH_TIMEOUT_S)
    if done.returncode != 0:
        raise BuildError(f"buildah {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def run(
    command: list[str], timeout_s: float, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit code is.

    Raises:
        BuildError: it is not there, or takes longer than `timeout_s` seconds.
    """
    try:
        return subprocess.run(
            command,
            check=False,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            cwd=cwd,
            env=env,
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{' '.join(command[:3])} took more than {timeout_s:.0f} s") from None
