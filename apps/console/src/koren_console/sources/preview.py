# SPDX-License-Identifier: Apache-2.0
"""The text that a held event will be posted with: made by the function's own code, apps/report-incident/post_text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from koren_console.model import Words
from koren_console.post_text.incident import Incident
from koren_console.post_text.networks import ON
from koren_events.contract import incident_kind
from koren_runtime import Reject
from koren_runtime.contract import to_event

NO_NETWORK = Words(
    "이 사이트가 어느 소셜 네트워크에 게시하는지 알 수 없어 글을 미리 볼 수 없습니다. "
    "functions_list에서 report-incident의 provider를 지정해 주십시오.",
    "There is no preview: it is not known which social network this site posts on. Set the provider of report-incident "
    "in functions_list.",
)
NO_MESSAGE = Words(
    "게이트웨이가 이 이벤트의 내용을 보여 주지 않아 글을 미리 볼 수 없습니다.",
    "There is no preview: the gateway does not show what the event says.",
)
NO_INCIDENT = Words(
    "사고나 돌발상황 이벤트가 아니므로 미리 볼 게시글이 없습니다.",
    "There is no preview: the event is neither of an accident nor of a road hazard.",
)


@dataclass(frozen=True)
class Preview:
    """A post's text, or in `missing` why there is none."""

    text: Words | None
    missing: Words | None = None
    first: bool = True
    """False for what follows the incident's first post."""


def preview(message: Any, network: str) -> Preview:
    """What a held CloudEvent will say once a person has released it, on the network that the function posts on."""
    if not isinstance(message, Mapping):
        return Preview(None, NO_MESSAGE)
    kind = message.get("type")
    if not isinstance(kind, str) or incident_kind(kind) is None:
        return Preview(None, NO_INCIDENT)
    on_network = ON.get(network)
    if on_network is None:
        return Preview(None, NO_NETWORK)
    try:
        # So the gateway hands it to the function.
        incident = Incident(to_event({**message, "releasedby": "console"}))
        texts = on_network(incident)
    except (Reject, ValueError, RecursionError) as wrong:
        reason = f"{wrong!s:.300}".encode(errors="replace").decode()
        return Preview(
            None,
            Words(
                f"함수가 이 이벤트로는 글을 작성할 수 없으므로 확인해도 게시되지 않습니다. ({reason})",
                f"There is no preview: the function can't write a text from this event and won't post it. ({reason})",
            ),
        )
    return Preview(Words(texts.ko, texts.en), first=incident.kind == "detected")
