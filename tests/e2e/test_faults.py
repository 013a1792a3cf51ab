"""Whatever dies or is cut on the way: every event is handled, and handled twice only where a kill took its lease."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import DONE, Cluster, Heard, Publish, cut_off, drill, faas, letters, on_host, until

from koren_events import Event, Publisher, ReceiptState

EVENTS = int(os.environ.get("KOREN_E2E_EVENTS", "2000"))
CUT_S = int(os.environ.get("KOREN_E2E_CUT_S", "60"))
BETWEEN_S = 5
CAMERAS = 4
INCIDENTS = 5  # a camera
WORK_S = 0.05
LOST = ("LeaseExpired", "PodLost", "Abandoned", "WorkerEnded")


class Traffic:
    """A context that has cameras publish events, evenly over a time, and what is left at its end."""

    def __init__(self, publishers: list[Publisher], over_s: float) -> None:
        self.events: list[Event] = []
        self._publishers = publishers
        self._pause_s = over_s / EVENTS
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: Exception | None = None

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._hurry.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        run = time.strftime("%H%M%S")
        try:
            for number in range(EVENTS):
                camera, place = number % CAMERAS, number // CAMERAS
                event = Event(
                    id=f"fault-{run}-{number}",
                    source=f"e2e-camera-{camera}",
                    type=DONE,
                    subject=f"fault-{run}-{camera}-{place % INCIDENTS}",
                    time=datetime.now(UTC),
                    region="seoul",
                    sequence=place // INCIDENTS + 1,
                    data={"do": "note", "work_s": WORK_S},
                )
                self._publishers[camera].publish(event)
                self.events.append(event)
                self._hurry.wait(self._pause_s)
        except Exception as error:
            self._failure = error


def gateway_of(cluster: Cluster) -> str:
    """The gateway's pod that takes events in."""
    lease = json.loads(cluster.run("get", "lease", "gateway-intake", "-n", "koren-faas", "-o", "json"))
    holder: str = lease["spec"]["holderIdentity"]
    return holder


def kill_gateway(cluster: Cluster) -> None:
    cluster.signal("KILL", "koren-faas", gateway_of(cluster))


def kill_service(host: str, service: str) -> None:
    on_host(host, "systemctl", "kill", "--kill-who=all", "--signal=KILL", service)


def entries(function: str, ids: list[str]) -> dict[str, list[list[Any]]]:
    """Pod and time of each entry of the handler, by event."""
    found: dict[str, list[list[Any]]] = {}
    for start in range(0, len(ids), 500):
        asked = json.dumps({"do": "entries", "ids": ids[start : start + 500]})
        found |= json.loads(faas("function", "call", function, "--region", "seoul", "--data", asked))
    return found


@pytest.fixture(autouse=True)
def services_run() -> Iterator[None]:
    """What was killed is there again, whatever came of the test."""
    yield
    for host, *services in (("seoul-cp", "mosquitto", "redis-server"), ("central-cp", "mosquitto")):
        on_host(host, "systemctl", "start", *services)


def test_every_event_is_handled_through_every_fault(
    site: dict[str, Any], cluster: Callable[[str], Cluster], probe: str, publish_at: Publish
) -> None:
    seoul = cluster("seoul")
    heard = Heard()
    publishers = [publish_at(site["central_broker"], heard.append if n == 0 else None) for n in range(CAMERAS)]
    killed: list[str] = []

    def kill_function() -> None:
        pod = until("a pod of the function", lambda: seoul.pods(probe), 60)[0]
        killed.append(pod)
        seoul.signal("KILL", "functions", pod)

    def cut() -> None:
        with cut_off("seoul"):
            time.sleep(CUT_S)

    faults = [
        lambda: kill_gateway(seoul),
        kill_function,
        lambda: kill_service("seoul-cp", "mosquitto"),
        lambda: kill_service("central-cp", "mosquitto"),
        lambda: kill_service("seoul-cp", "redis-server"),
        cut,
    ]
    with Traffic(publishers, over_s=CUT_S + BETWEEN_S * (len(faults) + 1)) as traffic:
        for fault in faults:
            time.sleep(BETWEEN_S)
            fault()
        time.sleep(BETWEEN_S)

    for publisher in publishers:
        assert publisher.flush(240), f"{publisher.spooled} events have no receipt"
    # It goes only when nothing is left to do, in hand or due.
    until("all is handled", lambda: not seoul.pods(probe), 300)
    assert letters("seoul", probe) == []
    entered = entries(probe, [event.id for event in traffic.events])
    assert [id for id, noted in entered.items() if not noted] == [], "never handled"

    again = {id: noted for id, noted in entered.items() if len(noted) > 1}
    lost = {r.id for r in list(heard) if r.state is ReceiptState.FAILED and str(r.error).startswith(LOST)}
    print(f"{len(entered)} events, {len(again)} entered more than once, {len(lost)} lost leases heard of")
    excused = {id for id, noted in again.items() if id in lost or {pod for pod, _ in noted[:-1]} <= set(killed)}
    assert set(again) == excused, "a repeat without a lost lease"
    of_pods = Counter(pod for id, noted in again.items() if id not in lost for pod, _ in noted[:-1])
    assert all(count <= killed.count(pod) for pod, count in of_pods.items()), "a pod has one event in hand"


def test_the_late_answer_of_a_lost_lease_is_refused(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster("seoul")
    until("no pod that is about to go", lambda: not seoul.pods(probe), 60)
    event = drill("seoul", type=DONE, do="note", work_s=3)
    publisher.publish(event)
    until("the handler is entered", lambda: heard.of(event, ReceiptState.STARTED), 60)
    (pod,) = seoul.pods(probe)
    # What keeps the lease stands still while the handler goes on and answers it.
    seoul.signal("STOP", "functions", pod, first_only=True)
    try:
        until("the lease is lost", lambda: heard.of(event, ReceiptState.FAILED), 30)
    finally:
        seoul.signal("CONT", "functions", pod, first_only=True)
    until("the next attempt succeeds", lambda: heard.of(event, ReceiptState.SUCCEEDED), 60)
    assert "the lease was lost, the response is dropped" in seoul.run("logs", pod, "-n", "functions")
    assert [r.attempt for r in heard.of(event, ReceiptState.SUCCEEDED)] == [2]
    assert "LeaseExpired" in str(heard.of(event, ReceiptState.FAILED)[0].error)
    assert len(entries(probe, [event.id])[event.id]) == 2


def test_an_edge_that_is_cut_off_works_and_tells_later(
    site: dict[str, Any], probe: str, publish_at: Publish, publisher: Publisher, heard: Heard
) -> None:
    there = drill("seoul", type=DONE)
    publisher.publish(there)
    publisher.wait(there, 60)
    at_edge = publish_at(site["regions"]["seoul"]["broker"])
    event = drill("seoul", type=DONE)
    with cut_off("seoul"):
        at_edge.publish(event)
        last = list(at_edge.receipts(event, timeout_s=90))[-1]
        assert last.state is ReceiptState.SUCCEEDED
        time.sleep(3)
        assert heard.of(event) == [], "the link was not cut"
    until("the receipt is at the centre", lambda: heard.of(event, ReceiptState.SUCCEEDED), 90)
