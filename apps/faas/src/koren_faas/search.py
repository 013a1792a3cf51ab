# SPDX-License-Identifier: Apache-2.0
"""Logs of all hosts and pods of a site, as its centre keeps them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import urllib3

from koren_faas.errors import FaasError, NotReadyError
from koren_faas.site import Site

_QUERY = "/select/logsql/query"
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 60.0
_LATE = timedelta(minutes=1)
_PAUSE_S = 1.0
_SPAN = re.compile(r"(\d+)([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class SearchError(FaasError):
    """The centre did not answer, or refused a search."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a host or pod.

    Attributes:
        time: when it was written, RFC 3339 in UTC.
        text: the message.
        fields: all its keys, among them `region`, `host`, `unit` or `namespace` and `pod`, and where
            they are known `level`, `event_id`, `subject` and `function`.
    """

    time: str
    text: str
    fields: Mapping[str, str]

    @property
    def origin(self) -> str:
        """Its host and pod; of a line of no pod the host's unit or program."""
        fields = self.fields
        part = fields.get("pod") or fields.get("unit") or fields.get("program") or "-"
        return f"{fields.get('host', '-')}/{part.removesuffix('.service')}"


@dataclass(frozen=True, slots=True)
class Search:
    """What lines are looked for; all that is given must match.

    Attributes:
        event: an event's id.
        incident: an incident's subject: its lines, and all lines of its events.
        function: a function's name.
        regions: names of regions; none means all.
        host: a host's name.
        text: a part of the message, in letters of any case.
    """

    event: str | None = None
    incident: str | None = None
    function: str | None = None
    regions: Sequence[str] = ()
    host: str | None = None
    text: str | None = None

    def query(self) -> str:
        """The search in LogsQL."""
        parts = [
            f"{key}:={_quoted(value)}"
            for key, value in (
                ("event_id", self.event),
                ("function", self.function),
                ("host", self.host),
            )
            if value is not None
        ]
        if self.incident is not None:
            subject = f"subject:={_quoted(self.incident)}"
            parts.append(f"({subject} or event_id:in({subject} event_id:* | fields event_id))")
        if self.regions:
            parts.append(f"region:in({', '.join(map(_quoted, self.regions))})")
        if self.text is not None:
            parts.append(f"_msg:~{_quoted(f'(?i){_literal(self.text)}')}")
        return " ".join(parts) or "*"


def moment(text: str, now: datetime) -> datetime:
    """The time that a person means: `90s`, `30m`, `1h` or `2d` before `now`, or a time in ISO 8601.

    A time without a zone is the local one's.

    Raises:
        SearchError: it is neither.
    """
    if span := _SPAN.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        except OverflowError:
            raise SearchError(f"'{text}' is too long ago") from None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise SearchError(
            f"'{text}' is no time: give a span such as 30m, 1h or 2d, or a time such as"
            " 2026-05-01T13:00"
        ) from None


class Store:
    """The centre's store of logs.

    Args:
        certificate: name of the certificate in the site's folder `pki` to ask with.

    Raises:
        NotReadyError: the site has no such store, or this machine no such certificate.
    """

    def __init__(self, site: Site, certificate: str) -> None:
        if not site.logs:
            raise NotReadyError(
                f"{site.dir / 'site.json'} names no store of logs; run the site's playbook"
            )
        chain = site.dir / "pki" / f"{certificate}.crt"
        key = chain.with_suffix(".key")
        for file in (chain, key, site.authority):
            if not file.is_file():
                raise NotReadyError(
                    f"{file} does not exist: name a certificate of the site with --certificate,"
                    " or have it issued (site_operators in the inventory)"
                )
        self._url = site.logs.rstrip("/")
        self._name = certificate
        self._pool = urllib3.PoolManager(
            cert_file=str(chain),
            key_file=str(key),
            ca_certs=str(site.authority),
            cert_reqs="CERT_REQUIRED",
            retries=False,
        )

    def find(
        self, search: Search, since: datetime, until: datetime, limit: int
    ) -> tuple[list[Entry], bool]:
        """The newest lines within the time, at most `limit`, the oldest first; and whether there are more.

        Raises:
            SearchError: the centre did not answer, or refused.
        """
        form = {
            "query": search.query(),
            "start": since.isoformat(),
            "end": until.isoformat(),
            "limit": str(limit + 1),
        }
        found = list(self._lines(form))
        found.sort(key=lambda entry: _sortable(entry.time))
        return list(_once(found[-limit:])), len(found) > limit

    def follow(self, search: Search, since: datetime, limit: int) -> Iterator[Entry]:
        """The newest lines from that time on, at most `limit`, then those that come, until the caller stops.

        A line is shown when it comes no later than a minute after it was written.

        Raises:
            SearchError: the centre did not answer, or refused.
        """
        seen: dict[tuple[str, str, str], datetime] = {}
        begin = since
        while True:
            now = datetime.now(UTC)
            # Another host's clock may be ahead.
            for entry in self.find(search, begin, now + _LATE, limit)[0]:
                key = (entry.time, entry.origin, entry.text)
                if key not in seen:
                    yield entry
                seen[key] = now
            begin = max(begin, now - _LATE)
            seen = {key: last for key, last in seen.items() if last == now}
            time.sleep(_PAUSE_S)

    def _lines(self, form: dict[str, str]) -> Iterator[Entry]:
        try:
            answer = self._pool.request(
                "POST",
                self._url + _QUERY,
                fields=form,
                encode_multipart=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=_READ_TIMEOUT_S),
            )
            if answer.status != 200:
                raise self._refused(answer.status, answer.read(4096).decode(errors="replace"))
            begun = b""
            for piece in answer.stream(65536):
                *whole, begun = (begun + piece).split(b"\n")
                for line in whole:
                    if line:
                        yield _entry(line)
            if begun:
                yield _entry(begun)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise SearchError(
                f"the centre's logs at {self._url} can't be reached: {error}. What a function's pods"
                " print is shown without the centre by 'faas function logs'"
            ) from error

    def _refused(self, status: int, said: str) -> SearchError:
        why = " ".join(said.split()) or f"status {status}"
        if status == 403:
            why += f" (asked with the certificate '{self._name}')"
        return SearchError(f"{self._url} refuses: {why}")


def _entry(line: bytes) -> Entry:
    try:
        fields: dict[str, Any] = json.loads(line)
        return Entry(fields.pop("_time"), fields.pop("_msg", ""), _shown(fields))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SearchError(f"the centre's answer has a line that is none: {line[:200]!r}") from error


def _shown(fields: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in fields.items() if not key.startswith("_stream")}


def _once(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Leaves out what a shipper sent twice: the same text of the same origin at the same instant."""
    at = ""
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.time != at:
            at, seen = entry.time, set()
        what = (entry.origin, entry.text)
        if what not in seen:
            seen.add(what)
            yield entry


def _sortable(moment: str) -> tuple[str, str]:
    """Times have up to nine digits behind the point, or no point."""
    whole, _, rest = moment.rstrip("Z").partition(".")
    return whole, rest.ljust(9, "0")


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    """The text as a regular expression of RE2."""
    return re.sub(r"([][\\.+*?()|{}^$])", r"\\\1", text)
