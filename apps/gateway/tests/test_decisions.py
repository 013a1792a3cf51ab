"""What is decided without any server."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from gateway_lab import REPORTER, deployment, message

from koren_events import MAX_EVENT_BYTES, Receipt, ReceiptState, receipt_topic
from koren_events.cloudevent import CloudEvent, parse
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import Function, Functions, function_of
from koren_gateway.cluster.interface import Caller, Change, LeaseRecord
from koren_gateway.cluster.leader import Sighting
from koren_gateway.intake.intake import outcome_of
from koren_gateway.intake.judge import judge
from koren_gateway.intake.mqtt import Arrival
from koren_gateway.intake.receipts import intake_receipts, outbox_receipt
from koren_gateway.queue.budgets import SEEN_BYTES, UNLIMITED_BYTES, budgets_of
from koren_gateway.queue.queue import TakenIn
from koren_gateway.queue.retries import GiveUp, Policy, Retry, after_failure

TOPIC = "events/seoul/cctv-seoul-01/accident"
FN = function_of(REPORTER)


def judged(body: bytes, topic: str = TOPIC, wanted: Sequence[Function] = (FN,)) -> Any:
    arrival = Arrival(mid=1, topic=topic, message=body, received_ms=1000)
    return judge(arrival, "seoul", lambda _: wanted)


def test_an_event_goes_to_the_functions_that_want_its_topic() -> None:
    functions = Functions()
    functions.apply(Change("listed", [REPORTER, deployment("called-only"), deployment("all", topic="events/#")]))
    assert [f.name for f in functions.wanting(TOPIC)] == ["all", "report-incident"]
    assert [f.name for f in functions.wanting("events/seoul/cctv-seoul-01/speed")] == ["all"]


def test_a_wrong_annotation_does_not_lose_the_function() -> None:
    functions = Functions()
    functions.apply(Change("listed", [REPORTER]))
    wrong = deployment("report-incident", topic="events/#", timeout_s="a minute")
    for kind in ("changed", "listed"):
        functions.apply(Change(kind, [wrong]))
        assert functions.get("report-incident") == FN
    functions.apply(Change("removed", [wrong]))
    assert functions.all() == []


def test_a_deployment_that_is_not_right_keeps_its_function_from_counting_as_deleted() -> None:
    functions = Functions()
    wrong = deployment("report", "report-incident", timeout_s="a minute")
    odd: list[Any] = [{"metadata": {"name": "odd", "labels": None}}, {"metadata": {"name": "odder", "labels": [1]}}]
    functions.apply(Change("listed", [wrong, deployment("count"), *odd]))
    assert [function.name for function in functions.all()] == ["count"]
    assert functions.named() >= {"count", "report-incident"}
    assert {refusal.deployment for refusal in functions.refused()} == {"report", "odd", "odder"}
    functions.apply(Change("removed", [wrong]))
    assert "report-incident" not in functions.named()


def test_limits_of_a_function_have_defaults() -> None:
    assert function_of(deployment("f")) == Function(
        name="f", trigger="f", timeout_s=180, max_attempts=5, incident_limit_s=3600
    )


@pytest.mark.parametrize(
    ("body", "topic", "reason"),
    [
        (b"\xff\x00 no", TOPIC, "not JSON"),
        (b"[" * 100_000, TOPIC, "not JSON"),
        (b"[]", TOPIC, "not an object"),
        (b"{}", TOPIC, "specversion"),
        (message(source=""), TOPIC, "source"),
        (message(id=7), TOPIC, "id"),
        (message(time="yesterday"), TOPIC, "time"),
        (message(sequence=1.5), TOPIC, "sequence"),
        (message(id="\ud800"), TOPIC, "id"),
        (message(region="busan"), TOPIC, "wrong region"),
        (message(), "events/busan/cctv-seoul-01/accident", "wrong region"),
        (message(data="x" * MAX_EVENT_BYTES), TOPIC, f"more than {MAX_EVENT_BYTES}"),
    ],
)
def test_what_is_no_event_of_this_region_is_a_dead_letter(body: bytes, topic: str, reason: str) -> None:
    entry = judged(body, topic)
    assert reason in entry.reason
    assert not entry.functions
    assert entry.message == body
    assert judged(body, topic).key == entry.key
    assert outcome_of(entry, TakenIn("new")) == "dead-lettered"


def test_whatever_fails_while_a_message_is_judged_is_the_reason_of_a_dead_letter() -> None:
    def failing(topic: str) -> Sequence[Function]:
        raise KeyError("a filter that nobody can match")

    arrival = Arrival(mid=1, topic=TOPIC, message=message(), received_ms=1000)
    entry = judge(arrival, "seoul", failing)
    assert "could not be judged: KeyError" in entry.reason and not entry.functions
    for topic in ("", "events", "events/", "\ud800", "x" * 70_000):
        assert judged(message(), topic).reason


def test_what_is_not_queued_leaves_room_for_what_is() -> None:
    for memory in (12 * 2**20, 48 * 2**20, 512 * 2**20, 8 * 2**30):
        budgets = budgets_of(memory, 8 * 2**20)
        others = budgets.dead + budgets.state + budgets.held + budgets.seen * SEEN_BYTES
        assert others + budgets.queue <= memory * 0.95 and budgets.queue_function < budgets.queue
        assert budgets.dead_function < budgets.dead and budgets.state_function < budgets.state
    assert budgets_of(0, 8 * 2**20) == budgets_of(UNLIMITED_BYTES, 8 * 2**20)


def test_an_event_is_known_by_source_and_id() -> None:
    entry = judged(message())
    assert entry.reason == "" and entry.functions == (FN,)
    assert receipt_topic("seoul", entry.event.source, entry.event.id).endswith(entry.key)
    assert judged(message(data={"other": 1})).key == entry.key
    assert judged(message(source="cctv-seoul-02")).key != entry.key


def test_an_event_needs_neither_region_nor_subject_nor_time() -> None:
    bare = {"specversion": "1.0", "id": "1", "source": "/a/b", "type": "t"}
    entry = judged(json.dumps(bare).encode())
    assert entry.reason == ""
    assert CloudEvent.from_meta(entry.event.to_meta()) == entry.event


def test_the_sequence_may_be_a_text() -> None:
    assert parse(message(sequence="00042"))[0].sequence == 42
    with pytest.raises(InvalidEvent, match="sequence"):
        parse(message(sequence="4²"))


def receipts_of(entry: Any, first: int | None = None) -> list[Receipt]:
    its = TakenIn("new") if first is None else TakenIn("seen", first)
    found = list(intake_receipts("seoul", entry, entry.event, its, 1005))
    assert {topic for topic, _ in found} == {receipt_topic("seoul", "cctv-seoul-01", entry.event.id)}
    return [Receipt.from_json(body) for _, body in found]


def test_the_publisher_is_told_what_became_of_its_event() -> None:
    [received] = receipts_of(judged(message()))
    assert received.state == ReceiptState.RECEIVED
    assert set(received.phases) == {"event_time", "received", "durable"}
    [again] = receipts_of(judged(message()), first=900)
    assert again.state == ReceiptState.RECEIVED
    assert again.phases["received"].timestamp() == 0.9
    [dead] = receipts_of(judged(message(region="busan")))
    assert dead.state == ReceiptState.DEAD_LETTERED and "wrong region" in (dead.error or "")
    nobody = judged(message(), wanted=())
    assert [r.state for r in receipts_of(nobody)] == ["received", "no-function"]


def test_the_last_receipt_has_the_result_and_every_phase() -> None:
    meta = parse(message())[0].to_meta().encode()
    topic, body = outbox_receipt(
        "seoul",
        {
            b"state": b"succeeded",
            b"function": b"report-incident",
            b"attempt": b"2",
            b"time": b"2000",
            b"meta": meta,
            b"result": b'{"post": 1}',
            b"received": b"1000",
            b"activated": b"",
            b"pod_started": b"1300",
            b"handler_entered": b"1350",
            b"handler_done": b"2000",
        },
    )
    receipt = Receipt.from_json(body)
    assert topic == receipt_topic("seoul", receipt.source, receipt.id)
    assert (receipt.result, receipt.attempt, receipt.function) == (
        {"post": 1},
        2,
        "report-incident",
    )
    assert set(receipt.phases) == {
        "event_time",
        "received",
        "pod_started",
        "handler_entered",
        "handler_done",
    }


def decide(attempts: int, deliveries: int | None = None, **more: Any) -> Retry | GiveUp:
    return after_failure(
        Policy(max_attempts=5, max_deliveries=20, base_s=1, cap_s=6),
        attempts=attempts,
        deliveries=attempts if deliveries is None else deliveries,
        dice=random.Random(attempts),
        **{"lost": False, **more},
    )


def test_failures_are_tried_again_later_and_later_and_then_given_up() -> None:
    for attempt, most in ((1, 1), (2, 2), (3, 4), (4, 6)):
        verdict = decide(attempt)
        assert isinstance(verdict, Retry) and most / 2 <= verdict.delay_s <= most
    assert decide(5) == GiveUp()


def test_a_lost_attempt_is_tried_again_at_once_but_not_for_ever() -> None:
    assert decide(1, lost=True) == Retry(0)
    assert decide(5, lost=True) == GiveUp()


def test_a_delivery_whose_handler_was_never_entered_does_not_count_but_has_a_cap() -> None:
    assert decide(0, deliveries=3, lost=True) == Retry(0)
    later = decide(0, deliveries=12, lost=True)
    assert isinstance(later, Retry) and later.delay_s >= 3
    assert decide(0, deliveries=20, lost=True) == GiveUp()


def test_a_handler_may_decline_retries_or_say_when() -> None:
    assert decide(1, reject=True) == GiveUp()
    assert decide(1, retry_after_s=90.5) == Retry(90.5)
    assert decide(1, retry_after_s=1e8) == Retry(86_400)
    assert decide(5, retry_after_s=1) == GiveUp()


def test_whose_pod_a_token_is() -> None:
    caller = Caller("system:serviceaccount:functions:report-incident")
    assert caller.function("functions") == "report-incident"
    assert caller.function("koren-faas") is None
    assert Caller("system:admin").function("functions") is None


def test_a_lease_is_free_when_its_holder_has_been_silent_for_its_duration() -> None:
    sighting = Sighting()
    assert sighting.may_take(LeaseRecord(None, None, 0, None), "me", 0)
    assert sighting.may_take(LeaseRecord("me", "1", 10, "1"), "me", 0)
    other = LeaseRecord("other", "1", 10, "1")
    assert not sighting.may_take(other, "me", 100)
    assert not sighting.may_take(other, "me", 109)
    assert not sighting.may_take(LeaseRecord("other", "2", 10, "2"), "me", 111)
    assert not sighting.may_take(LeaseRecord("other", "2", 10, "2"), "me", 121)
    assert sighting.may_take(LeaseRecord("other", "2", 10, "2"), "me", 122)
