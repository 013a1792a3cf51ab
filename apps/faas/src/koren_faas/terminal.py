# SPDX-License-Identifier: Apache-2.0
"""What the terminal is, and how tables and waiting look on it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LEAST_WIDTH = 8
_GAP = 2
_PATIENCE_S = 1.0
_BOLD, _RED, _GREEN, _YELLOW = "1", "31", "32", "33"
_STATUS = {
    "READY": _GREEN,
    "LISTENING": _GREEN,
    "OK": _GREEN,
    "NOT READY": _YELLOW,
    "WAITING": _YELLOW,
    "WATCH": _YELLOW,
    "HELD": _YELLOW,
    "OPEN": _YELLOW,
    "ACT": _RED,
    "REFUSED": _RED,
    "UNKNOWN": _RED,
}
"""Colour of a status, by its words in capitals without numbers before them."""


def width() -> int | None:
    """Columns of the terminal that standard output is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def coloured() -> bool:
    """Whether standard output may have colours: it is a terminal, and NO_COLOR is not set."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def table(
    rows: Sequence[Sequence[str]], *, limit: int | None = None, colours: bool = False
) -> str:
    """Rows of plain text with their cells below each other, a head first.

    Args:
        limit: columns that the table may have; the widest cells but the first of a row are cut for it.
        colours: the head is bold, and what is below STATUS or STATE has a colour.
    """
    head = rows[0]
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    if limit is not None:
        widths = _fitted(widths, [max(_columns(one), _LEAST_WIDTH) for one in head], limit)
    lines = []
    for row in rows:
        cells = []
        for title, cell, room in zip(head, row, widths, strict=True):
            text = _cut(cell, room)
            padded = text + " " * (room - _columns(text))
            style = _style(title, cell, is_head=row is head) if colours else ""
            cells.append(f"\x1b[{style}m{padded}\x1b[0m" if style else padded)
        lines.append((" " * _GAP).join(cells).rstrip())
    return "\n".join(lines)


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Say on a terminal that `what` is waited for, while that takes longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    told = threading.Event()

    def tell() -> None:
        told.set()
        sys.stderr.write(f"Waiting for {what} ...")
        sys.stderr.flush()

    timer = threading.Timer(_PATIENCE_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if told.is_set():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _fitted(widths: Sequence[int], least: Sequence[int], limit: int) -> list[int]:
    fitted = list(widths)
    over = sum(fitted) + _GAP * (len(fitted) - 1) - limit
    while over > 0:
        # Never the first: it is what other commands are given.
        can = [at for at in range(1, len(fitted)) if fitted[at] > least[at]]
        if not can:
            break
        fitted[max(can, key=lambda at: fitted[at])] -= 1
        over -= 1
    return fitted


def _cut(text: str, room: int) -> str:
    if _columns(text) <= room:
        return text
    while text and _columns(text) > room - 1:
        text = text[:-1]
    return f"{text}…"


def _columns(text: str) -> int:
    """Columns that a terminal takes for a text: two for a Korean syllable."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def _style(title: str, cell: str, *, is_head: bool) -> str:
    if is_head:
        return _BOLD
    if title not in ("STATUS", "STATE"):
        return ""
    return _STATUS.get(cell.upper().lstrip("0123456789/ "), "")
