# SPDX-License-Identifier: Apache-2.0
"""Images of functions in JavaScript, really built, and of programs that users bring."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_image import _build, _files

from koren_faas import BuildError, Function, FunctionError, Site
from koren_faas.nodejs import find

Write = Callable[..., Function]
HANDLER = "exports.handler = async (event, context) => event.data;\n"


@pytest.fixture
def write(tmp_path: Path, node_bundle: Path) -> Write:
    """Write a function's code, and describe it."""

    def function(code: str, **options: object) -> Function:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / "hello.js").write_text(code)
        return Function(
            name="hello",
            handler="hello.handler",
            runtime="nodejs22",
            source=folder,
            **options,  # type: ignore[arg-type]
        )

    return function


def test_code_and_packages_are_in_the_image(site: Site, write: Write, npm_package: Path) -> None:
    image, said = _build(site, write("require('greeting');\n" + HANDLER, dependencies=npm_package))
    assert {"function/hello.js", "function/node_modules/greeting/index.js"} <= set(_files(image))
    assert image.requirements == ("greeting@1.2.0",)
    assert any("hello.handler imports in" in line for line in said)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("require('greeting');\n" + HANDLER, "hello imports greeting, which is neither in"),
        ("exports.handler = (", "SyntaxError"),
        ("throw new Error('as asked');", "as asked"),
        ("exports.other = () => 1;", "hello has no function handler; it has: other"),
        ("exports.handler = 1;", "it has: no function"),
    ],
)
def test_a_handler_that_would_not_start_is_refused(site: Site, write: Write, code: str, named: str) -> None:
    with pytest.raises(FunctionError, match="hello") as error:
        _build(site, write(code))
    assert named in str(error.value)
    assert not list(site.images.rglob("*.tar"))


def test_a_module_that_ends_the_process_is_refused(site: Site, write: Write) -> None:
    with pytest.raises(BuildError, match="ended while it was imported"):
        _build(site, write("process.exit(0);"))


def test_a_module_may_read_its_secrets_when_it_is_loaded(site: Site, write: Write) -> None:
    code = "require('node:fs').readFileSync('/run/secrets/sns/token');\n" + HANDLER
    _, said = _build(site, write(code))
    assert any("only in its region (ENOENT" in line for line in said)


def test_a_package_that_is_not_as_locked_is_refused(
    site: Site, write: Write, npm_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    lock = npm_package.with_name("package-lock.json")
    content = json.loads(lock.read_text())
    content["packages"]["node_modules/greeting"]["integrity"] = "sha512-AAAA"
    lock.write_text(json.dumps(content))
    with pytest.raises(BuildError, match="can't be installed") as error:
        _build(site, write(HANDLER, dependencies=npm_package))
    assert "EINTEGRITY" in str(error.value)


def test_a_node_that_this_machine_lacks_is_named() -> None:
    assert find("nodejs22").program.endswith("node")
    with pytest.raises(BuildError, match=r"no Node\.js 99, which nodejs99 needs"):
        find("nodejs99")


@pytest.fixture
def program(tmp_path: Path, node_bundle: Path) -> Path:
    """An OCI archive of an image with a program."""
    archive = tmp_path / "program.tar"
    _image(archive, "--entrypoint", '["/usr/bin/program"]')
    return archive


def _image(archive: Path, *config: str) -> None:
    def buildah(*arguments: str) -> str:
        return subprocess.run(["buildah", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    container = buildah("from", "scratch")
    try:
        buildah("config", *config, container)
        buildah("commit", "--quiet", "--format", "oci", container, f"oci-archive:{archive}:program:1")
    finally:
        buildah("rm", container)
        subprocess.run(["buildah", "rmi", "program:1"], check=False, capture_output=True)


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_image_of_a_user_is_taken_as_it_is(site: Site, program: Path, kind: str) -> None:
    archive = program.with_name("copy.tar")
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci-archive:{program}", f"{kind}:{archive}:program:1"],
        check=True,
    )
    function = Function(name="hello", runtime="image", source=archive)
    image, said = _build(site, function)
    assert said == [f"Copying {kind}:{archive}"]
    assert image.name.startswith("functions.koren.internal/hello:")
    about = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci-archive:{image.archive}"],
        check=True,
        capture_output=True,
    )
    assert json.loads(about.stdout)["config"]["Entrypoint"] == ["/usr/bin/program"]
    again, said = _build(site, function)
    assert (again, said) == (image, [])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (("--arch", "s390x", "--entrypoint", '["/x"]'), "is for linux/s390x; the nodes are linux/"),
        (("--label", "a=b"), "names no program: give it an ENTRYPOINT"),
    ],
)
def test_an_image_that_can_not_run_is_refused(site: Site, tmp_path: Path, config: tuple[str, ...], named: str) -> None:
    _image(tmp_path / "x.tar", *config)
    with pytest.raises(FunctionError, match="hello") as error:
        _build(site, Function(name="hello", runtime="image", source=tmp_path / "x.tar"))
    assert named in str(error.value)


def test_what_is_no_image_is_refused(site: Site, tmp_path: Path) -> None:
    function = Function(name="hello", runtime="image", source=tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(__file__, "hello.py")
    with pytest.raises(FunctionError, match=r"x\.tar is no image's"):
        _build(site, function)
    (tmp_path / "x.tar").write_text("no archive")
    with pytest.raises(FunctionError, match=r"x\.tar can't be read"):
        _build(site, function)
    with pytest.raises(FunctionError, match=r"docker://127\.0\.0\.1:9/hello:1 can't be read"):
        _build(site, replace(function, source=None, image="127.0.0.1:9/hello:1"))
