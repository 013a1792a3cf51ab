#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write docs/roles.md, the arguments of every role, from the roles' own argument specifications."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[1]
TARGET = REPO / "docs" / "roles.md"
HEAD = """# Arguments of the roles

Written by `make docs` from each role's `meta/argument_specs.yml`; change it there. An argument is set in the inventory.
"""


def page(repo: Path) -> str:
    """The whole page."""
    roles = sorted(path.parents[1] for path in repo.glob("roles/*/meta/argument_specs.yml"))
    return "\n".join([HEAD, *(_role(role) for role in roles)]).rstrip() + "\n"


def _role(role: Path) -> str:
    entries = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    lines = [f"## {role.name}", ""]
    shown: list[Any] = []
    for name, entry in entries.items():
        if name != "main":
            lines += [f"### {role.name}, tasks_from: {name}", ""]
        lines += [f"{_text(entry['short_description'])}. {_text(entry.get('description', ''))}".strip(), ""]
        options = entry.get("options") or {}
        if options and options not in shown:
            lines += ["| argument | type | default | what it is |", "|---|---|---|---|"]
            lines += [f"| {' | '.join(row)} |" for row in _rows(options)]
            lines.append("")
            shown.append(options)
    return "\n".join(lines)


def _rows(options: Mapping[str, Mapping[str, Any]], within: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, option in options.items():
        kind = option.get("type", "str")
        if kind == "list" and "elements" in option:
            kind = f"list of {option['elements']}"
        default = "required" if option.get("required") else _code(option["default"]) if "default" in option else ""
        text = _text(option.get("description", ""))
        if "choices" in option:
            text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        yield f"`{within}{name}`", kind, default, text
        yield from _rows(option.get("options") or {}, f"{within}{name}.")


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{_cell(text)}`" if text else "empty"


def _text(value: Any) -> str:
    text = " ".join(value) if isinstance(value, list) else str(value)
    return _cell(re.sub(r"\b[A-Z]\(([^)]*)\)", r"`\1`", text))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(page(REPO), encoding="utf-8")
