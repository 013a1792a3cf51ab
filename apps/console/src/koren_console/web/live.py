# SPDX-License-Identifier: Apache-2.0
"""Tells open pages what has changed, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from koren_console.web.view import View

BEAT_S = 10.0
"""A page that hears nothing for three of these knows that its connection is gone."""


async def changes(view: View) -> Response:
    """The topics that have changed, and a beat while none has; ends when the reader is signed out."""
    return StreamingResponse(_lines(view), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _lines(view: View) -> AsyncIterator[str]:
    source = view.board.changes()
    yield "retry: 2000\n\nevent: beat\ndata: \n\n"
    waiting = asyncio.ensure_future(anext(source))
    try:
        while True:
            finished, _ = await asyncio.wait({waiting}, timeout=BEAT_S)
            if not view.auth.stands(view.request):
                yield "event: signed-out\ndata: \n\n"
                return
            if not finished:
                yield "event: beat\ndata: \n\n"
                continue
            try:
                topics = waiting.result()
            except StopAsyncIteration:
                return
            waiting = asyncio.ensure_future(anext(source))
            yield f"data: {' '.join(sorted(topics))}\n\n"
    finally:
        waiting.cancel()
