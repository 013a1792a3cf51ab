# SPDX-License-Identifier: Apache-2.0
"""Each example can be deployed as it is, and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from koren_faas.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(file.parent.name for file in EXAMPLES.glob("*/faas.yaml"))


def test_the_examples_are_those_that_the_text_names() -> None:
    text = (EXAMPLES / "README.md").read_text()
    told = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(told) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_its_tests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / name)
    done = CliRunner().invoke(main, ["check"])
    assert (done.exit_code, f"faas.yaml is valid: {name}" in done.stderr) == (0, True), done.output
    code = "from koren_faas.cli import main; main(prog_name='faas')"
    tested = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "test", "--", "-q", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert " passed" in tested.stdout


@pytest.mark.parametrize("name", ["common", "counter"])
def test_an_example_runs_with_its_event(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / name)
    done = CliRunner().invoke(main, ["run", "--event", "tests/event.json"])
    assert done.exit_code == 0, done.output
