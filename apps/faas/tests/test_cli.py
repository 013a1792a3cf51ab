# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from koren_faas import Site
from koren_faas.cli import main

CODE = "def handler(event, context): ...\n"


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), *arguments])


def _deploy(site: Site, code: Path, *more: str) -> Result:
    base = ("function", "deploy", "hello", "--runtime", "python3.11", "--handler", "hello.handler")
    return _faas(site, *base, "--from-file", str(code), *more)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "hello.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--region", "tokyo"), "no region tokyo; it has: busan, central, seoul"),
        (("--handler", "hello"), "not of the form module.function"),
        (("--handler", "other.handler", "--from-file", "."), "needs other.py"),
        (("--runtime", "python2.7"), "Invalid runtime: python2.7"),
        (("--topic", "events/seoul/#"), "busan"),
        (("--env", "WORD"), "KEY=VALUE"),
        (("--memory", "much"), "Wrong format of the memory value"),
        (("--from-file", "/nowhere.py"), "does not exist"),
    ],
)
def test_a_deploy_that_is_wrong_names_what_and_builds_nothing(
    site: Site, code: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(code.parent)
    result = _deploy(site, code, *more)
    assert result.exit_code != 0
    assert named in result.output
    assert "Traceback" not in result.output
    assert not site.images.exists()


def test_a_flag_that_is_missing_is_named(site: Site) -> None:
    result = _faas(site, "function", "deploy", "hello", "--runtime", "python3.11")
    assert result.exit_code == 2
    assert "--handler" in result.output


def test_an_image_needs_its_place_alone(site: Site, code: Path) -> None:
    image = ("function", "deploy", "hello", "--runtime", "image")
    assert "needs --image or --from-archive" in _faas(site, *image).output
    both = _faas(site, *image, "--image", "hello", "--from-archive", str(code))
    assert (both.exit_code, "exclude each other" in both.output) == (2, True)


def test_regions_that_do_not_answer_are_each_named(site: Site, code: Path) -> None:
    result = _deploy(site, code)
    assert result.exit_code == 1
    assert "seoul: https://127.0.0.1:9 does not answer" in result.output
    assert "busan: https://127.0.0.1:9 does not answer" in result.output
    assert "central" not in result.output


def test_ls_shows_what_it_can_and_fails_for_what_it_cannot(site: Site) -> None:
    result = _faas(site, "function", "ls")
    assert result.exit_code == 1
    head = "NAME NAMESPACE HANDLER RUNTIME DEPENDENCIES STATUS REGION"
    assert result.stdout.split("\n")[0].split() == head.split()
    assert "Warning: seoul" in result.stderr


def test_a_site_that_is_not_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--site-dir", str(tmp_path), "function", "ls"])
    assert result.exit_code == 1
    assert "KOREN_SITE_DIR" in result.output
