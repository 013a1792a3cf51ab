# SPDX-License-Identifier: Apache-2.0
"""A region as the console watches it: whom it asks there, and what was last heard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from koren_console.model import Health, Held, Refused, Words
from koren_console.settings import RegionSettings
from koren_console.sources.apiserver import ApiServer
from koren_console.sources.cluster import Cluster
from koren_console.sources.gateway import Gateway
from koren_console.sources.holding import Holding
from koren_console.sources.judge import NOTHING, Reach
from koren_events.health import Health as PartHealth


class Watched:
    """One region and all that is asked of it."""

    def __init__(
        self, settings: RegionSettings, server: ApiServer, cluster: Cluster, hold_s: int, network: str
    ) -> None:
        self.settings = settings
        self.server = server
        self.cluster = cluster
        self.gateway = Gateway(server)
        self.holding = Holding(self.gateway, hold_s, network)
        self.reach = Reach()
        self.parts: dict[str, PartHealth] = {}
        """What the region's parts said of themselves through the broker."""
        self.held: list[Held] = []
        self.refused: dict[str, str] = {}
        self.asked_at: datetime | None = None
        """When its gateway last answered."""
        self.ask = asyncio.Event()
        self.followed = 0
        """Logs that are followed now."""
        self.verdict: tuple[Health, Words] = (Health.UNKNOWN, NOTHING)
        self.since: datetime | None = None


def known(places: Mapping[str, Watched], region: str) -> Watched:
    """The region of that name. Raises Refused when there is none."""
    place = places.get(region)
    if place is None:
        raise Refused(Words(f"{region}라는 지역은 없습니다.", f"There is no region {region}."))
    return place
