# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import runpy
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

FILTERS = Path(__file__).parents[2] / "plugins/filter/functions.py"
function_secrets = runpy.run_path(str(FILTERS))["function_secrets"]
SITE = {"regions": {name: {"context": f"c-{name}"} for name in ("central", "seoul", "busan")}}


def _text(entry: dict[str, Any], file: str) -> str:
    return base64.b64decode(entry["data"][file]).decode()


def test_each_edge_gets_the_secret_once() -> None:
    functions = [
        {"name": "a", "secrets": {"sns": {"key": "한"}}},
        {"name": "b", "secrets": {"sns": {"key": "한"}}, "regions": ["seoul"]},
    ]
    found = function_secrets(functions, SITE, "/")
    assert [(one["region"], one["context"], one["name"]) for one in found] == [
        ("busan", "c-busan", "sns"),
        ("seoul", "c-seoul", "sns"),
    ]
    assert _text(found[0], "key") == "한"


def test_each_region_gets_its_own_file(tmp_path: Path) -> None:
    for region in ("seoul", "busan"):
        (tmp_path / f"sns-{region}").write_text(f"key of {region}")
    functions = [{"name": "a", "secret_files": {"sns": {"key": "sns-{region}"}}}]
    found = function_secrets(functions, SITE, str(tmp_path))
    assert [_text(one, "key") for one in found] == ["key of busan", "key of seoul"]


def test_each_region_gets_its_own_text() -> None:
    functions = [{"name": "a", "secrets": {"sns": {"handle": "{region}.koren.test"}}}]
    found = function_secrets(functions, SITE, "/")
    assert [_text(one, "handle") for one in found] == ["busan.koren.test", "seoul.koren.test"]


def test_text_and_files_make_one_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    functions = [
        {
            "name": "a",
            "regions": ["seoul"],
            "secrets": {"sns": {"user": "u"}},
            "secret_files": {"sns": {"key": "key"}},
        }
    ]
    (found,) = function_secrets(functions, SITE, str(tmp_path))
    assert sorted(found["data"]) == ["key", "user"]


def test_a_site_that_is_not_there_has_no_secrets() -> None:
    assert function_secrets([{"name": "a", "secrets": {"s": {"k": "v"}}}], {}, "/") == []


@pytest.mark.parametrize(
    ("functions", "named"),
    [
        ([{"name": "a", "regions": ["tokyo"]}], "tokyo"),
        ([{"name": "a", "secret_files": {"sns": {"key": "/nowhere"}}}], "/nowhere"),
        (
            [
                {"name": "a", "secrets": {"sns": {"key": "1"}}},
                {"name": "b", "secrets": {"sns": {"key": "2"}}},
            ],
            "other contents",
        ),
    ],
)
def test_what_is_wrong_is_named(functions: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"^function [ab]") as error:
        function_secrets(functions, SITE, "/")
    assert named in str(error.value)
