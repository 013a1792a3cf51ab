"""Mixed traffic and faults for KOREN_SOAK_S seconds (3600): what was lost, doubled, and how memory went.

KOREN_SOAK_PER_S messages a second (5), a fault every KOREN_SOAK_FAULT_S seconds (45). The last line is JSON;
KOREN_BENCH_OUT names a file for it. Dead letters that it makes are deleted in the end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from conftest import SITE_DIR, Cluster, Heard, Identities, Publish, Record, cut_off, on_host, until
from figures import Figures
from inside import Process, gateway_pods, seoul_redis
from soak_traffic import HeldEvent, Line, Sent, Traffic
from test_faults import LOST, entries, gateway_of, kill_gateway, kill_service, services_run
from ways import kube

from koren_events import Event, EventsError, Publisher, ReceiptState, receipt_topic
from koren_faas.errors import FaasError, RegionError
from koren_faas.gateway import Gateway
from koren_faas.kube import Kube

__all__ = ["kube", "services_run"]  # fixtures

SOAK_S = float(os.environ.get("KOREN_SOAK_S", "3600"))
PER_S = float(os.environ.get("KOREN_SOAK_PER_S", "5"))
FAULT_S = float(os.environ.get("KOREN_SOAK_FAULT_S", "45"))
CUT_S = 15
CALL_S = 10
HOLD_S = 15
SAMPLE_S = 20
# A container that ended less than this before is started again later and later.
BACK_OFF_S = 660


@dataclass
class Memory:
    """MiB over the time."""

    gateway: list[float] = field(default_factory=list)
    """Of the larger of the gateway's processes."""
    redis: list[float] = field(default_factory=list)

    def sample(self, kube: Kube, store: Any) -> None:
        """Looks now; what a fault is just taking away is looked at another time."""
        with contextlib.suppress(FaasError, redis.RedisError, subprocess.SubprocessError, LookupError, ValueError):
            gateway = max(Process(pod).memory_mib() for pod in gateway_pods(kube))
            used = store.info("memory")["used_memory"] / 2**20
            self.gateway.append(gateway)
            self.redis.append(used)

    def line(self) -> dict[str, Any]:
        """First, last and largest."""
        return {
            f"{name}_mib": {"first": round(values[0], 1), "last": round(values[-1], 1), "max": round(max(values), 1)}
            for name, values in (("gateway", self.gateway), ("redis", self.redis))
        }


class Faults:
    """What is killed and cut, in turns."""

    def __init__(self, seoul: Cluster, probe: str) -> None:
        self.counts: Counter[str] = Counter()
        self.killed: list[str] = []
        """The function's pods that were killed."""
        self._seoul = seoul
        self._probe = probe
        self._api_server_s = -float(BACK_OFF_S)
        self._turn = itertools.cycle(
            (
                self._gateway,
                self._redis,
                self._function,
                self._broker,
                self._link,
                self._central_broker,
                self._redis_restart,
                self._api_server,
            )
        )

    def next(self) -> None:
        """Do the next one."""
        fault = next(self._turn)
        self._when_reachable()
        if fault() is not False:
            self.counts[fault.__name__.strip("_")] += 1

    def _when_reachable(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(subprocess.SubprocessError):
                return bool(self._seoul.run("get", "--raw", "/readyz"))
            return False

        until("the API server answers", answers, 300)

    def _gateway(self) -> None:
        pod = gateway_of(self._seoul)
        kill_gateway(self._seoul)
        # Another pod in its place: this one's container would come back later and later.
        self._seoul.run("delete", "pod", pod, "-n", "koren-faas", "--force", "--grace-period=0", "--wait=false")

    def _function(self) -> None:
        pod = until("a pod of the function", lambda: self._seoul.pods(self._probe), 120)[0]
        self.killed.append(pod)
        self._seoul.signal("KILL", "functions", pod)

    def _redis(self) -> None:
        kill_service("seoul-cp", "redis-server")

    def _redis_restart(self) -> None:
        on_host("seoul-cp", "systemctl", "restart", "redis-server")

    def _broker(self) -> None:
        kill_service("seoul-cp", "mosquitto")

    def _central_broker(self) -> None:
        kill_service("central-cp", "mosquitto")

    def _link(self) -> None:
        with cut_off("seoul"):
            time.sleep(CUT_S)

    def _api_server(self) -> bool:
        if time.monotonic() - self._api_server_s < BACK_OFF_S:
            return False
        self._api_server_s = time.monotonic()
        self._seoul.signal("KILL", "kube-system", "kube-apiserver-seoul-cp")
        return True


class Callers:
    """A context in which somebody calls the function now and then, and a person judges held events."""

    def __init__(self, probe: str, traffic: Traffic, publisher: Publisher, kube: Kube) -> None:
        self.calls: Counter[str] = Counter()
        self.unanswered: list[str] = []
        """Why held events could not be judged."""
        self._probe = probe
        self._traffic = traffic
        self._publisher = publisher
        self._kube = kube
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._call, self._judge)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        program = [str(Path(sys.executable).parent / "faas"), "--site-dir", str(SITE_DIR), "function", "call"]
        while not self._ended.wait(CALL_S):
            command = [*program, self._probe, "--region", "seoul", "--data", '{"do": "tell"}']
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=300)
                self.calls["answered"] += 1
            except subprocess.SubprocessError:
                self.calls["failed"] += 1

    def _judge(self) -> None:
        for number in itertools.count():
            if self._ended.wait(HOLD_S):
                return
            first = self._traffic.event(HeldEvent)
            pair = [first, replace(self._traffic.event(HeldEvent, first.subject), sequence=2, source=first.source)]
            sent = self._traffic.sent
            verb, noted = ("dismiss", sent.dismissed) if number % 2 else ("release", sent.released)
            try:
                for event in pair:
                    self._publisher.publish(event)
                for event in pair:
                    self._publisher.wait(event, 180)
                self._until_judged(first, verb)
            except (EventsError, FaasError) as error:
                self.unanswered.append(f"{first.id}: {error}")
            noted += pair

    def _until_judged(self, event: Event, verb: str) -> None:
        id = receipt_topic(event.region, event.source, event.id).rpartition("/")[2]
        for left in reversed(range(60)):
            try:
                Gateway(self._kube).request("POST", f"/held/{id}/{verb}")
                return
            except RegionError as error:
                # Judged already, by a request whose answer was lost.
                if error.status == 409:
                    return
                if not left:
                    raise
            time.sleep(2)


def letters_since(kube: Kube, before: set[str]) -> list[dict[str, Any]]:
    """The region's dead letters, without those that were there."""
    found: list[dict[str, Any]] = []
    gateway = Gateway(kube)  # a new one each time: its token does not live as long as the soak
    query = {"limit": "1000"}
    while True:
        page = json.loads(gateway.request("GET", "/dead-letters", query=query))
        found += [letter for letter in page["dead_letters"] if letter["id"] not in before]
        if not page["next"]:
            return found
        query["after"] = page["next"]


def doubled(entered: dict[str, list[list[Any]]], events: list[Event], heard: Heard, killed: list[str]) -> list[str]:
    """Events whose handler was entered again though no lease of theirs was lost."""
    lost = {r.id for r in list(heard) if r.state is ReceiptState.FAILED and str(r.error).startswith(LOST)}
    again = {event.id: entered[event.id] for event in events if len(entered[event.id]) > 1 and event.id not in lost}
    found = [id for id, noted in again.items() if not {pod for pod, _ in noted[:-1]} <= set(killed)]
    # A pod that is killed has one event in hand.
    excused = Counter(pod for id, noted in again.items() if id not in found for pod, _ in noted[:-1])
    return found + [pod for pod, count in excused.items() if count > killed.count(pod)]


def disordered(entered: dict[str, list[list[Any]]], events: list[Event]) -> list[str]:
    """Events that were first entered before one that was published earlier for their subject."""
    last: dict[str, int] = {}
    found = []
    for event in events:
        if noted := entered[event.id]:
            first = min(at for _, at in noted)
            if first < last.get(event.subject, 0):
                found.append(event.id)
            last[event.subject] = max(first, last.get(event.subject, 0))
    return found


def test_soak(
    site: dict[str, Any],
    cluster: Callable[[str], Cluster],
    kube: Kube,
    probe: str,
    publish_at: Publish,
    identities: Identities,
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    seoul = cluster("seoul")
    store = seoul_redis(site)
    line = Line(site["regions"]["seoul"]["broker"], identities.take())
    # Receipts from both sides: what one broker loses when it is killed, the other has.
    heard = Heard()
    at_edge = publish_at(site["regions"]["seoul"]["broker"], heard.append)
    publishers = [publish_at(site["central_broker"], heard.append), publish_at(site["central_broker"]), at_edge]
    before = {letter["id"] for letter in letters_since(kube, set())}
    faults, memory = Faults(seoul, probe), Memory()
    traffic = Traffic(publishers, line, PER_S, int(SOAK_S) + 7200)
    ends = time.monotonic() + SOAK_S
    with traffic, Callers(probe, traffic, at_edge, kube) as callers:
        while time.monotonic() < ends:
            next_fault = min(ends, time.monotonic() + FAULT_S)
            while time.monotonic() < next_fault:
                memory.sample(kube, store)
                time.sleep(max(0.0, min(SAMPLE_S, next_fault - time.monotonic())))
            if time.monotonic() < ends - FAULT_S:
                faults.next()

    for publisher in publishers:
        assert publisher.flush(300), f"{publisher.spooled} events have no receipt"
    # It goes only when nothing is left to do, in hand or due.
    until("all is handled", lambda: not seoul.pods(probe), 600)
    line.close()
    memory.sample(kube, store)

    sent = traffic.sent
    letters = letters_since(kube, before)
    everything = sent.spooled + sent.unspooled + sent.flaky + sent.poison + sent.released + sent.dismissed
    entered = entries(probe, [event.id for event in everything] + [id for id in sent.invalid if id])
    expected, unexpected = sorted_letters(letters, sent)
    lost = [event.id for event in sent.spooled + sent.flaky + sent.released if not entered[event.id]]
    lost += [event.id for event in sent.poison if event.id not in expected]
    twice = doubled(entered, sent.spooled + sent.unspooled + sent.released, heard, faults.killed)
    early = disordered(entered, sent.spooled)
    never = [event.id for event in sent.dismissed if entered[event.id]] + [id for id in sent.invalid if entered.get(id)]
    figures = Figures()
    figures.line = {
        "soak_s": round(SOAK_S),
        "faults": dict(faults.counts),
        "sent": len(everything) + len(sent.invalid),
        "handled": sum(bool(entered[event.id]) for event in everything),
        "lost": len(lost),
        "doubled": len(twice),
        "disordered": len(early),
        "handled_that_must_not": len(never),
        "entered_again_after_a_lost_lease": sum(
            len(entered[event.id]) > 1 for event in sent.spooled + sent.unspooled + sent.released
        )
        - len(twice),
        "unspooled": {
            "sent": len(sent.unspooled),
            "handled": sum(bool(entered[event.id]) for event in sent.unspooled),
        },
        "invalid": {"sent": len(sent.invalid), "dead": sum(letter["function"] is None for letter in letters)},
        "dead_letters_expected": len(letters) - len(unexpected),
        "dead_letters_unexpected": len(unexpected),
        "calls": dict(callers.calls),
        "held": {
            "released": len(sent.released),
            "dismissed": len(sent.dismissed),
            "not_judged": len(callers.unanswered),
        },
    } | memory.line()
    figures.write()
    for what in ("sent", "lost", "doubled", "disordered"):
        record_property(what, figures.line[what])
    with capsys.disabled():
        for what, found in (("lost", lost), ("doubled", twice), ("disordered", early), ("must not be", never)):
            print("".join(f"\n{what}: {one}" for one in found[:20]), end="")
        for letter in unexpected[:20]:
            print(f"\nunexpected dead letter of {letter['function']}: {letter['reason'][:300]}", end="")
        for problem in callers.unanswered[:20]:
            print(f"\nnot judged: {problem}", end="")
    gateway = Gateway(kube)
    for letter in letters:
        with contextlib.suppress(RegionError):
            gateway.request("DELETE", f"/dead-letters/{quote(letter['id'])}")
    store.close()
    assert not (lost or twice or early or never or unexpected or callers.unanswered), figures.line


def sorted_letters(letters: list[dict[str, Any]], sent: Sent) -> tuple[set[str], list[dict[str, Any]]]:
    """Ids of the events that had to become dead letters and did, and the dead letters that nobody expects."""
    poison = {event.id for event in sent.poison}
    found = {letter["event"]["id"] for letter in letters if letter["function"] and letter["event"]} & poison
    unexpected = [letter for letter in letters if letter["function"] and letter["event"]["id"] not in poison]
    ours = {event.id for event in sent.spooled + sent.unspooled + sent.flaky + sent.released + sent.dismissed}
    of_none = [letter for letter in letters if not letter["function"]]
    unexpected += [letter for letter in of_none if letter["event"] and letter["event"]["id"] in ours]
    # More than were sent: something else was judged to be none.
    return found, unexpected + of_none[len(sent.invalid) :]
