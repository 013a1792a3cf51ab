"""JSON without the `json` package says the same as with it."""

import json
from typing import Any

import pytest

from koren_runtime.fast_json import dumps, loads


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -12,
        10**30,
        1.5,
        1e300,
        "",
        '한글 "quoted" \\ \n \x00 😀',
        [],
        {},
        [[1], {"a": {"b": [None, False]}}],
        {"1": 2, "b": "c"},
    ],
)
def test_there_and_back(value: Any) -> None:
    assert json.loads(dumps(value)) == value
    assert loads(json.dumps(value)) == value
    assert loads(f" \n\t{json.dumps(value, indent=1)}\r\n ") == value


@pytest.mark.parametrize("text", ["", "  ", "{", "[1,]", "1 2", "{'a': 1}", "nul", '"\x01"'])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        loads(text)


@pytest.mark.parametrize("value", [{1, 2}, float("inf"), float("nan"), b"x", {(1, 2): 3}, object()])
def test_what_json_can_not_say_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        dumps(value)


def test_a_circle_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        dumps(circle)
