"""What random sequences and broken data found in the queue, each as the shortest case of it."""

import asyncio
from dataclasses import replace

import pytest
from gateway_lab import REPORTER, deployment
from test_queue import FN, end, entry, take

from koren_gateway.cluster.functions import Function, Functions
from koren_gateway.cluster.interface import Change
from koren_gateway.cluster.triggers import Triggers
from koren_gateway.errors import StoreBroken
from koren_gateway.queue.budgets import Memory
from koren_gateway.queue.dead_letters import DeadLetters
from koren_gateway.queue.held import HeldEvents
from koren_gateway.queue.queue import Queue, Taken
from koren_gateway.queue.state import State
from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio

OTHER = Function(name="other", topic="events/#")


@pytest.fixture
def functions() -> Functions:
    made = Functions()
    made.apply(Change("listed", [REPORTER, deployment("other", topic="events/#")]))
    return made


@pytest.fixture
def memory(store: Store, lab_settings: Settings) -> Memory:
    return Memory(store, lab_settings.batch_bytes)


@pytest.fixture
def queue(store: Store, lab_settings: Settings, memory: Memory) -> Queue:
    return Queue(store, lab_settings, memory)


async def dropped(store: Store, what: str) -> int:
    return int(await store.command("HGET", "koren:dropped", what) or 0)


async def test_a_lease_that_is_no_more_does_not_hold_its_pod_up(queue: Queue, store: Store) -> None:
    for stale in ("report-incident\nnothing\n1", "garbage", b"\xff\n\n"):
        await store.command("HSET", "koren:holders", "pod-a", stale)
        await queue.enqueue([entry(subject=f"s{stale!r}"[:20].replace("\\", ""))])
        taken = await take(queue)
        await queue.succeed(end(taken), b"1")
    assert await dropped(store, "broken") == 3


async def test_a_dead_letter_that_is_not_there_can_not_be_deleted(queue: Queue, store: Store) -> None:
    letters = DeadLetters(store, queue, Functions(), "seoul")
    assert not await letters.delete("nothing")
    assert not await letters.delete("report-incident.nothing")


async def test_counts_and_keys_that_are_garbage_stop_no_function(queue: Queue, store: Store) -> None:
    await store.command("HSET", "koren:bytes", "queue", "garbage", "queue:other", "1e300")
    await store.command("SET", "koren:functions", "garbage")
    await store.command("SET", f"koren:fn:{FN.name}:ready", "garbage")
    made = entry((FN, OTHER))
    await queue.enqueue([made])
    for function in (FN, OTHER):
        assert (await take(queue, f"pod-{function.name}", function)).key == made.key
    assert await dropped(store, "broken") >= 2
    kept = [key async for key in store.redis.scan_iter("koren:broken:*")]
    assert len(kept) == 2
    assert min([await store.command("PTTL", key) for key in kept]) > 0


async def test_a_function_s_subjects_are_found_again_when_their_order_is_lost(queue: Queue, store: Store) -> None:
    await queue.enqueue([entry(subject=subject) for subject in "abc"])
    in_hand = await take(queue, "pod-a")
    for part in ("ready", "leased"):
        await store.command("DEL", f"koren:fn:{FN.name}:{part}")
        await store.command("SET", f"koren:fn:{FN.name}:{part}", "garbage")
    others = [await take(queue, f"pod-{number}") for number in range(2)]
    assert {taken.key for taken in others}.isdisjoint({in_hand.key})
    # What is in hand stays there.
    await queue.extend(FN.name, in_hand.key, in_hand.delivery, 1)
    await queue.succeed(end(in_hand), b"1")


async def test_what_commands_can_not_read_is_set_aside_too(queue: Queue, store: Store, functions: Functions) -> None:
    await queue.enqueue([entry(subject="a"), entry(subject="b")])
    for _ in range(2):
        await queue.dead_letter(end(await take(queue)), "ValueError: no", b"{}")
    letters = DeadLetters(store, queue, functions, "seoul")
    broken, whole = (await letters.page(None, limit=10)).letters
    await store.command("SET", f"koren:dead:{broken.id}", "garbage")
    assert [letter.id for letter in (await letters.page(None, limit=10)).letters] == [whole.id]
    await store.command("SET", "koren:holders", "garbage")
    assert await queue.kept_by("pod-a") == []
    with pytest.raises(StoreBroken):
        await store.command("HINCRBY", "koren:bytes", "dead", "garbage")
    # All of it can be thrown away, the broken one's place in the function's list with it.
    await letters.purge(FN.name)
    assert await store.command("ZCARD", f"koren:fn:{FN.name}:dead") == 0


async def test_a_held_event_that_comes_again_unremembered_is_held_once(
    queue: Queue, store: Store, functions: Functions
) -> None:
    made = entry(hold=True)
    await queue.enqueue([made])
    await store.command("DEL", "koren:seen")
    [again] = await queue.enqueue([made])
    assert again.outcome == "held"
    held = HeldEvents(store, queue, Triggers(functions))
    assert len(await held.release(made.key, "kim")) == 1
    assert await store.command("HGET", "koren:bytes", "held") is None


async def test_an_event_for_which_there_was_no_room_to_be_held_may_be_published_again(
    queue: Queue, memory: Memory, store: Store
) -> None:
    made, budgets = entry(hold=True), memory.budgets
    memory.budgets = replace(budgets, held=10)
    [full] = await queue.enqueue([made])
    assert full.outcome == "dead-lettered"
    memory.budgets = budgets
    [again] = await queue.enqueue([made])
    assert again.outcome == "held"


async def test_a_broken_held_event_does_not_keep_its_subject_s_others(
    queue: Queue, store: Store, functions: Functions
) -> None:
    entries = [entry(hold=True, sequence=number) for number in (1, 2)]
    topic = "events/seoul/x/accident"
    entries = [replace(one, key=f"held-{place}", topic=topic) for place, one in enumerate(entries)]
    await queue.enqueue([replace(one, repeats_count=False) for one in entries])
    await store.command("HDEL", "koren:held:held-0", "meta")
    released = await HeldEvents(store, queue, Triggers(functions)).release("held-1", "kim")
    assert [one.id for one in released] == ["held-1"]
    assert (await take(queue)).key == "held-1"
    assert await store.command("HGET", "koren:bytes", "held") is None


async def test_a_redriven_event_that_finds_its_queue_full_takes_no_other_letter_s_room(
    queue: Queue, memory: Memory, store: Store, functions: Functions
) -> None:
    await queue.enqueue([entry(subject=subject, data="x" * 2000) for subject in "ab"])
    for _ in range(2):
        await queue.dead_letter(end(await take(queue)), "ValueError: no", b"{}")
    letters = DeadLetters(store, queue, functions, "seoul")
    found = (await letters.page(None, limit=10)).letters
    room = sum(letter.bytes for letter in found)
    memory.budgets = replace(memory.budgets, dead=room, dead_function=room, queue_function=100)
    # Something waits, so that the queue is what it says.
    await store.command("ZADD", f"koren:fn:{FN.name}:leased", 2**42, "another")
    await letters.redrive(found[1].id)
    assert len((await letters.page(None, limit=10)).letters) == 2
    assert await dropped(store, "dead-letters") == 0


async def test_state_that_expired_counts_for_nobody_even_if_its_function_writes_no_more(
    queue: Queue, memory: Memory, store: Store
) -> None:
    state = State(store, memory)
    await state.put("silent", "key", b"x" * 1000, condition="", expires_s=0.05)
    while await state.get("silent", "key") is not None:
        await asyncio.sleep(0.01)
    await queue.tidy()
    assert await store.command("HGET", "koren:bytes", "state") is None


async def test_after_a_withdrawn_call_the_next_of_its_subject_is_due(queue: Queue) -> None:
    called = replace(entry(), key="call-1", repeats_count=False, once=True)
    await queue.enqueue([called, replace(entry(sequence=2, happened="updated"), key="next")])
    taken = await take(queue)
    await queue.retry(end(taken), "lost", 60)
    assert await queue.withdraw(FN.name, "call-1")
    taken = await queue.take(FN, "pod-a", None)
    assert isinstance(taken, Taken) and taken.key == "next"
