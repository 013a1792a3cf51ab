# SPDX-License-Identifier: Apache-2.0
"""The modules for functions and sources end the same way, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from koren_faas import RUNTIMES

REPO = Path(__file__).parents[2]
PRESENT = {
    "function": {"source": "/nowhere/hello.py", "handler": "hello.handler"},
    "mqtt_source": {"topic": "plant/press/+"},
    "cron_trigger": {"function": "hello", "schedule": "0 3 * * *"},
    "http_trigger": {"function": "hello", "anonymous": True},
}
WRONG = {
    "function": {"topic": "events/#/more"},
    "mqtt_source": {"topic": "events/#/more"},
    "cron_trigger": {"schedule": "0 30 * * *"},
    "http_trigger": {"path": "orders"},
}


def _run(module: str, **arguments: Any) -> dict[str, Any]:
    """What a module says."""
    given = {"ANSIBLE_MODULE_ARGS": {"name": "hello", **arguments}}
    done = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.koren.faas.plugins.modules.{module}"],
        input=json.dumps(given),
        env=os.environ | {"PYTHONPATH": f"{REPO / '.collections'}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("module", PRESENT)
def test_a_site_that_is_not_set_up_fails_a_run_and_is_a_change_in_check_mode(module: str, tmp_path: Path) -> None:
    options = {**PRESENT[module], "site_dir": str(tmp_path)}
    failed = _run(module, **options)
    assert failed["failed"]
    assert "site.json does not exist" in failed["msg"]
    would = _run(module, **options, _ansible_check_mode=True)
    assert (would["changed"], would["regions"]) == (True, [])
    assert would["steps"] == [failed["msg"]]
    absent = _run(module, state="absent", site_dir=str(tmp_path), _ansible_check_mode=True)
    assert (absent["changed"], absent["regions"]) == (False, [])


@pytest.mark.parametrize("module", PRESENT)
@pytest.mark.parametrize("check", [False, True])
def test_a_value_that_is_wrong_fails_also_before_there_is_a_site(module: str, check: bool, tmp_path: Path) -> None:
    options = {**PRESENT[module], **WRONG[module], "site_dir": str(tmp_path)}
    failed = _run(module, **options, _ansible_check_mode=check)
    assert failed["failed"]
    assert next(iter(WRONG[module].values())) in failed["msg"]


def test_a_function_needs_its_code_or_its_image(tmp_path: Path) -> None:
    for given, named in (
        ({}, "source, image"),
        ({"source": "/nowhere", "image": "hello:1"}, "mutually exclusive"),
        ({"source": "/nowhere"}, "not of the form module.function"),
        ({"image": "hello:1", "runtime": "image"}, "site.json does not exist"),
        ({"runtime": "ruby2.6", "source": "/nowhere"}, "must be one of: " + ", ".join(RUNTIMES)),
    ):
        failed = _run("function", site_dir=str(tmp_path), **given)
        assert failed["failed"]
        assert named in failed["msg"]
