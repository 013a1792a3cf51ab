"""What a role's users read of its arguments is what they are."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (REPO / "roles").iterdir())


def load(path: Path) -> dict[str, Any]:
    """A YAML file's contents; nothing when there is no file."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None) or {}


@pytest.mark.parametrize("role", ROLES)
def test_the_specification_has_just_the_defaults_and_what_is_required(role: str) -> None:
    defaults = load(REPO / "roles" / role / "defaults/main.yml")
    entries = load(REPO / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    options = {name: option for entry in entries.values() for name, option in (entry.get("options") or {}).items()}
    required = {name for name, option in options.items() if option.get("required")}
    assert {name: option["default"] for name, option in options.items() if "default" in option} == defaults
    assert required | set(defaults) == set(options), "an argument has a default or is required"
    assert all(name.startswith(f"{role}_") for name in options)


@pytest.mark.parametrize("role", ROLES)
def test_each_default_has_its_line_of_explanation(role: str) -> None:
    path = REPO / "roles" / role / "defaults/main.yml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for above, line in pairwise(lines):
        if line[:1].isalpha():
            assert above.startswith("#"), f"{path}: no comment above {line}"


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("templates", "tasks", "files")
        for path in sorted((REPO / "roles").glob(f"*/{folder}/**/*"))
        if path.is_file() and "RestartSec=" in path.read_text(encoding="utf-8")
    ],
    ids=lambda path: str(path.relative_to(REPO / "roles")),
)
def test_a_service_is_started_again_however_often_it_fails(path: Path) -> None:
    """By default systemd gives a unit up that fails five times in ten seconds, as on a full disk."""
    text = path.read_text(encoding="utf-8")
    assert text.count("StartLimitIntervalSec=0") == text.count("RestartSec="), "a unit lacks StartLimitIntervalSec=0"


def test_the_page_of_arguments_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("roles", REPO / "docs" / "roles.py")
    assert spec and spec.loader
    roles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(roles)
    assert (REPO / "docs" / "roles.md").read_text(encoding="utf-8") == roles.page(REPO), "run make docs"
