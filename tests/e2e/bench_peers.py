"""From zero to a handler, side by side: ours, Knative Serving, the floor, and the old way, by turns in one run.

KOREN_BENCH_RUNS of each (10). Knative Serving is built from its Go module on the first run (minutes), put into Seoul's
cluster and removed in the end. It has no MQTT source: the message's way to Seoul is measured, and then a request to its
activator, as a bridge would send it. The last line is JSON; KOREN_BENCH_OUT names a file for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Cluster, Connect
from figures import Figures, percentile, percentiles
from knative_peer import Knative, knative
from ways import Courier, floor, from_zero_and_back, image_of, kube, old_way

from koren_events import Publisher
from koren_faas.kube import Kube

__all__ = ["floor", "kube", "old_way"]  # fixtures

RUNS = int(os.environ.get("KOREN_BENCH_RUNS", "10"))


@pytest.fixture
def peer(cluster: Callable[[str], Cluster], kube: Kube, connect: Connect, probe: str) -> Iterator[Knative]:
    """Knative in Seoul, with a function."""
    with knative(cluster("seoul"), kube, Courier(connect, "knative"), image_of(kube, probe)) as found:
        yield found
    assert found.left() == []


def test_from_zero(
    kube: Kube,
    probe: str,
    publisher: Publisher,
    floor: Callable[[], float],
    old_way: Callable[[], float],
    peer: Knative,
    capsys: Any,
) -> None:
    ways: dict[str, Callable[[], float]] = {
        "koren": lambda: from_zero_and_back(kube, publisher, probe)[0]["handler_entered"],
        "knative": lambda: peer.measured() * 1000,
        "floor": lambda: floor() * 1000,
        "old_way": lambda: old_way() * 1000,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    # In Knative's first measured start nothing is new to it any more.
    peer.wait_for_zero()
    peer.measured()
    for _ in range(RUNS):
        for name, way in ways.items():
            # Nothing of another way is about to go meanwhile.
            peer.wait_for_zero()
            times[name].append(way())

    figures = Figures()
    figures.line = {"runs": RUNS, "knative": peer.version}
    for name, values in times.items():
        figures.line |= {f"{name}_p{percent}_ms": round(percentile(values, percent)) for percent in (50, 95)}
        figures.row(f"{name}: message to handler from zero, p50 / p95 of {RUNS}", f"{percentiles(values, 50, 95)} ms")
    figures.line["knative_times_koren"] = round(figures.line["knative_p50_ms"] / figures.line["koren_p50_ms"], 2)
    figures.write()
    with capsys.disabled():
        print(figures.table())
