# SPDX-License-Identifier: Apache-2.0
"""The disk of each kind of host is full for a while: no event is lost, and nobody has to do anything afterwards."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DONE, Heard, Play, Record, accident, clear, container, drill, on_host, podman, until
from test_faults import entries
from test_hosts_lost import handled

from koren_events import Publisher, ReceiptState

pytestmark = pytest.mark.long

DISK = "/koren-disk"
FREE_MIB = 2048
FULL_S = 60
# Podman keeps these in volumes. The rest is what the host's services write.
IN_VOLUMES = {"containerd", "kubelet"}


def give_disk(host: str) -> None:
    """Put what a host's services write on a disk of its own, since all hosts share the machine's; it starts again."""
    name = container(host)
    podman("stop", "--time", "90", name)
    (root,) = (Path(path) for path in podman("mount", name))
    image, mounted = root / "koren-disk.img", root / DISK[1:]
    folders = [root / "var/log", *(one for one in (root / "var/lib").iterdir() if one.name not in IN_VOLUMES)]
    folders = [one for one in folders if one.is_dir() and not one.is_symlink()]
    used_mib = sum(int(subprocess.check_output(["du", "-sm", one]).split()[0]) for one in folders)
    with image.open("wb") as disk:
        disk.truncate((used_mib * 5 // 4 + FREE_MIB) * 2**20)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    lines = [f"/{image.name} {DISK} ext4 loop 0 0"]
    try:
        for folder in folders:
            path = folder.relative_to(root)
            (mounted / path.parent).mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", folder, mounted / path.parent], check=True)
            lines.append(f"{DISK}/{path} /{path} none bind,x-systemd.requires-mounts-for={DISK} 0 0")
    finally:
        subprocess.run(["umount", mounted], check=True)
    with (root / "etc/fstab").open("a") as table:
        table.write("\n".join([*lines, ""]))
    podman("umount", name)
    podman("start", name)


@contextlib.contextmanager
def full(host: str) -> Iterator[None]:
    """Meanwhile nothing more can be written on a host."""
    fill = f"dd if=/dev/zero of={DISK}/filler-small bs=4k 2>/dev/null; sync -f {DISK}"
    on_host(host, "sh", "-c", f"fallocate -l $(df --output=avail -B1 {DISK} | tail -1) {DISK}/filler; {fill}")
    try:
        yield
    finally:
        on_host(host, "sh", "-c", f"rm {DISK}/filler {DISK}/filler-small")


@pytest.mark.parametrize("host", ["seoul-w1", "seoul-gw", "sns-1", "hpc-1", "central-cp", "seoul-cp"])
def test_a_full_disk_loses_nothing(
    host: str, play: Play, probe: str, publisher: Publisher, heard: Heard, record_property: Record
) -> None:
    assert shutil.which("mkfs.ext4"), "the machine needs e2fsprogs"
    give_disk(host)
    until(f"{host} is up", lambda: reachable(host), 120)
    handled(publisher, heard)

    events = [drill("seoul", type=DONE, do="note") for _ in range(20)]
    detected = accident("seoul")
    with full(host):
        ends = time.monotonic() + FULL_S
        publisher.publish(detected)
        for event in events:
            publisher.publish(event)
            time.sleep(max(0.0, (ends - time.monotonic()) / len(events) / 2))
        time.sleep(max(0.0, ends - time.monotonic()))
        meanwhile = sum(bool(heard.of(event, ReceiptState.SUCCEEDED)) for event in events)
    began = time.monotonic()
    for event in (*events, detected):
        until("an event is handled", lambda event=event: heard.of(event, ReceiptState.SUCCEEDED), 600)
    record_property("handled meanwhile", f"{meanwhile} of {len(events)}")
    record_property("all handled after", f"{time.monotonic() - began:.0f} s")
    entered = entries(probe, [event.id for event in events])
    assert [id for id, noted in entered.items() if len(noted) != 1] == []
    clear(publisher, detected)
    play("playbooks/verify.yml")


def reachable(host: str) -> bool:
    """Whether SSH answers."""
    with contextlib.suppress(subprocess.SubprocessError):
        return not on_host(host, "true")
    return False
