# SPDX-License-Identifier: Apache-2.0
"""Commands on a site's hosts."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from koren_faas.errors import RegionError

_TIMEOUT_S = 300


def on_host(host: str, ssh_config: Path, *command: str, given: str = "") -> str:
    """What a command prints that runs on a host, `given` being its input.

    Args:
        host: as the site's ssh_config knows it.

    Raises:
        RegionError: the host does not answer, or the command fails.
    """
    ssh = ["ssh", "-F", str(ssh_config), "-o", "BatchMode=yes", host]
    called = " ".join(command[:2])
    try:
        done = subprocess.run(
            [*ssh, shlex.join(command)],
            check=False,
            input=given.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RegionError(f"{host}: {called} took more than {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise RegionError(f"{host}: {called} failed: {said}")
    return done.stdout.decode(errors="replace")
