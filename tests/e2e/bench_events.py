"""An event's way in figures: from zero beside the floor and the old way, warm, under load, and back to zero.

KOREN_BENCH_RUNS starts from zero (30), KOREN_BENCH_EVENTS under load (20000). The last line is JSON; KOREN_BENCH_OUT
names a file for it. The same run measures the machine, whose speed may be another tomorrow: what a bare subscriber
takes from the broker, and what Redis puts on disk.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import DONE, SITE_DIR, Identities, drill, faas, on_host
from figures import Figures, percentile, percentiles
from inside import Process, lease_holder, seoul_redis
from playwright.sync_api import Browser, expect
from test_console import browser, logged_in
from test_runtimes import program
from ways import (
    DEPLOYMENTS,
    floor,
    from_zero_and_back,
    gone,
    handled,
    kube,
    old_way,
)

from koren_events import Publisher
from koren_faas.function import Function
from koren_faas.kube import Kube
from koren_faas.manifests import NAMESPACE, for_function

sys.path.insert(0, str(Path(__file__).parents[2] / "apps" / "gateway" / "benchmarks"))
from loading import Broker, bare_subscriber, fsyncs, packets, publishing

__all__ = ["browser", "floor", "kube", "old_way", "program"]  # fixtures

RUNS = int(os.environ.get("KOREN_BENCH_RUNS", "30"))
EVENTS = int(os.environ.get("KOREN_BENCH_EVENTS", "20000"))
WARM = 5 * RUNS
WITH_IMAGE = EVENTS // 20
PUBLISHERS = 2
OTHERS = 20
EVENT_BYTES = 1024
IMAGE_BYTES = 80 * 1024
STUCK_S = 20
PHASES = ("received", "durable", "activated", "pod_started", "handler_entered")
# What a region's node has only to be watched.
WATCHERS = (
    "koren-cluster-view.service",
    "koren-log-shipper.service",
    "prometheus-mqtt-exporter.service",
    "prometheus-node-exporter.service",
    "vmagent.service",
)
# The same handler for each runtime that installs one: it does nothing.
HANDLERS = {
    "python3.11": ("handler.py", "def handler(event, context): ...\n"),
    "python3.13": ("handler.py", "def handler(event, context): ...\n"),
    "nodejs22": ("handler.js", "module.exports.handler = async () => null;\n"),
}
LIST_UNITS = ("systemctl", "list-unit-files", "--plain", "--no-legend")
SINK, OTHER = "bench-sink", "bench-other-{}"
TOPIC = "events/seoul/bench/{}"
# At Seoul's broker, but no event of Seoul's: neither gateway nor bridge takes it.
BARE_TOPIC = "events/none/bench/bare"


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    """Collects, and writes it in the end."""
    found = Figures()
    yield found
    found.write()


def test_from_zero_and_back(
    figures: Figures,
    kube: Kube,
    probe: str,
    publisher: Publisher,
    floor: Callable[[], float],
    old_way: Callable[[], float],
) -> None:
    cold: list[dict[str, float]] = []
    floors, olds, backs = [], [], []
    for _ in range(RUNS):
        phases, back_s = from_zero_and_back(kube, publisher, probe)
        cold.append(phases)
        backs.append(back_s)
        floors.append(floor() * 1000)
        olds.append(old_way() * 1000)
    for phase in PHASES:
        values = [run[phase] for run in cold if phase in run]
        found = percentiles(values, 50, 95, 99)
        figures.row(f"from zero to {phase}, p50 / p95 / p99 of {len(values)}", f"{found} ms")
    entered = [run["handler_entered"] for run in cold]
    figures.line |= {f"cold_p{percent}_ms": round(percentile(entered, percent)) for percent in (50, 95, 99)}
    figures.line["floor_p50_ms"] = round(statistics.median(floors))
    figures.line["old_way_p50_ms"] = round(statistics.median(olds))
    figures.line["zero_after_s"] = round(max(backs), 1)
    figures.row("floor: a static process by a direct scale, p50", f"{statistics.median(floors):.0f} ms")
    figures.row("old way: a Deployment made on the message, p50", f"{statistics.median(olds):.0f} ms")
    found = f"{statistics.median(backs):.1f} / {max(backs):.1f}"
    figures.row("last event of an incident to zero pods, p50 / worst", f"{found} s")


@pytest.fixture
def runtimes(program: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A function of each runtime, by the kind of its events; the image is a JavaScript program."""
    made = {runtime: f"bench-{runtime.replace('.', '-')}" for runtime in HANDLERS}
    try:
        for runtime, name in made.items():
            file, code = HANDLERS[runtime]
            (tmp_path / name).mkdir()
            (tmp_path / name / file).write_text(code)
            faas(
                *("function", "deploy", name, "--region", "seoul", "--runtime", runtime),
                *("--from-file", str(tmp_path / name), "--handler", "handler.handler"),
                *("--topic", f"events/{{region}}/+/{name}"),
            )
        yield made | {"image": program}
    finally:
        for name in made.values():
            faas("function", "delete", name)


def test_from_zero_by_runtime(figures: Figures, kube: Kube, publisher: Publisher, runtimes: dict[str, str]) -> None:
    entered: dict[str, list[float]] = {runtime: [] for runtime in runtimes}
    for _ in range(RUNS // 2):
        for runtime, name in runtimes.items():
            gone(kube, f"faas.koren.kr/function={name}")
            kind = name.removeprefix("e2e-")
            event = drill("seoul", type=f"kr.koren.test.{kind}.asked", do="answer", value=None)
            entered[runtime].append(handled(publisher, event)["handler_entered"])
    for runtime, times in entered.items():
        figures.line[f"cold_{runtime}_p50_ms"] = round(statistics.median(times))
        figures.row(
            f"from zero to handler entered with {runtime}, p50 / p95 of {len(times)}",
            f"{percentiles(times, 50, 95)} ms",
        )


def test_a_pods_start_is_on_the_page(
    figures: Figures, kube: Kube, probe: str, publisher: Publisher, browser: Browser, site: dict[str, Any]
) -> None:
    page = logged_in(browser, site, "viewer")
    page.goto(f"{site['console']}/functions")
    cell = f"#f-seoul-{probe} .pods b"
    after = []
    for _ in range(max(3, RUNS // 3)):
        gone(kube, f"faas.koren.kr/function={probe}")
        expect(page.locator(cell)).to_have_text("0", timeout=60_000)
        # When a pod is there first, by this machine's clock, which is that of the hosts.
        page.evaluate(
            """cell => { window.seen = 0; const look = () => {
                 if (!window.seen && document.querySelector(cell)?.textContent !== "0") window.seen = Date.now(); };
               window.watching?.disconnect();
               window.watching = new MutationObserver(look);
               window.watching.observe(document.body, {childList: true, subtree: true, characterData: true}); }""",
            cell,
        )
        opened = drill("seoul")
        phases = handled(publisher, opened)
        page.wait_for_function("() => window.seen > 0", timeout=60_000)
        started_ms = opened.time.timestamp() * 1000 + phases["pod_started"]
        after.append(page.evaluate("() => window.seen") - started_ms)
        handled(publisher, drill("seoul", closes=opened))
    page.context.close()
    figures.line |= {f"page_after_start_p{percent}_ms": round(percentile(after, percent)) for percent in (50, 100)}
    figures.row(
        f"a pod's start to the console's page, p50 / worst of {len(after)}", f"{percentiles(after, 50, 100)} ms"
    )


@pytest.fixture
def unwatched(site: dict[str, Any]) -> Iterator[Callable[[bool], None]]:
    """Whether what watches Seoul's hosts and collects their logs is ended for now; it runs in the end."""
    watchers = {
        node: [line.split()[0] for line in on_host(node, *LIST_UNITS, *WATCHERS).splitlines() if line]
        for node in site["regions"]["seoul"]["nodes"]
    }

    def end(ended: bool) -> None:
        for node, units in watchers.items():
            on_host(node, "systemctl", "stop" if ended else "start", *units)

    yield end
    end(False)


def test_watching_costs_an_event_next_to_nothing(
    figures: Figures, kube: Kube, probe: str, publisher: Publisher, unwatched: Callable[[bool], None]
) -> None:
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(RUNS // 2):
        for ended, found in times.items():
            unwatched(ended)
            phases, _ = from_zero_and_back(kube, publisher, probe)
            found.append(phases["handler_entered"])
    watched, bare = (statistics.median(found) for found in times.values())
    figures.line |= {"watched_p50_ms": round(watched), "unwatched_p50_ms": round(bare)}
    figures.row(
        "from zero with what watches the region and without it, by turns, p50", f"{watched:.0f} / {bare:.0f} ms"
    )


def test_warm(figures: Figures, probe: str, publisher: Publisher) -> None:
    opened = drill("seoul")
    handled(publisher, opened)
    times = [handled(publisher, drill("seoul", type=DONE))["handler_entered"] for _ in range(WARM)]
    handled(publisher, drill("seoul", closes=opened))
    figures.line |= {f"warm_p{percent}_ms": round(percentile(times, percent), 1) for percent in (50, 99)}
    found = percentiles(times, 50, 99, digits=1)
    figures.row(f"warm: published to handler entered, p50 / p99 of {WARM}", f"{found} ms")


@pytest.fixture(scope="module")
def store(site: dict[str, Any]) -> Iterator[Any]:
    """Seoul's Redis, as the gateway's user."""
    client = seoul_redis(site)
    yield client
    client.close()


@pytest.fixture(scope="module")
def clients(site: dict[str, Any], identities: Identities) -> Iterator[list[Broker]]:
    """Seoul's broker, for a subscriber and for the publishers."""
    taken = [identities.take() for _ in range(1 + PUBLISHERS)]
    host, ca = site["regions"]["seoul"]["broker"], SITE_DIR / "pki" / "ca.crt"
    yield [Broker(host=host, port=8883, ca=ca, certificate=one.cert, key=one.key) for one in taken]
    for one in taken:
        identities.give_back(one)


def test_machine(figures: Figures, store: Any, clients: list[Broker]) -> None:
    subscriber, *publishers = clients
    bare = bare_subscriber(publishers, subscriber, BARE_TOPIC, messages(EVENTS, EVENT_BYTES))
    figures.line["bare_subscriber_per_s"] = round(bare)
    figures.row("a bare paho subscriber at the same broker, 1 KiB", f"{bare:.0f} a second")
    durable = fsyncs(store, EVENT_BYTES)
    figures.line["redis_fsync_per_s"] = round(durable)
    figures.row("Redis alone, 1 KiB on disk before the next", f"{durable:.0f} a second")


@dataclass
class Load:
    """What came of a load."""

    took_s: float
    keys: list[bytes]
    memory: list[tuple[int, float]] = field(default_factory=list)
    """Events on disk, and MiB that the gateway's process held then."""

    def spread_mib(self) -> float:
        """How much the memory varies over the last three quarters."""
        last = self.memory[-1][0]
        later = [held for count, held in self.memory if count >= last / 4]
        return max(later) - min(later)

    def quarters(self) -> str:
        """The memory at the beginning and after each quarter."""
        last = self.memory[-1][0]
        shown = [next(held for count, held in self.memory if count >= last * part / 4) for part in range(5)]
        return " → ".join(f"{held:.0f}" for held in shown)


class Sink:
    """A function without pods: what comes for it stays in Redis, to be counted."""

    def __init__(self, name: str, kube: Kube, store: Any, publishers: list[Broker]) -> None:
        self._name = name
        self._topic = TOPIC.format(name)
        self._kube = kube
        self._store = store
        self._publishers = publishers

    def register(self) -> None:
        """Makes the function's Deployment."""
        function = Function(name=self._name, handler="none.none", topic=f"events/seoul/+/{self._name}")
        (made,) = [one for one in for_function(function, "none", ()) if one["kind"] == "Deployment"]
        made["spec"]["replicas"] = 0
        self._kube.request("POST", DEPLOYMENTS, body=made)

    def wait_registered(self) -> None:
        """Waits until the gateway queues events for it; it knows then what was registered before, too."""
        deadline = time.monotonic() + 30
        while not self._count(self._queues()):
            assert time.monotonic() < deadline, f"the gateway does not know {self._name}"
            with publishing(self._publishers[:1], packets(self._topic, messages(1, EVENT_BYTES))) as begin:
                begin()
        self.empty()

    def remove(self) -> None:
        """Removes the Deployment, if it is there, and what is left in Redis."""
        self._kube.delete({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": self._named()})
        self.empty()

    def load(self, sent: list[bytes]) -> Load:
        """Publishes all as fast as it goes, and takes it out again."""
        gateway = Process(lease_holder(self._kube))
        memory = [(0, gateway.memory_mib())]
        with publishing(self._publishers, packets(self._topic, sent)) as begin:
            began = begin()
            queues: set[bytes] = set()
            counted, moved = 0, began
            while counted < len(sent) and time.monotonic() - moved < STUCK_S:
                time.sleep(0.1)
                if len(queues) < min(100, len(sent)):
                    queues |= set(self._queues())
                now = self._count(queues)
                if now != counted:
                    counted, moved = now, time.monotonic()
                    memory.append((counted, gateway.memory_mib()))
        return Load(moved - began, self.empty(), memory)

    def empty(self) -> list[bytes]:
        """Takes all out, from the accounts too; the keys of what was there."""
        keys = [key for queue in self._queues() for key in self._store.lrange(queue, 0, -1)]
        names = [f"koren:event:{key.decode()}" for key in keys]
        names += [name.decode() for name in self._store.scan_iter(f"koren:fn:{self._name}:*", count=5000)]
        for start in range(0, len(names), 1000):
            self._store.unlink(*names[start : start + 1000])
        for start in range(0, len(keys), 1000):
            self._store.zrem("koren:seen", *(bytes.fromhex(key.decode()) for key in keys[start : start + 1000]))
        if held := int(self._store.hget("koren:bytes", f"queue:{self._name}") or 0):
            self._store.hincrby("koren:bytes", "queue", -held)
            self._store.hdel("koren:bytes", f"queue:{self._name}")
        self._store.srem("koren:functions", self._name)
        return keys

    def _named(self) -> dict[str, str]:
        return {"name": self._name, "namespace": NAMESPACE}

    def _queues(self) -> list[bytes]:
        return list(self._store.scan_iter(f"koren:fn:{self._name}:queue:*", count=1000))

    def _count(self, queues: Any) -> int:
        pipe = self._store.pipeline(transaction=False)
        for queue in queues:
            pipe.llen(queue)
        return sum(pipe.execute())


@pytest.fixture(scope="module")
def sink(kube: Kube, store: Any, clients: list[Broker]) -> Iterator[Sink]:
    """Registered at the gateway meanwhile."""
    made = Sink(SINK, kube, store, clients[1:])
    try:
        made.register()
        made.wait_registered()
        yield made
    finally:
        made.remove()


@pytest.fixture
def twenty(kube: Kube, store: Any, clients: list[Broker]) -> Iterator[None]:
    """So many functions more, none of which wants what comes."""
    made = [Sink(OTHER.format(number), kube, store, clients[1:]) for number in range(OTHERS)]
    try:
        for one in made:
            one.register()
        made[-1].wait_registered()
        yield
    finally:
        for one in made:
            one.remove()


def messages(count: int, size: int) -> list[bytes]:
    """So many events of a hundred incidents, each of about so many bytes."""
    made = []
    for number in range(count):
        event = drill("seoul", type="kr.koren.test.sink.done").to_dict() | {"subject": f"sink-{number % 100}"}
        event["data"] = {"filler": "x" * max(0, size - len(json.dumps(event)) - 14)}
        made.append(json.dumps(event).encode())
    return made


def test_sustained(figures: Figures, sink: Sink) -> None:
    load = sink.load(messages(EVENTS, EVENT_BYTES))
    figures.line |= {
        "events_per_s": round(EVENTS / load.took_s),
        "lost": EVENTS - len(set(load.keys)),
        "duplicates": len(load.keys) - len(set(load.keys)),
        "rss_spread_mib": round(load.spread_mib(), 1),
    }
    figures.row(f"{EVENTS} events of 1 KiB, published to on disk", f"{EVENTS / load.took_s:.0f} a second")
    figures.row("the gateway's memory meanwhile", f"{load.quarters()} MiB")
    load = sink.load(messages(WITH_IMAGE, IMAGE_BYTES))
    assert len(set(load.keys)) == WITH_IMAGE
    figures.row("an event with a picture of 60 KB (80 KiB of JSON)", f"{load.took_s / WITH_IMAGE * 1000:.1f} ms")


@pytest.mark.usefixtures("twenty")
def test_sustained_with_twenty_functions_more(figures: Figures, sink: Sink) -> None:
    load = sink.load(messages(EVENTS, EVENT_BYTES))
    assert len(load.keys) == len(set(load.keys)) == EVENTS
    figures.line["events_per_s_20_functions"] = round(EVENTS / load.took_s)
    figures.line["rss_spread_20_functions_mib"] = round(load.spread_mib(), 1)
    figures.row(f"the same with {OTHERS} functions more", f"{EVENTS / load.took_s:.0f} a second")
    figures.row("the gateway's memory meanwhile", f"{load.quarters()} MiB")


def test_show(figures: Figures, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.rows
    with capsys.disabled():
        print(figures.table())
