# SPDX-License-Identifier: Apache-2.0
"""Functions as text: the tables and documents that the command line prints."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence

import yaml

from koren_faas import manifests
from koren_faas.change import Difference
from koren_faas.deployment import Deployed

_HEAD = ("NAME", "NAMESPACE", "HANDLER", "RUNTIME", "DEPENDENCIES", "STATUS", "REGION")
_HEAD_WIDE = ("TOPIC", "MEMORY", "ENV", "IMAGE")


def document(functions: Sequence[Deployed], form: str) -> str:
    """Functions as one document: `json` or `yaml`."""
    content = [one.as_dict() for one in functions]
    if form == "json":
        return json.dumps(content, indent=2, ensure_ascii=False)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()


def listing(functions: Sequence[Deployed], *, wide: bool) -> str:
    """Functions as a table, a line each."""
    rows: list[tuple[str, ...]] = [_HEAD + (_HEAD_WIDE if wide else ())]
    for one in functions:
        function = one.function
        row: tuple[str, ...] = (
            function.name,
            manifests.NAMESPACE,
            function.handler,
            function.runtime,
            ", ".join(one.requirements),
            one.status,
            one.region,
        )
        if wide:
            env = ", ".join(f"{key}={value}" for key, value in sorted(function.env.items()))
            row += (function.topic or "", function.memory, env, one.image)
        rows.append(row)
    return _columns(rows)


def description(one: Deployed) -> str:
    """All of one deployed function, a line each."""
    function = one.function
    incident = ""
    if function.opens:
        until = f"{function.closes} or " if function.closes else ""
        incident = f"{function.opens} until {until}{function.incident_limit_s} s"
    rows = [
        ("Name:", function.name),
        ("Namespace:", manifests.NAMESPACE),
        ("Region:", one.region),
        ("Handler:", function.handler),
        ("Runtime:", function.runtime),
        ("Topic:", function.topic or ""),
        ("Incident:", incident),
        ("Timeout:", f"{function.timeout_s} s, at most {function.max_attempts} attempts"),
        ("Scale:", f"0 to {function.max_scale}"),
        ("Envvar:", json.dumps(dict(function.env), ensure_ascii=False)),
        ("Secrets:", ", ".join(function.secrets)),
        ("Memory:", function.memory),
        ("CPU:", function.cpu),
        ("Dependencies:", ", ".join(one.requirements)),
        ("Image:", one.image),
        ("Status:", one.status),
    ]
    return _columns(rows)


def diff(changes: Iterable[Difference]) -> str:
    """What changed, as a unified diff."""
    parts: list[str] = []
    for change in changes:
        parts += difflib.unified_diff(
            change.before.splitlines(),
            change.after.splitlines(),
            f"{change.what} (before)",
            f"{change.what} (after)",
            lineterm="",
        )
    return "\n".join(parts)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
