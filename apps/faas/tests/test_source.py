# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from koren_faas import Function, FunctionError
from koren_faas.source import read, unpinned


def _function(source: Path, handler: str = "handler.run", **options: Path) -> Function:
    return Function(name="f", handler=handler, source=source, **options)  # type: ignore[arg-type]


def _write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_gives_its_code_and_data_without_leftovers(tmp_path: Path) -> None:
    for name in (
        *("handler.py", "words/ko.txt", "lib/tests/data.py"),
        *("tests/test_handler.py", ".git/config", "__pycache__/handler.cpython-311.pyc", "old.pyc"),
        *("secrets/sns/token", "state.json"),
    ):
        _write(tmp_path / name)
    files = {str(path) for path in read(_function(tmp_path)).files}
    assert files == {"handler.py", "words/ko.txt", "lib/tests/data.py"}


def test_a_file_becomes_the_module_of_the_handler(tmp_path: Path) -> None:
    file = _write(tmp_path / "whatever.py", "def run(event, context): ...")
    assert [str(path) for path in read(_function(file, "test.run")).files] == ["test.py"]


def test_a_package_may_hold_the_handler(tmp_path: Path) -> None:
    _write(tmp_path / "pkg/__init__.py")
    assert read(_function(tmp_path, "pkg.run")).files


def test_a_source_without_the_module_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "main.py")
    with pytest.raises(FunctionError, match=r"handler\.run needs handler\.py"):
        read(_function(tmp_path))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FunctionError, match="nowhere does not exist"):
        read(_function(tmp_path / "nowhere"))


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    file = _write(tmp_path / "handler.py", "x = 1\ndef run(:\n")
    with pytest.raises(FunctionError, match=r"handler\.py, line 2"):
        read(_function(file))


def test_the_digest_follows_the_content_and_nothing_else(tmp_path: Path) -> None:
    code = "def run(event, context): ..."
    _write(tmp_path / "a/handler.py", code)
    _write(tmp_path / "b/handler.py", code)
    requirements = _write(tmp_path / "requirements.txt", "idna==3.10\n")
    one, same = (_function(tmp_path / folder) for folder in "ab")
    digest = read(one).digest("sha256:base")
    assert read(same).digest("sha256:base") == digest
    assert read(one).digest("sha256:newer base") != digest
    assert read(replace(one, dependencies=requirements)).digest("sha256:base") != digest
    _write(tmp_path / "b/words.txt", "one")
    assert read(same).digest("sha256:base") != digest


def test_requirements_are_read_without_hashes_and_comments(tmp_path: Path) -> None:
    _write(tmp_path / "handler.py")
    requirements = _write(
        tmp_path / "requirements.txt",
        "# what we need\nidna==3.10 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "--extra-index-url https://example.org\n\nrequests>=2  # newest\n",
    )
    source = read(_function(tmp_path, dependencies=requirements))
    assert source.requirements == ("idna==3.10", "requests>=2")


@pytest.mark.parametrize("line", ["-r other.txt", "-c limits.txt", "-e .", "./local"])
def test_requirements_that_lean_on_files_are_refused(tmp_path: Path, line: str) -> None:
    _write(tmp_path / "handler.py")
    requirements = _write(tmp_path / "requirements.txt", line + "\n")
    with pytest.raises(FunctionError, match="one file"):
        read(_function(tmp_path, dependencies=requirements))


def test_what_is_not_pinned_is_told_as_lines_to_add() -> None:
    installed = {"Flask-Cors": "4.0", "idna": "3.10", "urllib3": "2.2"}
    requirements = ("flask_cors==4.0", "urllib3>=2")
    assert unpinned(requirements, installed) == ["idna==3.10", "urllib3==2.2"]


@pytest.mark.parametrize("name", ["handler.js", "handler.mjs", "handler/index.js"])
def test_a_module_in_javascript_is_found(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name)
    _write(tmp_path / "node_modules/greeting/index.js")
    function = Function(name="f", handler="handler.run", runtime="nodejs22", source=tmp_path)
    assert [str(path) for path in read(function).files] == [name]
    alone = replace(function, source=tmp_path / name)
    assert [path.suffix for path in read(alone).files] == [Path(name).suffix]
    with pytest.raises(FunctionError, match=r"needs other\.js in"):
        read(replace(function, handler="other.run"))


def _npm(tmp_path: Path, packages: dict[str, object]) -> Function:
    _write(tmp_path / "handler.js")
    wanted = {"dependencies": {"greeting": "^1.0"}}
    file = _write(tmp_path / "package.json", json.dumps(wanted))
    _write(tmp_path / "package-lock.json", json.dumps({"packages": {"": wanted, **packages}}))
    return Function(
        name="f", handler="handler.run", runtime="nodejs22", source=tmp_path, dependencies=file
    )


def test_packages_are_those_of_the_lock_file(tmp_path: Path) -> None:
    function = _npm(tmp_path, {"node_modules/greeting": {"version": "1.2.0"}})
    source = read(function)
    assert source.requirements == ("greeting@1.2.0",)
    digest = source.digest("sha256:base")
    _npm(tmp_path, {"node_modules/greeting": {"version": "1.3.0"}})
    assert read(function).digest("sha256:base") != digest


def test_a_lock_file_that_is_of_another_list_is_refused(tmp_path: Path) -> None:
    function = _npm(tmp_path, {})
    _write(tmp_path / "package.json", json.dumps({"dependencies": {"other": "1"}}))
    with pytest.raises(FunctionError, match="'npm install --package-lock-only'"):
        read(function)
    (tmp_path / "package-lock.json").unlink()
    with pytest.raises(FunctionError, match=r"package-lock\.json does not exist"):
        read(function)


@pytest.mark.parametrize("package", [{"link": True}, {"resolved": "file:../greeting.tgz"}])
def test_packages_of_this_machine_are_refused(tmp_path: Path, package: dict[str, object]) -> None:
    with pytest.raises(FunctionError, match="node_modules/greeting from a file of this machine"):
        read(_npm(tmp_path, {"node_modules/greeting": package}))
