# SPDX-License-Identifier: Apache-2.0
"""Lists that are filtered, ordered and paged by their address, and saved as CSV."""

from __future__ import annotations

import csv
import io
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from starlette.responses import Response

from koren_console.web.view import View

T = TypeVar("T")
PAGE = 100
"""Rows of a page."""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a list: `key` names it in addresses, `word` is its heading's text."""

    key: str
    word: str
    value: Callable[[T], Any]
    """What the column is ordered by, and its cell in CSV; `None` for unknown."""
    number: bool = False
    extra: bool = False
    """Only in CSV."""


@dataclass(frozen=True)
class Listing(Generic[T]):
    """The rows of one page of a list."""

    rows: Sequence[T]
    found: int
    """Rows that match, on all pages."""
    total: int
    page: int
    pages: int
    query: str
    sort: str


def terms(query: str) -> list[str]:
    """The words of a filter in lower case; quotes keep words together."""
    try:
        return shlex.split(query.lower())
    except ValueError:
        return query.lower().replace('"', " ").replace("'", " ").split()


def matches(row: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether each term is found: `field:text` in that field, other text in any, `-` before it for not."""
    for term in wanted:
        negated = term.startswith("-") and len(term) > 1
        field, colon, value = term.lstrip("-").partition(":")
        if colon and field in row:
            found = value in row[field].lower()
        else:
            bare = term[1:] if negated else term
            found = any(bare in part.lower() for part in row.values())
        if found == negated:
            return False
    return True


def listing(
    view: View, rows: Iterable[T], columns: Sequence[Column[T]], fields: Callable[[T], Mapping[str, str]], sort: str
) -> Listing[T]:
    """One page of the rows that the address asks for.

    `fields` are what the filter looks in. `sort` is the order of an address that names none; `-` before it turns it.
    """
    everything = list(rows)
    query = view.request.query_params.get("q", "").strip()[:300]
    wanted = terms(query)
    chosen = [row for row in everything if matches(fields(row), wanted)] if wanted else everything
    order = view.request.query_params.get("sort") or sort
    column = next((one for one in columns if one.key == order.lstrip("-")), None)
    if column is not None:
        by = column.value
        known = [row for row in chosen if by(row) is not None]
        known.sort(key=by, reverse=order.startswith("-"))
        chosen = known + [row for row in chosen if by(row) is None]
    pages = max(1, -(-len(chosen) // PAGE))
    try:
        page = min(max(1, int(view.request.query_params.get("page", "1"))), pages)
    except ValueError:
        page = 1
    if wants_csv(view):
        return Listing(chosen, len(chosen), len(everything), 1, 1, query, order)
    return Listing(chosen[(page - 1) * PAGE : page * PAGE], len(chosen), len(everything), page, pages, query, order)


def wants_csv(view: View) -> bool:
    """Whether the address asks for the list as a file."""
    return view.request.query_params.get("format") == "csv"


def cell(value: Any) -> str:
    """A cell that a spreadsheet shows as text and does not run as a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, (int, float)):
        return str(value)
    said = str(value)
    # Spreadsheets take wide forms for narrow ones, and pass over spaces.
    first = unicodedata.normalize("NFKC", said.lstrip()[:1])
    return "'" + said if said[:1] in ("\t", "\r", "\n") or first in ("=", "+", "-", "@") else said


def as_csv(view: View, name: str, listing: Listing[T], columns: Sequence[Column[T]]) -> Response:
    """All rows that match as a file."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([column.key for column in columns])
    writer.writerows([cell(column.value(row)) for column in columns] for row in listing.rows)
    # The mark at the beginning has spreadsheets read Korean as UTF-8.
    return Response(
        ("\ufeff" + out.getvalue()).encode(errors="replace"),
        media_type="text/csv",
        headers={
            "Content-Disposition": f'attachment; filename="{name}-{view.now:%Y%m%dT%H%M%SZ}.csv"',
            "Cache-Control": "no-store",
        },
    )
