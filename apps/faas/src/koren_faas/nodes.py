# SPDX-License-Identifier: Apache-2.0
"""Functions' images on a node, reached by SSH, in the node's containerd."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from koren_faas.ssh import on_host

# What has it the kubelet does not delete, though no pod uses it.
_PIN = "io.cri-containerd.pinned=pinned"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image on a node.

    Attributes:
        name: its name with tag; the kubelet's own names have `sha256:` in them.
        digest: of its manifest: names of one image share it.
        pinned: whether the kubelet leaves it alone.
    """

    name: str
    digest: str
    pinned: bool


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
        return {
            image.name: image.pinned
            for image in self._images()
            if image.name.startswith(f"{repository}:")
        }

    def pull(self, image: str) -> None:
        """Have `image` on the node, from its region's registry, unpacked and pinned.

        Raises:
            RegionError: the node does not answer, or refuses.
        """
        self._run("koren-image", "pull", image)

    def remove(self, names: Collection[str]) -> None:
        """Delete images of these names, with tag.

        Raises:
            RegionError: the node does not answer, or refuses.
        """
        if names:
            self._ctr("images", "rm", *names_to_remove(self._images(), names))

    def _images(self) -> list[StoredImage]:
        return parse_images(self._ctr("images", "ls"))

    def _ctr(self, *arguments: str) -> str:
        return self._run("ctr", "--namespace", "k8s.io", *arguments)

    def _run(self, *command: str) -> str:
        return on_host(self.name, self.ssh_config, *command)


def parse_images(table: str) -> list[StoredImage]:
    """Read what `ctr images ls` prints."""
    images = []
    for line in table.splitlines()[1:]:
        name, _, digest, *_, labels = line.split()
        images.append(StoredImage(name, digest, _PIN in labels.split(",")))
    return images


def names_to_remove(images: Sequence[StoredImage], names: Collection[str]) -> list[str]:
    """All that keeps the images of `names` on a node.

    The kubelet's side knows each image by names of its own as well, made of hashes: `sha256:…`, and
    of one that it pulled itself `repository@sha256:…`. While one is there, nothing is freed. They go
    with the last tag.
    """
    tags = [image for image in images if "sha256:" not in image.name]
    kept = {image.digest for image in tags if image.name not in names}
    gone = {image.digest for image in tags if image.name in names} - kept
    return sorted(names) + [
        image.name for image in images if "sha256:" in image.name and image.digest in gone
    ]
