# SPDX-License-Identifier: Apache-2.0
"""A real registry, and images that are really pushed to it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import PASSWORD, site_folder

from koren_faas import Function, NotReadyError, RegionError, Site
from koren_faas.image import Image, build, plan
from koren_faas.registry import Registry

HANDLER = "def handler(event, context):\n    return event\n"


@pytest.fixture(scope="module")
def images(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    """Three images of one function."""
    folder = tmp_path_factory.mktemp("images")
    site = Site.load(site_folder(folder / "site", bundle))
    made = []
    for number in range(3):
        (folder / "hello.py").write_text(f"N = {number}\n" + HANDLER)
        function = Function(name="hello", handler="hello.handler", source=folder / "hello.py")
        image, source = plan(site, function)
        build(site, function, image, source, lambda line: None)
        made.append(image)
    return made


@pytest.fixture
def registry(registry_site: Site) -> Registry:
    return Registry(registry_site, registry_site.regions["seoul"])


def test_an_image_is_there_once_it_is_pushed(registry: Registry, images: list[Image]) -> None:
    image = images[0]
    assert registry.digest(image.name) is None
    assert registry.images(image.repository) == []
    registry.push(image)
    digest = registry.digest(image.name)
    assert digest is not None
    # As it was built: what a node has is the same, whichever way it came.
    index = subprocess.run(
        ["tar", "-xOf", image.archive, "index.json"], check=True, capture_output=True, text=True
    ).stdout
    assert digest in index
    assert registry.images(image.repository) == [image.name]


def test_only_what_is_wanted_is_kept(registry: Registry, images: list[Image]) -> None:
    for image in images:
        registry.push(image)
    repository = images[0].repository
    registry.keep(repository, {images[0].name, images[2].name, None})
    assert registry.images(repository) == sorted([images[0].name, images[2].name])
    registry.keep(repository, ())
    assert registry.images(repository) == []
    registry.push(images[1])
    assert registry.digest(images[1].name)


def test_the_password_is_on_no_command_line(
    registry: Registry, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, commands = subprocess.run, []

    def seen(command: Any, **options: Any) -> Any:
        commands.append(" ".join(map(str, command)))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", seen)
    registry.push(images[0])
    assert any(command.startswith("skopeo copy") for command in commands)
    assert not [command for command in commands if PASSWORD in command]


def test_a_wrong_password_is_told(registry_site: Site, images: list[Image]) -> None:
    secret = registry_site.dir / "secrets/registry-seoul"
    secret.write_text("wrong")
    registry = Registry(registry_site, registry_site.regions["seoul"])
    with pytest.raises(RegionError, match=r"seoul: its registry .* refuses"):
        registry.images(images[0].repository)
    with pytest.raises(RegionError, match=r"seoul: its registry .* authentication required"):
        registry.push(images[0])


def test_a_registry_of_another_authority_is_not_trusted(
    registry_site: Site, images: list[Image], site: Site
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=other"]
        + ["-keyout", "other.key", "-out", registry_site.authority.name],
        check=True,
        capture_output=True,
        cwd=registry_site.authority.parent,
    )
    registry = Registry(registry_site, registry_site.regions["seoul"])
    with pytest.raises(RegionError, match="CERTIFICATE_VERIFY_FAILED"):
        registry.digest(images[0].name)
    with pytest.raises(RegionError, match="certificate"):
        registry.push(images[0])


def test_a_registry_that_is_away_is_named_with_its_region(site: Site, tmp_path: Path) -> None:
    site.authority.touch()
    registry = Registry(site, site.regions["busan"])
    with pytest.raises(
        RegionError, match="busan: its registry https://localhost:9 does not answer"
    ):
        registry.images("functions.koren.internal/hello")


def test_a_site_without_the_password_is_told_what_to_run(site: Site) -> None:
    (site.dir / "secrets/registry-busan").unlink()
    with pytest.raises(NotReadyError, match=r"registry-busan .*playbook"):
        Registry(site, site.regions["busan"])
