# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from koren_faas.nodes import StoredImage, names_to_remove, parse_images

REPOSITORY = "functions.koren.internal/hello"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PINNED = "io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned"
# As containerd 2.4's ctr prints it.
TABLE = f"""\
REF             TYPE       DIGEST   SIZE     PLATFORMS   LABELS
{REPOSITORY}:1  {MANIFEST} sha256:a 51.6 MiB linux/amd64 {PINNED}
{REPOSITORY}:2  {MANIFEST} sha256:b 51.6 MiB linux/amd64 -
sha256:1a       {MANIFEST} sha256:a 51.6 MiB linux/amd64 io.cri-containerd.image=managed
{REPOSITORY}@sha256:b {MANIFEST} sha256:b 51.6 MiB linux/amd64 io.cri-containerd.image=managed
sha256:1b       {MANIFEST} sha256:b 51.6 MiB linux/amd64 io.cri-containerd.image=managed
"""


def test_what_a_node_has_is_read() -> None:
    assert parse_images(TABLE)[:2] == [
        StoredImage(f"{REPOSITORY}:1", "sha256:a", pinned=True),
        StoredImage(f"{REPOSITORY}:2", "sha256:b", pinned=False),
    ]


def test_an_image_goes_with_the_name_that_would_keep_it() -> None:
    images = parse_images(TABLE)
    assert names_to_remove(images, [f"{REPOSITORY}:1"]) == [f"{REPOSITORY}:1", "sha256:1a"]


def test_an_image_that_the_kubelet_pulled_goes_with_all_its_names() -> None:
    assert names_to_remove(parse_images(TABLE), [f"{REPOSITORY}:2"]) == [
        f"{REPOSITORY}:2",
        f"{REPOSITORY}@sha256:b",
        "sha256:1b",
    ]


def test_an_image_that_another_tag_needs_stays() -> None:
    images = [*parse_images(TABLE), StoredImage("other:9", "sha256:a", pinned=True)]
    assert names_to_remove(images, [f"{REPOSITORY}:1"]) == [f"{REPOSITORY}:1"]
