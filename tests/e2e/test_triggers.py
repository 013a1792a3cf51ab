"""Triggers beside a function's own: the clock, further topics, delays, pauses; and a function's limits and priority."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
from conftest import DONE, Cluster, Heard, cut_off, drill, faas, until

from koren_events import Event, Publisher, Receipt, ReceiptState

FUNCTION, TICK = "e2e-triggers", "e2e-tick"
PAYLOAD = {"said": "by the clock"}
REGION = ("--region", "seoul")
MINUTE_S = 60


@pytest.fixture(scope="module")
def function() -> Iterator[str]:
    """A function of Seoul without a topic, which gives back the event's source and data."""
    faas(
        *("function", "deploy", FUNCTION, *REGION, "--runtime", "python3.11", "--handler", "handler.handler"),
        *("--from-file", str(Path(__file__).parent / "plain" / "handler.py"), "--max-scale", "4"),
    )
    yield FUNCTION
    # With all triggers that a test has left.
    faas("function", "delete", FUNCTION)


@pytest.fixture
def listening(publisher: Publisher, heard: Heard) -> Heard:
    """What is heard at the centre, where receipts arrive from now on."""
    first = drill("seoul", type=DONE)
    publisher.publish(first)
    publisher.wait(first, 60)
    # The certificate's session has kept receipts since its last client left.
    heard.clear()
    return heard


def of_clock(heard: Heard, state: ReceiptState = ReceiptState.SUCCEEDED) -> list[Receipt]:
    """Receipts of the trigger's events, by the moments that their ids name."""
    its = (f"cron/seoul/{TICK}", state)
    return sorted((one for one in list(heard) if (one.source, one.state) == its), key=lambda one: one.id)


def moments(receipts: list[Receipt]) -> list[datetime]:
    """Which moments the receipts are of."""
    return [datetime.fromisoformat(one.id.removeprefix(f"{TICK}-")) for one in receipts]


def listed(kind: str) -> dict[str, dict[str, Any]]:
    """Seoul's triggers of a kind, by name."""
    return {one["name"]: one for one in json.loads(faas("trigger", kind, "list", *REGION, "-o", "json"))}


@pytest.fixture
def tick(function: str) -> Iterator[str]:
    """A trigger that starts the function every minute."""
    create = ("trigger", "cronjob", "create", TICK, "--function", function, *REGION)
    faas(*create, "--schedule", "* * * * *", "--timezone", "Asia/Seoul", "--payload", json.dumps(PAYLOAD))
    yield TICK
    faas("trigger", "cronjob", "delete", TICK, *REGION)


def test_the_clock_starts_a_function_from_zero(
    tick: str, function: str, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    seoul = cluster("seoul")
    one = listed("cronjob")[tick]
    assert (one["status"], one["schedule"], one["function"]) == ("ACTIVE", "* * * * *", function)
    until("it has run", lambda: of_clock(listening), 3 * MINUTE_S)
    until("nothing runs before the next run", lambda: not seoul.pods(function), MINUTE_S)
    assert of_clock(listening)[0].result == [f"cron/seoul/{tick}", repr(PAYLOAD)]
    assert all(moment.second == 0 for moment in moments(of_clock(listening)))


@pytest.mark.long
def test_it_starts_once_a_minute_while_the_region_is_cut_off(
    tick: str, function: str, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    seoul = cluster("seoul")
    until("it has run", lambda: of_clock(listening), 3 * MINUTE_S)
    until("nothing runs before the next run", lambda: not seoul.pods(function), MINUTE_S)
    with cut_off("seoul"):
        before = len(of_clock(listening))
        for run in ("first", "second"):
            until(f"the {run} run of the cut", lambda: seoul.pods(function), 2 * MINUTE_S)
            until(f"nothing runs after the {run}", lambda: not seoul.pods(function), MINUTE_S)
        assert len(of_clock(listening)) == before, "the centre was told during the cut"
    until("the centre is told", lambda: len(of_clock(listening)) >= before + 2, 3 * MINUTE_S)

    def without_gap() -> bool:
        """Receipts that waited for the link may come after those of later runs."""
        ran = sorted(set(moments(of_clock(listening))))
        return all(later - earlier == timedelta(minutes=1) for earlier, later in pairwise(ran))

    until("each minute has a run", without_gap, MINUTE_S)
    times = Counter(one.id for one in of_clock(listening, ReceiptState.STARTED))
    assert set(times.values()) == {1}, times


@pytest.mark.long
def test_runs_go_on_when_the_gateway_that_makes_them_is_killed(
    tick: str, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    seoul = cluster("seoul")
    until("it has run", lambda: of_clock(listening), 3 * MINUTE_S)
    lease = json.loads(seoul.run("get", "lease", "gateway-intake", "-n", "koren-faas", "-o", "json"))
    seoul.signal("KILL", "koren-faas", lease["spec"]["holderIdentity"])
    killed = datetime.now(UTC)
    until("it runs again", lambda: max(moments(of_clock(listening))) > killed, 4 * MINUTE_S)
    ran = sorted(moments(of_clock(listening)))
    assert len(ran) == len(set(ran))
    assert all(later - earlier == timedelta(minutes=1) for earlier, later in pairwise(ran)), ran


@pytest.fixture
def topics(function: str) -> Iterator[tuple[str, str]]:
    """Two triggers of the function, whose topics both have the drills."""
    names = ("e2e-drills", "e2e-all")
    for name, filter in zip(names, ("events/{region}/+/drill", "events/{region}/e2e/#"), strict=True):
        select = ("--function-selector", f"function={function}")
        faas("trigger", "mqtt", "create", name, "--trigger-topic", filter, *select, *REGION)
    yield names
    for name in names:
        faas("trigger", "mqtt", "delete", name, *REGION)


def succeeded(heard: Heard, event: Event) -> list[Receipt]:
    """The function's own receipts: the probe may have the same events."""
    return [one for one in heard.of(event, ReceiptState.SUCCEEDED) if one.function == FUNCTION]


def of_one_subject(count: int) -> list[Event]:
    """Events of Seoul that are handled in order."""
    first = drill("seoul", type=DONE)
    return [
        Event(
            id=f"{first.id}-{number}",
            source=first.source,
            type=DONE,
            subject=first.subject,
            time=datetime.now(UTC),
            region="seoul",
            sequence=number,
            data={},
        )
        for number in range(1, count + 1)
    ]


def test_an_event_of_two_triggers_is_handled_once(
    topics: tuple[str, str], publisher: Publisher, listening: Heard
) -> None:
    assert topics[0] in listed("mqtt") and topics[1] in listed("mqtt")
    events = [drill("seoul", type=DONE) for _ in range(3)]
    for event in events:
        publisher.publish(event)
    for event in events:
        until("it is handled", lambda event=event: succeeded(listening, event), 120)
    # What would be a second time has had its turn when a later event is done.
    last = drill("seoul", type=DONE)
    publisher.publish(last)
    until("the last is handled", lambda: succeeded(listening, last), 120)
    assert [len(succeeded(listening, event)) for event in events] == [1, 1, 1]


def test_a_paused_trigger_starts_nothing_and_loses_nothing(
    topics: tuple[str, str], publisher: Publisher, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    seoul = cluster("seoul")
    for name in topics:
        faas("trigger", "pause", name, *REGION)
    assert {listed("mqtt")[name]["status"] for name in topics} == {"PAUSED"}
    until("nothing runs", lambda: not seoul.pods(FUNCTION), 120)
    events = of_one_subject(5)
    for event in events:
        publisher.publish(event)
        assert publisher.wait(event, 60).state is ReceiptState.RECEIVED
    # A call starts the function, and nothing that waits.
    assert faas("function", "call", FUNCTION, *REGION, "--data", '"now"')
    until("nothing runs again", lambda: not seoul.pods(FUNCTION), 120)
    assert not any(succeeded(listening, event) for event in events)
    for name in topics:
        faas("trigger", "resume", name, *REGION)
    until("all are handled", lambda: all(succeeded(listening, event) for event in events), 120)
    ended = [one.time for event in events for one in succeeded(listening, event)]
    assert len(ended) == len(events) and ended == sorted(ended), "in order, each once"


def handled() -> list[str] | None:
    """Ids of what Seoul keeps of the function's history; none while it keeps no history."""
    with suppress(CalledProcessError):
        return faas("function", "history", FUNCTION, *REGION, "-o", "name").split()
    return None


@pytest.mark.long
def test_what_was_handled_is_replayed_in_order_and_kept_once(
    topics: tuple[str, str], publisher: Publisher, listening: Heard
) -> None:
    faas("function", "update", FUNCTION, *REGION, "--history", "1h")
    until("the region keeps a history", lambda: handled() is not None, 60)
    first = drill("seoul", type=DONE)
    events = [first, *(replace(first, id=f"{first.id}-{number}", sequence=number) for number in (2, 3))]
    for event in events:
        publisher.publish(event)
    until("all are handled", lambda: all(succeeded(listening, event) for event in events), 120)
    ids = [event.id for event in events]
    assert handled() == ids

    replay = ("function", "replay", FUNCTION, *REGION, "--since", "10m", "--subject", str(first.subject))
    faas(*replay, "--dry-run")
    faas(*replay, "--request-id", first.id)
    until("all are handled again", lambda: all(len(succeeded(listening, event)) > 1 for event in events), 120)
    faas(*replay, "--request-id", first.id)
    last = drill("seoul", type=DONE)
    publisher.publish(last)
    until("the last is handled", lambda: succeeded(listening, last), 120)
    again = [succeeded(listening, event) for event in events]
    assert [len(its) for its in again] == [2, 2, 2], "the dry run and the repeat queued nothing"
    ended = [its[1].time for its in again]
    assert ended == sorted(ended)
    assert handled() == [*ids, last.id]

    faas("function", "update", FUNCTION, *REGION, "--history", "none")
    until("the region keeps none", lambda: handled() is None, 60)


@pytest.mark.long
def test_a_rate_holds_events_back_and_the_function_goes_to_zero_between(
    topics: tuple[str, str], publisher: Publisher, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    seoul = cluster("seoul")
    faas("function", "update", FUNCTION, *REGION, "--rate", "2/m", "--max-in-flight", "1")
    try:
        events = [drill("seoul", type=DONE) for _ in range(5)]
        for event in events:
            publisher.publish(event)

        def handled() -> int:
            return sum(bool(succeeded(listening, event)) for event in events)

        until("two are handled", lambda: handled() >= 2, 3 * MINUTE_S)
        until("nothing runs while others wait", lambda: not seoul.pods(FUNCTION), MINUTE_S)
        assert handled() < len(events)
        until("all are handled", lambda: handled() == len(events), 4 * MINUTE_S)
    finally:
        faas("function", "update", FUNCTION, *REGION, "--rate", "none", "--max-in-flight", "0")
    entered = sorted(
        one.time for event in events for one in listening.of(event, ReceiptState.STARTED) if one.function == FUNCTION
    )
    # A pod that starts first enters its handler later than it was handed the event.
    apart = [later - earlier for earlier, later in zip(entered, entered[2:], strict=False)]
    assert min(apart) > timedelta(seconds=MINUTE_S - 10), entered
    described = json.loads(faas("function", "describe", FUNCTION, *REGION, "-o", "json"))
    assert [(one["rate"], one["max_in_flight"]) for one in described] == [("", 0)]


@pytest.mark.long
def test_an_event_waits_for_its_delay_while_nothing_runs_and_the_gateway_is_killed(
    function: str, publisher: Publisher, listening: Heard, cluster: Callable[[str], Cluster]
) -> None:
    seoul, delay_s = cluster("seoul"), 2 * MINUTE_S
    select = ("--function-selector", f"function={function}", *REGION)
    create = ("trigger", "mqtt", "create", "e2e-later", "--trigger-topic", "events/{region}/+/drill", *select)
    faas(*create, "--delay", "2m")
    try:
        described = json.loads(faas("function", "describe", function, *REGION, "-o", "json"))
        assert ("mqtt", "e2e-later") in [(one["kind"], one["name"]) for one in described[0]["triggers"]]
        until("nothing runs", lambda: not seoul.pods(function), 2 * MINUTE_S)
        events = of_one_subject(2)
        for event in events:
            publisher.publish(event)
            assert publisher.wait(event, 60).state is ReceiptState.RECEIVED
        received = datetime.now(UTC)
        lease = json.loads(seoul.run("get", "lease", "gateway-intake", "-n", "koren-faas", "-o", "json"))
        seoul.signal("KILL", "koren-faas", lease["spec"]["holderIdentity"])
        until("a pod starts", lambda: seoul.pods(function), delay_s + 2 * MINUTE_S)
        assert datetime.now(UTC) - received > timedelta(seconds=delay_s - 30), "a pod ran while the event only waited"
        until("all are handled", lambda: all(succeeded(listening, event) for event in events), 2 * MINUTE_S)
    finally:
        faas("trigger", "mqtt", "delete", "e2e-later", *REGION)
    entered = [
        one.time for event in events for one in listening.of(event, ReceiptState.STARTED) if one.function == function
    ]
    assert len(entered) == len(events) and entered == sorted(entered), "in order, each once"
    assert entered[0] - events[0].time >= timedelta(seconds=delay_s), entered


@pytest.mark.long
def test_a_function_of_a_higher_priority_takes_the_place_of_others_on_full_nodes(
    function: str, cluster: Callable[[str], Cluster]
) -> None:
    seoul, low = cluster("seoul"), "e2e-low"

    def priority_of(namespace: str, label: str) -> set[int]:
        return {pod["spec"]["priority"] for pod in seoul.items("pods", "-n", namespace, "-l", label)}

    def cores(quantity: str) -> float:
        return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)

    nodes = seoul.items("nodes")
    # Of two such pods a node has room for one at most.
    half = max(cores(node["status"]["allocatable"]["cpu"]) for node in nodes) / 2
    cpu = ("--cpu", f"{round(half * 1000) + 10}m")
    code = ("--runtime", "python3.11", "--handler", "handler.handler")
    source = ("--from-file", str(Path(__file__).parent / "plain" / "handler.py"))
    places = ("--min-scale", str(len(nodes)), "--max-scale", str(len(nodes)))
    faas("function", "deploy", low, *REGION, *code, *source, *cpu, *places, "--priority", "low")
    try:
        until(
            "the nodes are full",
            lambda: any(
                pod["status"]["phase"] == "Running"
                for pod in seoul.items("pods", "-n", "functions", "-l", f"faas.koren.kr/function={low}")
            ),
            2 * MINUTE_S,
        )
        faas("function", "update", function, *REGION, *cpu, "--priority", "high")
        assert faas("function", "call", function, *REGION, "--data", '"now"')
        [platform] = priority_of("koren-faas", "app.kubernetes.io/name=gateway")
        assert priority_of("functions", f"faas.koren.kr/function={low}") == {-1000}
        assert platform > 1000
        until(
            "one of the others waits for a node",
            lambda: any(
                pod["status"]["phase"] == "Pending"
                for pod in seoul.items("pods", "-n", "functions", "-l", f"faas.koren.kr/function={low}")
            ),
            MINUTE_S,
        )
    finally:
        faas("function", "delete", low)
        faas("function", "update", function, *REGION, "--cpu", "100m", "--priority", "normal")
    template = json.loads(seoul.run("get", "deployment", function, "-n", "functions", "-o", "json"))["spec"]["template"]
    assert "priorityClassName" not in template["spec"]
