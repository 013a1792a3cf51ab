"""Functions of the shapes that Kubeless's Python examples have, as they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from conftest import OTHER, faas

Call = Callable[..., Any]


@pytest.fixture
def call(other: str) -> Call:
    """Makes one of the examples the function's handler, and calls it, mostly while the one before is still warm."""

    def called(handler: str, data: Any = None, *flags: str) -> Any:
        faas("function", "update", OTHER, "--handler", handler, *flags)
        given = () if data is None else ("--data", data if isinstance(data, str) else json.dumps(data))
        return faas("function", "call", OTHER, "--region", "seoul", *given).removesuffix("\n")

    return called


def test_a_text_is_the_answer(call: Call) -> None:
    assert call("helloget.foo") == "hello world"


def test_the_data_come_as_they_were_sent(call: Call) -> None:
    assert call("hellowithdata.handler", "just a text") == "just a text"
    assert json.loads(call("hellowithdata.handler", {"hello": "세계"})) == {"hello": "세계"}


def test_json_goes_in_and_out(call: Call) -> None:
    answer = json.loads(call("jsoninout.handler", {"n": [1, 2.5, None]}, "--timeout", "30"))
    assert answer == {"in": {"n": [1, 2.5, None], "seen": True}, "function": "handler", "timeout": 30}


def test_dependencies_are_there(call: Call) -> None:
    assert call("hellowithdeps.foo", "<title>It parses</title>") == "It parses"


def test_an_exception_is_told(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        call("failing.handler")
    assert "KeyError: 'nothing of that name'" in capfd.readouterr().err


def test_a_handler_that_takes_too_long_is_ended(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        call("timing_out.handler", None, "--timeout", "2")
    assert "Timeout: no answer within 2 s" in capfd.readouterr().err
