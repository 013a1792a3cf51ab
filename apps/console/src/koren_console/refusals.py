# SPDX-License-Identifier: Apache-2.0
"""What a person is told when a source refuses or does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from koren_console.model import Outcome, Refused, Words
from koren_console.sources.http import SourceDown

T = TypeVar("T")


async def or_refused(asked: Awaitable[T]) -> T:
    """Await an answer of a source. Raises Refused in place of what the source raises."""
    try:
        return await asked
    except SourceDown as down:
        raise refused(down) from down
    except (ValueError, KeyError, TypeError) as error:
        unreadable = SourceDown(f"an answer that can't be read: {error!r:.200}")
        raise refused(unreadable) from unreadable


def refused(down: SourceDown) -> Refused:
    """The words for a person of a source that refused or did not answer."""
    match down.status:
        case 403:
            words = Words(f"권한이 없습니다: {down}", f"Not allowed: {down}")
        case 404:
            words = Words(f"더 이상 존재하지 않습니다: {down}", f"It is not there any more: {down}")
        case 409:
            words = Words(f"지금은 할 수 없습니다: {down}", f"It can't be done as things are: {down}")
        case _:
            words = Words(
                f"응답을 받지 못했습니다. 잠시 후 다시 시도하십시오: {down}", f"No answer. Try again later: {down}"
            )
    return Refused(words)


def missing(en: str, ko: str) -> Refused:
    """The words for a service that the site does not have."""
    return Refused(Words(f"이 사이트에 설정되어 있지 않습니다: {ko}", f"This site has no {en} configured."))


def outcome_of(down: SourceDown | None) -> str:
    """How the audit calls it: refused by rights or state, or failed."""
    return "failed" if down is None or down.status is None or down.status >= 500 else "refused"


def counted(region: str, done: int, reasons: Sequence[str], verbs: tuple[str, str]) -> Outcome:
    """What became of an act on several letters."""
    ko, en = f"{region}: {done}건을 {verbs[0]}.", f"{region}: {done} {verbs[1]}."
    if reasons:
        ko += f" {len(reasons)}건은 실패했습니다: {reasons[0]}"
        en += f" {len(reasons)} failed: {reasons[0]}"
    return Outcome(done, len(reasons), Words(ko, en))
