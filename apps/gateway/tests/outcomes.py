"""What must be true of a message's outcome, whatever the message; raises AssertionError.

Tests with random inputs and the coverage-guided search in `fuzz/` both ask it.
"""

import json

from koren_events import receipt_topic
from koren_events.cloudevent import CloudEvent, parse, parse_binary
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import Function
from koren_gateway.intake.intake import outcome_of
from koren_gateway.intake.judge import judge
from koren_gateway.intake.mqtt import Arrival
from koren_gateway.intake.receipts import intake_receipts
from koren_gateway.queue.queue import TakenIn, _packed
from koren_gateway.queue.store import _packed as packed_for_redis
from koren_runtime import fast_json
from koren_runtime.contract import to_event


def check_structured(message: bytes) -> bool:
    """A structured message is an event for everybody, or for nobody; whether it is one."""
    try:
        event, handed_on = parse(message)
    except InvalidEvent as refused:
        assert str(refused)
        return False
    _check_event(event, handed_on)
    assert parse(handed_on) == (event, handed_on)
    return True


def check_binary(attributes: dict[str, str], content_type: str | None, data: bytes) -> bool:
    """The same of a message in binary mode."""
    try:
        event, handed_on = parse_binary(attributes, content_type, data)
    except InvalidEvent as refused:
        assert str(refused)
        return False
    _check_event(event, handed_on)
    assert parse(handed_on)[0] == event
    return True


def check_judged(arrival: Arrival, function: Function) -> None:
    """A message becomes work or a dead letter, can be told of, and can be kept."""
    entry = judge(arrival, "seoul", lambda _: (function,))
    assert bool(entry.reason) != bool(entry.functions)
    assert not entry.reason.startswith("could not be judged"), entry.reason
    assert entry.event is not None or entry.reason
    assert len(entry.key) == 32 and entry.key.isalnum()
    assert judge(arrival, "seoul", lambda _: (function,)) == entry
    entry.reason.encode()
    packed_for_redis(_packed(entry))
    for outcome in ("new", "seen", "held"):
        assert outcome_of(entry, TakenIn(outcome, 5))
        if entry.event is not None:
            for topic, told in intake_receipts("seoul", entry, entry.event, TakenIn(outcome, 5), 1005):
                assert topic.startswith("receipts/seoul/") and json.loads(told)


def _check_event(event: CloudEvent, handed_on: bytes) -> None:
    its = to_event(fast_json.loads(handed_on.decode()))
    assert (its["event-id"], its["event-type"], its["event-namespace"]) == (event.id, event.type, event.source)
    assert its["extensions"].get("subject") == event.subject
    # A handler may return what it got.
    fast_json.dumps(its["data"]) if not isinstance(its["data"], bytes) else None
    assert CloudEvent.from_meta(event.to_meta().encode()) == event
    assert receipt_topic("seoul", event.source, event.id).startswith("receipts/seoul/")
