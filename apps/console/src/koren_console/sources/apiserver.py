# SPDX-License-Identifier: Apache-2.0
"""A region's API server: requests, watches, and whether it answers at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import structlog

from koren_console.settings import RegionSettings
from koren_console.sources.http import Backoff, SourceDown, with_authority

PROBE_EVERY_S = 2.0
PROBE_WAIT_S = 2.5
PROBE_AGAIN_S = 0.5
"""A region that is cut off does not answer twice in a row: at the latest 2 + 2.5 + 0.5 + 2.5 = 7.5 s after the cut."""
ANSWERS_MISSED = 2

_ANSWER_S = 15.0
_WATCH_S = 300
_PAGE = 500
_MOST_LINE = 4 * 1024 * 1024
_CONNECTIONS = 20
_ASKED_CONNECTIONS = 40
_log = structlog.get_logger()

Object = dict[str, Any]


class ApiServer:
    """One region's API server, asked with the token of the service account `console`."""

    def __init__(self, settings: RegionSettings) -> None:
        self.region = settings.name
        self._base = settings.server.rstrip("/")
        self._token_file = settings.token
        self._authority = settings.authority
        self._made: dict[bool, httpx.AsyncClient] = {}
        self.answers = asyncio.Event()
        """Set while it answers."""

    async def close(self) -> None:
        """Close its connections."""
        for http in self._made.values():
            await http.aclose()

    async def probe(self, on_change: Callable[[bool], None]) -> None:
        """Ask it again and again whether it is there; told when that changes, and first."""
        missed, said = 0, None
        while True:
            try:
                async with asyncio.timeout(PROBE_WAIT_S):
                    await self.request("GET", "/version", steady=True)
                missed = 0
            except (SourceDown, TimeoutError):
                missed += 1
            there = missed == 0
            if there != said and (there or missed >= ANSWERS_MISSED):
                said = there
                if there:
                    self.answers.set()
                else:
                    self.answers.clear()
                on_change(there)
            await asyncio.sleep(PROBE_AGAIN_S if missed == 1 else PROBE_EVERY_S)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _ANSWER_S,
        steady: bool = False,
    ) -> bytes:
        """Send one request and return the answer's body.

        Args:
            steady: by the connections that the board itself lives by, which no person's question takes up.

        Raises:
            SourceDown: it does not answer, or its status is not 2xx; the message is the server's own words.
        """
        try:
            answer = await self._http(steady).request(
                method,
                self._base + path,
                params=query,
                content=body,
                headers={"Authorization": f"Bearer {self._token()}", **(headers or {})},
                timeout=httpx.Timeout(timeout_s, connect=3.0),
            )
        except (httpx.HTTPError, OSError) as error:
            raise SourceDown(f"{self.region}: {self._base} does not answer: {error or type(error).__name__}") from None
        if not answer.is_success:
            raise SourceDown(f"{self.region}: {reason(answer.content)}", answer.status_code)
        return answer.content

    async def post(self, path: str, body: Any, *, query: Mapping[str, str] | None = None) -> Object:
        """Create an object, such as a review or a token request; the answer. Raises SourceDown."""
        answer = await self.request(
            "POST",
            path,
            query=query,
            body=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        found: Object = json.loads(answer)
        return found

    async def lines(
        self, path: str, query: Mapping[str, str], *, quiet_s: float | None, steady: bool = False
    ) -> AsyncIterator[str]:
        """The lines of an answer as they come.

        Args:
            quiet_s: longest time without any; None is for ever.
            steady: as `request` has it.

        Raises:
            SourceDown: it does not answer, refuses, or breaks off.
        """
        try:
            async with self._http(steady).stream(
                "GET",
                self._base + path,
                params=query,
                headers={"Authorization": f"Bearer {self._token()}"},
                timeout=httpx.Timeout(quiet_s, connect=3.0, pool=5.0),
            ) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise SourceDown(f"{self.region}: {reason(answer.content)}", answer.status_code)
                rest = b""
                async for chunk in answer.aiter_raw():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line.decode(errors="replace")
                    if len(rest) > _MOST_LINE:
                        raise SourceDown(f"{self.region}: a line of {path} is too long")
                if rest:
                    yield rest.decode(errors="replace")
        except (httpx.HTTPError, OSError) as error:
            raise SourceDown(f"{self.region}: {path} broke off: {error or type(error).__name__}") from None

    async def watch(
        self,
        path: str,
        on_list: Callable[[list[Object]], None],
        on_event: Callable[[str, Object], None],
        *,
        selector: str = "",
    ) -> None:
        """Follow a collection for ever: a whole list first and after each gap, then each change.

        What it is told of a kind that the cluster does not have is asked for again, at the longest interval.
        """
        backoff = Backoff()
        selected = {"labelSelector": selector} if selector else {}
        while True:
            if not self.answers.is_set():
                await self.answers.wait()
                backoff.worked()
            try:
                version = await self._list(path, selected, on_list)
                backoff.worked()
                while version:
                    version = await self._follow(path, selected, version, on_event)
            except (SourceDown, ValueError, KeyError, TypeError) as error:
                _log.warning("watch begins anew", region=self.region, path=path, problem=str(error)[:300])
                if self.answers.is_set():
                    await asyncio.sleep(backoff.failed())

    async def _list(self, path: str, selected: Mapping[str, str], on_list: Callable[[list[Object]], None]) -> str:
        items: list[Object] = []
        after = ""
        while True:
            query = {**selected, "limit": str(_PAGE), **({"continue": after} if after else {})}
            answer = json.loads(await self.request("GET", path, query=query, steady=True))
            items += answer["items"]
            after = answer["metadata"].get("continue", "")
            if not after:
                on_list(items)
                return str(answer["metadata"]["resourceVersion"])

    async def _follow(
        self, path: str, selected: Mapping[str, str], version: str, on_event: Callable[[str, Object], None]
    ) -> str:
        """Follow from a version on; the version to go on from, empty when it takes a new list."""
        query = {
            **selected,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
        }
        lines = self.lines(path, query, quiet_s=_WATCH_S + 30, steady=True)
        async with contextlib.aclosing(lines):  # type: ignore[type-var]
            async for line in self._while_it_answers(lines):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    on_event(event["type"], event["object"])
        return version if self.answers.is_set() else ""

    async def _while_it_answers(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        """Its lines, until it does not answer any more: a watch over a line that was cut says nothing."""
        while True:
            following = asyncio.ensure_future(anext(lines, None))
            try:
                while not following.done():
                    await asyncio.wait([following], timeout=PROBE_EVERY_S)
                    if not following.done() and not self.answers.is_set():
                        return
                line = following.result()
            finally:
                # The lines can't be closed while one is waited for.
                if not following.done():
                    following.cancel()
                    with contextlib.suppress(asyncio.CancelledError, SourceDown):
                        await following
            if line is None:
                return
            if line:
                yield line

    def _http(self, steady: bool) -> httpx.AsyncClient:
        if steady not in self._made:
            # A region that has never answered gives its authority with its token, later.
            connections = _CONNECTIONS if steady else _ASKED_CONNECTIONS
            try:
                self._made[steady] = with_authority(self._authority, _ANSWER_S, connections=connections)
            except OSError as error:
                raise SourceDown(f"{self.region}: its authority can't be read: {error}") from None
        return self._made[steady]

    def _token(self) -> str:
        return _text(self._token_file)


def reason(body: bytes) -> str:
    """What an API server or a gateway says of a refusal."""
    text = body.decode(errors="replace").strip()
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        text = str(answer.get("error") or answer.get("message") or text)
    return text[:2000] or "no reason given"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SourceDown(f"the token can't be read: {error}") from None
