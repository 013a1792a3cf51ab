"""The queue's promises, against a real Redis."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from gateway_lab import REPORTER, message

from koren_events.cloudevent import parse
from koren_gateway.cluster.functions import Function, Functions, function_of
from koren_gateway.cluster.interface import Change
from koren_gateway.errors import LeaseLost
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.dead_letters import DeadLetters, NotRedrivable
from koren_gateway.queue.queue import End, Entry, Kept, Nothing, Queue, Taken, event_key
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio

FN = function_of(REPORTER)
OTHER = Function(name="count", topic="events/#")


def entry(functions: tuple[Function, ...] = (FN,), **more: Any) -> Entry:
    body = message(**more)
    parsed, body = parse(body)
    return Entry(
        key=event_key(parsed.source, parsed.id),
        event=parsed,
        message=body,
        received_ms=round(time.time() * 1000),
        functions=functions,
    )


async def take(queue: Queue, pod: str = "pod-a", function: Function = FN) -> Taken:
    taken = await queue.take(function, pod, None)
    assert isinstance(taken, Taken), taken
    return taken


async def done(queue: Queue, taken: Taken, function: Function = FN) -> None:
    now_ms = round(time.time() * 1000)
    await queue.succeed(replace(end(taken, function), done_ms=now_ms), b'"ok"')


def end(taken: Taken, function: Function = FN, **more: Any) -> End:
    return End(function=function.name, key=taken.key, delivery=taken.delivery, counts=True, **more)


async def test_a_repeat_is_dropped_and_says_when_it_last_came(queue: Queue, store: Store) -> None:
    first = entry()
    taken_in, repeat = await queue.enqueue([first, first])
    assert (taken_in.outcome, repeat.outcome) == ("new", "seen")
    assert abs(repeat.last_ms - first.received_ms) < 5000
    taken = await take(queue)
    await done(queue, taken)
    # Also long after it was handled; and a repeat renews the memory.
    day_ms = 24 * 3600 * 1000
    member = bytes.fromhex(first.key)
    await store.command("ZADD", "koren:seen", first.received_ms - 6 * day_ms, member)
    [repeat] = await queue.enqueue([first])
    assert (repeat.outcome, repeat.last_ms) == ("seen", first.received_ms - 6 * day_ms)
    assert float(await store.command("ZSCORE", "koren:seen", member)) > first.received_ms - day_ms
    assert isinstance(await queue.take(FN, "pod-a", None), Nothing)


async def test_every_function_gets_the_event_and_the_message_goes_when_all_are_done(
    queue: Queue, store: Store
) -> None:
    made = entry((FN, OTHER))
    await queue.enqueue([made])
    for function in (FN, OTHER):
        taken = await take(queue, function=function)
        assert taken.message == made.message
        assert await store.command("EXISTS", f"koren:event:{made.key}")
        await done(queue, taken, function)
    assert not await store.command("EXISTS", f"koren:event:{made.key}")


async def test_events_of_an_incident_come_one_at_a_time_in_order_others_in_parallel(
    queue: Queue,
) -> None:
    await queue.enqueue(
        [
            entry(subject="a", sequence=1),
            entry(subject="a", sequence=2, happened="updated"),
            entry(subject="b", sequence=1),
        ]
    )
    first, other = await take(queue, "pod-a"), await take(queue, "pod-b")
    assert {first.event.subject, other.event.subject} == {"a", "b"}
    assert isinstance(await queue.take(FN, "pod-c", None), Nothing)
    await done(queue, first)
    second = await take(queue, "pod-c")
    assert (second.event.subject, second.event.sequence) == ("a", 2)


async def test_events_without_subject_do_not_wait_for_each_other(queue: Queue) -> None:
    await queue.enqueue([entry(subject=None, id=str(n)) for n in range(3)])
    assert {(await take(queue, f"pod-{n}")).event.id for n in range(3)} == {"0", "1", "2"}


async def test_a_failed_event_waits_for_its_time_and_holds_its_incident_back(queue: Queue) -> None:
    await queue.enqueue([entry(sequence=1), entry(sequence=2, happened="updated")])
    taken = await take(queue)
    await queue.retry(end(taken), "ValueError: no", 0.2)
    nothing = await queue.take(FN, "pod-a", None)
    assert isinstance(nothing, Nothing) and nothing.next_due_s is not None
    assert 0.1 < nothing.next_due_s <= 0.2
    assert (await queue.backlog(FN)).waiting == 1
    await asyncio.sleep(nothing.next_due_s + 0.01)
    again = await take(queue)
    assert (again.key, again.delivery) == (taken.key, 2)


async def test_a_late_answer_of_an_earlier_attempt_is_refused(queue: Queue) -> None:
    await queue.enqueue([entry()])
    first = await take(queue)
    await queue.retry(end(first), "lost", 0)
    for attempt in (queue.extend(FN.name, first.key, 1), done(queue, first)):
        with pytest.raises(LeaseLost):
            await attempt
    second = await take(queue, "pod-b")
    with pytest.raises(LeaseLost):
        await done(queue, first)
    await done(queue, second)


async def test_a_lease_runs_out_unless_it_is_kept_and_not_beyond_the_deadline(
    store: Store, lab_settings: Settings
) -> None:
    quick = lab_settings.model_copy(update={"lease_s": 0.2, "lease_grace_s": 0.1})
    queue = Queue(store, quick, Memory(store, quick.batch_bytes))
    short = replace(FN, timeout_s=0.5)
    await queue.enqueue([entry()])
    taken = await take(queue, function=short)
    for _ in range(4):
        await asyncio.sleep(0.1)
        await queue.extend(FN.name, taken.key, 1)
        assert await queue.expired(FN.name) == []
    with pytest.raises(LeaseLost):
        await queue.retry(end(taken, short, only_expired=True), "expired", 0)
    await asyncio.sleep(0.25)
    with pytest.raises(LeaseLost):
        await queue.extend(FN.name, taken.key, 1)
    assert [lease.key for lease in await queue.expired(FN.name)] == [taken.key]
    await queue.retry(end(taken, short, only_expired=True), "expired", 0)
    assert (await take(queue)).delivery == 2


async def test_a_slot_of_a_pod_has_one_lease(queue: Queue) -> None:
    await queue.enqueue([entry(subject="a"), entry(subject="b"), entry(subject="b", sequence=2)])
    first = await take(queue)
    assert await queue.take(FN, "pod-a", None) == Kept(FN.name, first.key, 1)
    second = await queue.take(FN, "pod-a", None, slot=31)
    assert isinstance(second, Taken)
    assert await queue.kept_by("pod-a") == [Kept(FN.name, first.key, 1), Kept(FN.name, second.key, 1)]
    assert await queue.take(FN, "pod-a", None, slot=31) == Kept(FN.name, second.key, 1)
    # What is left is of a subject that is in hand.
    assert await queue.take(FN, "pod-a", None, slot=1) == Nothing(None)
    await done(queue, first)
    assert await queue.kept_by("pod-a") == [Kept(FN.name, second.key, 1)]
    await done(queue, second)
    assert await queue.kept_by("pod-a") == []
    assert (await take(queue)).event.subject == "b"


async def test_the_metric_counts_incidents_not_events(queue: Queue) -> None:
    await queue.enqueue(
        [entry(subject="a", sequence=n, happened="updated") for n in range(1, 101)]
        + [entry(subject="b", happened="updated")]
    )
    backlog = await queue.backlog(FN)
    assert (backlog.metric, backlog.runnable, backlog.in_flight) == (2, 2, 0)
    await take(queue)
    backlog = await queue.backlog(FN)
    assert (backlog.metric, backlog.runnable, backlog.in_flight) == (2, 1, 1)


async def test_the_longest_wait_is_that_of_the_first_subject_that_is_due(queue: Queue) -> None:
    async def longest_due_s() -> float:
        return (await queue.backlog(FN)).longest_due_s

    assert await longest_due_s() == 0
    await queue.enqueue([entry(subject="a")])
    while await longest_due_s() < 0.05:
        await asyncio.sleep(0.01)
    await queue.enqueue([entry(subject="b")])
    assert await longest_due_s() >= 0.05
    # What a pod has in hand does not wait, nor does what is due later.
    taken = await take(queue)
    assert taken.event.subject == "a"
    await queue.retry(end(taken), "no", 3600)
    await take(queue)
    assert await longest_due_s() == 0


async def test_an_open_incident_keeps_the_function_active_until_it_is_closed(queue: Queue) -> None:
    await queue.enqueue([entry()])
    await done(queue, await take(queue))
    backlog = await queue.backlog(FN)
    assert backlog.active and backlog.metric == 0 and backlog.open_incidents == 1
    await queue.enqueue([entry(happened="cleared", sequence=2)])
    await done(queue, await take(queue))
    assert not (await queue.backlog(FN)).active


async def test_a_closing_event_that_is_dead_lettered_closes_too(queue: Queue) -> None:
    await queue.enqueue([entry(), entry(happened="cleared", sequence=2)])
    await done(queue, await take(queue))
    taken = await take(queue)
    await queue.dead_letter(end(taken), "no", b"{}")
    assert not (await queue.backlog(FN)).active


async def test_an_opening_that_arrives_after_the_end_does_not_open_again(queue: Queue) -> None:
    await queue.enqueue([entry(happened="cleared", sequence=2)])
    await done(queue, await take(queue))
    await queue.enqueue([entry(sequence=1)])
    await done(queue, await take(queue))
    assert not (await queue.backlog(FN)).active


async def test_an_incident_ends_by_its_time_limit(queue: Queue) -> None:
    await queue.enqueue([entry((replace(FN, incident_limit_s=0.2),))])
    await done(queue, await take(queue))
    backlog = await queue.backlog(FN)
    assert backlog.active and backlog.next_change_s is not None
    await asyncio.sleep(backlog.next_change_s + 0.01)
    assert not (await queue.backlog(FN)).active


async def test_after_a_dead_letter_the_incident_goes_on(queue: Queue) -> None:
    await queue.enqueue([entry(sequence=1), entry(sequence=2, happened="updated")])
    taken = await take(queue)
    await queue.dead_letter(end(taken), "ValueError: no", b"{}")
    assert (await take(queue)).event.sequence == 2


async def test_phases_are_only_what_the_event_brought_about(queue: Queue) -> None:
    made = entry()
    await queue.note_activated(FN.name, made.received_ms - 1000)
    await queue.enqueue([made])
    warm = await queue.take(FN, "pod-a", made.received_ms - 900)
    assert isinstance(warm, Taken)
    assert warm.phases == {"received": made.received_ms}
    await queue.retry(end(warm), "lost", 0)
    await queue.note_activated(FN.name, made.received_ms + 3)
    cold = await queue.take(FN, "pod-b", made.received_ms + 250)
    assert isinstance(cold, Taken)
    assert cold.phases["activated"] == made.received_ms + 3
    assert cold.phases["pod_started"] == made.received_ms + 250
    progress = await queue.extend(FN.name, cold.key, 2, made.received_ms + 300)
    assert progress.phases["handler_entered"] == made.received_ms + 300


async def test_dead_letters_are_listed_redriven_once_and_purged(queue: Queue, store: Store) -> None:
    functions = Functions()
    letters = DeadLetters(store, queue, functions, "seoul")
    await queue.enqueue([entry(subject="a"), entry(subject="b")])
    for _ in range(2):
        taken = await take(queue)
        await queue.dead_letter(end(taken), "ValueError: no", b"{}")
    found = (await letters.page(None, limit=10)).letters
    assert {letter.event.subject for letter in found if letter.event} == {"a", "b"}
    assert {letter.reason for letter in found} == {"ValueError: no"}
    with pytest.raises(NotRedrivable, match="deploy it"):
        await letters.redrive(found[0].id)

    functions.apply(Change("listed", [REPORTER]))
    both = await asyncio.gather(letters.redrive(found[0].id), letters.redrive(found[0].id))
    assert sorted(both) == [False, True]
    redriven = await take(queue)
    assert (redriven.event.id, redriven.delivery) == (found[0].event and found[0].event.id, 1)
    assert (await letters.page("another", limit=10)).letters == []
    assert await letters.purge(FN.name) == 1
    assert await letters.count() == 0


async def test_an_answer_that_is_waited_for_is_kept_and_is_no_dead_letter(
    queue: Queue, store: Store
) -> None:
    called = replace(entry(subject=None), key="call-1", repeats_count=False, once=True)
    await queue.enqueue([called])
    taken = await take(queue)
    assert (await queue.standing(FN.name, taken.key)).once
    await queue.dead_letter(end(taken), "ValueError: no", b'{"type": "ValueError"}')
    outcome = await queue.outcome("call-1")
    assert outcome is not None and outcome.body == b'{"type": "ValueError"}'
    assert await store.command("ZCARD", "koren:dead") == 0


async def test_withdrawn_calls_are_gone_unless_in_hand(queue: Queue) -> None:
    calls = [
        replace(entry(subject=None, id=n), key=n, repeats_count=False, once=True) for n in "ab"
    ]
    await queue.enqueue(calls)
    taken = await take(queue)
    left = "b" if taken.key == "a" else "a"
    assert not await queue.withdraw(FN.name, taken.key)
    assert await queue.withdraw(FN.name, left)
    await done(queue, taken)
    assert not (await queue.backlog(FN)).active


async def test_nothing_is_left_in_redis_but_what_is_meant_to_stay(
    queue: Queue, store: Store
) -> None:
    await queue.enqueue([entry((FN, OTHER), subject=f"s{n}") for n in range(5)])
    for function in (FN, OTHER):
        for _ in range(5):
            await done(queue, await take(queue, function=function), function)
    await queue.enqueue([entry(subject=f"s{n}", happened="cleared", sequence=2) for n in range(5)])
    for _ in range(5):
        await done(queue, await take(queue))
    keys = {key.decode().split(":")[1] async for key in store.redis.scan_iter("koren:*")}
    assert keys == {"seen", "marks", "receipts", "fn", "functions"}
    rest = [key.decode() async for key in store.redis.scan_iter("koren:fn:*")]
    assert all(":closed:" in key for key in rest), rest
