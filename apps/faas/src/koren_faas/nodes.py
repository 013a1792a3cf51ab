# SPDX-License-Identifier: Apache-2.0
"""A function's images on a node, reached by SSH, in the node's containerd."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from koren_faas.errors import RegionError

# The kubelet deletes images that no pod uses, which at zero are exactly those of functions,
# unless containerd says that they are pinned.
_PIN = "io.cri-containerd.pinned=pinned"
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Node:
    """One host that runs pods.

    Attributes:
        name: the host, as the site's ssh_config knows it.
        ssh_config: that file.
    """

    name: str
    ssh_config: Path

    def images(self, repository: str) -> dict[str, bool]:
        """Images of `repository` that the node has: name with tag to whether it is pinned.

        Raises:
            RegionError: the node does not answer, or refuses.
        """
        return parse_images(self._ctr("images", "ls", f"name~=^{repository}:"), repository)

    def bring(self, image: str, archive: Path) -> None:
        """Import `image` from its archive, unpack and pin it.

        Raises:
            RegionError: the node does not answer, or refuses.
        """
        self._ctr("images", "import", "-", archive=archive)
        self.pin(image)

    def pin(self, image: str) -> None:
        """Keep `image` on the node though no pod uses it.

        Raises:
            RegionError: the node does not answer, or refuses.
        """
        self._ctr("images", "label", image, _PIN)

    def remove(self, images: list[str]) -> None:
        """Delete images.

        Raises:
            RegionError: the node does not answer, or refuses.
        """
        if images:
            self._ctr("images", "rm", *images)

    def _ctr(self, *arguments: str, archive: Path | None = None) -> str:
        remote = shlex.join(["ctr", "--namespace", "k8s.io", *arguments])
        command = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", self.name, remote]
        with open(archive or "/dev/null", "rb") as stdin:
            try:
                done = subprocess.run(
                    command, check=False, stdin=stdin, capture_output=True, timeout=_TIMEOUT_S
                )
            except subprocess.TimeoutExpired:
                raise RegionError(
                    f"{self.name}: ctr {arguments[0]} {arguments[1]} took more than {_TIMEOUT_S} s"
                ) from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise RegionError(f"{self.name}: ctr {arguments[0]} {arguments[1]} failed: {said}")
        return done.stdout.decode(errors="replace")


def parse_images(table: str, repository: str) -> dict[str, bool]:
    """Read what `ctr images ls` prints: name with tag to whether it is pinned."""
    images = {}
    for line in table.splitlines():
        fields = line.split()
        if fields and fields[0].startswith(f"{repository}:"):
            images[fields[0]] = _PIN in fields[-1].split(",")
    return images
