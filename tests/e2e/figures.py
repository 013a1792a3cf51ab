"""What a bench has measured: a table for people, and one line of JSON for programs."""

from __future__ import annotations

import atexit
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Figures:
    """Figures so far."""

    line: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def row(self, what: str, figure: str) -> None:
        """Add a row to the table."""
        self.rows.append((what, figure))

    def table(self) -> str:
        """The table, as text."""
        width = min(max(len(what) for what, _ in self.rows), shutil.get_terminal_size().columns)
        return "".join(f"\n  {what:<{width}}  {figure}" for what, figure in self.rows)

    def write(self) -> None:
        """Put the line into the file that KOREN_BENCH_OUT names; without it, it is the last that this process says."""
        text = json.dumps(self.line)
        if out := os.environ.get("KOREN_BENCH_OUT"):
            Path(out).write_text(text + "\n")
        else:
            atexit.register(print, text)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent are not above."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def percentiles(values: Sequence[float], *percents: int, digits: int = 0) -> str:
    """Several percentiles with slashes between them."""
    return " / ".join(f"{percentile(values, percent):.{digits}f}" for percent in percents)
