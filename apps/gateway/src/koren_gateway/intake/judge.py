"""What becomes of a message: work for the functions that want it, or a dead letter."""

import hashlib
from collections.abc import Callable, Sequence

from koren_events import MAX_EVENT_BYTES
from koren_events.cloudevent import STRUCTURED_PREFIX, CloudEvent, check_unreleased, parse, parse_binary
from koren_events.errors import InvalidEvent
from koren_gateway.cluster.functions import Function
from koren_gateway.intake.mqtt import Arrival
from koren_gateway.queue.queue import Entry, event_key
from koren_gateway.tracing import Spans, trace_of


def judge(
    arrival: Arrival, region: str, wanting: Callable[[str], Sequence[Function]], spans: Spans | None = None
) -> Entry:
    """The entry for the queue. Raises nothing: whatever the message holds, it is judged."""
    event: CloudEvent | None = None
    functions: Sequence[Function] = ()
    message = arrival.message
    try:
        if len(message) > MAX_EVENT_BYTES:
            raise InvalidEvent(f"{len(message)} bytes, more than {MAX_EVENT_BYTES}")
        event, message = _parse(arrival)
        check_unreleased(event)
        reason = _wrong_with(arrival.topic, event, region)
        functions = () if reason else wanting(arrival.topic)
    except InvalidEvent as error:
        reason = str(error)
    except Exception as error:
        reason = f"could not be judged: {type(error).__name__}: {error}"
    return Entry(
        key=_key(arrival, event),
        event=event,
        message=message,
        received_ms=arrival.received_ms,
        topic=arrival.topic,
        functions=functions,
        reason=reason[:1000].encode(errors="replace").decode(),
        trace=trace_of(event, arrival.topic, spans),
    )


def as_rubbish(entry: Entry, problem: str, event: CloudEvent | None) -> Entry:
    """The same message as a dead letter of no function, since it can't be taken in as it is.

    `event` is what is kept of its attributes: none when they may be the reason.
    """
    return Entry(
        key=entry.key,
        event=event,
        message=entry.message,
        received_ms=entry.received_ms,
        reason=f"could not be taken in: {problem}"[:1000],
    )


def _parse(arrival: Arrival) -> tuple[CloudEvent, bytes]:
    content_type = arrival.content_type or ""
    structured = content_type.lower().startswith(STRUCTURED_PREFIX)
    if "specversion" in arrival.attributes and not structured:
        event, message = parse_binary(arrival.attributes, content_type or None, arrival.message)
        if len(message) > MAX_EVENT_BYTES:
            raise InvalidEvent(f"{len(message)} bytes as structured event, more than {MAX_EVENT_BYTES}")
        return event, message
    return parse(arrival.message)


def _key(arrival: Arrival, event: CloudEvent | None) -> str:
    if event is not None:
        return event_key(event.source, event.id)
    # The same rubbish again is the same dead letter.
    topic = arrival.topic.encode(errors="surrogatepass")
    return hashlib.sha256(b"\n".join((topic, arrival.message))).hexdigest()[:32]


def _wrong_with(topic: str, event: CloudEvent, region: str) -> str:
    named = topic.split("/")[1] if topic.startswith("events/") else ""
    if named != region or event.region not in (None, region):
        return (
            f"wrong region: this is {region}, the topic {topic[:200]} and the event's region {event.region or 'absent'}"
        )
    return ""
