"""The runtimes pass the conformance test, and what does not speak the Runtime API fails it."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pods import PYTHON, START
from test_node import NODE, WORKER

from koren_runtime.conformance import CHECKS, OPTIONAL, Check, main, name_of, problem_of

HANDLERS = Path(__file__).parent / "conformance"
RUNTIMES = {
    "python": (PYTHON, "-I", "-S", START),
    "node": (PYTHON, "-I", "-S", START, NODE, WORKER),
    # What a user brings as an image.
    "program": (NODE, str(HANDLERS / "program.js")),
}
# Asks once, and then knows neither the lease nor the end.
RUDE = """\
import json, os, time, urllib.request
def call(path, body=None, **headers):
    url = "http://" + os.environ["KOREN_GATEWAY"] + path
    headers["Authorization"] = "Bearer " + open(os.environ["KOREN_TOKEN"]).read()
    return urllib.request.urlopen(urllib.request.Request(url, body, headers))
with call("/v1/invocation/next", **{"Koren-Started-Ms": str(round(time.time() * 1000))}) as said:
    id, event = said.headers["Koren-Invocation-Id"], json.load(said)
call("/v1/invocation/" + id + "/response", json.dumps(event["data"]["value"]).encode())
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_a_runtime_conforms(check: Check, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOREN_FUNCTION_FOLDER", str(HANDLERS))
    problem, log = problem_of(check, RUNTIMES[runtime])
    assert not problem, log


@pytest.mark.parametrize("runtime", ["python", "node"])
@pytest.mark.parametrize("check", OPTIONAL, ids=name_of)
def test_a_runtime_does_what_is_optional(check: Check, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOREN_FUNCTION_FOLDER", str(HANDLERS))
    problem, log = problem_of(check, RUNTIMES[runtime])
    assert not problem, log


def _run(capsys: pytest.CaptureFixture[str], command: Sequence[str], *arguments: str) -> tuple[int, str]:
    code = main(["--command", shlex.join(command), *arguments])
    return code, capsys.readouterr().out


def test_a_program_that_does_not_conform_is_told_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _run(capsys, [sys.executable, "-c", RUDE], "--only", "event")
    assert code == 1
    assert "event        FAILED" in said and "/v1/invocation/one/response: no attempt" in said
    assert "1 checks failed" in said


def test_a_program_that_ends_is_told_with_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _run(capsys, ["sh", "-c", "echo no handler in {folder}"], "--only", "stop-idle")
    assert code == 1 and "it asked for an event 0 times" in said and "no handler in /" in said


def test_a_command_that_is_none_is_named(capsys: pytest.CaptureFixture[Any]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--command", "/nowhere/program"])
    assert ended.value.code == 2
    assert "/nowhere/program can't be started: No such file" in capsys.readouterr().err
