# SPDX-License-Identifier: Apache-2.0
"""The last start from zero of each function, from receipts."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from koren_console.model import Start
from koren_events.receipt import Receipt, ReceiptState

PHASES = ("received", "durable", "activated", "pod_started", "handler_entered", "handler_done")

_MOST = 10_000


class Starts:
    """By region and function. Memory is bounded: the function that started longest ago is forgotten first."""

    def __init__(self) -> None:
        self._starts: OrderedDict[tuple[str, str], Start] = OrderedDict()
        self._durable: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def get(self, region: str, function: str) -> Start | None:
        """Its last start from zero; None when none was seen."""
        return self._starts.get((region, function))

    def receipt(self, receipt: Receipt) -> bool:
        """A gateway reports; whether it tells of a start."""
        key = (receipt.source, receipt.id)
        if "durable" in receipt.phases:
            self._durable[key] = receipt.phases["durable"]
            _bound(self._durable)
        if receipt.state not in (ReceiptState.STARTED, ReceiptState.SUCCEEDED) or not receipt.function:
            return False
        phases = dict(receipt.phases)
        begin = phases.get("event_time") or phases.get("received")
        pod = phases.get("pod_started")
        # Whoever was there before the event did not start for it; a second try tells nothing of the start.
        if begin is None or pod is None or pod < begin or (receipt.attempt or 1) > 1:
            return False
        if key in self._durable:
            phases["durable"] = self._durable[key]
        times = [(name, (phases[name] - begin).total_seconds()) for name in PHASES if name in phases]
        self._starts[(receipt.region, receipt.function)] = Start(begin, tuple(sorted(times, key=lambda one: one[1])))
        self._starts.move_to_end((receipt.region, receipt.function))
        _bound(self._starts)
        return True


def _bound(kept: OrderedDict[tuple[str, str], Start] | OrderedDict[tuple[str, str], datetime]) -> None:
    while len(kept) > _MOST:
        kept.popitem(last=False)
