# SPDX-License-Identifier: Apache-2.0
"""Tells whoever looks which parts of the data have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from koren_console.model import Topic

TOGETHER_S = 0.2
"""Changes within that time come together."""


class Changes:
    """What has changed, for any number of readers. A slow reader hears less often, not later."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()

    def say(self, *topics: Topic) -> None:
        """These have changed."""
        for reader in self._readers:
            reader.topics.update(topics)
            reader.woken.set()

    async def follow(self) -> AsyncIterator[set[Topic]]:
        """What has changed since the last time, as it happens."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            while True:
                await reader.woken.wait()
                topics, reader.topics = reader.topics, set()
                reader.woken.clear()
                yield topics
                await asyncio.sleep(TOGETHER_S)
        finally:
            self._readers.discard(reader)

    def __len__(self) -> int:
        return len(self._readers)


class _Reader:
    def __init__(self) -> None:
        self.topics: set[Topic] = set()
        self.woken = asyncio.Event()
