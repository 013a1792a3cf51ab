# SPDX-License-Identifier: Apache-2.0
"""Lengths of time as people write them: a whole number with its unit."""

from __future__ import annotations

import re

from koren_faas.errors import FunctionError

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


def seconds_of(what: str, text: str) -> int:
    """The seconds that a text such as 30s, 5m, 2h or 1d says; 0 of an empty one.

    Raises:
        FunctionError: it says something else; the message begins with `what`.
    """
    if not text:
        return 0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise FunctionError(f"{what} is {text!r}; give a whole number of s, m, h or d, e.g. 30s or 5m")
    return int(found[1]) * _UNITS_S[found[2]]


def duration_of(seconds: int) -> str:
    """The shortest such text for so many seconds; empty for 0."""
    if not seconds:
        return ""
    unit = next(unit for unit, its in _UNITS_S.items() if seconds % its == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"
