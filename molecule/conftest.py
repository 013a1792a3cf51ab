# SPDX-License-Identifier: Apache-2.0
"""The hosts that a scenario's tests use."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


@dataclass(frozen=True)
class Site:
    """A running site: its folder on the controller and the address of each host."""

    folder: Path
    hosts: dict[str, str]
    sockets: Path

    def run(self, host: str, command: str, *, check: bool = True) -> str:
        """What a shell command prints on a host; raises CalledProcessError, which notes why, when it fails."""
        ssh = [
            *("ssh", "-i", str(self.folder / "ssh/id_ed25519")),
            *("-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}"),
            *(
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "ControlMaster=auto",
                "-o",
                "ControlPersist=60",
            ),
            *("-o", f"ControlPath={self.sockets}/%h", f"root@{self.hosts[host]}", command),
        ]
        done = subprocess.run(ssh, check=False, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, ssh, done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    @contextmanager
    def cut_off(self, host: str, peer: str, port: int) -> Iterator[None]:
        """Meanwhile nothing of a peer's comes to a port of a host, and nobody is told."""
        table = f"cut{port}"
        rules = (
            f"add table ip {table}",
            f"add chain ip {table} input {{ type filter hook input priority 0; }}",
            f"add rule ip {table} input ip saddr {self.hosts[peer]} tcp dport {port} drop",
        )
        self.run(host, " && ".join(f"nft '{rule}'" for rule in rules))
        try:
            yield
        finally:
            self.run(host, f"nft delete table ip {table}")

    def playbook(self, path: str, *args: str, inventory: str = "molecule/inventory") -> str:
        """What a playbook of the project prints when it runs on this site; an AssertionError shows a failure."""
        net = ".".join(next(iter(self.hosts.values())).split(".")[:2])
        names = [f"--extra-vars=site_name={self.folder.name}", f"--extra-vars=site_net={net}"]
        command = ["ansible-playbook", f"--inventory={inventory}", path, *names, *args]
        # The settings of the playbook that this one runs in are its own.
        settings = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        done = subprocess.run(
            command, check=False, cwd=REPO, env=settings, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        return done.stdout

    def client_files(self, name: str) -> tuple[str, str, str]:
        """Authority, certificate and key of one of the tests' clients."""
        clients = self.folder / "clients"
        return str(clients / "ca.crt"), str(clients / f"{name}.crt"), str(clients / f"{name}.key")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site that the scenario made."""
    hosts = json.loads(os.environ["KOREN_SITE_HOSTS"])
    made = Site(Path(os.environ["KOREN_SITE_DIR"]), hosts, tmp_path_factory.mktemp("ssh"))
    yield made
    for address in hosts.values():
        if (made.sockets / address).exists():
            subprocess.run(
                ["ssh", "-o", f"ControlPath={made.sockets}/%h", "-O", "exit", address],
                check=False,
                capture_output=True,
            )


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool], float], None]:
    """Waits until a condition holds; fails the test when it does not within the seconds given."""

    def wait(condition: Callable[[], bool], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not within {timeout_s} s"
            time.sleep(0.2)

    return wait
