# SPDX-License-Identifier: Apache-2.0
"""Which times that others tell are believed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from koren_events.receipt import Receipt

EARLIEST = timedelta(days=30)
"""How long before now something may have happened: an event may have waited for its region as long."""
LATEST = timedelta(days=1)


def plausible(at: datetime, now: datetime) -> bool:
    """Whether the time is near enough to now; the calendar's ends can't even be shown in each time zone."""
    return now - EARLIEST <= at <= now + LATEST


def believed(receipt: Receipt, now: datetime) -> Receipt:
    """The receipt without phases whose time is not plausible: events and functions tell some of them."""
    phases = {name: at for name, at in receipt.phases.items() if plausible(at, now)}
    return replace(receipt, time=receipt.time if plausible(receipt.time, now) else now, phases=phases)
