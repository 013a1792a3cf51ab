# SPDX-License-Identifier: Apache-2.0
"""The container runtime of a node."""

from __future__ import annotations

import subprocess

import pytest
from conftest import Site

CTR = "ctr --namespace k8s.io"


def _image(site: Site, name: str) -> str:
    images = site.run("seoul-cp", f"{CTR} images list --quiet").split()
    return next(image for image in images if f"/{name}:" in image)


@pytest.mark.parametrize("name", ["etcd", "pause"])
def test_an_image_of_the_bundle_is_there_for_good(site: Site, name: str) -> None:
    image = _image(site, name)
    labels = site.run("seoul-cp", f"{CTR} images list name=={image} | tail -n 1")
    assert "io.cri-containerd.pinned=pinned" in labels


def test_a_container_runs_and_is_gone(site: Site) -> None:
    run = f"{CTR} run --rm {_image(site, 'etcd')} molecule etcd --version"
    assert "etcd Version:" in site.run("seoul-cp", run)
    assert "molecule" not in site.run("seoul-cp", f"{CTR} containers list --quiet")


def test_a_container_survives_the_runtimes_restart(site: Site) -> None:
    image = _image(site, "pause")
    site.run("seoul-cp", f"{CTR} run --detach {image} survivor")
    try:
        site.run("seoul-cp", "systemctl restart containerd")
        assert "RUNNING" in site.run("seoul-cp", f"{CTR} tasks list | grep survivor")
    finally:
        site.run("seoul-cp", f"{CTR} tasks kill --signal 9 survivor; sleep 1; {CTR} tasks delete --force survivor")
        site.run("seoul-cp", f"{CTR} containers delete survivor")


def test_nobody_but_root_speaks_to_it(site: Site) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        site.run("seoul-cp", "setpriv --reuid=65534 --regid=65534 --clear-groups ctr version")
    assert "permission denied" in error.value.stderr
