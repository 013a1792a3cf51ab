"""Triggers beside a function's own: further topics, the clock, pauses; and a function's limits."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import REGION, Lab, Pki, TestCluster, deployment, scaled, started, trigger, until, world
from hypothesis import given
from hypothesis import strategies as st
from test_queue import FN, done, end, entry, take

from koren_gateway.cluster.functions import Functions, Rate, function_of
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.schedules import Schedule
from koren_gateway.cluster.triggers import CronTrigger, Triggers, trigger_of
from koren_gateway.intake.cron import KEPT, Cron, Due, due, event_at
from koren_gateway.metrics import Metrics
from koren_gateway.queue.pauses import Pauses
from koren_gateway.queue.queue import Nothing, Queue
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

TOPIC = f"events/{REGION}/cctv-seoul-01/accident"
NIGHTLY = trigger("nightly", "report-incident", "cron", schedule="0 3 * * *", timezone="Asia/Seoul")

moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC), allow_imaginary=False)
zones = st.sampled_from(["UTC", "Asia/Seoul", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
expressions = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["*", "*/7", "0", "30", "0,30", "59"]),
    st.sampled_from(["*", "*/3", "1", "2", "0-4", "23"]),
    st.sampled_from(["*", "1", "28", "L"]),
    st.sampled_from(["*", "0", "MON-FRI"]),
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def known(*objects: Any, functions: Functions | None = None) -> Triggers:
    if functions is None:
        functions = Functions()
        functions.apply(Change("listed", [deployment("report-incident", topic="events/+/+/accident"), deployment("b")]))
    triggers = Triggers(functions)
    triggers.apply(Change("listed", list(objects)))
    return triggers


def cron(**more: str) -> CronTrigger:
    made = trigger_of(trigger("nightly", "report-incident", "cron", **{"schedule": "*/5 * * * *", **more}))
    assert isinstance(made, CronTrigger)
    return made


@given(expressions, zones, moments, st.floats(0, 48 * 3600))
def test_moments_do_not_depend_on_when_they_are_asked_for(
    expression: str, zone: str, start: datetime, later_s: float
) -> None:
    schedule = Schedule(expression, zone)
    first = list(islice(schedule.after(start), 20))
    assert first == sorted(set(first)) and first[0] > start
    middle = start + timedelta(seconds=later_s)
    if middle < first[-1]:
        assert next(schedule.after(middle)) == next(moment for moment in first if moment > middle)


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # 02:30 does not exist on this day, and exists twice on that.
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("*/30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T01:00"]),
        ("@hourly", "2026-10-24T23:30", ["2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T02:00"]),
    ],
)
def test_moments_when_the_clock_is_put_forward_and_back(expression: str, start: str, expected: list[str]) -> None:
    found = islice(Schedule(expression, "Europe/Berlin").after(at(start)), len(expected))
    assert list(found) == [at(moment) for moment in expected]


@pytest.mark.parametrize(
    ("its", "problem"),
    [
        ({"kind": "cron", "schedule": "* * * *"}, "minute, hour"),
        ({"kind": "cron", "schedule": "0 * * * * *"}, "minute, hour"),
        ({"kind": "cron", "schedule": "61 * * * *"}, "Bad minute"),
        ({"kind": "cron", "schedule": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"kind": "cron", "schedule": "* * * * *", "timezone": "../etc/passwd"}, "IANA"),
        ({"kind": "cron", "schedule": "* * * * *", "payload": "{"}, "payload: not JSON"),
        ({"kind": "cron", "schedule": "* * * * *", "payload": f'"{"x" * 300_000}"'}, "payload has 300002 bytes"),
        ({"kind": "cron", "schedule": "* * * * *", "starting_deadline_s": "0"}, "seconds from 1"),
        ({"topic": "plant/#"}, "filter of events"),
        ({"topic": "events/seoul/#/x"}, "filter of events"),
        ({"topic": "events/seoul/a+"}, "whole level"),
        ({"topic": "events/#", "function": "A"}, "name of the function"),
        ({"topic": "events/#", "delay_s": "604801"}, "delay-s is '604801'; give seconds, 604800"),
        ({"topic": "events/#", "delay_s": "-1"}, "delay-s is '-1'"),
        ({"topic": "events/#", "delay_s": "5m"}, "delay-s is '5m'"),
    ],
)
def test_a_trigger_that_is_wrong_says_what_it_should_be(its: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        trigger_of(trigger("t", its.pop("function", "report-incident"), **its))


def test_a_trigger_of_another_kind_is_left_to_others() -> None:
    triggers = known(trigger("t", "b", "http"))
    assert not triggers.all() and not triggers.refused()


def test_a_wrong_change_does_not_lose_the_trigger() -> None:
    triggers = known(trigger("t", "b", topic="events/#"))
    for kind in ("changed", "listed"):
        triggers.apply(Change(kind, [trigger("t", "b", topic="plant/#"), {"metadata": {"name": "odd"}}]))  # type: ignore[arg-type]
        assert [one.name for one in triggers.all()] == ["t"]
        assert {refused.name for refused in triggers.refused()} == {"t", ""}
    triggers.apply(Change("removed", [trigger("t", "b")]))
    assert not triggers.all()


def test_a_function_with_several_triggers_gets_an_event_once() -> None:
    triggers = known(
        trigger("speed", "report-incident", topic="events/+/+/speed"),
        trigger("again", "report-incident", topic="events/#"),
        trigger("b-1", "b", topic=TOPIC),
        trigger("nobody", "gone", topic="events/#"),
    )
    assert [(one.name, one.via) for one in triggers.wanting(TOPIC)] == [("b", "b-1"), ("report-incident", "again")]
    assert [one.via for one in triggers.wanting(f"events/{REGION}/x/speed")] == ["again"]
    # What is paused holds nothing back that another trigger brings.
    triggers.apply(Change("changed", [trigger("again", "report-incident", topic="events/#", paused="true")]))
    assert [one.via for one in triggers.wanting(TOPIC)] == ["b-1", "report-incident"]


def test_of_several_triggers_the_one_with_the_shortest_delay_brings_the_event() -> None:
    triggers = known(
        trigger("a", "b", topic="events/#", delay_s="60"),
        trigger("c", "b", topic="events/#", delay_s="30"),
        trigger("d", "b", topic="events/#", paused="true"),
    )
    assert [(one.via, one.via_delay_s) for one in triggers.wanting(TOPIC) if one.name == "b"] == [("c", 30)]
    own = Functions()
    own.apply(Change("listed", [deployment("b", topic="events/#", delay_s="5")]))
    triggers = known(trigger("a", "b", topic="events/#", delay_s="60"), functions=own)
    assert [(one.via, one.via_delay_s) for one in triggers.wanting(TOPIC)] == [("b", 5)]
    assert own.get("b").via_delay_s == 0, "a call does not wait"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"annotation faas\.koren\.kr/delay-s is '8d'"):
        function_of(deployment("a", delay_s="8d"))


def test_a_new_function_gets_the_events_of_its_triggers() -> None:
    functions = Functions()
    functions.apply(Change("listed", []))
    triggers = known(trigger("t", "b", topic="events/#"), functions=functions)
    assert not triggers.wanting(TOPIC)
    functions.apply(Change("changed", [deployment("b")]))
    assert [one.name for one in triggers.wanting(TOPIC)] == ["b"]


def test_limits_are_read_from_the_deployment() -> None:
    function = function_of(deployment("a", max_in_flight="3", rate="10/m"))
    assert (function.max_in_flight, function.rate) == (3, Rate(10, 60))
    assert (FN.max_in_flight, FN.rate) == (None, None)
    for wrong in ("10", "0/s", "1/h", "-1/s", "100000/s"):
        with pytest.raises(ValueError, match="give N/s or N/m"):
            function_of(deployment("a", rate=wrong))


# The clock


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        ("10:00:00", "10:04:59", Due(None, 0)),
        ("10:00:00", "10:05:00", Due(at("2026-01-01T10:05"), 0)),
        ("10:00:00", "10:31:00", Due(at("2026-01-01T10:30"), 1)),
        # Beyond the deadline there is nothing to make up for.
        ("01:00:00", "23:02:00", Due(at("2026-01-01T23:00"), 1)),
    ],
)
def test_only_the_latest_moment_is_made_up_for(last: str, now: str, expected: Due) -> None:
    trigger = cron(starting_deadline_s="600")
    assert due(trigger, at(f"2026-01-01T{last}"), at(f"2026-01-01T{now}")) == expected


def test_a_moment_past_its_deadline_is_left_out() -> None:
    trigger = cron(schedule="0 3 * * *", starting_deadline_s="600")
    assert due(trigger, at("2026-01-01T02:00"), at("2026-01-01T03:09")).run == at("2026-01-01T03:00")
    assert due(trigger, at("2026-01-01T02:00"), at("2026-01-01T03:11")).run is None


def test_an_event_of_the_clock_says_which_moment_it_is() -> None:
    _, message = event_at(cron(payload='{"keep": 30}'), at("2026-01-01T10:05"), REGION)
    assert json.loads(message) == {
        "specversion": "1.0",
        "id": "nightly-2026-01-01T10:05:00.000Z",
        "source": f"cron/{REGION}/nightly",
        "type": "kr.koren.cron",
        "subject": "nightly",
        "time": "2026-01-01T10:05:00.000Z",
        "region": REGION,
        "datacontenttype": "application/json",
        "data": {"keep": 30},
    }
    assert "data" not in json.loads(event_at(cron(), at("2026-01-01T10:05"), REGION)[1])


class Clock:
    """A clock that is set."""

    def __init__(self, text: str) -> None:
        self.now = at(text)

    def __call__(self) -> datetime:
        return self.now

    def add(self, **more: float) -> None:
        self.now += timedelta(**more)


@pytest.fixture
def clock() -> Clock:
    return Clock("2026-01-01T10:01:30")


Make = Callable[..., Cron]


@pytest.fixture
def make(store: Store, queue: Queue, clock: Clock) -> Make:
    """Makes what runs the triggers, each time as after a restart."""

    def made(*objects: Any) -> Cron:
        triggers = known(*objects)
        return Cron(REGION, store, queue, triggers._functions, triggers, Metrics(), clock=clock)

    return made


async def runs(queue: Queue) -> list[str]:
    """The moments of what is in the queue, all of it taken and done."""
    found = []
    while not isinstance(taken := await queue.take(FN, "pod-a", None), Nothing):
        found.append(json.loads(taken.message)["time"][11:16])
        await done(queue, taken)
    return found


EVERY_5 = trigger("t", "report-incident", "cron", schedule="*/5 * * * *")


@pytest.mark.asyncio
async def test_each_moment_is_one_event_whoever_runs_it_and_how_often(make: Make, queue: Queue, clock: Clock) -> None:
    one, other = make(EVERY_5), make(EVERY_5)
    await one.start_due()
    assert not await runs(queue), "a new trigger makes up for nothing"
    for _ in range(3):
        clock.add(minutes=5)
        await asyncio.gather(one.start_due(), other.start_due())
        await make(EVERY_5).start_due()
    assert await runs(queue) == ["10:05", "10:10", "10:15"]
    clock.add(minutes=21)
    await make(EVERY_5).start_due()
    assert await runs(queue) == ["10:35"], "of what was missed the latest"


@pytest.mark.asyncio
async def test_a_clock_that_is_set_back_repeats_nothing_and_stops_nothing(
    make: Make, queue: Queue, clock: Clock
) -> None:
    cron = make(EVERY_5)
    await cron.start_due()
    clock.add(minutes=10)
    await cron.start_due()
    clock.add(minutes=-8)
    for _ in range(3):
        await cron.start_due()
        clock.add(minutes=5)
    await cron.start_due()
    assert await runs(queue) == ["10:10", "10:05", "10:15"]


@pytest.mark.asyncio
async def test_another_schedule_begins_with_its_next_moment(
    make: Make, queue: Queue, clock: Clock, store: Store
) -> None:
    await make(NIGHTLY).start_due()
    clock.add(minutes=30)
    changed = trigger("nightly", "report-incident", "cron", schedule="0 * * * *")
    await make(changed).start_due()
    assert not await runs(queue)
    clock.add(minutes=30)
    await make(changed).start_due()
    assert await runs(queue) == ["11:00"]
    await make().start_due()
    assert not await store.command("HKEYS", KEPT), "of a trigger that is deleted nothing is kept"


@pytest.mark.asyncio
async def test_a_trigger_that_cannot_be_run_keeps_no_other_from_running(
    make: Make, queue: Queue, clock: Clock, store: Store
) -> None:
    cron = make(EVERY_5, trigger("a", "report-incident", "cron", schedule="*/5 * * * *"))
    await cron.start_due()
    await store.command("HSET", KEPT, "a", "99999999999999999999\n*/5 * * * *\nUTC")
    clock.add(minutes=5)
    await cron.start_due()
    assert await runs(queue) == ["10:05", "10:05"]


@pytest.mark.asyncio
async def test_the_clock_starts_a_function_from_zero_and_no_other(
    lab_settings: Settings, pki: Pki, store: Store
) -> None:
    others = deployment("all", topic="events/#")
    cluster = TestCluster(
        functions=[deployment("b"), others],
        triggers_declared=[trigger("t", "b", "cron", schedule="* * * * *", payload='"now"')],
    )
    # As if a gateway had run until ten minutes ago.
    since_ms = round(time.time() * 1000) - 600_000
    await store.command("HSET", KEPT, "t", f"{since_ms}\n* * * * *\nUTC")
    async with started(lab_settings, pki, cluster) as lab, lab.keda() as keda:
        stream = keda.StreamIsActive(scaled("b"))
        while not (await stream.read()).result:
            pass
        event = await lab.pod(function="b").next()
        assert (event["type"], event["source"], event["data"]) == ("kr.koren.cron", f"cron/{REGION}/t", "now")
        assert time.time() - datetime.fromisoformat(event["time"]).timestamp() < 120
        assert await lab.pod("pod-b", "all").next_now() is None
        assert await lab.metric("cron_runs_total", outcome="queued", trigger="t") == 1
        assert await lab.metric("cron_runs_total", outcome="late", trigger="t") in (8, 9, 10)


@pytest.mark.asyncio
async def test_the_clock_needs_no_broker(tmp_path: Path, pki: Pki) -> None:
    async with world(tmp_path, pki, TestCluster(functions=[deployment("b")])) as made:
        made.mosquitto.stop()
        since_ms = round(time.time() * 1000) - 600_000
        await made.store.command("HSET", KEPT, "t", f"{since_ms}\n* * * * *\nUTC")
        declared = trigger("t", "b", "cron", schedule="* * * * *")
        await made.lab.cluster.trigger_changes.put(Change("changed", [declared]))
        assert (await made.lab.pod(function="b").next())["subject"] == "t"


# Pauses


@pytest.fixture
def pauses(store: Store) -> Callable[..., Any]:
    """Declares which triggers of the function are paused."""
    functions = Functions()
    functions.apply(Change("listed", [deployment("report-incident", topic="events/#"), deployment("b")]))
    triggers = Triggers(functions)
    made = Pauses(store, functions, triggers)

    async def declare(*names: str) -> None:
        triggers.apply(Change("listed", [trigger(name, FN.name, topic="events/#", paused="true") for name in names]))
        await made.apply()

    return declare


VIA_A, VIA_B = replace(FN, via="a"), replace(FN, via="b")


async def nothing(queue: Queue) -> None:
    """The function has nothing that may start, and its scaler says so."""
    assert isinstance(await queue.take(FN, "pod-x", None), Nothing)
    backlog = await queue.backlog(FN)
    assert not backlog.active and backlog.metric == 0


@pytest.mark.asyncio
async def test_events_of_a_paused_trigger_wait_in_order_and_start_nothing(queue: Queue, pauses: Any) -> None:
    await queue.enqueue([entry((VIA_A,), subject="s", sequence=1), entry((VIA_A,), subject="r")])
    await pauses("a")
    await nothing(queue)
    await queue.enqueue([entry((VIA_A,), subject="s", sequence=n, happened="updated") for n in (2, 3)])
    await queue.enqueue([entry((VIA_B,), subject="other")])
    assert (await queue.backlog(FN)).paused == 2
    taken = await take(queue)
    assert taken.event is not None and taken.event.subject == "other"
    await done(queue, taken)
    await nothing(queue)
    await pauses()
    assert (await queue.backlog(FN)).active
    got = []
    for _ in range(4):
        taken = await take(queue)
        assert taken.event is not None
        got.append((taken.event.subject, taken.event.sequence))
        await done(queue, taken)
    assert [number for subject, number in got if subject == "s"] == [1, 2, 3] and ("r", 1) in got


@pytest.mark.asyncio
async def test_what_is_in_hand_ends_and_its_next_attempt_waits(queue: Queue, pauses: Any) -> None:
    await queue.enqueue([entry((VIA_A,), sequence=1), entry((VIA_A,), sequence=2, happened="updated")])
    taken = await take(queue)
    await pauses("a")
    await queue.retry(end(taken), "ValueError: no", 0.0)
    await nothing(queue)
    await pauses()
    taken = await take(queue)
    assert taken.delivery == 2
    await pauses("a")
    await done(queue, taken)
    await nothing(queue)
    await pauses()
    assert (await take(queue)).event.sequence == 2  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_call_is_not_held_back_by_a_pause(queue: Queue, pauses: Any) -> None:
    await pauses("a", "b")
    await queue.enqueue([entry((VIA_A,), subject="a"), entry((FN,), subject=None, id="call")])
    assert (await take(queue)).event.id == "call"  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_withdrawn_call_lets_its_subject_wait_for_the_pause(queue: Queue, pauses: Any) -> None:
    first = entry((FN,), subject="s")
    await queue.enqueue([first, entry((VIA_A,), subject="s", sequence=2)])
    await pauses("a")
    assert (await queue.backlog(FN)).runnable == 1
    assert await queue.withdraw(FN.name, first.key)
    await nothing(queue)
    await pauses()
    assert (await take(queue)).event.sequence == 2  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_an_open_incident_runs_nothing_while_its_trigger_is_paused(queue: Queue, pauses: Any) -> None:
    await pauses("a")
    await queue.enqueue([entry((VIA_A,))])
    await nothing(queue)
    await pauses()
    await done(queue, await take(queue))
    assert (await queue.backlog(FN)).open_incidents == 1


@pytest.mark.asyncio
async def test_thousands_of_subjects_are_paused_and_resumed(queue: Queue, pauses: Any) -> None:
    await queue.enqueue([entry((VIA_A if n % 2 else VIA_B,), subject=f"s{n}") for n in range(2400)])
    await pauses("a")
    backlog = await queue.backlog(FN)
    assert (backlog.runnable, backlog.paused) == (1200, 1200)
    await pauses("b")
    backlog = await queue.backlog(FN)
    assert (backlog.runnable, backlog.paused) == (1200, 1200)
    assert {(await take(queue, f"pod-{n}")).event.subject[-1] for n in range(20)} <= set("13579")  # type: ignore[union-attr]
    await pauses()
    assert (await queue.backlog(FN)).paused == 0


@pytest.mark.asyncio
async def test_what_waits_for_a_paused_trigger_of_a_deleted_function_becomes_dead_letters(
    queue: Queue, pauses: Any, store: Store
) -> None:
    await queue.enqueue([entry((VIA_A,))])
    await pauses("a")
    await queue.clear_up_after([])
    await store.command("HSET", "koren:gone", FN.name, 1)
    assert await queue.clear_up_after([]) == [FN.name]
    assert await store.command("ZCARD", "koren:dead") == 1
    await queue.clear_up_after([])
    left = {key async for key in store.redis.scan_iter(f"koren:fn:{FN.name}:pa*")}
    assert not left


@pytest.mark.asyncio
async def test_a_trigger_is_paused_and_resumed_while_the_gateway_runs(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: object
) -> None:
    cluster = TestCluster(functions=[deployment("b")], triggers_declared=[trigger("t", "b", topic=TOPIC)])

    async def listed(lab: Lab) -> Any:
        return {one["name"]: one for one in (await lab.admin("GET", "/v1/triggers")).json()["triggers"]}

    async with started(lab_settings, pki, cluster) as lab:
        assert (await listed(lab))["t"] == {
            "name": "t", "kind": "mqtt", "function": "b", "topic": TOPIC, "delay_s": 0, "paused": False,
            "problem": None,
        }  # fmt: skip
        assert (await lab.admin("GET", "/v1/triggers", token="user/nobody")).status_code == 403
        await cluster.trigger_changes.put(Change("changed", [trigger("t", "b", topic=TOPIC, paused="true")]))

        async def paused() -> bool:
            return bool((await listed(lab))["t"]["paused"])

        await until(paused, "the trigger is paused")
        await lab.broker.publish()
        await lab.broker.receipt("received")
        await lab.queued("b", paused=1, runnable=0, active=False)
        pod = lab.pod(function="b")
        assert await pod.next_now() is None
        waiting = asyncio.ensure_future(pod.next())
        await cluster.trigger_changes.put(Change("changed", [trigger("t", "b", topic=TOPIC)]))
        assert (await waiting)["subject"] == "incident-1"
        await cluster.trigger_changes.put(
            Change("changed", [trigger("late", "none", topic=TOPIC), trigger("odd", "b", topic="x")])
        )

        async def told() -> bool:
            its = await listed(lab)
            return "late" in its and "odd" in its

        await until(told, "the triggers are listed")
        problems = {name: one["problem"] for name, one in (await listed(lab)).items() if one["problem"]}
        assert "function none is not in this region" in problems["late"] and "filter of events" in problems["odd"]


# Delays

LATER, SOON = replace(FN, via="later", via_delay_s=60), replace(FN, via="soon", via_delay_s=1)


async def waits(queue: Queue, at_most_s: float = 60, subjects: int = 1) -> None:
    """The function has nothing but subjects that wait, the first of them so long."""
    await nothing(queue)
    backlog = await queue.backlog(FN)
    assert backlog.waiting == subjects
    assert backlog.next_change_s is not None and at_most_s - 10 < backlog.next_change_s <= at_most_s


@pytest.mark.asyncio
async def test_an_event_waits_for_the_delay_of_its_trigger_and_runs_nothing_meanwhile(queue: Queue) -> None:
    began = time.monotonic()
    await queue.enqueue([entry((SOON,), subject="s", sequence=1), entry((FN,), subject="other", happened="updated")])
    await queue.enqueue([entry((FN,), subject="s", sequence=2, happened="updated")])
    other = await take(queue)
    assert other.event is not None and other.event.subject == "other"
    await done(queue, other)
    await waits(queue, at_most_s=1)
    found = []
    while len(found) < 2:
        match await queue.take(FN, "pod-a", None):
            case Nothing(next_due_s):
                assert next_due_s is not None
                await asyncio.sleep(next_due_s)
            case taken:
                assert time.monotonic() - began >= 1
                found.append(taken.event.sequence)  # type: ignore[union-attr]
                await done(queue, taken)  # type: ignore[arg-type]
    assert found == [1, 2], "a later event of the subject waits behind it"


@pytest.mark.asyncio
async def test_an_event_behind_others_of_its_subject_waits_for_its_own_delay(queue: Queue) -> None:
    await queue.enqueue([entry((FN,), subject="s", happened="updated")])
    await queue.enqueue([entry((LATER,), subject="s", id="2", happened="updated")])
    taken = await take(queue)
    await queue.retry(end(taken), "ValueError: no", 0.0)
    await done(queue, await take(queue))
    await waits(queue)


@pytest.mark.asyncio
async def test_a_call_that_is_withdrawn_does_not_end_the_delay_behind_it(queue: Queue) -> None:
    call = entry((FN,), subject="s", happened="updated")
    await queue.enqueue([call, entry((LATER,), subject="s", sequence=2, happened="updated")])
    assert await queue.withdraw(FN.name, call.key)
    await waits(queue)


@pytest.mark.asyncio
async def test_a_delay_goes_on_while_its_trigger_is_paused(queue: Queue, pauses: Any) -> None:
    await queue.enqueue([entry((LATER,), subject="before")])
    await pauses("later")
    await queue.enqueue([entry((LATER,), subject="meanwhile")])
    await nothing(queue)
    assert (await queue.backlog(FN)).paused == 2
    await pauses()
    await waits(queue, subjects=2)


@pytest.mark.asyncio
async def test_an_incident_is_open_from_when_its_delayed_event_is_handed_out(queue: Queue, store: Store) -> None:
    await queue.enqueue([entry((SOON,))])
    await waits(queue, at_most_s=1)
    backlog = await queue.backlog(FN)
    assert backlog.next_change_s is not None
    await asyncio.sleep(backlog.next_change_s)
    assert (await queue.backlog(FN)).active
    await done(queue, await take(queue))
    backlog = await queue.backlog(FN)
    assert backlog.active and backlog.open_incidents == 1
    assert not await store.command("EXISTS", f"koren:fn:{FN.name}:delayed")


@pytest.mark.asyncio
async def test_a_function_is_woken_for_a_delayed_event_and_does_not_count_as_slow(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: object
) -> None:
    cluster = TestCluster(functions=[deployment("b", topic="events/#", delay_s="2")])
    async with started(lab_settings, pki, cluster) as lab, lab.keda() as keda:
        stream = keda.StreamIsActive(scaled("b"))
        assert not (await stream.read()).result
        began = time.monotonic()
        await lab.broker.publish()
        await lab.broker.receipt("received")
        await lab.queued("b", waiting=1, active=False)
        while not (await stream.read()).result:
            pass
        assert time.monotonic() - began >= 2
        pod = lab.pod(function="b")
        assert (await pod.next())["subject"] == "incident-1"
        assert await pod.post("entered") == 204
        assert await pod.post("response") == 204
        for phase in ("activated", "handler_entered", "handler_done"):
            for start in ("zero", "warm"):
                assert not await lab.metric("phase_seconds_count", function="b", phase=phase, start=start)


@pytest.mark.asyncio
async def test_a_released_event_waits_from_its_release_on(queue: Queue, store: Store) -> None:
    held = entry((LATER,), hold=True)
    assert [one.outcome for one in await queue.enqueue([held])] == ["held"]
    assert held.event is not None
    assert await queue.release(held.subject, "somebody", [(held.key, [LATER], held.event)])
    await waits(queue)


@pytest.mark.asyncio
async def test_what_waits_for_its_delay_becomes_a_dead_letter_with_its_function(queue: Queue, store: Store) -> None:
    await queue.enqueue([entry((LATER,))])
    await queue.clear_up_after([])
    await store.command("HSET", "koren:gone", FN.name, 1)
    assert await queue.clear_up_after([]) == [FN.name]
    assert await store.command("ZCARD", "koren:dead") == 1
    assert not await store.command("EXISTS", f"koren:fn:{FN.name}:delayed")


# Limits


@pytest.mark.asyncio
async def test_no_more_than_the_most_are_in_hand_and_no_pod_waits_for_others(queue: Queue) -> None:
    limited = replace(FN, max_in_flight=2)
    await queue.enqueue([entry(subject=f"s{n}") for n in range(5)])
    assert (await queue.backlog(limited)).metric == 2
    first = await take(queue, "pod-a", limited)
    assert first.more == 1
    second = await take(queue, "pod-b", limited)
    assert second.more == 0
    assert await queue.take(limited, "pod-c", None) == Nothing(None)
    backlog = await queue.backlog(limited)
    assert (backlog.runnable, backlog.in_flight, backlog.waiting, backlog.metric) == (0, 2, 3, 2)
    await done(queue, first)
    await take(queue, "pod-a", limited)
    assert isinstance(await queue.take(limited, "pod-c", None), Nothing)


@pytest.mark.asyncio
async def test_no_more_than_the_rate_are_handed_out_in_any_window(queue: Queue) -> None:
    limited = replace(FN, rate=Rate(3, 1))
    await queue.enqueue([entry(subject=f"s{n}") for n in range(9)])
    handed_out: list[float] = []
    until_s = time.monotonic() + 20
    while len(handed_out) < 9:
        assert time.monotonic() < until_s
        began = time.monotonic()
        match await queue.take(limited, f"pod-{len(handed_out)}", None):
            case Nothing(next_due_s):
                backlog = await queue.backlog(limited)
                assert next_due_s is not None and next_due_s <= 1
                assert backlog.runnable == 0 or time.monotonic() - began > 0.001
                await asyncio.sleep(next_due_s)
            case _:
                handed_out.append(began)
    spans = [later - earlier for earlier, later in zip(handed_out, handed_out[3:], strict=False)]
    assert min(spans) > 0.95, spans


@pytest.mark.asyncio
async def test_a_rate_lets_the_function_go_to_zero_until_it_may_run(queue: Queue) -> None:
    limited = replace(FN, rate=Rate(1, 60), opens=None)
    await queue.enqueue([entry((limited,), subject=f"s{n}") for n in range(2)])
    await done(queue, await take(queue, function=limited), limited)
    backlog = await queue.backlog(limited)
    assert not backlog.active and backlog.waiting == 1
    # A pod is there when it may.
    assert backlog.next_change_s is not None and 45 < backlog.next_change_s <= 55
    # A limit that is lifted holds from now on.
    assert (await queue.backlog(replace(limited, rate=None))).runnable == 1


@pytest.mark.asyncio
async def test_a_rate_of_many_a_second_keeps_the_function_running(queue: Queue) -> None:
    limited = replace(FN, rate=Rate(2, 1), opens=None)
    await queue.enqueue([entry((limited,), subject=f"s{n}") for n in range(3)])
    for _ in range(2):
        await done(queue, await take(queue, function=limited), limited)
    backlog = await queue.backlog(limited)
    assert backlog.runnable == 0 and backlog.active, "it would be told to start and stop each second"


@pytest.mark.asyncio
async def test_limits_hold_whatever_pods_ask_at_once(queue: Queue) -> None:
    limited = replace(FN, max_in_flight=4, rate=Rate(6, 60))
    await queue.enqueue([entry(subject=f"s{n}") for n in range(30)])
    answers = await asyncio.gather(*(queue.take(limited, f"pod-{n}", None) for n in range(20)))
    taken = [one for one in answers if not isinstance(one, Nothing)]
    assert len(taken) == 4
    for one in taken:
        await done(queue, one)  # type: ignore[arg-type]
    answers = await asyncio.gather(*(queue.take(limited, f"pod-{n}", None) for n in range(20)))
    assert len([one for one in answers if not isinstance(one, Nothing)]) == 2


@pytest.mark.asyncio
async def test_pods_wait_for_the_limit_and_take_what_comes_free(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: object
) -> None:
    cluster = TestCluster(functions=[deployment("b", topic="events/#", max_in_flight="1")])
    async with started(lab_settings, pki, cluster) as lab:
        for subject in ("x", "y"):
            await lab.broker.publish(subject=subject)
        await lab.broker.receipt("received", 2)
        one, other = lab.pod("pod-a", "b"), lab.pod("pod-b", "b")
        assert (await one.next())["subject"] == "x"
        waiting = asyncio.ensure_future(other.next())
        await lab.polling("b")
        await lab.queued("b", in_flight=1, runnable=0, waiting=1, max_in_flight=1)
        assert await one.post("response") == 204
        assert (await waiting)["subject"] == "y"


@pytest.mark.asyncio
async def test_a_new_limit_holds_for_pods_that_wait_already(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: object
) -> None:
    cluster = TestCluster(functions=[deployment("b", topic="events/#")])
    async with started(lab_settings, pki, cluster) as lab:
        waiting = [asyncio.ensure_future(lab.pod(f"pod-{number}", "b").next()) for number in range(2)]
        await lab.polling("b", pods=2)
        await cluster.deployment_changes.put(Change("changed", [deployment("b", topic="events/#", max_in_flight="1")]))
        await lab.queued("b", max_in_flight=1)
        for subject in ("x", "y"):
            await lab.broker.publish(subject=subject)
        await lab.queued("b", in_flight=1, runnable=0, waiting=1)
        _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(left) == 1
        for one in waiting:
            one.cancel()
