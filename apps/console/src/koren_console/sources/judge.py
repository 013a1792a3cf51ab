# SPDX-License-Identifier: Apache-2.0
"""How a region is, by all that is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from koren_console.model import Health, Node, Part, Words

NOTHING = Words("", "")


@dataclass(frozen=True)
class Reach:
    """Whether a region's API server answers, and since when it does or does not; None before it was first asked."""

    answers: bool | None = None
    since: datetime | None = None
    last_answer: datetime | None = None
    last_message: datetime | None = None
    """When something of the region last came through the broker."""

    @property
    def last_word(self) -> datetime | None:
        """When anything of it was last heard."""
        known = [one for one in (self.last_answer, self.last_message) if one is not None]
        return max(known, default=None)


def judge(reach: Reach, nodes: Sequence[Node], parts: Iterable[Part]) -> tuple[Health, Words]:
    """A region's health and why, the gravest reason first.

    It is unknown when its API server does not answer and nothing came through the broker since; its functions run on
    without the centre.
    """
    if reach.answers is None:
        return Health.UNKNOWN, Words("아직 응답을 받지 못했습니다.", "No answer yet.")
    if not reach.answers:
        if reach.since and reach.last_message and reach.last_message > reach.since:
            return Health.ACT, Words(
                "API 서버가 응답하지 않습니다. 이벤트는 계속 들어오고 있습니다.",
                "Its API server does not answer. Events still arrive.",
            )
        return Health.UNKNOWN, Words(
            "연락이 끊겼습니다. 이 지역의 함수는 자체적으로 계속 실행됩니다.",
            "No word from it. Its functions go on by themselves.",
        )
    broken = [one for one in parts if one.health is Health.ACT]
    if broken:
        names = ", ".join(sorted({_called(one) for one in broken}))
        return Health.ACT, Words(f"작동하지 않는 구성 요소: {names}", f"Not working: {names}")
    bad = [one for one in nodes if one.health is Health.ACT]
    if bad:
        return Health.ACT, Words(
            f"노드 {len(nodes)}개 중 {len(bad)}개가 준비되지 않았습니다.", f"{len(bad)} of {len(nodes)} nodes not ready"
        )
    watched = [_called(one) for one in parts if one.health is Health.WATCH]
    watched += [one.name for one in nodes if one.health is Health.WATCH]
    if watched:
        names = ", ".join(sorted(set(watched)))
        return Health.WATCH, Words(f"확인이 필요합니다: {names}", f"Worth a look: {names}")
    return Health.OK, NOTHING


def _called(part: Part) -> str:
    return part.kind if part.name in ("", part.kind) else f"{part.kind} {part.name}"
