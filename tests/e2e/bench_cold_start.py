"""How long an event takes from its own time to the handler, from zero and to a pod that is there. One line of JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

from conftest import Cluster, drill, until

from koren_events import Event, Publisher, ReceiptState

TIMES = 10


def entered_ms(publisher: Publisher, event: Event) -> dict[str, float]:
    """Milliseconds from the event's time to each phase of its handling."""
    publisher.publish(event)
    last = list(publisher.receipts(event, timeout_s=90))[-1]
    assert last.state is ReceiptState.SUCCEEDED
    return {phase: (moment - event.time).total_seconds() * 1000 for phase, moment in last.phases.items()}


def p50(runs: list[dict[str, float]]) -> dict[str, int]:
    """The median of each phase."""
    return {phase: round(statistics.median(run[phase] for run in runs)) for phase in runs[0]}


def test_bench_event_to_handler(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher, capsys: Any
) -> None:
    seoul = cluster("seoul")
    cold, warm = [], []
    for _ in range(TIMES):
        until("no pod before the event", lambda: not seoul.pods(probe), 90)
        opened = drill("seoul")
        cold.append(entered_ms(publisher, opened))
        warm.append(entered_ms(publisher, drill("seoul", closes=opened)))
    entered = [run["handler_entered"] for run in cold]
    with capsys.disabled():
        print(
            "\n"
            + json.dumps(
                {
                    "bench": "event to handler",
                    "runs": TIMES,
                    "from_zero_p50_ms": p50(cold),
                    "from_zero_entered_ms": sorted(round(value) for value in entered),
                    "warm_p50_ms": p50([{"handler_entered": run["handler_entered"]} for run in warm]),
                    "ratio_from_zero_to_warm": round(
                        statistics.median(entered) / statistics.median(run["handler_entered"] for run in warm), 1
                    ),
                }
            )
        )
